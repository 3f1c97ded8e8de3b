//! The static configuration file as types.

pub mod exporter;
pub mod extensions;
pub mod receiver;
pub mod service;
pub mod tls;

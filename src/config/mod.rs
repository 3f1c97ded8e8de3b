//! The static configuration file as types.

pub mod exporter;
pub mod receiver;
pub mod tls;

//! The static configuration file as types.

pub mod receiver;
pub mod tls;

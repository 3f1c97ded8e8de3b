//! Static YAML: the types of the configuration.

pub mod extensions;
pub mod service;

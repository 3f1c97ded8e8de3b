//! The reloadable policies file: whose data is whose, and how much of it is kept.
pub use scalar::Scalar;
mod scalar;

//! From a request to batches in queues.

mod request;

pub use request::{Accepted, Refusal, Request, Transport};

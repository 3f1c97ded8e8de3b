//! The API server of Kubernetes: how it is reached, and how objects are followed.
//!
//! ```text
//! Access ──connect──▶ Client ──Watch::next──▶ Restart, Listed…, Complete, Open, Applied, Deleted, … Failed
//! ```
//!
//! Not here: what is made of the objects. Invariants: nothing is started unless the configuration asks for it;
//! every request has a deadline; whatever the server does, it is asked again only after a wait.

mod client;
mod config_map;
mod events;
pub mod pods;
mod watch;

pub use client::{ConnectError, REQUEST_TIMEOUT, connect};
pub use config_map::Followed;
pub use events::announce;
pub use kube::Client;
pub use watch::{Event, Watch};

#[cfg(test)]
#[path = "../../tests/it/harness/api_server/mod.rs"]
#[allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "shared with the black-box tests"
)]
mod api_server;
#[cfg(test)]
mod tests;

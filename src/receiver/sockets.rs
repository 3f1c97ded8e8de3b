//! Listening sockets that outlive a configuration: the next one shares them, so that no connection is
//! refused while it takes over.
//!
//! Invariant: a socket is held only while some configuration in force uses it; what is held is listened
//! on by somebody who accepts.

use std::io;

use tokio::net::TcpListener;

use super::listen::Listener;
use crate::config::receiver::Endpoint;

/// The TCP sockets of the configuration in force. Each change is a round: [`Sockets::begin`], binding,
/// then [`Sockets::commit`] or [`Sockets::roll_back`].
#[derive(Debug, Default)]
pub struct Sockets {
    held: Vec<Held>,
    round: u64,
}

#[derive(Debug)]
struct Held {
    endpoint: Endpoint,
    listener: std::net::TcpListener,
    opened: u64,
    used: u64,
}

impl Sockets {
    /// Begins to bind for another configuration.
    pub fn begin(&mut self) {
        self.round += 1;
    }

    /// The other configuration is in force: closes what only the old one used.
    pub fn commit(&mut self) {
        let round = self.round;
        self.held.retain(|held| held.used == round);
    }

    /// The other configuration came to nothing: closes what only it would have used.
    pub fn roll_back(&mut self) {
        let round = self.round;
        self.held.retain(|held| held.opened != round);
    }

    /// Nothing is accepted any more.
    pub fn close(&mut self) {
        self.held.clear();
    }

    /// The socket held for an endpoint, or a new one. In one round each is used once: two listeners may
    /// both ask for a free port.
    pub(super) async fn listen(&mut self, endpoint: &Endpoint) -> io::Result<Listener> {
        let round = self.round;
        if let Some(held) = self.held.iter_mut().find(|held| held.used != round && held.serves(endpoint)) {
            held.used = round;
            let shared = held.listener.try_clone()?;
            return TcpListener::from_std(shared).map(Listener::Tcp);
        }
        let listener = match Listener::bind(endpoint).await? {
            Listener::Tcp(listener) => listener.into_std()?,
            unix => return Ok(unix),
        };
        let shared = listener.try_clone()?;
        self.held.push(Held { endpoint: endpoint.clone(), listener, opened: round, used: round });
        TcpListener::from_std(shared).map(Listener::Tcp)
    }
}

impl Held {
    /// Whether this is the socket an endpoint asks for: written the same, or the very address.
    fn serves(&self, wanted: &Endpoint) -> bool {
        let same_address = || {
            let Endpoint::Tcp { host, port, .. } = wanted else { return false };
            let address = self.listener.local_addr().ok();
            address.is_some_and(|held| held.port() == *port && host.parse() == Ok(held.ip()))
        };
        self.endpoint == *wanted || same_address()
    }
}

//! Listening sockets that outlive a configuration: the next one shares them, so that no connection is
//! refused while it takes over.
//!
//! Invariant: a socket is held only while some configuration in force uses it; what is held is listened
//! on by somebody who accepts.

use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};

use super::listen::{Listener, SocketFile};
use crate::config::receiver::Endpoint;

/// The sockets of the configuration in force. Each change is a round: [`Sockets::begin`], binding,
/// then [`Sockets::commit`] or [`Sockets::roll_back`].
#[derive(Debug, Default)]
pub struct Sockets {
    held: Vec<Held>,
    round: u64,
}

#[derive(Debug)]
struct Held {
    endpoint: Endpoint,
    socket: Socket,
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
            return held.socket.share();
        }
        let socket = Socket::new(Listener::bind(endpoint).await?)?;
        let shared = socket.share();
        self.held.push(Held { endpoint: endpoint.clone(), socket, opened: round, used: round });
        shared
    }
}

/// A listening socket that no runtime knows.
#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

impl Socket {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => Socket::Tcp(listener.into_std()?),
            Listener::Unix(listener, file) => Socket::Unix(listener.into_std()?, file),
        })
    }

    /// The same socket for this runtime.
    fn share(&self) -> io::Result<Listener> {
        match self {
            Socket::Tcp(listener) => TcpListener::from_std(listener.try_clone()?).map(Listener::Tcp),
            Socket::Unix(listener, file) => {
                let listener = UnixListener::from_std(listener.try_clone()?)?;
                Ok(Listener::Unix(listener, file.clone()))
            }
        }
    }
}

impl Held {
    /// Whether this is the socket an endpoint asks for: written the same, or the very address.
    fn serves(&self, wanted: &Endpoint) -> bool {
        let same_address = || {
            let Endpoint::Tcp { host, port, .. } = wanted else { return false };
            let Socket::Tcp(listener) = &self.socket else { return false };
            let address = listener.local_addr().ok();
            address.is_some_and(|held| held.port() == *port && host.parse() == Ok(held.ip()))
        };
        self.endpoint == *wanted || same_address()
    }
}

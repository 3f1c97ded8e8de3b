//! Sockets: binding them, accepting from them, and dealing connections to workers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::Port;
use super::service::Intake;
use crate::config::receiver::{Endpoint, Limits, Network};
use crate::internal_telemetry::metrics::ReceiverMetrics;
use crate::tasks::{Scope, Team};

/// After an error that is the system's and not the client's, so that it is not asked in a busy loop.
const BREATH: Duration = Duration::from_millis(100);

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and port of the network.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The address and port, unless it is a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

/// The file of a unix socket, removed when nobody listens on it any longer.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it already.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// An accepted socket, not yet known to the runtime that will serve it.
enum Socket {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl Listener {
    pub(super) async fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Unix(path) => bind_unix(path).await,
            Endpoint::Tcp { host, port, network } => {
                let addresses = addresses(host, *port, *network).await?;
                TcpListener::bind(&*addresses).await.map(Listener::Tcp)
            }
        }
    }

    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are small and complete; waiting for more would only delay them.
                stream.set_nodelay(true)?;
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok(Socket::Tcp(stream.into_std()?, peer))
            }
            Listener::Unix(listener, _) => Ok(Socket::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// The addresses to try, the best first: as in Go, a name with both kinds means IPv4, and no name means
/// every address of both kinds.
async fn addresses(host: &str, port: u16, network: Network) -> io::Result<Vec<SocketAddr>> {
    let allowed = |address: &SocketAddr| match network {
        Network::Tcp4 => address.is_ipv4(),
        Network::Tcp6 => address.is_ipv6(),
        Network::Tcp | Network::Unix => true,
    };
    let mut found: Vec<SocketAddr> = match host {
        "" => vec![
            (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
            (std::net::Ipv4Addr::UNSPECIFIED, port).into(),
        ],
        _ => lookup_host((host, port)).await?.collect(),
    };
    found.retain(allowed);
    if !host.is_empty() {
        found.sort_by_key(SocketAddr::is_ipv6);
    }
    if found.is_empty() { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(found) }
}

/// A socket file that nobody listens on is a leftover and replaced.
async fn bind_unix(path: &Path) -> io::Result<Listener> {
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    Ok(Listener::Unix(bound?, Arc::new(SocketFile(path.to_owned()))))
}

/// What accepting needs besides the socket.
pub(super) struct Dealing {
    pub(super) scope: Scope,
    pub(super) team: Team,
    pub(super) accepting: CancellationToken,
    pub(super) metrics: ReceiverMetrics,
    pub(super) caps: Arc<Caps>,
}

/// Accepts until `dealing.accepting` is cancelled, then closes the socket.
pub(super) async fn accept<I: Intake>(listener: Listener, port: Arc<Port<I>>, dealing: Dealing) {
    let accepting = dealing.accepting.clone();
    while let Some(accepted) = accepting.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok(socket) => deal(socket, &port, &dealing),
            Err(error) if is_the_clients(&error) => dealing.metrics.connections_refused.add(1),
            Err(error) => {
                tracing::warn!(name: "receiver.accept_failed", %error, "cannot accept connections");
                accepting.run_until_cancelled(tokio::time::sleep(BREATH)).await;
            }
        }
    }
}

/// Whether only this one connection failed.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}

/// Gives a connection to the worker with the fewest, or closes it if there are too many.
fn deal<I: Intake>(socket: Socket, port: &Arc<Port<I>>, dealing: &Dealing) {
    let peer = match &socket {
        Socket::Tcp(_, peer) => Some(*peer),
        Socket::Unix(_) => None,
    };
    let metrics = dealing.metrics.clone();
    let worker = dealing.team.least_loaded();
    let (Some(worker), Some(place)) = (worker, Caps::take(&dealing.caps, peer.map(|peer| peer.ip()))) else {
        metrics.connections_refused.add(1);
        return;
    };
    let occupied = worker.occupy();
    let open = Open::new(&metrics);
    let (port, draining) = (port.clone(), dealing.scope.token().clone());
    dealing.scope.spawn_on(worker.handle(), "connection", async move {
        let _held = (occupied, place, open);
        let served = match socket {
            Socket::Tcp(stream, _) => match TcpStream::from_std(stream) {
                Ok(stream) => port.serve(stream, peer, draining).await,
                Err(_unusable) => false,
            },
            Socket::Unix(stream) => match UnixStream::from_std(stream) {
                Ok(stream) => port.serve(stream, peer, draining).await,
                Err(_unusable) => false,
            },
        };
        if !served {
            metrics.connections_refused.add(1);
        }
    });
}

/// Counts one open connection.
struct Open(ReceiverMetrics);

impl Open {
    fn new(metrics: &ReceiverMetrics) -> Self {
        metrics.connections.add(1);
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.add(-1);
    }
}

/// How many connections one listener has, in all and of each address, and how fast they come.
#[derive(Debug)]
pub(super) struct Caps {
    most: usize,
    most_per_ip: usize,
    most_begun_per_ip: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    per_ip: HashMap<IpAddr, usize>,
    /// Begun in the second that began at `second`.
    begun: HashMap<IpAddr, usize>,
    second: Option<Instant>,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    caps: Arc<Caps>,
    ip: Option<IpAddr>,
}

impl Caps {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let most = |limit: u32| if limit == 0 { usize::MAX } else { limit as usize };
        Arc::new(Self {
            most: most(limits.max_connections),
            most_per_ip: most(limits.max_connections_per_ip),
            most_begun_per_ip: most(limits.max_connections_per_ip_per_second),
            taken: Mutex::default(),
        })
    }

    /// None if there is no place left.
    fn take(caps: &Arc<Self>, ip: Option<IpAddr>) -> Option<Place> {
        let mut taken = caps.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= caps.most {
            return None;
        }
        if let Some(ip) = ip {
            if !taken.may_begin(ip, caps.most_begun_per_ip, Instant::now()) {
                return None;
            }
            let of_ip = taken.per_ip.entry(ip).or_default();
            if *of_ip >= caps.most_per_ip {
                return None;
            }
            *of_ip += 1;
        }
        taken.all += 1;
        drop(taken);
        Some(Place { caps: caps.clone(), ip })
    }
}

impl Taken {
    /// Counts a connection of this address; false if it has begun its share of this second.
    fn may_begin(&mut self, ip: IpAddr, most: usize, now: Instant) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        if most == usize::MAX {
            return true;
        }
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= SECOND) {
            // What one busy second took is not kept for the quiet ones.
            (self.begun, self.second) = (HashMap::new(), Some(now));
        }
        let begun = self.begun.entry(ip).or_default();
        *begun += 1;
        *begun <= most
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.caps.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(ip) = self.ip
            && let Entry::Occupied(mut of_ip) = taken.per_ip.entry(ip)
        {
            *of_ip.get_mut() -= 1;
            if *of_ip.get() == 0 {
                of_ip.remove();
            }
        }
    }
}

//! Where a listener listens, as text.

use std::path::PathBuf;

use super::Network;

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and port of the network.
    Tcp {
        /// A name, an IPv4 or IPv6 address without brackets; empty means every address.
        host: String,
        /// 0 lets the system choose.
        port: u16,
        /// Which addresses of `host` are meant.
        network: Network,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Nothing is written.
    #[error("an endpoint is needed, such as localhost:4317")]
    Empty,
    /// No colon, or nothing behind it.
    #[error("a port is needed, such as localhost:4317")]
    NoPort,
    /// Not a number from 0 to 65535.
    #[error("the port must be a number from 0 to 65535")]
    BadPort,
    /// Starts like an address of the web.
    #[error("a listener's endpoint is host:port, without a scheme")]
    Scheme,
}

impl Endpoint {
    /// Splits at the last colon; an IPv6 address may stand with or without brackets.
    ///
    /// # Errors
    /// [`BadEndpoint`]: the configuration is refused.
    pub fn parse(text: &str, network: Network) -> Result<Self, BadEndpoint> {
        if text.is_empty() {
            return Err(BadEndpoint::Empty);
        }
        if network == Network::Unix {
            return Ok(Endpoint::Unix(text.into()));
        }
        if text.contains("://") {
            return Err(BadEndpoint::Scheme);
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadEndpoint::NoPort)?;
        if port.is_empty() || port.ends_with(']') {
            return Err(BadEndpoint::NoPort);
        }
        let port = port.parse().map_err(|_| BadEndpoint::BadPort)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Endpoint::Tcp { host: host.to_owned(), port, network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_split_at_the_last_colon() {
        let tcp = |host: &str, port| Ok(Endpoint::Tcp { host: host.into(), port, network: Network::Tcp });
        let check = |text: &str, expected: Result<Endpoint, BadEndpoint>| {
            assert_eq!(Endpoint::parse(text, Network::Tcp), expected, "{text:?}");
        };
        check("localhost:4317", tcp("localhost", 4317));
        check("0.0.0.0:0", tcp("0.0.0.0", 0));
        check(":4317", tcp("", 4317));
        check("::1:4317", tcp("::1", 4317));
        check("[::1]:4317", tcp("::1", 4317));
        check("[::]:4317", tcp("::", 4317));
        check("", Err(BadEndpoint::Empty));
        check("localhost", Err(BadEndpoint::NoPort));
        check("localhost:", Err(BadEndpoint::NoPort));
        check("[fd00:1]", Err(BadEndpoint::NoPort));
        check("localhost:otlp", Err(BadEndpoint::BadPort));
        check("localhost:65536", Err(BadEndpoint::BadPort));
        check("http://localhost:4317", Err(BadEndpoint::Scheme));
    }

    #[test]
    fn a_unix_endpoint_is_a_path() {
        let expected = Ok(Endpoint::Unix("/run/otlp.sock".into()));
        assert_eq!(Endpoint::parse("/run/otlp.sock", Network::Unix), expected);
    }
}

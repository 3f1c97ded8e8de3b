//! Where an exporter sends, as text.

use std::path::PathBuf;

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and port.
    Tcp {
        /// A name, an IPv4 or IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What to connect to.
    pub address: Address,
    /// Whether a scheme says so: `https` yes, `http` and unix sockets no, otherwise the TLS keys decide.
    pub tls: Option<bool>,
    /// The path and query, starting with `/` or empty.
    pub path: String,
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Nothing is written.
    #[error("an endpoint is needed, such as {0}")]
    Empty(&'static str),
    /// No host.
    #[error("a host is needed, such as localhost:4317")]
    NoHost,
    /// Not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    BadPort,
    /// Not one of the forms.
    #[error(
        "not a known form; write host:port, http://host:port, https://host:port, dns:///host:port or unix:path"
    )]
    Scheme,
    /// OTLP/HTTP needs a URL.
    #[error("a URL is needed, http://host:port or https://host:port")]
    NotUrl,
    /// A name server in `dns://server/host`.
    #[error("another name server cannot be chosen; write dns:///host:port")]
    NameServer,
    /// A character no URL may have, or credentials before the host.
    #[error("blanks, control characters, `#` and `user@` have no place in an endpoint")]
    Character,
}

impl Endpoint {
    /// Reads an endpoint of `otlp_grpc`; a path behind the host is dropped, as the Collector does.
    ///
    /// # Errors
    /// [`BadEndpoint`]: the configuration is refused.
    pub fn grpc(text: &str) -> Result<Self, BadEndpoint> {
        if text.is_empty() {
            return Err(BadEndpoint::Empty("localhost:4317"));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let path = PathBuf::from(path);
            return Ok(Self { address: Address::Unix(path), tls: Some(false), path: String::new() });
        }
        if let Some((tls, rest)) = after_http(text) {
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            return Ok(Self { address: tcp(authority, 443)?, tls: Some(tls), path: String::new() });
        }
        let authority = match text.split_once("://") {
            Some(("dns" | "passthrough", rest)) => rest.strip_prefix('/').ok_or(BadEndpoint::NameServer)?,
            Some(_) => return Err(BadEndpoint::Scheme),
            None => text.strip_prefix("dns:").unwrap_or(text),
        };
        Ok(Self { address: tcp(authority, 443)?, tls: None, path: String::new() })
    }

    /// Reads a URL of `otlp_http`.
    ///
    /// # Errors
    /// [`BadEndpoint`]: the configuration is refused.
    pub fn http(text: &str) -> Result<Self, BadEndpoint> {
        if text.is_empty() {
            return Err(BadEndpoint::Empty("http://localhost:4318"));
        }
        let (tls, rest) = after_http(text).ok_or(BadEndpoint::NotUrl)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if path.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#' || !c.is_ascii()) {
            return Err(BadEndpoint::Character);
        }
        let port = if tls { 443 } else { 80 };
        Ok(Self { address: tcp(authority, port)?, tls: Some(tls), path: path.to_owned() })
    }
}

/// What follows `http://` or `https://`, and whether it was the latter.
fn after_http(text: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((false, rest)),
        "https" => Some((true, rest)),
        _ => None,
    }
}

fn tcp(authority: &str, default_port: u16) -> Result<Address, BadEndpoint> {
    if authority.contains(|c: char| c.is_whitespace() || c.is_control() || "@#/?".contains(c)) {
        return Err(BadEndpoint::Character);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(BadEndpoint::NoHost)?;
            (host, after.strip_prefix(':'))
        }
        // More than one colon is an IPv6 address without brackets, and so without port.
        None if authority.matches(':').count() > 1 => (authority, None),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => default_port,
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or(BadEndpoint::BadPort)?,
    };
    match host {
        "" => Err(BadEndpoint::NoHost),
        host => Ok(Address::Tcp { host: host.to_owned(), port }),
    }
}

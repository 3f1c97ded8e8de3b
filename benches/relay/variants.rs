//! What is compared, each as a process that takes OTLP/gRPC and sends it on to the sink.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::program::Program;
use crate::support::tollgate::{Destination, Tollgate};

/// A way to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// HTTP/2 alone.
    Raw,
    /// prost and tonic.
    Prost,
    /// The real program.
    Tollgate,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Raw, Self::Prost, Self::Tollgate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Prost => "prost",
            Self::Tollgate => "tollgate",
        }
    }

    /// Starts one in front of `sink`.
    pub(crate) fn start(self, sink: SocketAddr, policies: &Path) -> Relay {
        match self {
            Self::Raw | Self::Prost => {
                let (program, ready) = Program::role(self.name(), &[format!("--sink={sink}")]);
                Relay::Role(program, ready.parse().expect("a relay is ready with its address"))
            }
            Self::Tollgate => Relay::Tollgate(Tollgate::start(Destination::Sink(sink), policies)),
        }
    }
}

/// A running variant.
pub(crate) enum Relay {
    Role(Program, SocketAddr),
    Tollgate(Tollgate),
}

impl Relay {
    /// Where it takes OTLP/gRPC.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Role(_, address) => *address,
            Self::Tollgate(tollgate) => tollgate.otlp,
        }
    }

    /// The process to be measured.
    pub(crate) fn program(&self) -> &Program {
        match self {
            Self::Role(program, _) => program,
            Self::Tollgate(tollgate) => &tollgate.program,
        }
    }
}

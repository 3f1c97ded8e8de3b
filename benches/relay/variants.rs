//! What is compared, each as a process that takes OTLP/gRPC and sends it on to the sink.

use std::net::SocketAddr;

use crate::support::program::Program;
use crate::support::tollgate::{Setup, Tollgate};

/// A way to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// HTTP/2 alone.
    Raw,
    /// prost and tonic.
    Prost,
    /// The real program.
    Tollgate,
    /// The real program with a key to check, limits to count and tenants to tell apart: one, …
    OneTenant,
    /// … a hundred, …
    HundredTenants,
    /// … and five thousand.
    ThousandsOfTenants,
}

impl Variant {
    /// What every size of request is measured with.
    pub(crate) const RELAYS: [Self; 3] = [Self::Raw, Self::Prost, Self::Tollgate];
    /// What tenancy costs: first without, then with more and more tenants.
    pub(crate) const TENANCY: [Self; 4] =
        [Self::Tollgate, Self::OneTenant, Self::HundredTenants, Self::ThousandsOfTenants];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Prost => "prost",
            Self::Tollgate => "tollgate",
            Self::OneTenant => "1 tenant",
            Self::HundredTenants => "100 tenants",
            Self::ThousandsOfTenants => "5000 tenants",
        }
    }

    /// How many tenants a key vouches for; none where there is no key.
    pub(crate) fn tenants(self) -> Option<usize> {
        match self {
            Self::Raw | Self::Prost | Self::Tollgate => None,
            Self::OneTenant => Some(1),
            Self::HundredTenants => Some(100),
            Self::ThousandsOfTenants => Some(5_000),
        }
    }

    /// Starts one in front of `sink`; `setup` is for Tollgate.
    pub(crate) fn start(self, sink: SocketAddr, setup: Setup<'_>) -> Relay {
        match self {
            Self::Raw | Self::Prost => {
                let (program, ready) = Program::role(self.name(), &[format!("--sink={sink}")]);
                Relay::Role(program, ready.parse().expect("a relay is ready with its address"))
            }
            Self::Tollgate => Relay::Tollgate(Tollgate::start(setup)),
            Self::OneTenant | Self::HundredTenants | Self::ThousandsOfTenants => {
                Relay::Tollgate(Tollgate::start_with_tenancy(setup))
            }
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

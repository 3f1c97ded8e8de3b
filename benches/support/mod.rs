//! What the end-to-end benchmarks share: the processes they start, and how to read and steer them.
//!
//! Every actor is a process of its own on one thread, so that the CPU time the kernel books on a process
//! is the cost of that actor and nothing else. The benchmark binary starts itself again for the actors of
//! its own ([`Role`]); Tollgate is the real program.
//!
//! ```text
//!   load ──OTLP/gRPC──▶ what is measured ──OTLP/gRPC──▶ sink
//!     ▲ run                  ▲ CPU, memory                ▲ count
//!     └──────────────── the benchmark ────────────────────┘
//! ```

pub(crate) mod arguments;
pub(crate) mod figures;
pub(crate) mod http2;
pub(crate) mod load;
pub(crate) mod payload;
pub(crate) mod program;
pub(crate) mod sink;
pub(crate) mod tollgate;

use std::time::Duration;

/// How long anything that must happen may take before the benchmark gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An actor every benchmark needs, run by the benchmark binary itself.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    /// Sends requests, as many at a time as it is told to.
    Load(load::Args),
    /// Counts what arrives and answers OK.
    Sink,
    /// Runs a program that must not outlive the benchmark.
    Guard(program::Guarded),
}

impl Role {
    /// Plays the role until standard input closes.
    pub(crate) fn play(self) {
        match self {
            Self::Load(args) => program::play(load::serve(args)),
            Self::Sink => program::play(sink::serve()),
            Self::Guard(guarded) => program::guard(&guarded),
        }
    }
}

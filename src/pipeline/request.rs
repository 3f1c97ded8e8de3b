//! What a receiver hands in and what it is told.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::authentication::Caller;
use crate::batch::SendFailure;
use crate::identity::BadTenantId;
use crate::otlp::{Malformed, Signal};
use crate::tenant::{Directory, LimitRefused, Pass};

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP.
    Http,
}

impl Transport {
    /// The `transport` label of the Collector's receiver metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }
}

/// One export request, read whole and decompressed.
#[derive(Debug, Clone)]
pub struct Request {
    /// Told by the path or the gRPC service.
    pub signal: Signal,
    /// An encoded `Export…ServiceRequest`, not checked yet.
    pub body: Bytes,
    /// The headers or gRPC metadata.
    pub headers: http::HeaderMap,
    /// Who is connected; absent on unix sockets.
    pub peer: Option<SocketAddr>,
    /// How it came in.
    pub transport: Transport,
    /// Who sends it, as [`Entrance::authenticate`](super::Entrance::authenticate) told before the body was
    /// read; none: nobody was asked, and the request is taken for one without credentials.
    pub admitted: Option<Admitted>,
    /// When the client stops waiting, capped by the receiver's own limit.
    pub deadline: Instant,
    /// What was taken for it when its headers were admitted.
    pub pass: Pass,
}

/// What is known of a request before its body is read.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Told by the path or the gRPC service.
    pub signal: Signal,
    /// How it comes in.
    pub transport: Transport,
    /// The headers or gRPC metadata.
    pub headers: &'a http::HeaderMap,
    /// The announced length of the body as sent, in bytes.
    pub announced: Option<u64>,
    /// Who is connected; absent on unix sockets.
    pub peer: Option<SocketAddr>,
    /// Who sends; none: nobody was asked.
    pub admitted: Option<&'a Admitted>,
}

/// Who sends a request, and the revision of the policies that says so: the request sees no other.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Who sends.
    pub caller: Arc<Caller>,
    /// The revision.
    pub directory: Arc<Directory>,
}

/// The answer to the question who sends.
pub enum Authentication {
    /// Known on the spot.
    Ready(Result<Admitted, Refusal>),
    /// Somebody is asked, with a deadline of its own.
    Waiting(Pin<Box<dyn Future<Output = Result<Admitted, Refusal>> + Send>>),
}

/// The request is in good hands: every queue concerned owns its part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Items of the request.
    pub items: u64,
    /// Items rejected for good (partial success).
    pub rejected: u64,
    /// Why, in English; with `rejected` 0 a warning.
    pub message: Option<String>,
}

/// Nothing of the request was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not an OTLP request; sending it again is useless.
    #[error("malformed request: {0}")]
    Malformed(#[from] Malformed),
    /// Larger than the queue could ever hold; sending it again is useless.
    #[error(
        "the request is larger than the sending queue of exporter `{exporter}`, or than its tenant's share of it"
    )]
    NeverFits {
        /// The id of the exporter.
        exporter: String,
    },
    /// A queue is full; try again.
    #[error("sending queue is full (exporter `{exporter}`)")]
    QueueFull {
        /// The id of the exporter.
        exporter: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A tenant of the request has its share of a queue; try again, others are not concerned.
    #[error("the tenant's share of the sending queue is used up (exporter `{exporter}`)")]
    QueueShare {
        /// The id of the exporter.
        exporter: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A sending queue could not put the data down on disk; try again.
    #[error("the data could not be put down for exporter `{exporter}`: {problem}")]
    Storage {
        /// The id of the exporter.
        exporter: String,
        /// The disk's words.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The memory limiter refuses; try again.
    #[error("data refused due to high memory usage")]
    MemoryPressure {
        /// When to try again.
        retry_after: Duration,
    },
    /// The collector is going away; try again, elsewhere.
    #[error("the collector is shutting down")]
    ShuttingDown {
        /// When to try again.
        retry_after: Duration,
    },
    /// The sender names a tenant and may not, or names none where one is required.
    #[error("no tenant is named and policies refuse anonymous data")]
    Anonymous,
    /// A limit of its tenant does not let it in.
    #[error(transparent)]
    Limited(#[from] LimitRefused),
    /// What proves the sender proves nothing; sending it again is useless.
    #[error("the credentials are not valid")]
    Unauthenticated,
    /// Whoever can tell who sends does not answer; try again.
    #[error("the credentials cannot be checked now")]
    Unverifiable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The sender is known and may not send for the tenant.
    #[error("the sender may not send for this tenant")]
    TenantNotAllowed,
    /// A tenant header occurs twice.
    #[error("header `{header}` occurs more than once")]
    DuplicateTenantHeader {
        /// The header's name.
        header: String,
    },
    /// The claimed tenant is not a tenant id.
    #[error("the tenant named by the request is not valid: {0}")]
    BadTenant(#[from] BadTenantId),
    /// The deadline passed first.
    #[error("the deadline passed before the data was queued")]
    DeadlineExceeded,
    /// No pipeline of this receiver takes the signal.
    #[error("no pipeline of this receiver takes {0}")]
    NoPipeline(Signal),
    /// The destination failed and the exporter is set to wait for results.
    #[error("the destination did not take the data: {}", .0.message)]
    Destination(SendFailure),
}

/// When a client that is turned away by the end of this process may come back: to its successor.
const SUCCESSOR: Duration = Duration::from_secs(1);

impl Refusal {
    /// Requests under way take all the memory there is for them.
    pub fn no_memory() -> Self {
        // Scattered, so that those who were told together do not come back together.
        Refusal::MemoryPressure { retry_after: Duration::from_millis(fastrand::u64(1_000..3_000)) }
    }

    /// The collector goes away before the request was done.
    pub fn shutting_down() -> Self {
        Refusal::ShuttingDown { retry_after: SUCCESSOR }
    }
}

//! The processors: synchronous, CPU only, in the order of the pipeline; they read the index and note
//! edits. Copying happens once, after the last of them.

pub mod attributes;
mod filter;
mod kubernetes;
mod memory_limiter;
mod probabilistic;
mod sampling;
mod tenant;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::authentication::Caller;
use crate::internal_telemetry::metrics::ProcessorMetrics;
use crate::kubernetes::pods::Found;
use crate::otlp::Draft;
use crate::tenant::{Admission, ClaimHeaders, ClaimRefused, Directory, LimitRefused, Owners};

pub use attributes::Attributes;
pub use kubernetes::PodAttributes;
pub use memory_limiter::MemoryLimiter;
pub use probabilistic::Probabilistic;
pub use sampling::Sampling;
pub use tenant::Tenancy;

/// What a processor works on: one request on its way through one pipeline.
pub struct Work<'a> {
    /// The request and the edits so far.
    pub draft: Draft<'a>,
    /// The metadata it came with, without what named tenants and proved the sender.
    pub headers: &'a HeaderMap,
    /// Who is connected; absent on unix sockets.
    pub peer: Option<SocketAddr>,
    /// The pod at that address, where pods are watched and it is known.
    pub pod: Option<Found>,
    /// The revision of policies this request sees, from its first to its last byte.
    pub directory: &'a Directory,
    /// Who sends it, under that revision.
    pub caller: &'a Caller,
    /// The tenants its headers name.
    pub claims: &'a ClaimHeaders,
    /// Whose each part is, and what was left out of whose.
    pub owners: Owners,
    /// What the request was charged, over all its pipelines.
    pub admission: &'a mut Admission,
}

/// Why a processor lets the request go no further; nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Too much memory is in use; the client should come back.
    #[error("data refused due to high memory usage")]
    Memory {
        /// After this time.
        retry_after: Duration,
    },
    /// The tenant cannot be told.
    #[error(transparent)]
    Claim(#[from] ClaimRefused),
    /// A limit of its tenant does not let it in.
    #[error(transparent)]
    Limited(#[from] LimitRefused),
}

/// One processor of a pipeline.
pub struct Processor {
    kind: Kind,
    metrics: ProcessorMetrics,
}

/// The processors there are.
pub enum Kind {
    /// `tenant`: whose is it, which model made it.
    Tenant(Tenancy),
    /// `sampling`: how much of it may pass.
    Sampling(Sampling),
    /// `probabilistic_sampler`, as the Collector's.
    Probabilistic(Probabilistic),
    /// `resource` and `attributes`, as the Collector's.
    Attributes(Box<Attributes>),
    /// `k8s_attributes`, as the Collector's.
    Kubernetes(Box<PodAttributes>),
    /// `memory_limiter`, as the Collector's.
    MemoryLimiter(Arc<MemoryLimiter>),
}

impl Processor {
    /// A processor that counts what comes in and goes out.
    pub fn new(kind: Kind, metrics: ProcessorMetrics) -> Self {
        Self { kind, metrics }
    }

    /// Whether it asks whose the data is.
    pub fn tells_tenants(&self) -> bool {
        matches!(self.kind, Kind::Tenant(_))
    }

    /// Notes this processor's edits.
    ///
    /// # Errors
    /// [`Stop`]: the whole request is refused.
    pub fn run(&self, work: &mut Work<'_>) -> Result<(), Stop> {
        let signal = work.draft.signal();
        self.metrics.incoming[signal].add(work.draft.items_left());
        match &self.kind {
            Kind::Tenant(tenancy) => tenancy.run(work)?,
            Kind::Sampling(sampling) => sampling.run(work),
            Kind::Probabilistic(sampler) => sampler.run(work),
            Kind::Attributes(attributes) => attributes.run(work),
            Kind::Kubernetes(attributes) => attributes.run(work),
            Kind::MemoryLimiter(limiter) => {
                if let Some(retry_after) = limiter.refuses(signal, work.draft.items_left()) {
                    return Err(Stop::Memory { retry_after });
                }
            }
        }
        self.metrics.outgoing[signal].add(work.draft.items_left());
        Ok(())
    }
}

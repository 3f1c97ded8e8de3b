//! Whose line a batch stands in, and what of a queue that line may have.
//!
//! A flow outlives the revisions of the policies: the table of tenants keeps it, queues know it by its
//! number and read its share anew whenever the [`Board`] says that shares changed. Not here: who gets a
//! flow of its own (`tenant`), what the shares mean (`queue`). Invariant: numbers are never used twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::identity::TenantId;

/// What a flow may have of each queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// How much of the service, against the weights of the others. Range: 1 to 100.
    pub weight: u32,
    /// Room that is kept for the flow, in bytes.
    pub guaranteed_bytes: u64,
    /// The most of the room, and of the slots while others wait, in (0, 1]. At 1 the flow may fill the
    /// queue: only what is guaranteed to others stays free.
    pub max_share: f64,
    /// The most leases at a time that began with this flow, whether others wait or not; at least 1.
    pub export_in_flight: u32,
}

impl Share {
    /// What a tenant has of which the policies say nothing.
    pub const DEFAULT: Self =
        Self { weight: 1, guaranteed_bytes: 0, max_share: 0.5, export_in_flight: u32::MAX };

    /// What data has whose tenant nobody looked for: all there is.
    pub const WHOLE: Self =
        Self { weight: 1, guaranteed_bytes: 0, max_share: 1.0, export_in_flight: u32::MAX };
}

/// A line in every queue; clones are the same flow.
#[derive(Debug, Clone)]
pub struct Flow(Arc<State>);

#[derive(Debug)]
struct State {
    number: u64,
    label: TenantId,
    share: RwLock<Share>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Flow {
    /// A new line; `label` names it in metrics, and several flows may have the same.
    pub fn new(label: TenantId, share: Share) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(State { number, label, share: RwLock::new(share) }))
    }

    /// The one line of all data whose tenant nobody looked for: a pipeline without the processor
    /// `tenant`.
    pub fn of_nobody() -> Self {
        static NOBODY: OnceLock<Flow> = OnceLock::new();
        NOBODY.get_or_init(|| Self::new(TenantId::unattributed(), Share::WHOLE)).clone()
    }

    /// What tells this flow from all others.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Its tenant's label in metrics.
    pub fn label(&self) -> &TenantId {
        &self.0.label
    }

    /// What it may have.
    pub fn share(&self) -> Share {
        *self.0.share.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what it may have; queues learn of it by [`Board::publish`].
    pub fn set_share(&self, share: Share) {
        *self.0.share.write().unwrap_or_else(PoisonError::into_inner) = share;
    }
}

/// Tells queues that shares changed, and how much is guaranteed in all.
#[derive(Debug, Default)]
pub struct Board {
    version: AtomicU64,
    guaranteed: AtomicU64,
}

impl Board {
    /// Makes queues read all shares anew. `guaranteed` is the sum over all flows, those that wait for
    /// nothing included.
    pub fn publish(&self, guaranteed: u64) {
        self.guaranteed.store(guaranteed, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Grows with each change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The sum of all guarantees, in bytes.
    pub fn guaranteed(&self) -> u64 {
        self.guaranteed.load(Ordering::Relaxed)
    }
}

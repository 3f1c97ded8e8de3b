//! Capacity follows the control group: worker threads and the sizes of pools change with its limits.
//!
//! Not here: which limits there are (`cgroup`) and what the pools are (`pools`). A limit that falls below
//! what is configured stops nobody: it is reported, and requests get the smallest pool there is.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cgroup::Capacity;
use crate::exporter::Exporter;
use crate::internal_telemetry::Telemetry;
use crate::receiver::Budget;
use crate::tasks::{Scope, Team};

use super::pools::{Pools, Sizes};

/// How often the control group is looked at. Everything follows within 10 s; reading costs a few files.
const LOOK: Duration = Duration::from_secs(2);
/// What requests get when the limit has fallen below what is configured.
const LEAST_REQUESTS: u64 = 4 << 20;

/// What follows the control group; clones are the same.
#[derive(Clone)]
pub(super) struct Following(Arc<Shared>);

struct Shared {
    capacity: Capacity,
    /// As asked for on the command line; then they do not follow.
    workers: Option<usize>,
    budget: Budget,
    pools: Mutex<(Pools, Vec<Exporter>)>,
    telemetry: Telemetry,
}

impl Following {
    /// Of groups mounted at `root`; nothing is sized yet.
    pub(super) fn new(root: &Path, workers: Option<usize>, telemetry: &Telemetry) -> Self {
        let capacity = Capacity::read(root);
        telemetry.watch_capacity(&capacity);
        let budget = Budget::default();
        telemetry.watch_requests(budget.held());
        let pools = Mutex::new((Pools::default(), Vec::new()));
        let telemetry = telemetry.clone();
        Self(Arc::new(Shared { capacity, workers, budget, pools, telemetry }))
    }

    /// What the groups allow.
    pub(super) fn capacity(&self) -> &Capacity {
        &self.0.capacity
    }

    /// What bodies under way are charged to.
    pub(super) fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// How many workers there should be now.
    pub(super) fn workers(&self) -> usize {
        self.0.workers.map_or_else(|| self.0.capacity.parallelism(), |count| count.max(1))
    }

    /// From now on these pools and queues are sized.
    pub(super) fn size(&self, pools: Pools, exporters: &[Exporter]) {
        *self.lock() = (pools, exporters.to_vec());
        self.resize();
    }

    /// Looks at the groups again and again, in a task of `scope`.
    pub(super) fn start(&self, scope: &Scope, team: &Team) {
        let (following, team, stop) = (self.clone(), team.clone(), scope.token().clone());
        scope.spawn("capacity", async move {
            let mut look = tokio::time::interval(LOOK);
            while stop.run_until_cancelled(look.tick()).await.is_some() {
                // A worker that could not be started is tried again.
                if following.0.capacity.look() || team.active().len() != following.workers() {
                    following.change(&team);
                }
            }
        });
    }

    fn change(&self, team: &Team) {
        let shared = &*self.0;
        let (cpus, memory, workers) = (shared.capacity.cpus(), shared.capacity.memory(), self.workers());
        match team.resize(workers) {
            Ok(()) => shared.telemetry.workers().set(workers as i64),
            Err(error) => {
                tracing::error!(name: "capacity.no_worker", %error, workers, "cannot start another worker");
            }
        }
        tracing::info!(name: "capacity.changed", ?cpus, memory, workers, "limits of the control group changed");
        self.resize();
    }

    fn resize(&self) {
        let shared = &*self.0;
        let pools = self.lock();
        match pools.0.within(shared.capacity.memory()) {
            Ok(sizes) => {
                shared.budget.set(sizes.requests);
                for exporter in &pools.1 {
                    if let Some(bytes) = sizes.queue(exporter.id()) {
                        exporter.queue().set_max_bytes(bytes);
                    }
                }
                shared.telemetry.set_pools(sizes.list());
                tell(&sizes);
            }
            Err(problem) => {
                shared.budget.set(LEAST_REQUESTS);
                tracing::error!(name: "memory.does_not_fit", "{problem}");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Pools, Vec<Exporter>)> {
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(sizes: &Sizes) {
    let list = sizes.list();
    let sum: u64 = list.iter().map(|(_, bytes)| bytes).sum();
    let pools: Vec<_> = list.iter().map(|(name, bytes)| format!("{name}={bytes}")).collect();
    let (limit, pools) = (sizes.limit, pools.join(" "));
    tracing::info!(name: "memory.pools", limit, sum, %pools, "what may take memory, in bytes");
}

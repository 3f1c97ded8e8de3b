//! A queue on disk goes from one configuration to the next.
//!
//! ```text
//! old exporter     leases ──────────┐ step_aside: attempts under way end, nothing new
//! new exporter        open ─ leases │──────────────────────────────────────────▶ drain: closes the files
//!                        └ take_over: bounds and batching are the new ones
//! ```
//!
//! For a moment both lease from the same queue; nothing is sent twice by that.

use std::sync::{MutexGuard, PoisonError};

use tokio::time::Instant;

use super::stores::{Opening, Stores};
use super::{Exporter, Prepared, StartError};

impl Exporter {
    /// Opens its queue on disk, if it has one, or takes it from an earlier configuration. To be called
    /// before it is started.
    ///
    /// # Errors
    /// [`StartError::Storage`]: the program cannot start.
    pub async fn open(&self, stores: &Stores) -> Result<(), StartError> {
        let Some(storage) = &self.0.storage else { return Ok(()) };
        let Prepared { bounds, wanted, metrics, .. } = &*self.0;
        let opening = Opening { storage, bounds: *bounds, wanted: *wanted, metrics };
        let queue = stores.take(opening).await.map_err(|error| StartError::Storage {
            exporter: self.0.id.to_string(),
            extension: storage.extension.to_string(),
            error,
        })?;
        if let Some(board) = self.0.board.get() {
            queue.follow(board);
        }
        *self.stores() = Some(stores.clone());
        // Opened once; a second time changes nothing.
        let _is_set = self.0.queue.set(queue);
        Ok(())
    }

    /// This configuration is in force: a queue that was taken over is what it says.
    pub fn take_over(&self) {
        let Prepared { bounds, wanted, plan, .. } = &*self.0;
        if self.is_durable() {
            self.queue().configure(*bounds, *wanted);
            self.queue().set_slots(plan.consumers);
        }
    }

    /// Items it still has to deliver; none once its queue serves another configuration.
    pub fn items(&self) -> u64 {
        let has_left = self.is_durable() && self.stores().is_none();
        if has_left { 0 } else { self.queue().items() }
    }

    /// Whether its queue serves another configuration as well.
    pub fn is_replaced(&self) -> bool {
        let stores = self.stores();
        let shared = stores.as_ref().zip(self.0.storage.as_ref());
        shared.is_some_and(|(stores, storage)| stores.is_shared(&storage.folder))
    }

    /// Leaves its queue on disk to another configuration that uses it, if there is one: attempts under way
    /// end, until `deadline`; whether it left, now or before.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn step_aside(&self, deadline: Instant) -> bool {
        let Some(storage) = &self.0.storage else { return false };
        let has_left = {
            let mut stores = self.stores();
            let Some(shared) = &*stores else { return true };
            let has_left = shared.leave(&storage.folder);
            if has_left {
                *stores = None;
            }
            has_left
        };
        if has_left {
            if let Some(running) = &*self.running() {
                running.ending.no_leases.cancel();
                running.ending.no_waits.cancel();
            }
            self.stop(deadline).await;
        }
        has_left
    }

    pub(super) fn stores(&self) -> MutexGuard<'_, Option<Stores>> {
        self.0.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

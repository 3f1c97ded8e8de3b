//! How old is what is leased: it is still in the queue, however long it is tried.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// When the oldest batch of each lease under way was received; as many as there are consumers. Clones are the
/// same.
#[derive(Debug, Clone, Default)]
pub(super) struct Ages(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    leases: HashMap<u64, Instant>,
    next: u64,
}

impl Ages {
    /// A lease whose oldest batch is that old, noted until it is dropped.
    pub(super) fn note(&self, oldest: Option<Instant>) -> Age {
        let mut noted = self.lock();
        let number = noted.next;
        noted.next += 1;
        noted.leases.extend(oldest.map(|oldest| (number, oldest)));
        Age { ages: self.clone(), number }
    }

    /// The oldest of all.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.lock().leases.values().min().copied()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One lease.
#[derive(Debug)]
pub(super) struct Age {
    ages: Ages,
    number: u64,
}

impl Drop for Age {
    fn drop(&mut self) {
        self.ages.lock().leases.remove(&self.number);
    }
}

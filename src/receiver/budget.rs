//! Memory for requests under way, of all receivers together.
//!
//! A request is charged what its body takes as it arrives, and again what checking and rewriting it take,
//! until a queue owns it. What does not fit is refused at once: nothing waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much requests under way may take; clones are the same.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: AtomicU64,
    held: Arc<AtomicU64>,
}

impl Default for Budget {
    /// Without a bound.
    fn default() -> Self {
        Self(Arc::new(Shared { most: AtomicU64::new(u64::MAX), held: Arc::default() }))
    }
}

impl Budget {
    /// Changes the bound, in bytes; what is held already stays.
    pub fn set(&self, most: u64) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// The bound, in bytes.
    pub(super) fn most(&self) -> u64 {
        self.0.most.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more would fit now.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.0.held.load(Ordering::Relaxed).saturating_add(bytes) <= self.most()
    }

    /// The bytes held now, for a gauge.
    pub fn held(&self) -> Arc<AtomicU64> {
        self.0.held.clone()
    }

    /// For one request, which holds nothing yet.
    pub(super) fn charge(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }
}

/// What one request holds; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: u64,
}

impl Charge {
    /// Holds so many bytes more; false if there are not so many.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let shared = &*self.budget.0;
        let before = shared.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > shared.most.load(Ordering::Relaxed) {
            shared.held.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_taken_and_everything_is_given_back() {
        let budget = Budget::default();
        budget.set(100);
        let (mut one, mut other) = (budget.charge(), budget.charge());
        assert!(one.take(60) && !other.take(41) && other.take(40) && !one.take(1));
        drop(one);
        assert!(other.take(60) && !other.take(1));
        // A bound that falls takes nothing away.
        budget.set(10);
        assert!(!other.take(1));
        drop(other);
        assert_eq!(budget.held().load(Ordering::Relaxed), 0);
    }
}

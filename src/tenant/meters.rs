//! The meters of all tenants, in a table of fixed size.
//!
//! A cache that may forget anybody would forget whom it just charged; here a meter goes only when every
//! bucket is full and nobody holds it, which loses nothing. When nobody can go, newcomers share a few
//! meters under the limits of `_overflow`. Invariant: at most one meter counts for a tenant.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Meter;
use crate::identity::TenantId;

/// Tenants with a meter of their own: ten times those metrics tell apart, at about 300 bytes each.
const CAPACITY: usize = 10_000;
/// Meters that all others share, so that one of them does not starve the rest.
const SHARED: usize = 16;
/// How often the table is searched for idle meters when it is full.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The meters of all tenants.
#[derive(Debug)]
pub struct Meters {
    tenants: RwLock<HashMap<TenantId, Arc<Meter>>>,
    shared: [Arc<Meter>; SHARED],
    swept: Mutex<Option<Instant>>,
    hasher: RandomState,
    capacity: usize,
}

/// The meter of a tenant.
#[derive(Debug, Clone)]
pub enum Metered {
    /// Its own.
    Own(Arc<Meter>),
    /// One of those all tenants beyond the table share.
    Shared(Arc<Meter>),
}

impl Default for Meters {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Meters {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            tenants: RwLock::default(),
            shared: std::array::from_fn(|_| Arc::default()),
            swept: Mutex::default(),
            hasher: RandomState::new(),
            capacity,
        }
    }

    /// The meter of a tenant, made at first sight, for which the time is asked.
    pub fn of(&self, tenant: &TenantId, now: impl Fn() -> Instant) -> Metered {
        if let Some(meter) = self.find(tenant) {
            return Metered::Own(meter);
        }
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if tenants.len() >= self.capacity && self.may_sweep(now) {
            // Nobody can take a meter out of the table meanwhile, so one held once is held by the table.
            tenants.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_idle(now));
        }
        if tenants.len() < self.capacity || tenants.contains_key(tenant) {
            return Metered::Own(tenants.entry(tenant.clone()).or_default().clone());
        }
        drop(tenants);
        self.shared(tenant)
    }

    /// The meter of a tenant that is not told apart.
    pub fn shared(&self, tenant: &TenantId) -> Metered {
        let bucket = self.hasher.hash_one(tenant) as usize % SHARED;
        Metered::Shared(self.shared[bucket].clone())
    }

    /// The meter of a tenant that has one of its own.
    pub fn find(&self, tenant: &TenantId) -> Option<Arc<Meter>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    fn may_sweep(&self, now: Instant) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let due = swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY);
        if due {
            *swept = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::Signal;
    use crate::policies::Limits;
    use crate::tenant::limits::Charge;

    #[test]
    fn only_full_and_idle_meters_make_room_for_newcomers() {
        let id = |text: &str| TenantId::new(text).unwrap();
        let (meters, start) = (Meters::with_capacity(2), Instant::now());
        let limits = Limits { requests_per_second: Some(1.0), ..Limits::default() };
        let charge = Charge { requests: 1, bytes: 0, signal: Signal::Logs, items: 0 };
        let own = |tenant: &str, now| match meters.of(&id(tenant), || now) {
            Metered::Own(meter) => Some(meter),
            Metered::Shared(_) => None,
        };
        own("a", start).unwrap().charge(&limits, &charge, start).unwrap();
        let held = own("b", start).unwrap();
        assert!(own("c", start).is_none(), "a is not full, b is held");
        let later = start + Duration::from_secs(2);
        assert!(own("c", later).is_some(), "a is full again");
        assert!(meters.find(&id("a")).is_none());
        assert!(Arc::ptr_eq(&held, &own("b", later).unwrap()));
    }
}

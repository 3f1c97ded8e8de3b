//! The meters of all tenants: those who find no room in the table share a few, under the limits of
//! `_overflow`. Invariant: at most one meter counts for a tenant.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::time::Instant;

use super::limits::Meter;
use crate::identity::TenantId;
use crate::table::{Known, Table};

/// Tenants with a meter of their own: ten times those metrics tell apart, at about 300 bytes each.
const CAPACITY: usize = 10_000;
/// Meters that all others share, so that one of them does not starve the rest.
const SHARED: usize = 16;

/// The meters of all tenants.
#[derive(Debug)]
pub struct Meters {
    tenants: Table<TenantId, Meter>,
    shared: [Arc<Meter>; SHARED],
    hasher: RandomState,
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
        Self {
            tenants: Table::new(CAPACITY),
            shared: std::array::from_fn(|_| Arc::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Meters {
    /// The meter of a tenant, made at first sight, for which the time is asked; `known` may tell at once.
    pub fn of(&self, tenant: &TenantId, known: &Known<Meter>, now: impl Fn() -> Instant) -> Metered {
        match self.tenants.known(known, || tenant.clone(), now) {
            Some(meter) => Metered::Own(meter),
            None => self.shared(tenant),
        }
    }

    /// The meter of a tenant that is not told apart.
    pub fn shared(&self, tenant: &TenantId) -> Metered {
        let bucket = self.hasher.hash_one(tenant) as usize % SHARED;
        Metered::Shared(self.shared[bucket].clone())
    }

    /// The meter of a tenant that has one of its own.
    pub fn find(&self, tenant: &TenantId) -> Option<Arc<Meter>> {
        self.tenants.find(tenant)
    }
}

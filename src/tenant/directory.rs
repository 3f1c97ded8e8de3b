//! One revision of the policies and the tenants met under it.

use std::sync::Arc;

use moka::sync::Cache;
use tokio::time::Instant;

use super::limits::Meter;
use super::meters::{Metered, Meters};
use crate::identity::TenantId;
use crate::outcome::{Account, Ledger};
use crate::policies::{Anonymous, Block, Claim, Enrichment, Limits, Plan};

/// How many tenants are remembered with what holds for them; more are looked up anew each time.
const REMEMBERED: u64 = 10_000;

/// A tenant as the data path needs it.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Where its items are counted.
    pub account: Arc<Account>,
    /// What the policies say of it.
    pub block: Block,
}

/// One revision of the policies: a request sees one directory from its first to its last byte.
#[derive(Debug)]
pub struct Directory {
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
    tenants: Cache<TenantId, Arc<Tenant>>,
    unattributed: Arc<Tenant>,
    meters: Arc<Meters>,
    limits_anybody: bool,
}

impl Directory {
    /// A directory nobody was met in yet. Look-ups of another revision are never mixed in, because
    /// each revision has its own.
    pub fn new(plan: Arc<Plan>, ledger: Arc<Ledger>) -> Self {
        Self::with_meters(plan, ledger, Arc::default())
    }

    /// The directory of the next revision; what tenants have used of their limits stays used.
    pub fn succeeded_by(&self, plan: Arc<Plan>) -> Self {
        Self::with_meters(plan, self.ledger.clone(), self.meters.clone())
    }

    fn with_meters(plan: Arc<Plan>, ledger: Arc<Ledger>, meters: Arc<Meters>) -> Self {
        let unattributed = Arc::new(meet(&plan, &ledger, &TenantId::unattributed()));
        let limits_anybody = plan.limits_anybody();
        Self { plan, ledger, tenants: Cache::new(REMEMBERED), unattributed, meters, limits_anybody }
    }

    /// Whether the size or rate of anybody's requests is limited.
    pub(super) fn limits_anybody(&self) -> bool {
        self.limits_anybody
    }

    /// Where a tenant is charged, and under which limits; `None`: it has none.
    pub(super) fn meter<'a>(&'a self, tenant: &'a Tenant) -> Option<(Arc<Meter>, &'a Limits)> {
        let limits = &tenant.block.limits;
        if !limits.meters() {
            return None;
        }
        Some(match self.meters.of(&tenant.id, Instant::now()) {
            Metered::Own(meter) => (meter, limits),
            Metered::Shared(meter) => (meter, &self.plan.block(TenantId::overflow().as_str()).limits),
        })
    }

    /// The fill of everybody's limits.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The policies.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The tenant of data no `tenant` processor has looked at.
    pub fn unattributed(&self) -> &Arc<Tenant> {
        &self.unattributed
    }

    /// The tenant with this id.
    pub fn tenant(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.tenants.get(id) {
            return tenant;
        }
        let tenant = Arc::new(meet(&self.plan, &self.ledger, id));
        self.tenants.insert(id.clone(), tenant.clone());
        tenant
    }

    /// The tenant a claim names; `None` if what it says is no tenant id, or one of Tollgate's own.
    pub(super) fn claimed(&self, id: &str) -> Option<Arc<Tenant>> {
        if let Some(tenant) = self.tenants.get(id) {
            return (!id.starts_with('_')).then_some(tenant);
        }
        match TenantId::new(id) {
            Ok(id) => Some(self.tenant(&id)),
            Err(why) => {
                tracing::debug!(name: "tenant.bad_claim", %why, "a claimed tenant id is not valid");
                None
            }
        }
    }

    pub(super) fn claims(&self) -> &[Claim] {
        &self.plan.claims
    }

    pub(super) fn anonymous(&self) -> &Anonymous {
        &self.plan.anonymous
    }

    pub(super) fn enrichment(&self) -> &Enrichment {
        &self.plan.enrichment
    }
}

fn meet(plan: &Plan, ledger: &Ledger, id: &TenantId) -> Tenant {
    Tenant { id: id.clone(), account: ledger.account(id), block: plan.block(id.as_str()).clone() }
}

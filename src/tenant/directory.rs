//! One revision of the policies and the tenants met under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moka::sync::Cache;

use crate::authentication::{Caller, Callers};
use crate::identity::TenantId;
use crate::outcome::{Account, Ledger};
use crate::policies::{Block, Claim, Enrichment, OnMismatch, Plan};

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
    authenticated: AtomicBool,
}

impl Tenant {
    /// Whether a sender that proved who it is has sent for this tenant under this revision.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }

    pub(super) fn sent_by(&self, caller: &Caller) {
        if caller.source.is_some() && !self.is_authenticated() {
            self.authenticated.store(true, Ordering::Relaxed);
        }
    }
}

/// One revision of the policies: a request sees one directory from its first to its last byte.
#[derive(Debug)]
pub struct Directory {
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
    tenants: Cache<TenantId, Arc<Tenant>>,
    unattributed: Arc<Tenant>,
    callers: Arc<Callers>,
}

impl Directory {
    /// A directory nobody was met in yet. Look-ups of another revision are never mixed in, because
    /// each revision has its own.
    pub fn new(plan: Arc<Plan>, ledger: Arc<Ledger>) -> Self {
        let unattributed = Arc::new(meet(&plan, &ledger, &TenantId::unattributed()));
        let callers = Arc::new(Callers::new(plan.clone()));
        Self { plan, ledger, tenants: Cache::new(REMEMBERED), unattributed, callers }
    }

    /// The policies.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Who was met under this revision.
    pub fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// A tenant that was met under this revision; none, or long ago: `None`.
    pub fn met(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.tenants.get(id)
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
        TenantId::new(id).ok().map(|id| self.tenant(&id))
    }

    pub(super) fn claims(&self) -> &[Claim] {
        &self.plan.claims
    }

    pub(super) fn on_mismatch(&self) -> OnMismatch {
        self.plan.identity.on_mismatch
    }

    pub(super) fn enrichment(&self) -> &Enrichment {
        &self.plan.enrichment
    }
}

fn meet(plan: &Plan, ledger: &Ledger, id: &TenantId) -> Tenant {
    let block = plan.block(id.as_str()).clone();
    Tenant { id: id.clone(), account: ledger.account(id), block, authenticated: AtomicBool::new(false) }
}

//! One revision of the policies and the tenants met under it.

use std::sync::Arc;

use moka::sync::Cache;

use super::table::{Seat, Tenants};
use crate::flow::Flow;
use crate::identity::TenantId;
use crate::outcome::Account;
use crate::policies::{Anonymous, Block, Claim, Enrichment, Plan};

/// How many tenants are remembered with what holds for them; more are looked up anew each time.
const REMEMBERED: u64 = 10_000;

/// A tenant as the data path needs it.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Where its items are counted.
    pub account: Arc<Account>,
    /// Its line in the queues.
    pub flow: Flow,
    /// What the policies say of it.
    pub block: Block,
    /// Its place in the table of tenants; data no `tenant` processor has looked at has none.
    seat: Option<Seat>,
    /// Whether its id was proven. Who is not is told apart only if the policies list it.
    proven: bool,
}

/// One revision of the policies: a request sees one directory from its first to its last byte.
#[derive(Debug)]
pub struct Directory {
    plan: Arc<Plan>,
    table: Arc<Tenants>,
    tenants: Cache<TenantId, Arc<Tenant>>,
    unattributed: Arc<Tenant>,
}

impl Directory {
    /// Puts a plan in force; nobody was met under it yet. Look-ups of another revision are never mixed
    /// in, because each revision has its own.
    pub fn new(plan: Arc<Plan>, table: &Arc<Tenants>) -> Self {
        table.adopt(&plan);
        let id = TenantId::unattributed();
        let unattributed = Arc::new(Tenant {
            account: table.account(&id),
            flow: Flow::of_nobody(),
            block: plan.block(id.as_str()).clone(),
            id,
            seat: None,
            proven: true,
        });
        Self { plan, table: table.clone(), tenants: Cache::new(REMEMBERED), unattributed }
    }

    /// Where it is decided who is told apart.
    pub fn table(&self) -> &Arc<Tenants> {
        &self.table
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
        self.known(id.as_str()).unwrap_or_else(|| self.meet(id))
    }

    /// The tenant a claim names; `None` if what it says is no tenant id, or one of Tollgate's own.
    pub(super) fn claimed(&self, id: &str) -> Option<Arc<Tenant>> {
        if let Some(tenant) = self.known(id) {
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

    /// A tenant met before, if its place in the table still is what it was.
    fn known(&self, id: &str) -> Option<Arc<Tenant>> {
        let tenant = self.tenants.get(id)?;
        let is_current = |seat: &Seat| self.table.is_current(&tenant.id, seat, tenant.proven);
        tenant.seat.as_ref().is_none_or(is_current).then_some(tenant)
    }

    fn meet(&self, id: &TenantId) -> Arc<Tenant> {
        // As long as nobody can prove who it is, everybody is taken at its word.
        let proven = true;
        let seat = self.table.seat(id, proven);
        let tenant = Arc::new(Tenant {
            id: id.clone(),
            account: seat.account.clone(),
            flow: seat.flow.clone(),
            block: self.plan.block(id.as_str()).clone(),
            seat: Some(seat),
            proven,
        });
        self.tenants.insert(id.clone(), tenant.clone());
        tenant
    }
}

//! One revision of the policies and the tenants met under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::time::Instant;

use super::limits::Meter;
use super::meters::Metered;
use super::table::{Class, Seat, Tenants};
use crate::authentication::{Caller, Callers};
use crate::flow::Flow;
use crate::identity::TenantId;
use crate::internal_telemetry::{TenantModels, TenantSampling};
use crate::outcome::Account;
use crate::policies::{Block, Claim, Enrichment, OnMismatch, Plan};
use crate::sampling::KeptCap;
use crate::table::Known;

/// How many tenants are remembered with what holds for them; one more, and all are looked up anew.
const REMEMBERED: usize = 10_000;

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
    pub block: Arc<Block>,
    /// Its place in the table of tenants; data no `tenant` processor has looked at has none.
    seat: Option<Seat>,
    /// Whether its id was proven, or chosen by the policies. Who is not is told apart only if the policies
    /// list it.
    proven: bool,
    authenticated: AtomicBool,
    meter: Known<Meter>,
    /// Its budget of kept spans.
    pub kept: KeptCap,
    /// The counters of its models, known once they were looked up.
    pub models: OnceLock<Arc<TenantModels>>,
    /// The counters of what sampling decides, known once they were looked up.
    pub sampling: OnceLock<Arc<TenantSampling>>,
}

impl Tenant {
    fn new(
        id: TenantId,
        plan: &Plan,
        (account, flow): (Arc<Account>, Flow),
        seat: Option<Seat>,
        proven: bool,
    ) -> Self {
        let (block, authenticated) = (plan.block(id.as_str()).clone(), AtomicBool::new(false));
        let (meter, kept) = (Known::default(), KeptCap::default());
        let (models, sampling) = (OnceLock::new(), OnceLock::new());
        Self { id, account, flow, block, seat, proven, authenticated, meter, kept, models, sampling }
    }

    /// Whether a sender that proved who it is has sent for this tenant under this revision.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }

    /// Whether this is the tenant with this id, and good for who has proven it, or for who need not.
    pub(super) fn serves(&self, id: &str, proven: bool) -> bool {
        self.id.as_str() == id && (self.proven || !proven)
    }

    pub(super) fn sent_by(&self, caller: &Caller) {
        if caller.source.is_some() && !self.is_authenticated() {
            self.authenticated.store(true, Ordering::Relaxed);
        }
    }
}

/// Who recovered items belong to.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where they are counted.
    pub account: Arc<Account>,
    /// Their line in the queues.
    pub flow: Flow,
}

/// One revision of the policies: a request sees one directory from its first to its last byte.
#[derive(Debug)]
pub struct Directory {
    plan: Arc<Plan>,
    table: Arc<Tenants>,
    /// Whom requests were for. Nothing is noted when one is looked up, unlike in a cache that knows which it
    /// may forget: with thousands of tenants that costs more than to begin again now and then.
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    unattributed: Arc<Tenant>,
    callers: Arc<Callers>,
    limits_anybody: bool,
}

impl Directory {
    /// Puts a plan in force; nobody was met under it yet. Look-ups of another revision are never mixed
    /// in, because each revision has its own.
    pub fn new(plan: Arc<Plan>, table: &Arc<Tenants>) -> Self {
        table.adopt(&plan);
        let id = TenantId::unattributed();
        let line = (table.account(&id), Flow::of_nobody());
        let unattributed = Arc::new(Tenant::new(id, &plan, line, None, true));
        let callers = Arc::new(Callers::new(plan.clone()));
        let limits_anybody = plan.limits_anybody();
        let (table, tenants) = (table.clone(), RwLock::default());
        Self { plan, table, tenants, unattributed, callers, limits_anybody }
    }

    /// Where it is decided who is told apart.
    pub fn table(&self) -> &Arc<Tenants> {
        &self.table
    }

    /// Whether the size or rate of anybody's requests is limited.
    pub fn limits_anybody(&self) -> bool {
        self.limits_anybody
    }

    /// Where a tenant is charged, and under whose limits; `None`: it has none.
    pub(super) fn meter(&self, tenant: &Tenant) -> Option<(Arc<Meter>, Arc<Block>)> {
        if !tenant.block.limits.meters() {
            return None;
        }
        let meters = self.table.meters();
        let is_told_apart = tenant.seat.as_ref().is_none_or(|seat| seat.class != Class::Overflow);
        let metered = match is_told_apart {
            true => meters.of(&tenant.id, &tenant.meter, Instant::now),
            false => meters.shared(&tenant.id),
        };
        Some(match metered {
            Metered::Own(meter) => (meter, tenant.block.clone()),
            Metered::Shared(meter) => (meter, self.plan.block(TenantId::overflow().as_str()).clone()),
        })
    }

    /// The policies.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The tenant of data no `tenant` processor has looked at.
    pub fn unattributed(&self) -> &Arc<Tenant> {
        &self.unattributed
    }

    /// Who was met under this revision.
    pub fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// Why a tenant is told apart or not, if that is known, and whether a sender proved to send for it.
    pub fn standing(&self, id: &TenantId) -> (Option<Class>, bool) {
        if let Some(tenant) = self.met(id.as_str()) {
            return (tenant.seat.as_ref().map(|seat| seat.class), tenant.is_authenticated());
        }
        let listed = self.plan.configured_tenants().any(|listed| listed == id.as_str());
        (listed.then_some(Class::Configured), false)
    }

    /// The tenant with this id, which is proven, or chosen by the policies, or a mere claim.
    pub(super) fn tenant(&self, id: &TenantId, proven: bool) -> Arc<Tenant> {
        self.known(id.as_str(), proven).unwrap_or_else(|| self.meet(id, proven))
    }

    /// [`Directory::tenant`], of a text that was found to be an id.
    pub(super) fn named(&self, id: &str, proven: bool) -> Option<Arc<Tenant>> {
        if let Some(tenant) = self.known(id, proven) {
            return Some(tenant);
        }
        TenantId::new(id).ok().map(|id| self.meet(&id, proven))
    }

    /// Where the items of a tenant are counted that a log on disk had since before the program started, and
    /// in which line they stand. That the tenant's name was proven was decided when they came.
    pub fn of_stored(&self, id: &TenantId, is_of_nobody: bool) -> Stored {
        if is_of_nobody {
            return Stored {
                account: self.unattributed.account.clone(),
                flow: self.unattributed.flow.clone(),
            };
        }
        let seat = self.table.seat_of_stored(id);
        Stored { account: seat.account, flow: seat.flow }
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

    /// A tenant met before, if its place in the table still is what it was.
    fn known(&self, id: &str, proven: bool) -> Option<Arc<Tenant>> {
        let tenant = self.met(id).filter(|tenant| tenant.serves(id, proven))?;
        let is_current = |seat: &Seat| self.table.is_current(&tenant.id, seat, tenant.proven);
        tenant.seat.as_ref().is_none_or(is_current).then_some(tenant)
    }

    fn meet(&self, id: &TenantId, proven: bool) -> Arc<Tenant> {
        let seat = self.table.seat(id, proven);
        let line = (seat.account.clone(), seat.flow.clone());
        let tenant = Arc::new(Tenant::new(id.clone(), &self.plan, line, Some(seat), proven));
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = tenants.len() >= REMEMBERED && !tenants.contains_key(id);
        let forgotten = is_full.then(|| std::mem::take(&mut *tenants));
        tenants.insert(id.clone(), tenant.clone());
        drop(tenants);
        drop(forgotten);
        tenant
    }

    fn met(&self, id: &str) -> Option<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Ledger;
    use crate::policies;
    use crate::yaml::Source;

    #[test]
    fn one_tenant_too_many_is_met_and_all_others_are_met_again() {
        let source = Source::new("test", "version: 1\nrules: []\ntenants: { acme: {} }\n".to_owned());
        let (plan, _) = policies::parse(&source, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let plan = Arc::new(plan);
        let directory = Directory::new(plan.clone(), &Tenants::new(&Arc::<Ledger>::default(), &plan, 10));
        let acme = directory.named("acme", true).unwrap();
        let invent = |range: std::ops::Range<usize>| {
            range.for_each(|n| assert!(directory.named(&format!("invented-{n}"), false).is_some()));
        };
        invent(1..REMEMBERED);
        assert!(Arc::ptr_eq(&acme, &directory.named("acme", true).unwrap()), "remembered");
        invent(REMEMBERED..REMEMBERED + 10);
        let again = directory.named("acme", true).unwrap();
        assert!(!Arc::ptr_eq(&acme, &again) && Arc::ptr_eq(&acme.account, &again.account));
        assert!(directory.tenants.read().unwrap().len() < 20);
    }
}

//! What one request is charged: before its body is read where headers suffice, the rest once its tenants
//! are known.
//!
//! ```text
//! Pass       headers name the tenant: request counted, announced bytes held, body bounded
//! Admission  each tenant's share charged: all or, `mixed_requests: partial`, those within their limits
//! settle     the queues own the data: charges stay;   dropped before: they are given back
//! ```
//!
//! Not here: the buckets (`limits`). Invariant: bytes in flight are held until the queues own the data or
//! the request is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::limits::{Charge, InFlight, Left, Meter, Over, with_jitter};
use super::{Directory, Owners, Sender, Tenant};
use crate::identity::TenantId;
use crate::otlp::Draft;
use crate::outcome::RefusedReason;
use crate::policies::{Block, Limits, MixedRequests};

/// A tenant's limit does not let the request in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitRefused {
    /// Over its rate, or too many bytes in flight; the client should come back.
    #[error("tenant `{tenant}` is over its limit {limit}")]
    OverRate {
        /// Whose limit.
        tenant: TenantId,
        /// The limit's name.
        limit: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// Over its rate for longer than the policies allow; the data is refused for good.
    #[error("tenant `{tenant}` has been over its limit {limit} for too long")]
    Sustained {
        /// Whose limit.
        tenant: TenantId,
        /// The limit's name.
        limit: &'static str,
    },
    /// More than the limit ever lets in at once; the client should send less at once.
    #[error("the request of tenant `{tenant}` exceeds its limit {limit}, which lets in {most} at once")]
    NeverFits {
        /// Whose limit.
        tenant: TenantId,
        /// The limit's name.
        limit: &'static str,
        /// What it lets in at once.
        most: u64,
    },
}

impl LimitRefused {
    fn new(tenant: &TenantId, over: Over) -> Self {
        let tenant = tenant.clone();
        match over {
            Over::Now { limit, delay } => {
                Self::OverRate { tenant, limit, retry_after: with_jitter(delay, fastrand::f64()) }
            }
            Over::Sustained { limit } => Self::Sustained { tenant, limit },
            Over::Never { limit, most } => Self::NeverFits { tenant, limit, most },
        }
    }

    /// Under which reason items and requests are counted.
    pub fn reason(&self) -> RefusedReason {
        match self {
            Self::OverRate { .. } => RefusedReason::RateLimit,
            Self::Sustained { .. } => RefusedReason::SustainedLimit,
            Self::NeverFits { .. } => RefusedReason::TooLarge,
        }
    }
}

/// What was decided before the body of a request is read; holds what it took.
#[derive(Debug, Clone, Default)]
pub struct Pass(Option<Arc<Early>>);

#[derive(Debug)]
struct Early {
    tenant: Arc<Tenant>,
    /// Where it is charged, and was for the request itself.
    metered: Option<(Arc<Meter>, Arc<Block>)>,
    held: Option<InFlight>,
}

impl Pass {
    /// Asks the limits of the tenant that the headers name. `announced` is the length of the body as
    /// sent, whether or not it is compressed.
    ///
    /// # Errors
    /// [`LimitRefused`]: the body need not be read.
    pub fn ask(sender: &Sender<'_>, announced: Option<u64>) -> Result<Self, LimitRefused> {
        // What is wrong with the claims is told, and counted, when the items are known.
        let Ok(Some(tenant)) = sender.foretold() else { return Ok(Self::default()) };
        let early = early(sender.directory, tenant.clone(), announced);
        let early = early.map_err(|over| refused(&tenant, over))?;
        Ok(Self(Some(Arc::new(early))))
    }

    /// The largest body, decompressed, if the tenant is known.
    pub fn max_bytes(&self) -> Option<u64> {
        self.0.as_ref().map(|early| early.tenant.block.limits.max_request_bytes)
    }

    /// The most a request may take decoded, if the tenant is known and limited: more would be refused
    /// anyway, so it need not be looked at to its end.
    pub fn max_decoded(&self) -> Option<usize> {
        usize::try_from(self.0.as_ref()?.tenant.block.limits.decoded_at_once()?).ok()
    }

    /// Counts the request as larger than its tenant's limits allow, which was seen before its items were
    /// known.
    pub fn too_large(&self) {
        if let Some(early) = &self.0 {
            early.tenant.account.add_refused_request(RefusedReason::TooLarge);
        }
    }

    /// The tenant that the headers named.
    pub fn foretold(&self) -> Option<&Arc<Tenant>> {
        self.0.as_ref().map(|early| &early.tenant)
    }

    fn of(&self, tenant: &Tenant) -> Option<&Early> {
        self.0.as_deref().filter(|early| early.tenant.id == tenant.id)
    }
}

fn early(directory: &Directory, tenant: Arc<Tenant>, announced: Option<u64>) -> Result<Early, Over> {
    let metered = directory.meter(&tenant);
    let mut held = None;
    if let Some((meter, block)) = &metered {
        let limits = &block.limits;
        let announced = announced.filter(|_| limits.max_in_flight_bytes.is_some());
        held = announced.map(|bytes| meter.hold(limits, bytes)).transpose()?;
        let charge = Charge { requests: 1, bytes: 0, signal: crate::otlp::Signal::Traces, items: 0 };
        meter.charge(limits, &charge, Instant::now())?;
    }
    Ok(Early { tenant, metered, held })
}

fn refused(tenant: &Tenant, over: Over) -> LimitRefused {
    let refused = LimitRefused::new(&tenant.id, over);
    tenant.account.add_refused_request(refused.reason());
    refused
}

/// What a request was charged; given back unless settled.
#[derive(Debug, Default)]
pub struct Admission {
    pass: Pass,
    is_done: bool,
    taken: Vec<Taken>,
    rejected: Vec<(Arc<Tenant>, RefusedReason)>,
    rejected_items: u64,
    message: Option<String>,
}

#[derive(Debug)]
struct Taken {
    block: Arc<Block>,
    meter: Arc<Meter>,
    charge: Charge,
    _held: Option<InFlight>,
}

/// One tenant's part of a request.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    resources: u64,
    bytes: u64,
    cost: u64,
}

impl Admission {
    /// Nothing is charged beyond what the pass took.
    pub fn new(pass: Pass) -> Self {
        let mut admission = Self::default();
        admission.pass = pass;
        admission
    }

    /// What was decided before the body was read.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Charges each tenant of the request for its share; the first pipeline does, the others get the same.
    ///
    /// # Errors
    /// [`LimitRefused`]: the whole request is refused, and nobody was charged.
    pub fn charge(
        &mut self,
        directory: &Directory,
        draft: &mut Draft<'_>,
        owners: &mut Owners,
    ) -> Result<(), LimitRefused> {
        if self.is_done {
            self.leave_out_rejected(draft, owners);
            return Ok(());
        }
        self.is_done = true;
        let within = |limits: &Limits| !limits.meters() && draft.size() <= limits.max_request_bytes;
        if (0..owners.groups()).all(|group| within(&owners.owner(group).block.limits)) {
            return Ok(());
        }
        let partial = directory.plan().mixed_requests == MixedRequests::Partial;
        let mut first: Option<LimitRefused> = None;
        let mut passed = 0;
        for (group, share) in shares(draft, owners.groups()).into_iter().enumerate() {
            if share.resources == 0 {
                continue;
            }
            let owner = owners.owner(group as u32).clone();
            match self.take(directory, &owner, draft, (group as u32, share)) {
                Ok(()) => passed += 1,
                Err(over) => {
                    let refused = refused(&owner, over);
                    self.rejected.push((owner, refused.reason()));
                    first.get_or_insert(refused);
                    if !partial {
                        break;
                    }
                }
            }
        }
        let Some(refused) = first else { return Ok(()) };
        if !partial || passed == 0 {
            self.give_back(true);
            return Err(refused);
        }
        self.leave_out_rejected(draft, owners);
        self.message = Some(format!("{refused}; {} items are rejected", self.rejected_items));
        Ok(())
    }

    fn take(
        &mut self,
        directory: &Directory,
        owner: &Tenant,
        draft: &mut Draft<'_>,
        (group, share): (u32, Share),
    ) -> Result<(), Over> {
        let most = owner.block.limits.max_request_bytes;
        if share.bytes > most {
            return Err(Over::Never { limit: "max_request_bytes", most });
        }
        let early = self.pass.of(owner);
        let known = early.and_then(|early| early.metered.clone());
        let Some((meter, block)) = known.or_else(|| directory.meter(owner)) else { return Ok(()) };
        let limits = &block.limits;
        let held = match early.and_then(|early| early.held.as_ref()) {
            Some(held) => held.resize(limits, share.bytes).map(|()| None)?,
            None => limits.max_in_flight_bytes.map(|_| meter.hold(limits, share.bytes)).transpose()?,
        };
        let charge = Charge {
            requests: u64::from(early.is_none_or(|early| early.metered.is_none())),
            bytes: share.cost,
            signal: draft.signal(),
            items: draft.group_items(group),
        };
        let left = meter.charge(limits, &charge, Instant::now())?;
        if let Left::Little { limit } = left {
            self.message.get_or_insert(format!("tenant `{}` is near its limit {limit}", owner.id));
        }
        self.taken.push(Taken { block, meter, charge, _held: held });
        Ok(())
    }

    fn leave_out_rejected(&mut self, draft: &mut Draft<'_>, owners: &mut Owners) {
        for (tenant, reason) in &self.rejected {
            let Some(group) = owners.find(&tenant.id) else { continue };
            let items = draft.group_items(group);
            owners.count_refused(group, *reason, items);
            self.rejected_items += items;
            for part in draft.parts() {
                if draft.group(part) == group {
                    draft.for_each_item(part, |draft, item| draft.leave_out(item));
                }
            }
        }
    }

    /// Items that are rejected while the rest of the request is taken.
    pub fn rejected_items(&self) -> u64 {
        self.rejected_items
    }

    /// What the client should be told beside OK.
    pub fn message(&mut self) -> Option<String> {
        self.message.take()
    }

    /// The queues own the data: what was charged stays charged.
    pub fn settle(mut self) {
        self.taken.clear();
    }

    /// The request itself was work, so it stays charged unless nothing was done for it.
    fn give_back(&mut self, requests: bool) {
        for Taken { block, meter, charge, .. } in self.taken.drain(..) {
            let requests = if requests { charge.requests } else { 0 };
            meter.refund(&block.limits, &Charge { requests, ..charge });
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.give_back(false);
    }
}

fn shares(draft: &Draft<'_>, groups: u32) -> Vec<Share> {
    let mut shares = vec![Share::default(); groups as usize];
    for (group, bytes, cost) in draft.resource_sizes() {
        if let Some(share) = shares.get_mut(group as usize) {
            share.resources += 1;
            share.bytes += bytes;
            share.cost += cost;
        }
    }
    shares
}

//! Where receivers hand requests in: bytes to batches, batches to queues, then the answer.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::delivery::{Deliveries, reason};
use super::onward::{Onward, Passage, Portion};
use super::{Accepted, Admitted, Arrival, Authentication, Pipeline, Refusal, Request, Transport};
use crate::authentication::{Authenticating, Credentials, Unproven, Verifiers};
use crate::batch::Batch;
use crate::internal_telemetry::AuthenticationMetrics;
use crate::internal_telemetry::metrics::{Cancellations, Counter, ReceiverMetrics};
use crate::kubernetes::pods::Pods;
use crate::otlp::{Draft, Edits, Index, Limits, Malformed, Most, PerSignal};
use crate::outcome::{RefusedReason, Trimmed};
use crate::processor::{Stop, Work};
use crate::tenant::{
    Admission, ClaimHeaders, ClaimRefused, Directory, LimitRefused, Owners, Pass, Sender, Tenant,
};

/// What one receiver's requests go through; clones are the same entrance.
#[derive(Clone)]
pub struct Entrance(Arc<Shared>);

pub(super) struct Shared {
    pub(super) pipelines: PerSignal<Vec<Arc<Pipeline>>>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) grpc: ReceiverMetrics,
    pub(super) http: ReceiverMetrics,
    pub(super) normalized: PerSignal<Counter>,
    pub(super) limits: Limits,
    pub(super) verifiers: Verifiers,
    pub(super) authentication: Arc<AuthenticationMetrics>,
    /// None: no pods are watched.
    pub(super) pods: Option<Pods>,
    pub(super) cancellations: Cancellations,
}

/// Arrays a worker thread reuses from request to request.
#[derive(Default)]
struct Scratch {
    index: Index,
    edits: Edits,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Entrance {
    pub(super) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Whether any pipeline takes anything from this receiver.
    pub fn leads_anywhere(&self) -> bool {
        self.0.pipelines.iter().any(|(_, pipelines)| !pipelines.is_empty())
    }

    /// The metrics of one transport of this receiver.
    pub fn metrics(&self, transport: Transport) -> &ReceiverMetrics {
        match transport {
            Transport::Grpc => &self.0.grpc,
            Transport::Http => &self.0.http,
        }
    }

    /// Where requests are counted whose work was stopped.
    pub fn cancellations(&self) -> &Cancellations {
        &self.0.cancellations
    }

    /// Takes one request: checks, tags, samples, and answers when every queue owns its part.
    ///
    /// # Errors
    /// A [`Refusal`]: nothing was kept, except where a destination's result was awaited.
    ///
    /// # Cancel safety
    /// Dropped before the queues own the data, all of it is refused; later only the answer is lost.
    pub async fn accept(&self, mut request: Request) -> Result<Accepted, Refusal> {
        let admitted = match request.admitted.take() {
            Some(admitted) => admitted,
            None => self.admitted_unasked().await?,
        };
        let claims = ClaimHeaders::take(&admitted.directory, &mut request.headers);
        for name in self.0.verifiers.credential_headers(admitted.directory.plan()) {
            request.headers.remove(name);
        }
        let metrics = self.metrics(request.transport);
        let (items, deliveries, mut admission) = match self.process(&request, &admitted, &claims) {
            Ok(processed) => processed,
            Err(Refused { items, refusal }) => {
                metrics.refused[request.signal].add(items);
                return refused(request.transport, items, refusal);
            }
        };
        match deliveries.deliver().await {
            Ok(by_destination) => {
                let by_destination_message =
                    (by_destination > 0).then(|| "rejected by the destination".to_owned());
                let message = admission.message().or(by_destination_message);
                let rejected = admission.rejected_items();
                admission.settle();
                metrics.refused[request.signal].add(rejected);
                Ok(Accepted { items, rejected: rejected + by_destination, message })
            }
            Err(refusal) => {
                metrics.refused[request.signal].add(items);
                Err(refusal)
            }
        }
    }

    /// Asked before the body of a request is read; the pass goes along with the request.
    ///
    /// # Errors
    /// A [`Refusal`] that the headers suffice for.
    pub fn admit(&self, arrival: &Arrival<'_>) -> Result<Pass, Refusal> {
        let first = self.0.pipelines[arrival.signal].first();
        let first = first.ok_or(Refusal::NoPipeline(arrival.signal))?;
        // Without the processor `tenant` nobody asks whose the data is.
        let Some(Admitted { caller, directory }) = arrival.admitted.filter(|_| first.tells_tenants()) else {
            return Ok(Pass::default());
        };
        if !directory.limits_anybody() {
            return Ok(Pass::default());
        }
        let sender = Sender { directory, caller, claims: arrival.headers, foretold: None, pod: None };
        Ok(Pass::ask(&sender, arrival.announced)?)
    }

    /// Tells who sends, before the body of a request is read, and which revision of the policies the request
    /// sees from here on.
    pub fn authenticate(&self, credentials: Credentials<'_>) -> Authentication {
        let directory = self.0.directory.load_full();
        let (verifiers, metrics) = (&self.0.verifiers, &self.0.authentication);
        match verifiers.authenticate(directory.callers(), metrics, credentials) {
            Authenticating::Ready(Ok(caller)) => Authentication::Ready(Ok(Admitted { caller, directory })),
            Authenticating::Ready(Err(unproven)) => Authentication::Ready(Err(unproven.into())),
            Authenticating::Waiting(asked) => Authentication::Waiting(Box::pin(async move {
                let caller = asked.await?;
                Ok(Admitted { caller, directory })
            })),
        }
    }

    /// Of a request that did not come through a receiver.
    async fn admitted_unasked(&self) -> Result<Admitted, Refusal> {
        let nothing = Credentials { headers: &http::HeaderMap::new(), certificate: None, address: None };
        match self.authenticate(nothing) {
            Authentication::Ready(admitted) => admitted,
            Authentication::Waiting(asked) => asked.await,
        }
    }

    /// What a request may take decoded: what the receiver allows, and what its tenant may have at once.
    fn limits(&self, request: &Request) -> Limits {
        let limits = &self.0.limits;
        let decoded_budget =
            request.pass.max_decoded().map_or(limits.decoded_budget, |most| most.min(limits.decoded_budget));
        Limits { decoded_budget, ..*limits }
    }

    /// Counts a request that was looked at no further than its tenant's limits let it in.
    fn count_too_large(&self, malformed: &Malformed, request: &Request) {
        if let Malformed::Budget { limit } = malformed
            && request.pass.max_decoded() == Some(*limit)
        {
            request.pass.too_large();
        }
    }

    /// The synchronous part: bytes to batches, in every pipeline concerned.
    fn process(
        &self,
        request: &Request,
        admitted: &Admitted,
        claims: &ClaimHeaders,
    ) -> Result<(u64, Deliveries, Admission), Refused> {
        let Admitted { directory, caller } = admitted;
        let address = request.peer.map(|peer| peer.ip());
        let pod = self.0.pods.as_ref().and_then(|pods| pods.connected(address));
        SCRATCH.with_borrow_mut(|Scratch { index, edits }| {
            let body = index
                .read(request.signal, &request.body, &self.limits(request))
                .inspect_err(|malformed| self.count_too_large(malformed, request))
                .map_err(Refusal::Malformed)?;
            let items = index.items();
            self.0.normalized[request.signal].add(index.normalized());
            let mut onward = Onward::new(request.deadline, admitted);
            let mut admission = Admission::new(request.pass.clone());
            for (position, pipeline) in self.0.pipelines[request.signal].iter().enumerate() {
                let mut work = Work {
                    draft: Draft::new(index, &body, edits),
                    headers: &request.headers,
                    peer: request.peer,
                    pod: pod.clone(),
                    directory,
                    caller,
                    claims,
                    owners: Owners::new(directory),
                    admission: &mut admission,
                };
                match pipeline.run(&mut work) {
                    Ok(()) => onward.leave(pipeline, close(&mut work, position == 0)),
                    Err(stop) => {
                        let refusal = refusal(stop);
                        let reason = reason(&refusal);
                        refuse(&mut work, position == 0, reason);
                        onward.refuse(reason);
                        return Err(Refused { items, refusal });
                    }
                }
            }
            let mut passage =
                Passage { request, admitted, claims, pod, admission: &mut admission, index, edits };
            match onward.arrive(&mut passage) {
                Ok(deliveries) => Ok((items, deliveries, admission)),
                Err(refusal) => Err(Refused { items, refusal }),
            }
        })
    }
}

/// The answer to a request that goes no further. HTTP knows no final throttle, only success of which
/// everything is rejected.
fn refused(transport: Transport, items: u64, refusal: Refusal) -> Result<Accepted, Refusal> {
    match refusal {
        Refusal::Limited(LimitRefused::Sustained { .. }) if transport == Transport::Http && items > 0 => {
            Ok(Accepted { items, rejected: items, message: Some(refusal.to_string()) })
        }
        refusal => Err(refusal),
    }
}

/// A request that goes no further, and how many items it has as far as known.
struct Refused {
    items: u64,
    refusal: Refusal,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { items: 0, refusal }
    }
}

/// Opens the books of what one pipeline got: received by the first, copied by the others.
fn enter(work: &Work<'_>, first: bool, group: u32, left: u64) {
    let owner = work.owners.owner(group);
    let column = owner.account.signal(work.draft.signal());
    let sampled_out = work.owners.sampled_out(group);
    match first {
        true => {
            let refused = work.owners.refused(group);
            column.add_received(left + sampled_out + refused.map_or(0, |(_, items)| items));
            if let Some((reason, items)) = refused {
                column.add_refused(reason, items);
            }
        }
        false => column.add_copied(left + sampled_out),
    }
    column.add_sampled_out(sampled_out);
}

/// One batch for each tenant that has items left.
fn close(work: &mut Work<'_>, first: bool) -> Vec<Portion> {
    let mut portions = Vec::with_capacity(work.owners.groups() as usize);
    for group in 0..work.owners.groups() {
        let left = work.draft.group_items(group);
        enter(work, first, group, left);
        let owner = work.owners.owner(group);
        let limits = &owner.block.limits;
        let bytes = match limits.trims() {
            false => work.draft.emit(group),
            true => trimmed(&mut work.draft, group, owner, first),
        };
        let Some(bytes) = bytes else { continue };
        let batch = Batch::new(work.draft.signal(), owner.id.clone(), owner.account.clone(), (left, bytes));
        portions.push(Portion { tenant: owner.clone(), batch: batch.in_flow(owner.flow.clone()) });
    }
    portions
}

/// The batch of a tenant whose items may carry only so much.
fn trimmed(draft: &mut Draft<'_>, group: u32, owner: &Tenant, first: bool) -> Option<Bytes> {
    let limits = &owner.block.limits;
    let most = Most {
        value_bytes: limits.max_attribute_value_bytes,
        attributes: limits.max_attributes_per_item,
        events: limits.max_events_per_span,
        links: limits.max_links_per_span,
    };
    let (bytes, cut) = draft.emit_within(group, &most);
    let counts = [
        (Trimmed::AttributeValue, cut.values),
        (Trimmed::Attribute, cut.attributes),
        (Trimmed::Event, cut.events),
        (Trimmed::Link, cut.links),
    ];
    for (what, count) in counts.into_iter().filter(|(_, count)| first && *count > 0) {
        owner.account.add_trimmed(what, count);
    }
    bytes
}

/// The books of a request that a processor stopped.
fn refuse(work: &mut Work<'_>, first: bool, reason: RefusedReason) {
    for group in 0..work.owners.groups() {
        let left = work.draft.group_items(group);
        enter(work, first, group, left);
        work.owners.owner(group).account.signal(work.draft.signal()).add_refused(reason, left);
    }
}

pub(super) fn refusal(stop: Stop) -> Refusal {
    match stop {
        Stop::Limited(limited) => limited.into(),
        Stop::Memory { retry_after } => Refusal::MemoryPressure { retry_after },
        Stop::Claim(ClaimRefused::Anonymous) => Refusal::Anonymous,
        Stop::Claim(ClaimRefused::NotAllowed) => Refusal::TenantNotAllowed,
        Stop::Claim(ClaimRefused::Duplicate { header }) => Refusal::DuplicateTenantHeader { header },
    }
}

impl From<Unproven> for Refusal {
    fn from(unproven: Unproven) -> Self {
        match unproven {
            Unproven::Missing => Refusal::Anonymous,
            Unproven::Invalid => Refusal::Unauthenticated,
            // Scattered, so that those who were told together do not come back together.
            Unproven::Unavailable => {
                Refusal::Unverifiable { retry_after: Duration::from_millis(fastrand::u64(1_000..3_000)) }
            }
        }
    }
}

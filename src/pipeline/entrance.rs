//! Where receivers hand requests in: bytes to batches, batches to queues, then the answer.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::delivery::{Deliveries, reason};
use super::{Accepted, Admission, Admitted, Pipeline, Refusal, Request, Transport};
use crate::authentication::{Authenticating, Credentials, Unproven, Verifiers};
use crate::batch::Batch;
use crate::internal_telemetry::AuthenticationMetrics;
use crate::internal_telemetry::metrics::{Counter, ReceiverMetrics};
use crate::otlp::{Draft, Edits, Index, Limits, PerSignal, Signal};
use crate::outcome::RefusedReason;
use crate::processor::{Stop, Work};
use crate::tenant::{ClaimHeaders, ClaimRefused, Directory, Owners};

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
        let (items, deliveries) = self.process(&request, &admitted, &claims).map_err(|refused| {
            metrics.refused[request.signal].add(refused.items);
            refused.refusal
        })?;
        match deliveries.deliver(request.deadline).await {
            Ok(rejected) => {
                let message = (rejected > 0).then(|| "rejected by the destination".to_owned());
                Ok(Accepted { items, rejected, message })
            }
            Err(refusal) => {
                metrics.refused[request.signal].add(items);
                Err(refusal)
            }
        }
    }

    /// Asked before the body of a request is read.
    ///
    /// # Errors
    /// A [`Refusal`] that the headers suffice for.
    pub fn admit(&self, signal: Signal) -> Result<(), Refusal> {
        match self.0.pipelines[signal].is_empty() {
            true => Err(Refusal::NoPipeline(signal)),
            false => Ok(()),
        }
    }

    /// Tells who sends, before the body of a request is read, and which revision of the policies the request
    /// sees from here on.
    pub fn authenticate(&self, credentials: Credentials<'_>) -> Admission {
        let directory = self.0.directory.load_full();
        let (verifiers, metrics) = (&self.0.verifiers, &self.0.authentication);
        match verifiers.authenticate(directory.callers(), metrics, credentials) {
            Authenticating::Ready(Ok(caller)) => Admission::Ready(Ok(Admitted { caller, directory })),
            Authenticating::Ready(Err(unproven)) => Admission::Ready(Err(unproven.into())),
            Authenticating::Waiting(asked) => Admission::Waiting(Box::pin(async move {
                let caller = asked.await?;
                Ok(Admitted { caller, directory })
            })),
        }
    }

    /// Of a request that did not come through a receiver.
    async fn admitted_unasked(&self) -> Result<Admitted, Refusal> {
        let nothing = Credentials { headers: &http::HeaderMap::new(), certificate: None };
        match self.authenticate(nothing) {
            Admission::Ready(admitted) => admitted,
            Admission::Waiting(asked) => asked.await,
        }
    }

    /// The synchronous part: bytes to batches, in every pipeline concerned.
    fn process(
        &self,
        request: &Request,
        admitted: &Admitted,
        claims: &ClaimHeaders,
    ) -> Result<(u64, Deliveries), Refused> {
        let Admitted { directory, caller } = admitted;
        SCRATCH.with_borrow_mut(|Scratch { index, edits }| {
            let body =
                index.read(request.signal, &request.body, &self.0.limits).map_err(Refusal::Malformed)?;
            let items = index.items();
            self.0.normalized[request.signal].add(index.normalized());
            let mut deliveries = Deliveries::default();
            for (position, pipeline) in self.0.pipelines[request.signal].iter().enumerate() {
                let mut work = Work {
                    draft: Draft::new(index, &body, edits),
                    headers: &request.headers,
                    peer: request.peer,
                    directory,
                    caller,
                    claims,
                    owners: Owners::new(directory),
                };
                match pipeline.run(&mut work) {
                    Ok(()) => deliveries.add(&pipeline.exporters, close(&mut work, position == 0)),
                    Err(stop) => {
                        let refusal = refusal(stop);
                        let reason = reason(&refusal);
                        refuse(&mut work, position == 0, reason);
                        deliveries.refuse(reason);
                        return Err(Refused { items, refusal });
                    }
                }
            }
            Ok((items, deliveries))
        })
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
        true => column.add_received(left + sampled_out),
        false => column.add_copied(left + sampled_out),
    }
    column.add_sampled_out(sampled_out);
}

/// One batch for each tenant that has items left.
fn close(work: &mut Work<'_>, first: bool) -> Vec<Batch> {
    let mut batches = Vec::with_capacity(work.owners.groups() as usize);
    for group in 0..work.owners.groups() {
        let left = work.draft.group_items(group);
        enter(work, first, group, left);
        let Some(bytes) = work.draft.emit(group) else { continue };
        let owner = work.owners.owner(group);
        let batch = Batch::new(work.draft.signal(), owner.id.clone(), owner.account.clone(), (left, bytes));
        batches.push(batch.in_flow(owner.flow.clone()));
    }
    batches
}

/// The books of a request that a processor stopped.
fn refuse(work: &mut Work<'_>, first: bool, reason: RefusedReason) {
    for group in 0..work.owners.groups() {
        let left = work.draft.group_items(group);
        enter(work, first, group, left);
        work.owners.owner(group).account.signal(work.draft.signal()).add_refused(reason, left);
    }
}

fn refusal(stop: Stop) -> Refusal {
    match stop {
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

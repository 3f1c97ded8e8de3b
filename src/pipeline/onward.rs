//! What has left a pipeline: to queues, or through connectors to the next pipelines.
//!
//! Between pipelines flow batches: one signal of one tenant, encoded. One that no processor behind a
//! connector looks at is never read again. Invariant: every portion ends in a delivery or is refused with
//! the whole request.

use std::sync::Arc;

use tokio::time::Instant;

use super::delivery::{Deliveries, reason};
use super::routing::Router;
use super::{Admitted, Outlet, Pipeline, Refusal, Request};
use crate::batch::{Batch, Origin};
use crate::exporter::Exporter;
use crate::kubernetes::pods::Found;
use crate::otlp::{Draft, Edits, Index, Limits};
use crate::outcome::RefusedReason;
use crate::processor::Work;
use crate::tenant::{Admission, ClaimHeaders, Owners, Tenant};

/// A batch and what is known of its tenant.
pub(super) struct Portion {
    pub(super) tenant: Arc<Tenant>,
    pub(super) batch: Batch,
}

impl Portion {
    /// The same data once more, counted as copied.
    pub(super) fn copy(&self) -> Self {
        Self { tenant: self.tenant.clone(), batch: self.batch.copy() }
    }
}

/// The request the portions are of, and arrays to read them with.
pub(super) struct Passage<'a> {
    pub(super) request: &'a Request,
    pub(super) admitted: &'a Admitted,
    pub(super) claims: &'a ClaimHeaders,
    pub(super) pod: Option<Found>,
    pub(super) admission: &'a mut Admission,
    pub(super) index: &'a mut Index,
    pub(super) edits: &'a mut Edits,
}

enum Step {
    Route(Arc<Router>, Vec<Portion>),
    Run(Arc<Pipeline>, Vec<Portion>),
}

/// The portions of one request on their way.
pub(super) struct Onward<'a> {
    deliveries: Deliveries,
    steps: Vec<Step>,
    admitted: &'a Admitted,
    origin: Option<Arc<Origin>>,
}

impl<'a> Onward<'a> {
    /// Nothing yet, of a request that may wait until `deadline`.
    pub(super) fn new(deadline: Instant, admitted: &'a Admitted) -> Self {
        Self { deliveries: Deliveries::new(deadline), steps: Vec::new(), admitted, origin: None }
    }

    /// Gives what leaves a pipeline to all its outlets.
    pub(super) fn leave(&mut self, pipeline: &Pipeline, portions: Vec<Portion>) {
        let Some((first, others)) = pipeline.outlets.split_first() else { return };
        if portions.is_empty() {
            return;
        }
        for other in others {
            self.hand_to(other, portions.iter().map(Portion::copy).collect());
        }
        self.hand_to(first, portions);
    }

    fn hand_to(&mut self, outlet: &Outlet, portions: Vec<Portion>) {
        match outlet {
            Outlet::Exporter(exporter) => {
                let batches = portions.into_iter().map(|portion| portion.batch).collect();
                let batches = self.noted(exporter, batches);
                self.deliveries.add(exporter, batches);
            }
            Outlet::Router(router) => self.steps.push(Step::Route(router.clone(), portions)),
        }
    }

    /// With where they came from, if they go to a queue that outlives the connection they came by.
    fn noted(&mut self, exporter: &Exporter, batches: Vec<Batch>) -> Vec<Batch> {
        if !exporter.is_durable() {
            return batches;
        }
        let Admitted { directory, caller } = self.admitted;
        let origin = || {
            let revision = directory.plan().revision_name().into();
            Arc::new(Origin { principal: caller.principal.clone(), revision })
        };
        let origin = self.origin.get_or_insert_with(origin);
        batches.into_iter().map(|batch| batch.from(origin.clone())).collect()
    }

    /// Takes everything through the connectors and the pipelines behind them.
    ///
    /// # Errors
    /// A [`Refusal`] of a processor: everything is refused.
    pub(super) fn arrive(mut self, passage: &mut Passage<'_>) -> Result<Deliveries, Refusal> {
        while let Some(step) = self.steps.pop() {
            let (pipeline, portions) = match step {
                Step::Route(router, portions) => {
                    let routed = router.route(portions, passage).into_iter();
                    self.steps.extend(routed.map(|(pipeline, portions)| Step::Run(pipeline, portions)));
                    continue;
                }
                Step::Run(pipeline, portions) => (pipeline, portions),
            };
            let (mut passed, mut rest) = (Vec::with_capacity(portions.len()), portions.into_iter());
            while let Some(portion) = rest.next() {
                match pass(&pipeline, portion, passage) {
                    Ok(left) => passed.extend(left),
                    Err(stopped) => {
                        let (portion, refusal) = *stopped;
                        let reason = reason(&refusal);
                        let all = passed.into_iter().chain(rest).chain([portion]);
                        all.for_each(|portion| portion.batch.refused(reason));
                        self.refuse(reason);
                        return Err(refusal);
                    }
                }
            }
            self.leave(&pipeline, passed);
        }
        Ok(self.deliveries)
    }

    /// Ends everything as refused.
    pub(super) fn refuse(&mut self, reason: RefusedReason) {
        for step in self.steps.drain(..) {
            let (Step::Route(_, portions) | Step::Run(_, portions)) = step;
            portions.into_iter().for_each(|portion| portion.batch.refused(reason));
        }
        self.deliveries.refuse(reason);
    }
}

/// Runs the processors of a pipeline behind a connector; what is left, if anything.
fn pass(
    pipeline: &Pipeline,
    portion: Portion,
    passage: &mut Passage<'_>,
) -> Result<Option<Portion>, Box<(Portion, Refusal)>> {
    if pipeline.processors.is_empty() {
        return Ok(Some(portion));
    }
    let Portion { tenant, batch } = portion;
    let body = match passage.index.read(batch.signal(), &batch.encoded(), &Limits::CHECKED) {
        Ok(body) => body,
        Err(malformed) => return Err(Box::new((Portion { tenant, batch }, malformed.into()))),
    };
    let mut work = Work {
        draft: Draft::new(passage.index, &body, passage.edits),
        headers: &passage.request.headers,
        peer: passage.request.peer,
        pod: passage.pod.clone(),
        directory: &passage.admitted.directory,
        caller: &passage.admitted.caller,
        claims: passage.claims,
        owners: Owners::of(&tenant),
        admission: passage.admission,
    };
    if let Err(stop) = pipeline.run(&mut work) {
        return Err(Box::new((Portion { tenant, batch }, super::entrance::refusal(stop))));
    }
    let left = work.draft.group_items(0);
    let bytes = work.draft.emit(0);
    Ok(batch.sampled(left, bytes).map(|batch| Portion { tenant, batch }))
}

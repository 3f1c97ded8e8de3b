//! One consumer: leases, sends, waits, sends again, and writes down where every batch ended.
//!
//! Invariant: cancelled at any point, what has not ended of the lease goes back to the queue at once, so that
//! the order of each tenant is kept, except for what is among the dead letters already.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, SendFailure};
use crate::internal_telemetry::metrics::{ExporterMetrics, Gauge};
use crate::otlp::status::ExportResponse;
use crate::outcome::{DroppedReason, RefusedReason};
use crate::queue::{Lease, Pieces, Queue};

use super::answer::{
    DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNIMPLEMENTED,
};
use super::destination::{Destination, Outgoing, SendError};
use super::pace::{Pace, Place};
use super::plan::Plan;
use super::retry::Backoff;
use super::seldom::Seldom;
use super::share::share;

/// How often what one lease holds is halved: enough to find three refused batches among a thousand; a
/// destination that refuses everything gets 64 requests more.
const MOST_HALVINGS: u32 = 32;

/// What all consumers of one exporter share.
#[derive(Debug)]
pub(super) struct Shared {
    id: Arc<str>,
    queue: Queue,
    plan: Plan,
    ending: Ending,
    metrics: ExporterMetrics,
    pace: Option<Pace>,
    rejections: Seldom,
    failures: Seldom,
    retries: Seldom,
}

impl Shared {
    pub(super) fn new(
        id: &Arc<str>,
        (queue, ending): (&Queue, &Ending),
        plan: &Plan,
        metrics: &ExporterMetrics,
    ) -> Self {
        let pace = || Pace::new(plan.consumers, queue, &metrics.in_flight_limit);
        Self {
            pace: plan.is_adaptive.then(pace),
            id: id.clone(),
            queue: queue.clone(),
            plan: plan.clone(),
            ending: ending.clone(),
            metrics: metrics.clone(),
            rejections: Seldom::default(),
            failures: Seldom::default(),
            retries: Seldom::default(),
        }
    }
}

/// How consumers of a queue on disk are told to end without ending what waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    /// Somebody else leases now: after the attempt under way it is over.
    pub(super) no_leases: CancellationToken,
    /// After the first attempt that fails it is over.
    pub(super) no_waits: CancellationToken,
}

/// One of the tasks that send.
#[derive(Debug)]
pub(super) struct Consumer<D> {
    shared: Arc<Shared>,
    destination: Arc<D>,
}

/// What becomes of a piece of a lease.
enum Ended {
    /// The destination took it, perhaps not all.
    Sent(ExportResponse),
    /// It is given up: lost, or refused where the sender waits to be told.
    Failed(SendFailure, DroppedReason, RefusedReason),
    /// The sender, who was its only owner, is gone.
    Abandoned(RefusedReason),
    /// A part of what was refused might be taken: it goes on in halves.
    Halved,
}

/// Why a lease is not delivered.
enum Failed {
    /// It is given up, and if nobody waits for it counted as lost for this reason.
    ForGood(SendFailure, DroppedReason),
    /// It goes back, and the consumer ends.
    Over,
}

/// The lease went back and the consumer ends.
struct Over;

impl<D: Destination> Consumer<D> {
    pub(super) fn new(shared: Arc<Shared>, destination: Arc<D>) -> Self {
        Self { shared, destination }
    }

    /// Works until the queue is closed and empty, until `moved` says that others do, or until it is told to
    /// end.
    pub(super) async fn run(self, moved: CancellationToken) {
        let no_leases = self.shared.ending.no_leases.clone();
        let leasing = || no_leases.run_until_cancelled(moved.run_until_cancelled(self.next()));
        while let Some(Some(Some((lease, _place)))) = leasing().await {
            if let Err(Over) = self.deliver(lease).await {
                return;
            }
        }
    }

    /// What is to be sent, once the destination takes another request.
    async fn next(&self) -> Option<(Lease, Option<Place<'_>>)> {
        let place = match &self.shared.pace {
            Some(pace) => Some(pace.enter().await),
            None => None,
        };
        Some((self.shared.queue.lease().await?, place))
    }

    /// Sends a lease; what is refused for good is halved and sent again, so that only what the destination
    /// refuses is lost and not what it was merged with.
    async fn deliver(&self, lease: Lease) -> Result<(), Over> {
        let mut halvings = MOST_HALVINGS;
        let mut pieces = Pieces::new(lease);
        while let Some(piece) = pieces.oldest() {
            let may_halve = halvings > 0 && piece.count() > 1;
            match self.deliver_piece(piece, may_halve).await? {
                Ended::Halved => {
                    halvings -= 1;
                    pieces.halve();
                }
                ended => pieces.take_oldest().into_iter().for_each(|piece| self.shared.end(piece, &ended)),
            }
        }
        Ok(())
    }

    /// Sends a piece and says how it ends, which is all that is left to do.
    async fn deliver_piece(&self, lease: &mut Lease, may_halve: bool) -> Result<Ended, Over> {
        let shared = &*self.shared;
        let until = awaited_until(lease);
        let sending = self.send(lease, until);
        // Without a queue the sender is the only owner, and work stops when he goes.
        let abandoned = lease.batches().next().and_then(Batch::abandoned).filter(|_| shared.plan.is_direct);
        let sent = match abandoned.cloned() {
            None => Some(sending.await),
            Some(abandoned) => abandoned.run_until_cancelled(sending).await,
        };
        let is_late = || until.is_some_and(|until| until <= Instant::now());
        Ok(match sent {
            Some(Ok(response)) => Ended::Sent(response),
            Some(Err(Failed::Over)) => return Err(Over),
            Some(Err(Failed::ForGood(failure, DroppedReason::Permanent)))
                if may_halve && is_about_content(&failure) =>
            {
                Ended::Halved
            }
            Some(Err(Failed::ForGood(failure, reason))) => {
                let awaited = if is_late() { RefusedReason::Deadline } else { RefusedReason::Destination };
                let words = format!("{}: code {}: {}", reason.as_str(), failure.code, failure.message);
                lease.set_aside(&words).await;
                Ended::Failed(failure, reason, awaited)
            }
            None if is_late() => Ended::Abandoned(RefusedReason::Deadline),
            None => Ended::Abandoned(RefusedReason::Cancelled),
        })
    }

    /// Tries until it succeeds or there is no point in trying again; then says why, and what the loss of
    /// data that nobody waits for is counted as.
    async fn send(&self, lease: &Lease, until: Option<Instant>) -> Result<ExportResponse, Failed> {
        let shared = &*self.shared;
        if lease.size().bytes > shared.plan.max_request_bytes {
            let message = format!("larger than max_request_size ({} bytes)", lease.size().bytes);
            let failure = SendFailure { code: RESOURCE_EXHAUSTED, message, retry_after: None };
            return Err(Failed::ForGood(failure, DroppedReason::Permanent));
        }
        let mut backoff = Backoff::until(&shared.plan.retry, shared.plan.gives_up_after, Instant::now());
        loop {
            let started = Instant::now();
            let answer = self.attempt(lease, until).await;
            shared.note(&answer, started.elapsed());
            let failure = match answer {
                Ok(response) => return Ok(response),
                Err(SendError::Permanent(failure)) => {
                    return Err(Failed::ForGood(failure, DroppedReason::Permanent));
                }
                Err(SendError::Retryable(failure)) => failure,
            };
            let now = Instant::now();
            let wait = backoff.next(now, failure.retry_after, fastrand::f64());
            let is_over_budget = shared.pace.as_ref().is_some_and(|pace| !pace.may_retry());
            let longest = if is_over_budget { shared.plan.retry.max_interval } else { Duration::ZERO };
            let wait = wait.map(|wait| wait.max(longest));
            // After the last sender gave up waiting nobody learns of a success.
            let wait = wait.filter(|wait| until.is_none_or(|until| now + *wait < until));
            let Some(wait) = wait else {
                return Err(Failed::ForGood(failure, DroppedReason::RetriesExhausted));
            };
            shared.tell_retry(&failure, wait);
            let waiting = shared.ending.no_waits.run_until_cancelled(tokio::time::sleep(wait));
            waiting.await.ok_or(Failed::Over)?;
            shared.metrics.retries.add(1);
        }
    }

    async fn attempt(&self, lease: &Lease, until: Option<Instant>) -> Result<ExportResponse, SendError> {
        let now = Instant::now();
        let left = until.map(|until| until.saturating_duration_since(now));
        let timeout = match (self.shared.plan.timeout, left) {
            (Some(timeout), Some(left)) => Some(timeout.min(left)),
            (timeout, left) => timeout.or(left),
        };
        let request = Outgoing {
            signal: lease.signal(),
            tenant: lease.tenant(),
            parts: lease.parts(),
            size: lease.size(),
            timeout,
        };
        let _in_flight = InFlight::new(&self.shared.metrics.in_flight);
        let sending = self.destination.send(request);
        let Some(timeout) = timeout else { return sending.await };
        tokio::time::timeout(timeout, sending).await.unwrap_or_else(|_late| {
            let message = format!("no answer within {timeout:?}");
            Err(SendError::Retryable(SendFailure { code: DEADLINE_EXCEEDED, message, retry_after: None }))
        })
    }
}

/// Whether a part of what was refused might be taken: it was refused for what it is, not for who sends it or
/// where to.
fn is_about_content(failure: &SendFailure) -> bool {
    !matches!(failure.code, UNAUTHENTICATED | PERMISSION_DENIED | UNIMPLEMENTED)
}

/// When the last sender stops waiting, if all of them wait.
fn awaited_until(lease: &Lease) -> Option<Instant> {
    let mut latest = None;
    for batch in lease.batches() {
        latest = latest.max(Some(batch.awaited_until()?));
    }
    latest
}

/// Counts one attempt under way.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Shared {
    fn end(&self, lease: Lease, ended: &Ended) {
        match ended {
            Ended::Sent(response) => self.sent(lease, response),
            Ended::Failed(failure, reason, awaited) => self.failed(lease, failure, (*reason, *awaited)),
            Ended::Abandoned(reason) => lease.end().into_iter().for_each(|batch| batch.refused(*reason)),
            // It goes on, in its halves.
            Ended::Halved => drop(lease),
        }
    }

    fn sent(&self, lease: Lease, response: &ExportResponse) {
        let (signal, size) = (lease.signal(), lease.size());
        let rejected = response.rejected.min(size.items);
        self.metrics.sent_bytes.add(size.bytes);
        self.metrics.sent[signal].add(size.items - rejected);
        self.metrics.send_failed[signal].add(rejected);
        if rejected > 0 || !response.message.is_empty() {
            self.tell_rejected(rejected, &response.message);
        }
        let batches = lease.end();
        let items: Vec<u64> = batches.iter().map(Batch::items).collect();
        for (batch, rejected) in batches.into_iter().zip(share(rejected, &items)) {
            batch.sent(rejected);
        }
    }

    fn failed(&self, lease: Lease, failure: &SendFailure, (reason, awaited): (DroppedReason, RefusedReason)) {
        let (signal, items) = (lease.signal(), lease.size().items);
        self.metrics.send_failed[signal].add(items);
        if let Some(untold) = self.failures.due() {
            let (code, message) = (failure.code, failure.message.as_str());
            let reason = reason.as_str();
            tracing::error!(name: "exporter.send_failed", exporter = %self.id, %signal, items, reason, code,
                message, untold, "exporting failed, data is given up");
        }
        for batch in lease.end() {
            match batch.is_awaited() {
                true => batch.refused_after(failure.clone(), awaited),
                false => batch.dropped(reason),
            }
        }
    }

    /// What an answer says of how much the destination takes.
    fn note(&self, answer: &Result<ExportResponse, SendError>, time: Duration) {
        let Some(pace) = &self.pace else { return };
        match answer {
            Ok(_) | Err(SendError::Permanent(_)) => {
                let others = usize::try_from(self.metrics.in_flight.get()).unwrap_or_default();
                pace.answered(time, others + 1);
            }
            Err(SendError::Retryable(_)) => pace.refused(),
        }
    }

    fn tell_rejected(&self, rejected: u64, message: &str) {
        if let Some(untold) = self.rejections.due() {
            tracing::warn!(name: "exporter.partial_success", exporter = %self.id, rejected, message, untold,
                "the destination rejected items or sent a warning");
        }
    }

    fn tell_retry(&self, failure: &SendFailure, wait: Duration) {
        if let Some(untold) = self.retries.due() {
            let (code, message) = (failure.code, failure.message.as_str());
            tracing::warn!(name: "exporter.retry", exporter = %self.id, code, message, ?wait, untold,
                "exporting failed, will try again");
        }
    }
}

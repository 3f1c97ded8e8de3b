//! One consumer: leases, sends, waits, sends again, and writes down where every batch ended.
//!
//! Invariant: cancelled at any point, the lease goes back to the queue whole.

use std::sync::Arc;

use tokio::time::Instant;

use crate::batch::{Batch, SendFailure};
use crate::internal_telemetry::metrics::{ExporterMetrics, Gauge};
use crate::otlp::status::ExportResponse;
use crate::outcome::DroppedReason;
use crate::queue::{Lease, Queue};

use super::Plan;
use super::answer::{
    DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNIMPLEMENTED,
};
use super::destination::{Destination, Outgoing, SendError};
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
    metrics: ExporterMetrics,
    rejections: Seldom,
    failures: Seldom,
    retries: Seldom,
}

impl Shared {
    pub(super) fn new(id: &Arc<str>, queue: &Queue, plan: &Plan, metrics: &ExporterMetrics) -> Self {
        Self {
            id: id.clone(),
            queue: queue.clone(),
            plan: plan.clone(),
            metrics: metrics.clone(),
            rejections: Seldom::default(),
            failures: Seldom::default(),
            retries: Seldom::default(),
        }
    }
}

/// One of the tasks that send.
#[derive(Debug)]
pub(super) struct Consumer<D> {
    shared: Arc<Shared>,
    destination: Arc<D>,
}

impl<D: Destination> Consumer<D> {
    pub(super) fn new(shared: Arc<Shared>, destination: Arc<D>) -> Self {
        Self { shared, destination }
    }

    /// Works until the queue is closed and empty.
    pub(super) async fn run(self) {
        while let Some(lease) = self.shared.queue.lease().await {
            self.deliver(lease).await;
        }
    }

    /// Sends a lease; what is refused for good is halved and sent again, so that only what the destination
    /// refuses is lost and not what it was merged with.
    async fn deliver(&self, lease: Lease) {
        let mut halvings = MOST_HALVINGS;
        let mut pieces = vec![lease];
        while let Some(piece) = pieces.pop() {
            let Err(Refused { mut piece, failure }) = self.deliver_piece(piece).await else { continue };
            if piece.count() < 2 || halvings == 0 || !is_about_content(&failure) {
                self.shared.failed(piece, DroppedReason::Permanent, failure);
                continue;
            }
            halvings -= 1;
            let first = piece.take_first(piece.count() / 2);
            pieces.extend([piece, first]);
        }
    }

    async fn deliver_piece(&self, lease: Lease) -> Result<(), Refused> {
        let shared = &*self.shared;
        if lease.size().bytes > shared.plan.max_request_bytes {
            let message = format!("larger than max_request_size ({} bytes)", lease.size().bytes);
            let failure = SendFailure { code: RESOURCE_EXHAUSTED, message, retry_after: None };
            return Err(Refused { piece: lease, failure });
        }
        let until = awaited_until(&lease);
        let mut backoff = Backoff::new(&shared.plan.retry, Instant::now());
        loop {
            let failure = match self.attempt(&lease, until).await {
                Ok(response) => {
                    shared.sent(lease, &response);
                    return Ok(());
                }
                Err(SendError::Permanent(failure)) => return Err(Refused { piece: lease, failure }),
                Err(SendError::Retryable(failure)) => {
                    let now = Instant::now();
                    let wait = backoff.next(now, failure.retry_after, fastrand::f64());
                    // After the last sender gave up waiting nobody learns of a success.
                    match wait.filter(|wait| until.is_none_or(|until| now + *wait < until)) {
                        Some(wait) => {
                            shared.tell_retry(&failure, wait);
                            tokio::time::sleep(wait).await;
                            shared.metrics.retries.add(1);
                            continue;
                        }
                        None => failure,
                    }
                }
            };
            shared.failed(lease, DroppedReason::RetriesExhausted, failure);
            return Ok(());
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

/// What a destination refused for good.
struct Refused {
    piece: Lease,
    failure: SendFailure,
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
    /// The destination took it, perhaps not all.
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

    /// It is given up: lost, or refused where the sender waits to be told.
    fn failed(&self, lease: Lease, reason: DroppedReason, failure: SendFailure) {
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
                true => batch.refused_by_destination(failure.clone()),
                false => batch.dropped(reason),
            }
        }
    }

    fn tell_rejected(&self, rejected: u64, message: &str) {
        if let Some(untold) = self.rejections.due() {
            tracing::warn!(name: "exporter.partial_success", exporter = %self.id, rejected, message, untold,
                "the destination rejected items or sent a warning");
        }
    }

    fn tell_retry(&self, failure: &SendFailure, wait: std::time::Duration) {
        if let Some(untold) = self.retries.due() {
            let (code, message) = (failure.code, failure.message.as_str());
            tracing::warn!(name: "exporter.retry", exporter = %self.id, code, message, ?wait, untold,
                "exporting failed, will try again");
        }
    }
}

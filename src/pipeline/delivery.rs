//! From batches to queues: all of a request or nothing of it.
//!
//! Room is reserved in every queue concerned before any of them owns a byte; then those on disk put their
//! batches down, all at once, and only when the last has synced are they handed over. If one disk fails,
//! what the others put down is ended there and the request refused: it comes back whole. Batches that are
//! let go on the way, because the client went away, are counted as refused.

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::Refusal;
use crate::batch::{Batch, Receipt};
use crate::exporter::Exporter;
use crate::outcome::RefusedReason;
use crate::queue::{self, Cause, QueueFull, Reservation, StoreError};

/// The batches of one request, by exporter.
pub(super) struct Deliveries {
    list: Vec<Delivery>,
    deadline: Instant,
}

struct Delivery {
    exporter: Exporter,
    batches: Vec<Batch>,
}

impl Deliveries {
    /// None yet, of a request that may wait until `deadline`.
    pub(super) fn new(deadline: Instant) -> Self {
        Self { list: Vec::new(), deadline }
    }

    /// Adds batches for an exporter. Where requests are counted, all it gets of one request counts as one.
    pub(super) fn add(&mut self, exporter: &Exporter, batches: Vec<Batch>) {
        let known = self.list.iter().position(|delivery| delivery.exporter.id() == exporter.id());
        let place = known.unwrap_or_else(|| {
            self.list.push(Delivery { exporter: exporter.clone(), batches: Vec::new() });
            self.list.len() - 1
        });
        let all = &mut self.list[place].batches;
        for batch in exporter.cut(batches) {
            let joins = !all.is_empty();
            all.push(if joins { batch.joins_request() } else { batch });
        }
    }

    /// Hands every batch to its queue; the number of items destinations rejected, if somebody waits.
    ///
    /// # Errors
    /// A [`Refusal`]; no queue owns anything then, unless the deadline passed while waiting for a
    /// result, or a destination said no.
    ///
    /// # Cancel safety
    /// Dropped before the queues own the data, all of it is refused; later only the answer is lost, and
    /// where there is no queue but an exporter that sends at once, sending stops.
    pub(super) async fn deliver(mut self) -> Result<u64, Refusal> {
        let reserved = match self.reserve().await {
            Ok(mut reserved) => self.store(&mut reserved).await.map(|()| reserved),
            Err(refusal) => Err(refusal),
        };
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(refusal) => {
                // The words are the Collector's; dashboards and tests look for them.
                tracing::warn!(name: "request.refused", "{refusal}");
                self.refuse(reason(&refusal));
                return Err(refusal);
            }
        };
        match self.commit(reserved) {
            None => Ok(0),
            Some((result, _waiting)) => await_result(result, self.deadline).await,
        }
    }

    async fn reserve(&self) -> Result<Vec<Reservation>, Refusal> {
        let mut reserved = Vec::with_capacity(self.list.len());
        for Delivery { exporter, batches } in &self.list {
            let room = match exporter.blocks_on_overflow() {
                true => exporter.queue().reserve_waiting(batches, self.deadline).await,
                false => exporter.queue().reserve(batches),
            };
            reserved.push(room.map_err(|full| match exporter.blocks_on_overflow() {
                // The wait for room has used up the time of the request.
                true if !full.never_fits && Instant::now() >= self.deadline => Refusal::DeadlineExceeded,
                _ => refusal(exporter, &full),
            })?);
        }
        Ok(reserved)
    }

    /// Puts the batches of durable queues down; dropped, or when one fails, none of them is owned.
    async fn store(&self, reserved: &mut [Reservation]) -> Result<(), Refusal> {
        let durable = self.list.iter().zip(reserved).filter(|(_, room)| room.is_durable());
        let storing: Vec<_> = durable
            .map(|(Delivery { exporter, batches }, room)| async move {
                room.store(batches).await.map_err(|error| not_stored(exporter, error))
            })
            .collect();
        if storing.is_empty() {
            return Ok(());
        }
        let stored = tokio::time::timeout_at(self.deadline, queue::all(storing.into_iter())).await;
        stored.map_err(|_late| Refusal::DeadlineExceeded)?.into_iter().collect()
    }

    /// Where the result arrives, if any exporter is waited for, and what says that somebody waits.
    fn commit(
        &mut self,
        reserved: Vec<Reservation>,
    ) -> Option<(oneshot::Receiver<crate::batch::Result>, DropGuard)> {
        let awaited = self.list.iter().any(|delivery| delivery.exporter.awaits_results());
        let (receipt, result) = awaited.then(|| Receipt::until(self.deadline)).unzip();
        let waiting = receipt.as_ref().map(Receipt::waiting);
        for (Delivery { exporter, batches }, room) in self.list.drain(..).zip(reserved) {
            let receipt = receipt.as_ref().filter(|_| exporter.awaits_results());
            let batches = match receipt {
                None => batches,
                Some(receipt) => {
                    batches.into_iter().map(|batch| batch.with_receipt(receipt.clone())).collect()
                }
            };
            room.commit(batches);
        }
        result.zip(waiting)
    }

    /// Ends every batch as refused.
    pub(super) fn refuse(&mut self, reason: RefusedReason) {
        for delivery in self.list.drain(..) {
            delivery.batches.into_iter().for_each(|batch| batch.refused(reason));
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        // Whoever drops it at the deadline is as fast as the wait within.
        let is_late = Instant::now() >= self.deadline;
        self.refuse(if is_late { RefusedReason::Deadline } else { RefusedReason::Cancelled });
    }
}

async fn await_result(
    result: oneshot::Receiver<crate::batch::Result>,
    deadline: Instant,
) -> Result<u64, Refusal> {
    match tokio::time::timeout_at(deadline, result).await {
        Err(_late) => Err(Refusal::DeadlineExceeded),
        // The receipt tells when its last holder goes, whatever becomes of the batches.
        Ok(Err(_untold)) => Ok(0),
        Ok(Ok(result)) => match result.failure {
            Some(failure) => Err(Refusal::Destination(failure)),
            None => Ok(result.rejected),
        },
    }
}

fn refusal(exporter: &Exporter, full: &QueueFull) -> Refusal {
    let exporter = exporter.id().to_owned();
    let retry_after = full.retry_after;
    match full.cause {
        _ if full.never_fits => Refusal::NeverFits { exporter },
        Cause::Full => Refusal::QueueFull { exporter, retry_after },
        Cause::Share => Refusal::QueueShare { exporter, retry_after },
    }
}

fn not_stored(exporter: &Exporter, error: StoreError) -> Refusal {
    let problem = error.to_string();
    let exporter = exporter.id().to_owned();
    match error {
        StoreError::Full { retry_after, .. } | StoreError::Failed { retry_after, .. } => {
            Refusal::Storage { exporter, problem, retry_after }
        }
        StoreError::NeverFits { .. } => Refusal::NeverFits { exporter },
        StoreError::Closed { retry_after } => Refusal::ShuttingDown { retry_after },
    }
}

/// Under which reason the items of a refused request are counted.
pub(super) fn reason(refusal: &Refusal) -> RefusedReason {
    match refusal {
        Refusal::QueueFull { .. } => RefusedReason::QueueFull,
        Refusal::QueueShare { .. } => RefusedReason::QueueShare,
        Refusal::NeverFits { .. } => RefusedReason::TooLarge,
        Refusal::Storage { .. } => RefusedReason::Storage,
        Refusal::MemoryPressure { .. } => RefusedReason::Memory,
        Refusal::ShuttingDown { .. } => RefusedReason::Shutdown,
        Refusal::Limited(limited) => limited.reason(),
        Refusal::Anonymous
        | Refusal::Unauthenticated
        | Refusal::Unverifiable { .. }
        | Refusal::TenantNotAllowed
        | Refusal::DuplicateTenantHeader { .. }
        | Refusal::BadTenant(_) => RefusedReason::Tenant,
        Refusal::DeadlineExceeded => RefusedReason::Deadline,
        Refusal::Destination(_) => RefusedReason::Destination,
        Refusal::Malformed(_) | Refusal::NoPipeline(_) => RefusedReason::TooLarge,
    }
}

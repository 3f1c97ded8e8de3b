//! From batches to queues: all of a request or nothing of it.
//!
//! Room is reserved in every queue concerned before any of them owns a byte. Batches that are let go
//! on the way, because the client went away, are counted as refused.

use tokio::time::Instant;

use super::Refusal;
use crate::batch::{Batch, Receipt};
use crate::exporter::Exporter;
use crate::outcome::RefusedReason;
use crate::queue::{Cause, QueueFull, Reservation};

/// The batches of one request, by exporter.
#[derive(Default)]
pub(super) struct Deliveries {
    list: Vec<Delivery>,
}

struct Delivery {
    exporter: Exporter,
    batches: Vec<Batch>,
}

impl Deliveries {
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
    /// Dropped before the queues own the data, all of it is refused; later only the answer is lost.
    pub(super) async fn deliver(mut self, deadline: Instant) -> Result<u64, Refusal> {
        let reserved = match self.reserve(deadline).await {
            Ok(reserved) => reserved,
            Err(refusal) => {
                // The words are the Collector's; dashboards and tests look for them.
                tracing::warn!(name: "request.refused", "{refusal}");
                self.refuse(reason(&refusal));
                return Err(refusal);
            }
        };
        let receipt = self.commit(reserved, deadline);
        match receipt {
            None => Ok(0),
            Some(result) => await_result(result, deadline).await,
        }
    }

    async fn reserve(&self, deadline: Instant) -> Result<Vec<Reservation>, Refusal> {
        let mut reserved = Vec::with_capacity(self.list.len());
        for Delivery { exporter, batches } in &self.list {
            let room = match exporter.blocks_on_overflow() {
                true => exporter.queue().reserve_waiting(batches, deadline).await,
                false => exporter.queue().reserve(batches),
            };
            reserved.push(room.map_err(|full| refusal(exporter, &full))?);
        }
        Ok(reserved)
    }

    fn commit(
        &mut self,
        reserved: Vec<Reservation>,
        deadline: Instant,
    ) -> Option<tokio::sync::oneshot::Receiver<crate::batch::Result>> {
        let awaited = self.list.iter().any(|delivery| delivery.exporter.awaits_results());
        let (receipt, result) = if awaited { Some(Receipt::until(deadline)).unzip() } else { (None, None) };
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
        result
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
        self.refuse(RefusedReason::Cancelled);
    }
}

async fn await_result(
    result: tokio::sync::oneshot::Receiver<crate::batch::Result>,
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

/// Under which reason the items of a refused request are counted.
pub(super) fn reason(refusal: &Refusal) -> RefusedReason {
    match refusal {
        Refusal::QueueFull { .. } => RefusedReason::QueueFull,
        Refusal::QueueShare { .. } => RefusedReason::QueueShare,
        Refusal::NeverFits { .. } => RefusedReason::TooLarge,
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

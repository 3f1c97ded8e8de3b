//! What requests a connection has, and why the work on one was stopped.
//!
//! Invariant: a request that is stopped before it is done is counted once, whoever stops it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Fault;
use crate::internal_telemetry::metrics::{Cancellations, Gauge};
use crate::outcome::CancelReason;
use crate::pipeline::Refusal;
use crate::tasks::Scope;

/// How one receiver ends.
#[derive(Debug)]
pub(super) struct Ending {
    scope: Scope,
    why: OnceLock<CancelReason>,
    /// The grace is over: requests under way are to be answered now.
    hurry: CancellationToken,
}

impl Ending {
    /// Of the receiver whose connections belong to `scope`.
    pub(super) fn new(scope: &Scope) -> Arc<Self> {
        Arc::new(Self { scope: scope.clone(), why: OnceLock::new(), hurry: CancellationToken::new() })
    }

    /// It ends, for this reason unless there was one already.
    pub(super) fn begin(&self, why: CancelReason) {
        // The first reason stays.
        let _first = self.why.set(why);
    }

    /// Requests under way are answered that the collector goes away.
    pub(super) fn hurry(&self) {
        self.hurry.cancel();
    }
}

/// What requests a connection has seen.
pub(super) struct Activity {
    pub(super) opened: Instant,
    started: AtomicU64,
    running: AtomicUsize,
    /// When the last request ended, in ms after `opened`.
    last_end: AtomicU64,
    ending: Arc<Ending>,
    hurry: CancellationToken,
    /// The connection is cut by us.
    cut: AtomicBool,
    in_flight: Gauge,
    cancellations: Cancellations,
}

impl Activity {
    pub(super) fn new(ending: &Arc<Ending>, in_flight: &Gauge, cancellations: &Cancellations) -> Self {
        Self {
            opened: Instant::now(),
            started: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
            ending: ending.clone(),
            hurry: ending.hurry.child_token(),
            cut: AtomicBool::new(false),
            in_flight: in_flight.clone(),
            cancellations: cancellations.clone(),
        }
    }

    /// Whether there was no request yet.
    pub(super) fn is_silent(&self) -> bool {
        self.started.load(Ordering::Relaxed) == 0
    }

    /// Since when nothing is under way; `now` if something is.
    pub(super) fn idle_since(&self, now: Instant) -> Instant {
        match self.running.load(Ordering::Relaxed) {
            0 => self.opened + Duration::from_millis(self.last_end.load(Ordering::Relaxed)),
            _ => now,
        }
    }

    /// The connection is about to be cut, whatever is under way.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

/// One request under way.
pub(super) struct Busy {
    activity: Arc<Activity>,
    answered: bool,
}

impl Busy {
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        activity.started.fetch_add(1, Ordering::Relaxed);
        activity.running.fetch_add(1, Ordering::Relaxed);
        activity.in_flight.add(1);
        Self { activity, answered: false }
    }

    /// Cancelled when there is no more time to wait for anything.
    pub(super) fn hurry(&self) -> &CancellationToken {
        &self.activity.hurry
    }

    /// Why work on the request was stopped, if that is what its fault says.
    pub(super) fn stopped_by(&self, fault: &Fault, deadline: Option<Instant>) -> Option<CancelReason> {
        match fault {
            Fault::Refused(Refusal::DeadlineExceeded) | Fault::Stalled => Some(CancelReason::Deadline),
            // What a destination was waited for in vain comes as its failure.
            Fault::Refused(Refusal::Destination(_)) if deadline.is_some_and(|at| at <= Instant::now()) => {
                Some(CancelReason::Deadline)
            }
            Fault::Refused(Refusal::ShuttingDown { .. }) => {
                Some(self.activity.ending.why.get().copied().unwrap_or(CancelReason::Forced))
            }
            Fault::Broken => Some(CancelReason::Client),
            _ => None,
        }
    }

    /// There is an answer; with a reason if it is that the work was stopped.
    pub(super) fn answered(&mut self, cancelled: Option<CancelReason>) {
        self.answered = true;
        if let Some(reason) = cancelled {
            self.activity.cancellations.count(reason);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &*self.activity;
        let since = activity.opened.elapsed().as_millis();
        activity.last_end.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        activity.running.fetch_sub(1, Ordering::Relaxed);
        activity.in_flight.add(-1);
        if !self.answered {
            let forced = activity.cut.load(Ordering::Relaxed) || activity.ending.scope.is_aborted();
            let reason = if forced { CancelReason::Forced } else { CancelReason::Client };
            activity.cancellations.count(reason);
        }
    }
}

/// Does the work, or gives it up when there is no time left to wait for anything.
pub(super) async fn unless_hurried<T>(
    working: impl Future<Output = Result<T, Fault>>,
    hurry: &CancellationToken,
) -> Result<T, Fault> {
    let (mut working, mut hurried) = (pin!(working), pin!(hurry.cancelled()));
    // Most requests are done at once and never look at the token.
    let next = poll_fn(|cx| match working.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => hurried.as_mut().poll(cx).map(|()| Err(Refusal::shutting_down().into())),
    });
    next.await
}

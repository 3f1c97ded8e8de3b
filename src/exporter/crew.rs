//! The consumers of one exporter, dealt to the active workers, and dealt anew when those change.
//!
//! Invariant: a consumer that has to move ends the lease it has first; no lease is given up for a move.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::consumer::{Consumer, Shared};
use super::destination::Destination;
use crate::tasks::{Scope, Team, Worker};

/// Who consumes, and where.
pub(super) struct Crew<D, C> {
    pub(super) shared: Arc<Shared>,
    pub(super) consumers: usize,
    pub(super) scope: Scope,
    pub(super) team: Team,
    /// Makes the destination as one worker sees it.
    pub(super) connect: C,
    /// By the number of the worker.
    pub(super) destinations: BTreeMap<usize, Arc<D>>,
}

impl<D, C> Crew<D, C>
where
    D: Destination,
    C: Fn(&Worker) -> Arc<D> + Send + 'static,
{
    /// Deals the consumers now, and again whenever the team changes, in a task of `dealing`.
    pub(super) fn start(mut self, dealing: &Scope) {
        let mut changes = self.team.subscribe();
        changes.mark_unchanged();
        let mut moved = self.deal();
        let stop = dealing.token().clone();
        dealing.spawn("dealer", async move {
            while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
                let before = std::mem::replace(&mut moved, self.deal());
                before.cancel();
            }
        });
    }

    /// One round of consumers; the token tells them that another round has taken their place.
    fn deal(&mut self) -> CancellationToken {
        let active = self.team.active();
        let used = &active[..active.len().min(self.consumers)];
        self.destinations.retain(|number, _| used.iter().any(|worker| worker.number() == *number));
        let moved = CancellationToken::new();
        for worker in used.iter().cycle().take(self.consumers) {
            let connect = || (self.connect)(worker);
            let destination = self.destinations.entry(worker.number()).or_insert_with(connect);
            let consumer = Consumer::new(self.shared.clone(), destination.clone());
            let (stop, moved) = (self.scope.token().clone(), moved.clone());
            self.scope.spawn_on(worker.handle(), "consumer", async move {
                stop.run_until_cancelled(consumer.run(moved)).await;
            });
        }
        moved
    }
}

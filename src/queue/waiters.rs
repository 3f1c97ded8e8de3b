//! Senders who wait for room: in order within their flow, flow by flow in turns.
//!
//! Only the first of each flow tries, so that a tenant that is over its share holds up nobody else. Room
//! that is given back wakes one of the first; one that succeeded wakes the next. No room is left unused
//! by that: whoever fails, fails because others have room, and giving it back wakes again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use super::Queue;

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    flows: HashMap<u64, VecDeque<Arc<Notify>>>,
    /// Every flow with somebody waiting, the next to be woken first.
    turns: VecDeque<u64>,
}

impl Waiters {
    /// Whether somebody of a flow waits, so that a later one must not overtake.
    pub(super) fn has(&self, flow: u64) -> bool {
        self.flows.contains_key(&flow)
    }

    fn add(&mut self, flow: u64) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        let line = self.flows.entry(flow).or_default();
        if line.is_empty() {
            self.turns.push_back(flow);
            // The first may try at once.
            bell.notify_one();
        }
        line.push_back(bell.clone());
        bell
    }

    fn remove(&mut self, flow: u64, bell: &Arc<Notify>) {
        let Some(line) = self.flows.get_mut(&flow) else { return };
        let was_first = line.front().is_some_and(|first| Arc::ptr_eq(first, bell));
        line.retain(|other| !Arc::ptr_eq(other, bell));
        match line.front() {
            Some(first) if was_first => first.notify_one(),
            Some(_) => {}
            None => {
                self.flows.remove(&flow);
                self.turns.retain(|other| *other != flow);
            }
        }
    }

    /// Wakes the first of the flow whose turn it is.
    pub(super) fn wake_next(&mut self) {
        let Some(flow) = self.turns.pop_front() else { return };
        if let Some(first) = self.flows.get(&flow).and_then(VecDeque::front) {
            first.notify_one();
            self.turns.push_back(flow);
        }
    }

    /// Wakes the first of a flow.
    pub(super) fn wake(&mut self, flow: u64) {
        if let Some(first) = self.flows.get(&flow).and_then(VecDeque::front) {
            first.notify_one();
        }
    }

    /// Wakes everybody, because the queue is closed.
    pub(super) fn wake_all(&mut self) {
        self.flows.values().flatten().for_each(|bell| bell.notify_one());
    }
}

/// A place among those who wait; dropped, it is given up and the next is woken.
pub(super) struct Waiting<'a> {
    queue: &'a Queue,
    flow: u64,
    bell: Arc<Notify>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(queue: &'a Queue, flow: u64) -> Self {
        let bell = queue.lock().waiters.add(flow);
        Self { queue, flow, bell }
    }

    /// Waits until it may be worth trying.
    pub(super) async fn woken(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.waiters.remove(self.flow, &self.bell);
        state.waiters.wake_next();
    }
}

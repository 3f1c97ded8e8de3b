//! The pods and namespaces that are known, by uid and by address.
//!
//! ```text
//! view ──trim──▶ Pod ─┬─ by uid                    a relist is a round: who is not met in it has ended
//!                     └─ by each of its addresses  several pods: the newest that runs has the address
//! ```
//!
//! Not here: where views come from (`follow`). Invariants: at most `max_pods` pods; a pod that ended is
//! forgotten after its grace; a pod of the host's network has no address of its own.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::keep::Keep;
use super::names::Names;
use super::record::{Namespace, Pod};
use super::view::{NamespaceView, PodView};

/// More namespaces than any cluster that still answers has.
const MAX_NAMESPACES: usize = 50_000;

/// What is known.
#[derive(Debug)]
pub(super) struct Store {
    pods: HashMap<Arc<str>, Remembered>,
    addresses: HashMap<IpAddr, Holders>,
    hosts: HashMap<IpAddr, u32>,
    namespaces: HashMap<Arc<str>, (Arc<Namespace>, u32)>,
    names: Names,
    /// Who ended, in order.
    ended: VecDeque<(Instant, Arc<str>)>,
    round: u32,
    namespace_round: u32,
    max_pods: usize,
    grace: Duration,
}

#[derive(Debug)]
struct Remembered {
    pod: Arc<Pod>,
    ended: Option<Instant>,
    round: u32,
}

/// Pods with one address.
#[derive(Debug)]
struct Holders {
    /// Who has it now, or had it last.
    first: Arc<Pod>,
    others: Vec<Arc<Pod>>,
}

/// What became of a pod that was told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// It is known.
    Known,
    /// There is no room for it.
    LeftOut,
}

impl Store {
    pub(super) fn new(max_pods: usize, grace: Duration) -> Self {
        Self {
            pods: HashMap::new(),
            addresses: HashMap::new(),
            hosts: HashMap::new(),
            namespaces: HashMap::new(),
            names: Names::default(),
            ended: VecDeque::new(),
            round: 0,
            namespace_round: 0,
            max_pods,
            grace,
        }
    }

    /// Other bounds hold from now on.
    pub(super) fn bound(&mut self, max_pods: usize, grace: Duration) {
        (self.max_pods, self.grace) = (max_pods, grace);
    }

    /// How many pods are known.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// How many namespaces are known.
    pub(super) fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// Who has an address, or had it last.
    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.addresses.get(&address).map(|holders| &holders.first)
    }

    /// Whether an address is one of a node.
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        self.hosts.contains_key(&address)
    }

    /// The pod with a uid.
    pub(super) fn with_uid(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid).map(|remembered| &remembered.pod)
    }

    /// What is known of a namespace.
    pub(super) fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name).map(|(namespace, _)| namespace)
    }

    /// A list of all pods begins.
    pub(super) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// A list of all pods is complete: who is not in it has ended.
    pub(super) fn end_round(&mut self, now: Instant) {
        let is_gone = |remembered: &&Remembered| remembered.round != self.round;
        let gone: Vec<Arc<str>> =
            self.pods.values().filter(is_gone).map(|remembered| remembered.pod.uid.clone()).collect();
        gone.iter().for_each(|uid| self.end(uid, now));
        self.names.sweep();
    }

    /// A pod is as `view` says.
    pub(super) fn apply(&mut self, view: &PodView, keep: &Arc<Keep>, now: Instant) -> Applied {
        if view.uid().is_empty() {
            return Applied::Known;
        }
        if !self.pods.contains_key(view.uid()) && self.pods.len() >= self.max_pods {
            self.forget_oldest();
            if self.pods.len() >= self.max_pods {
                return Applied::LeftOut;
            }
        }
        let pod = Pod::new(view, keep, &mut self.names);
        let round = self.round;
        let known = self.pods.get_mut(view.uid());
        if let Some(known) = known.filter(|known| known.pod.is_same(&pod)) {
            known.round = round;
            return Applied::Known;
        }
        let pod = Arc::new(pod);
        let before = self.pods.get(view.uid()).and_then(|known| known.ended);
        let ended = before.filter(|_| pod.has_ended());
        if let Some(known) = self.pods.insert(pod.uid.clone(), Remembered { pod: pod.clone(), ended, round })
        {
            self.unlink(&known.pod);
        }
        self.link(&pod);
        if pod.has_ended() {
            self.end(&pod.uid.clone(), now);
        }
        Applied::Known
    }

    /// The pod with this uid is gone.
    pub(super) fn end(&mut self, uid: &str, now: Instant) {
        let Some(remembered) = self.pods.get_mut(uid).filter(|remembered| remembered.ended.is_none()) else {
            return;
        };
        remembered.ended = Some(now);
        let pod = remembered.pod.clone();
        pod.end();
        self.ended.push_back((now, pod.uid.clone()));
        // Pods that end and are told again, as lists do that contradict each other, leave entries behind.
        if self.ended.len() > 2 * self.pods.len() {
            let pods = &self.pods;
            self.ended.retain(|(at, uid)| pods.get(uid).is_some_and(|pod| pod.ended == Some(*at)));
        }
        for address in pod.own_addresses() {
            if let Some(holders) = self.addresses.get_mut(address) {
                holders.settle();
            }
        }
    }

    /// Forgets pods whose grace is over.
    pub(super) fn sweep(&mut self, now: Instant) {
        while self.ended.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.grace) {
            self.forget_oldest();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { round: self.round, ..Self::new(self.max_pods, self.grace) };
    }

    fn forget_oldest(&mut self) {
        let Some((at, uid)) = self.ended.pop_front() else { return };
        // A list that left it out by mistake does not end it for good.
        if self.pods.get(&uid).is_some_and(|remembered| remembered.ended == Some(at))
            && let Some(forgotten) = self.pods.remove(&uid)
        {
            self.unlink(&forgotten.pod);
        }
    }

    fn link(&mut self, pod: &Arc<Pod>) {
        for address in pod.own_addresses() {
            match self.addresses.get_mut(address) {
                Some(holders) => {
                    holders.others.push(pod.clone());
                    holders.settle();
                }
                None => {
                    self.addresses.insert(*address, Holders { first: pod.clone(), others: Vec::new() });
                }
            }
        }
        for host in pod.host_addresses() {
            *self.hosts.entry(*host).or_default() += 1;
        }
    }

    fn unlink(&mut self, pod: &Arc<Pod>) {
        for address in pod.own_addresses() {
            let Some(holders) = self.addresses.get_mut(address) else { continue };
            holders.others.retain(|other| !Arc::ptr_eq(other, pod));
            if Arc::ptr_eq(&holders.first, pod) {
                match holders.others.pop() {
                    Some(other) => {
                        holders.first = other;
                        holders.settle();
                    }
                    None => {
                        self.addresses.remove(address);
                    }
                }
            }
        }
        for host in pod.host_addresses() {
            if let Some(count) = self.hosts.get_mut(host) {
                *count -= 1;
                if *count == 0 {
                    self.hosts.remove(host);
                }
            }
        }
    }

    /// A list of all namespaces begins.
    pub(super) fn begin_namespace_round(&mut self) {
        self.namespace_round += 1;
    }

    /// A list of all namespaces is complete.
    pub(super) fn end_namespace_round(&mut self) {
        let current = self.namespace_round;
        self.namespaces.retain(|_, (_, round)| *round == current);
    }

    /// A namespace is as `view` says.
    pub(super) fn apply_namespace(&mut self, view: &NamespaceView, keep: &Arc<Keep>) {
        let namespace = Namespace::new(view, keep, &mut self.names);
        let (round, has_room) = (self.namespace_round, self.namespaces.len() < MAX_NAMESPACES);
        match self.namespaces.get_mut(view.name()) {
            Some((known, known_round)) => {
                *known_round = round;
                if !known.is_same(&namespace) {
                    *known = Arc::new(namespace);
                }
            }
            None if has_room => {
                let name = self.names.get(view.name());
                self.namespaces.insert(name, (Arc::new(namespace), round));
            }
            None => {}
        }
    }

    /// A namespace is gone.
    pub(super) fn end_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }
}

impl Holders {
    /// Puts whoever has the address first.
    fn settle(&mut self) {
        for other in &mut self.others {
            if other.precedence() > self.first.precedence() {
                std::mem::swap(other, &mut self.first);
            }
        }
    }
}

#[cfg(test)]
mod tests;

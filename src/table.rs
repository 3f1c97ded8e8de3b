//! A table of fixed size that forgets only what is idle.
//!
//! A cache that may forget anything would forget what somebody just used up; here an entry goes only when
//! forgetting it loses nothing and nobody holds it. Not here: what is done when nothing can go, which the
//! caller decides. Invariant: while anybody holds the entry of a key, that key has no other.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// How often a full table is searched for idle entries.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a table may hold.
pub trait Idle: Default {
    /// Whether forgetting this would lose nothing.
    fn is_idle(&self, now: Instant) -> bool;
}

/// Entries by key.
#[derive(Debug)]
pub struct Table<K, V> {
    entries: RwLock<HashMap<K, Arc<V>>>,
    swept: Mutex<Option<Instant>>,
    capacity: usize,
}

/// Where an entry is found again without looking for it; empty at first, and once the table forgot it.
#[derive(Debug)]
pub struct Known<V>(RwLock<Weak<V>>);

impl<K: Eq + Hash + Clone, V: Idle> Table<K, V> {
    /// An empty table of at most `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self { entries: RwLock::default(), swept: Mutex::default(), capacity }
    }

    /// The entry of a key, made at first sight, for which the time is asked; `None`: there is no room.
    pub fn entry(&self, key: &K, now: impl Fn() -> Instant) -> Option<Arc<V>> {
        if let Some(entry) = self.find(key) {
            return Some(entry);
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            return Some(entry.clone());
        }
        let now = now();
        if entries.len() >= self.capacity && self.may_sweep(now) {
            entries.retain(|_, entry| !forget(entry, now));
        }
        (entries.len() < self.capacity).then(|| entries.entry(key.clone()).or_default().clone())
    }

    /// As [`Table::entry`]; `known` tells at once after the first time, and key and time are not asked for.
    pub fn known(
        &self,
        known: &Known<V>,
        key: impl FnOnce() -> K,
        now: impl Fn() -> Instant,
    ) -> Option<Arc<V>> {
        let found = known.0.read().unwrap_or_else(PoisonError::into_inner).upgrade();
        found.or_else(|| {
            let entry = self.entry(&key(), now)?;
            *known.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&entry);
            Some(entry)
        })
    }

    /// The entry of a key whether or not there is room: for a bounded number of keys.
    pub fn entry_beyond(&self, key: K) -> Arc<V> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// The entry of a key that has one.
    pub fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.read().get(key).cloned()
    }

    /// All entries; nobody gets a new one meanwhile.
    pub fn read(&self) -> RwLockReadGuard<'_, HashMap<K, Arc<V>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_sweep(&self, now: Instant) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let due = swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY);
        if due {
            *swept = Some(now);
        }
        due
    }
}

/// Takes an idle entry that nobody holds; tells whether it did. Whoever knows where it is may take hold of it
/// at any time before, so it is looked at again once it is taken.
fn forget<V: Idle>(entry: &mut Arc<V>, now: Instant) -> bool {
    if Arc::strong_count(entry) > 1 || !entry.is_idle(now) {
        return false;
    }
    match Arc::try_unwrap(std::mem::take(entry)) {
        Ok(taken) if taken.is_idle(now) => return true,
        Ok(taken) => *entry = Arc::new(taken),
        Err(held) => *entry = held,
    }
    false
}

impl<V> Default for Known<V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Idle when it owes nothing; while it is asked, somebody may do something.
    #[derive(Default)]
    struct Account {
        owes: AtomicU64,
        meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }

    impl Idle for Account {
        fn is_idle(&self, _now: Instant) -> bool {
            let is_idle = self.owes.load(Ordering::Relaxed) == 0;
            let meanwhile = self.meanwhile.lock().unwrap().take();
            meanwhile.into_iter().for_each(|act| act());
            is_idle
        }
    }

    fn set(account: Option<Arc<Account>>, n: u64) {
        account.unwrap().owes.store(n, Ordering::Relaxed);
    }

    #[test]
    fn only_what_is_idle_and_held_by_nobody_makes_room() {
        let (table, start) = (Table::<&str, Account>::new(2), Instant::now());
        let entry = |key, now| table.entry(&key, || now);
        set(entry("busy", start), 1);
        let held = entry("held", start).unwrap();
        assert!(entry("new", start).is_none());
        set(entry("busy", start), 0);
        assert!(entry("new", start + SWEEP_EVERY / 2).is_none(), "it was searched a moment ago");
        assert!(entry("new", start + SWEEP_EVERY).is_some());
        assert!(table.find(&"busy").is_none());
        assert!(Arc::ptr_eq(&held, &entry("held", start).unwrap()));
        assert!(Arc::ptr_eq(&table.entry_beyond("beyond"), &table.entry_beyond("beyond")));
        assert_eq!(table.read().len(), 3);
    }

    #[test]
    fn what_is_known_is_the_entry_also_after_it_was_forgotten() {
        let (table, start) = (Table::<&str, Account>::new(1), Instant::now());
        let known = Known::default();
        let entry = |now| table.known(&known, || "a", || now);
        set(entry(start), 1);
        assert!(Arc::ptr_eq(&entry(start).unwrap(), &table.find(&"a").unwrap()));
        assert!(table.entry(&"b", || start).is_none(), "who is known is not forgotten while in use");
        set(entry(start), 0);
        assert!(table.entry(&"b", || start + SWEEP_EVERY).is_some());
        assert!(entry(start + SWEEP_EVERY).is_none(), "b may have been used since");
        assert!(Arc::ptr_eq(&entry(start + SWEEP_EVERY * 2).unwrap(), &table.find(&"a").unwrap()));
    }

    #[test]
    fn an_entry_that_is_used_while_it_is_about_to_be_forgotten_stays() {
        let (table, known, start) = (Table::new(1), Arc::new(Known::<Account>::default()), Instant::now());
        for (turn, holds) in [(1, true), (2, false)] {
            let later = start + SWEEP_EVERY * turn;
            let (held, used) = (Arc::new(Mutex::new(None)), known.clone());
            let slot = held.clone();
            let act = move || {
                let account = used.0.read().unwrap().upgrade().unwrap();
                account.owes.store(1, Ordering::Relaxed);
                *slot.lock().unwrap() = Some(account).filter(|_| holds);
            };
            let entry = table.known(&known, || "a", || later).unwrap();
            *entry.meanwhile.lock().unwrap() = Some(Box::new(act));
            drop(entry);
            assert!(table.entry(&"b", || later).is_none());
            let stays = table.find(&"a").unwrap();
            assert_eq!(stays.owes.swap(0, Ordering::Relaxed), 1);
            assert!(held.lock().unwrap().as_ref().is_none_or(|held| Arc::ptr_eq(held, &stays)));
        }
    }
}

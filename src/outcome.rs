//! Where each item ended: the conservation law, kept per tenant and signal.
//!
//! `received + copied = refused + sampled_out + sent + dropped + queued`, in items, whenever no request
//! is being worked on. `copied` counts what a second exporter or pipeline makes of one item. Nothing
//! here decides anything; the reasons are closed sets so that they can be metric labels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::identity::TenantId;
use crate::otlp::{PerSignal, Signal};

/// Why items were refused: never accepted, the sender was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedReason {
    /// An exporter's queue has no room.
    QueueFull,
    /// The memory limiter is above its soft limit.
    Memory,
    /// The claim is not allowed, or contradicts itself.
    Tenant,
    /// The request's deadline passed before a queue owned the data.
    Deadline,
    /// The client went away before a queue owned the data.
    Cancelled,
    /// The collector is shutting down.
    Shutdown,
    /// The batch is larger than the queue ever could hold.
    TooLarge,
    /// The tenant is over its rate.
    RateLimit,
    /// The tenant has been over its rate for longer than its policies allow.
    SustainedLimit,
    /// `wait_for_result` or a disabled queue: the destination did not take the data.
    Destination,
}

/// Why items were lost after they had been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DroppedReason {
    /// The destination refused for good.
    Permanent,
    /// The destination took the request but rejected these items (partial success).
    PartialSuccess,
    /// `max_elapsed_time` passed without success, or retries are off.
    RetriesExhausted,
    /// The drain deadline passed with the data still in memory.
    Shutdown,
    /// A batch was let go without an outcome: always a defect of this program.
    Abandoned,
}

macro_rules! reasons {
    ($type:ty { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl $type {
            /// Every reason, in the order of the discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason as a metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

reasons!(RefusedReason {
    QueueFull => "queue_full",
    Memory => "memory",
    Tenant => "tenant",
    Deadline => "deadline",
    Cancelled => "cancelled",
    Shutdown => "shutdown",
    TooLarge => "too_large",
    RateLimit => "rate_limit",
    SustainedLimit => "sustained_limit",
    Destination => "destination",
});

reasons!(DroppedReason {
    Permanent => "permanent",
    PartialSuccess => "partial_success",
    RetriesExhausted => "retries_exhausted",
    Shutdown => "shutdown",
    Abandoned => "abandoned",
});

/// What is cut off items that carry more than their tenant's limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trimmed {
    /// Strings in attributes that were shortened.
    AttributeValue,
    /// Attributes that were removed.
    Attribute,
    /// Events of spans that were removed.
    Event,
    /// Links of spans that were removed.
    Link,
}

reasons!(Trimmed {
    AttributeValue => "attribute_value",
    Attribute => "attribute",
    Event => "event",
    Link => "link",
});

/// The books of one tenant and signal, in items.
#[derive(Debug, Default)]
pub struct Column {
    received: AtomicU64,
    copied: AtomicU64,
    refused: [AtomicU64; RefusedReason::ALL.len()],
    sampled_out: AtomicU64,
    sent: AtomicU64,
    dropped: [AtomicU64; DroppedReason::ALL.len()],
    queued: AtomicU64,
    queued_bytes: AtomicU64,
}

impl Column {
    /// Items that arrived in well-formed requests.
    pub fn add_received(&self, items: u64) {
        self.received.fetch_add(items, Ordering::Relaxed);
    }

    /// Items that came to be because a batch goes to one more exporter or pipeline.
    pub fn add_copied(&self, items: u64) {
        self.copied.fetch_add(items, Ordering::Relaxed);
    }

    /// Items that were not accepted.
    pub fn add_refused(&self, reason: RefusedReason, items: u64) {
        self.refused[reason as usize].fetch_add(items, Ordering::Relaxed);
    }

    /// Items left out by policy.
    pub fn add_sampled_out(&self, items: u64) {
        self.sampled_out.fetch_add(items, Ordering::Relaxed);
    }

    /// Items a destination took.
    pub fn add_sent(&self, items: u64) {
        self.sent.fetch_add(items, Ordering::Relaxed);
    }

    /// Items lost after acceptance.
    pub fn add_dropped(&self, reason: DroppedReason, items: u64) {
        self.dropped[reason as usize].fetch_add(items, Ordering::Relaxed);
    }

    /// A queue took ownership.
    pub fn enter_queue(&self, items: u64, bytes: u64) {
        self.queued.fetch_add(items, Ordering::Relaxed);
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A queue's ownership ended.
    pub fn leave_queue(&self, items: u64, bytes: u64) {
        self.queued.fetch_sub(items, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The books as they stand.
    pub fn read(&self) -> Books {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Books {
            received: get(&self.received),
            copied: get(&self.copied),
            refused: std::array::from_fn(|i| get(&self.refused[i])),
            sampled_out: get(&self.sampled_out),
            sent: get(&self.sent),
            dropped: std::array::from_fn(|i| get(&self.dropped[i])),
            queued: get(&self.queued),
            queued_bytes: get(&self.queued_bytes),
        }
    }
}

/// A reading of a [`Column`], in items unless said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// Arrived in well-formed requests.
    pub received: u64,
    /// Came to be because a batch went to one more exporter or pipeline.
    pub copied: u64,
    /// Not accepted, by [`RefusedReason`].
    pub refused: [u64; RefusedReason::ALL.len()],
    /// Left out by policy.
    pub sampled_out: u64,
    /// Taken by a destination.
    pub sent: u64,
    /// Lost after acceptance, by [`DroppedReason`].
    pub dropped: [u64; DroppedReason::ALL.len()],
    /// Owned by a queue now.
    pub queued: u64,
    /// Owned by a queue now, in bytes.
    pub queued_bytes: u64,
}

impl Books {
    /// Adds another reading to this one.
    pub fn add(&mut self, other: &Books) {
        self.received += other.received;
        self.copied += other.copied;
        self.refused.iter_mut().zip(other.refused).for_each(|(a, b)| *a += b);
        self.sampled_out += other.sampled_out;
        self.sent += other.sent;
        self.dropped.iter_mut().zip(other.dropped).for_each(|(a, b)| *a += b);
        self.queued += other.queued;
        self.queued_bytes += other.queued_bytes;
    }

    /// All refused items, whatever the reason.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// All dropped items, whatever the reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether the conservation law holds.
    pub fn balanced(&self) -> bool {
        self.received + self.copied
            == self.refused_total() + self.sampled_out + self.sent + self.dropped_total() + self.queued
    }
}

/// The books of one tenant.
#[derive(Debug)]
pub struct Account {
    label: TenantId,
    columns: PerSignal<Column>,
    refused_requests: [AtomicU64; RefusedReason::ALL.len()],
    trimmed: [AtomicU64; Trimmed::ALL.len()],
}

impl Account {
    fn new(label: TenantId) -> Self {
        let (refused_requests, trimmed) = (Default::default(), Default::default());
        Self { label, columns: PerSignal::default(), refused_requests, trimmed }
    }

    /// The tenant's label in metrics; `_overflow` past the cap.
    pub fn label(&self) -> &TenantId {
        &self.label
    }

    /// The books of one signal.
    pub fn signal(&self, signal: Signal) -> &Column {
        &self.columns[signal]
    }

    /// A whole request was refused by one of the tenant's limits.
    pub fn add_refused_request(&self, reason: RefusedReason) {
        self.refused_requests[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests one of the tenant's limits refused.
    pub fn refused_requests(&self, reason: RefusedReason) -> u64 {
        self.refused_requests[reason as usize].load(Ordering::Relaxed)
    }

    /// Counts what was cut off items.
    pub fn add_trimmed(&self, what: Trimmed, count: u64) {
        self.trimmed[what as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// What was cut off items.
    pub fn trimmed(&self, what: Trimmed) -> u64 {
        self.trimmed[what as usize].load(Ordering::Relaxed)
    }

    /// An account that no ledger lists, for tests.
    pub fn detached(label: TenantId) -> Arc<Self> {
        Arc::new(Self::new(label))
    }
}

/// All accounts: at most `max_tenants`, then one shared `_overflow`.
#[derive(Debug)]
pub struct Ledger {
    max_tenants: usize,
    accounts: RwLock<HashMap<TenantId, Arc<Account>>>,
    overflow: Arc<Account>,
}

impl Ledger {
    /// An empty ledger that keeps at most `max_tenants` tenants apart.
    pub fn new(max_tenants: usize) -> Self {
        Self {
            max_tenants,
            accounts: RwLock::default(),
            overflow: Arc::new(Account::new(TenantId::overflow())),
        }
    }

    /// The account of a tenant, opened at first sight; past the cap the shared `_overflow`.
    pub fn account(&self, tenant: &TenantId) -> Arc<Account> {
        if let Some(account) = self.read().get(tenant) {
            return account.clone();
        }
        let mut accounts = self.accounts.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !accounts.contains_key(tenant) && accounts.len() >= self.max_tenants {
            return self.overflow.clone();
        }
        accounts.entry(tenant.clone()).or_insert_with(|| Arc::new(Account::new(tenant.clone()))).clone()
    }

    /// Every account, by label; `_overflow` last and only if it was used.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        let mut all: Vec<_> = self.read().values().cloned().collect();
        all.sort_by(|a, b| a.label.cmp(&b.label));
        let used = |signal| self.overflow.signal(signal).read() != Books::default();
        if Signal::ALL.into_iter().any(used) {
            all.push(self.overflow.clone());
        }
        all
    }

    /// The sum over all tenants and signals.
    pub fn totals(&self) -> Books {
        let mut totals = Books::default();
        for account in self.accounts() {
            for signal in Signal::ALL {
                totals.add(&account.signal(signal).read());
            }
        }
        totals
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TenantId, Arc<Account>>> {
        self.accounts.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_past_the_cap_share_one_account() {
        let ledger = Ledger::new(2);
        let id = |text| TenantId::new(text).unwrap();
        for tenant in ["a", "b", "c", "d"] {
            ledger.account(&id(tenant)).signal(Signal::Logs).add_received(1);
        }
        let labels: Vec<_> = ledger.accounts().iter().map(|a| a.label().to_string()).collect();
        assert_eq!(labels, ["a", "b", "_overflow"]);
        assert_eq!(ledger.account(&id("c")).signal(Signal::Logs).read().received, 2);
        assert_eq!(ledger.totals().received, 4);
    }

    #[test]
    fn a_missing_item_breaks_the_balance() {
        let column = Column::default();
        column.add_received(5);
        column.add_refused(RefusedReason::QueueFull, 1);
        column.add_sampled_out(1);
        column.add_sent(1);
        column.add_dropped(DroppedReason::Permanent, 1);
        assert!(!column.read().balanced());
        column.enter_queue(1, 100);
        assert!(column.read().balanced());
    }
}

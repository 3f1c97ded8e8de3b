//! Where each item ended: the conservation law, kept per tenant and signal.
//!
//! `received + copied + recovered = refused + sampled_out + sent + dropped + stored + queued`, in items, whenever no
//! request is being worked on. `copied` counts what a second exporter or pipeline makes of one item; what a log on disk
//! keeps at the end is `stored`, and `recovered` at the next start. Not here: decisions; reasons become metric labels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::identity::TenantId;
use crate::otlp::{PerSignal, Signal};

/// Why items were refused: never accepted, the sender was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedReason {
    /// An exporter's queue has no room for anybody.
    QueueFull,
    /// A tenant of the request has its share of an exporter's queue.
    QueueShare,
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
    /// A queue on disk could not put it down.
    Storage,
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
    /// The disk gave back other bytes than were put down; they are not sent.
    Damaged,
    /// A batch was let go without an outcome: always a defect of this program.
    Abandoned,
}

/// Why work on a request was stopped before it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelReason {
    /// The client went away or reset its stream.
    Client,
    /// The request's deadline passed, or its body stopped arriving.
    Deadline,
    /// The collector shuts down; the client was told.
    Drain,
    /// The configuration of the receiver was replaced and its grace is over; the client was told.
    Reload,
    /// Its connection was cut by us, past a grace; the client was not told.
    Forced,
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
    QueueShare => "queue_share",
    Memory => "memory",
    Tenant => "tenant",
    Deadline => "deadline",
    Cancelled => "cancelled",
    Shutdown => "shutdown",
    TooLarge => "too_large",
    RateLimit => "rate_limit",
    SustainedLimit => "sustained_limit",
    Destination => "destination",
    Storage => "storage",
});

reasons!(DroppedReason {
    Permanent => "permanent",
    PartialSuccess => "partial_success",
    RetriesExhausted => "retries_exhausted",
    Shutdown => "shutdown",
    Damaged => "damaged",
    Abandoned => "abandoned",
});

reasons!(CancelReason {
    Client => "client",
    Deadline => "deadline",
    Drain => "drain",
    Reload => "reload",
    Forced => "forced",
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

/// The books of one tenant and signal, in items. What every request writes stands together.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Column {
    received: AtomicU64,
    sampled_out: AtomicU64,
    queued: AtomicU64,
    queued_bytes: AtomicU64,
    sent: AtomicU64,
    copied: AtomicU64,
    recovered: AtomicU64,
    stored: AtomicU64,
    refused: [AtomicU64; RefusedReason::ALL.len()],
    dropped: [AtomicU64; DroppedReason::ALL.len()],
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

    /// Items that a log on disk had since before the program started.
    pub fn add_recovered(&self, items: u64) {
        self.recovered.fetch_add(items, Ordering::Relaxed);
    }

    /// Items that a log on disk keeps for the next start.
    pub fn add_stored(&self, items: u64) {
        self.stored.fetch_add(items, Ordering::Relaxed);
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

    /// Adds what another column has come to.
    fn absorb(&self, books: &Books) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.received, books.received);
        add(&self.copied, books.copied);
        add(&self.recovered, books.recovered);
        add(&self.stored, books.stored);
        add(&self.sampled_out, books.sampled_out);
        add(&self.sent, books.sent);
        add(&self.queued, books.queued);
        add(&self.queued_bytes, books.queued_bytes);
        self.refused.iter().zip(books.refused).for_each(|(counter, n)| _ = add(counter, n));
        self.dropped.iter().zip(books.dropped).for_each(|(counter, n)| _ = add(counter, n));
    }

    /// The books as they stand.
    pub fn read(&self) -> Books {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Books {
            received: get(&self.received),
            copied: get(&self.copied),
            recovered: get(&self.recovered),
            stored: get(&self.stored),
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
    /// A log on disk had them since before the program started.
    pub recovered: u64,
    /// Not accepted, by [`RefusedReason`].
    pub refused: [u64; RefusedReason::ALL.len()],
    /// Left out by policy.
    pub sampled_out: u64,
    /// Taken by a destination.
    pub sent: u64,
    /// Lost after acceptance, by [`DroppedReason`].
    pub dropped: [u64; DroppedReason::ALL.len()],
    /// Left in a log on disk for the next start.
    pub stored: u64,
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
        self.recovered += other.recovered;
        self.stored += other.stored;
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
        let (refused, dropped) = (self.refused_total(), self.dropped_total());
        self.received + self.copied + self.recovered
            == refused + self.sampled_out + self.sent + dropped + self.stored + self.queued
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

/// All accounts: of each tenant that has one, and one that all others share, `_overflow`.
///
/// Who has one is decided by `tenant::Tenants`, which bounds them and keeps the census.
#[derive(Debug)]
pub struct Ledger {
    accounts: RwLock<Accounts>,
    overflow: Arc<Account>,
    /// How many tenants there are in each class.
    pub census: Census,
}

#[derive(Debug, Default)]
struct Accounts {
    open: HashMap<TenantId, Arc<Account>>,
    /// Closed, but somebody still holds them and may write to them.
    closed: Vec<Arc<Account>>,
}

/// How many tenants there are in each class.
#[derive(Debug, Default)]
pub struct Census {
    /// Named in the policies by their exact id, and met.
    pub configured: AtomicU64,
    /// Others that are told apart.
    pub dynamic: AtomicU64,
    /// Others that share, as far as they are followed.
    pub overflow: AtomicU64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            accounts: RwLock::default(),
            overflow: Arc::new(Account::new(TenantId::overflow())),
            census: Census::default(),
        }
    }
}

impl Ledger {
    /// The account of a tenant, opened at first sight.
    pub fn account(&self, tenant: &TenantId) -> Arc<Account> {
        if let Some(account) = self.read().open.get(tenant) {
            return account.clone();
        }
        let mut accounts = self.write();
        // Whoever comes back while the closed account is still in use goes on with it.
        let closed = accounts.closed.iter().position(|account| account.label == *tenant);
        let closed = closed.map(|at| accounts.closed.swap_remove(at));
        let new = || closed.unwrap_or_else(|| Arc::new(Account::new(tenant.clone())));
        accounts.open.entry(tenant.clone()).or_insert_with(new).clone()
    }

    /// The account of all tenants that have none of their own.
    pub fn overflow(&self) -> &Arc<Account> {
        &self.overflow
    }

    /// Closes the account of a tenant; as soon as nobody holds it, its books go over to `_overflow`.
    pub fn close(&self, tenant: &TenantId) {
        let mut accounts = self.write();
        if let Some(account) = accounts.open.remove(tenant) {
            accounts.closed.push(account);
        }
        self.close_books(&mut accounts);
    }

    fn close_books(&self, accounts: &mut Accounts) {
        accounts.closed.retain(|account| {
            let is_held = Arc::strong_count(account) > 1;
            if !is_held {
                for (signal, column) in account.columns.iter() {
                    self.overflow.columns[signal].absorb(&column.read());
                }
            }
            is_held
        });
    }

    /// Every account, by label; `_overflow` last and only if it was used.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        let mut accounts = self.write();
        self.close_books(&mut accounts);
        let mut all: Vec<_> = accounts.open.values().chain(&accounts.closed).cloned().collect();
        drop(accounts);
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

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Accounts> {
        self.accounts.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Accounts> {
        self.accounts.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_account_goes_over_to_overflow_once_nobody_holds_it() {
        let ledger = Ledger::default();
        let id = |text| TenantId::new(text).unwrap();
        let held = ledger.account(&id("a"));
        held.signal(Signal::Logs).add_received(1);
        ledger.account(&id("b")).signal(Signal::Logs).add_received(2);
        let labels = || ledger.accounts().iter().map(|a| a.label().to_string()).collect::<Vec<_>>();
        ["a", "b"].iter().for_each(|text| ledger.close(&id(text)));
        assert_eq!(labels(), ["a", "_overflow"]);
        held.signal(Signal::Logs).add_received(4);
        assert!(Arc::ptr_eq(&held, &ledger.account(&id("a"))), "who comes back goes on");
        ledger.close(&id("a"));
        drop(held);
        assert_eq!(labels(), ["_overflow"]);
        assert_eq!(ledger.overflow().signal(Signal::Logs).read().received, 7);
        assert_eq!(ledger.totals().received, 7);
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

//! What flows from the pipeline to the exporters: one signal of one tenant, encoded.
//!
//! Invariant: a batch ends in exactly one place, [`Batch::sent`], [`Batch::dropped`] or
//! [`Batch::refused`]; one that is let go without is counted as `abandoned`. A batch that a log on disk has
//! may be without its bytes for a while, and at the end of the program it is [`Batch::stored`].

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::flow::Flow;
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::outcome::{Account, DroppedReason, RefusedReason};

/// One signal of one tenant: an encoded `Export…ServiceRequest` of exact size.
#[derive(Debug)]
pub struct Batch {
    signal: Signal,
    tenant: TenantId,
    items: u64,
    size: u64,
    /// None while only a log on disk has them.
    bytes: Option<Bytes>,
    received_at: Instant,
    account: Option<Arc<Account>>,
    flow: Flow,
    opens_request: bool,
    receipt: Option<Receipt>,
    origin: Option<Arc<Origin>>,
}

/// Who sent a batch, and under which policies it was taken: what a log on disk keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The sender's proven name.
    pub principal: Arc<str>,
    /// The revision of the policies.
    pub revision: Arc<str>,
}

/// Whose a batch is: the same for many.
#[derive(Debug, Clone)]
pub struct Owner {
    signal: Signal,
    tenant: TenantId,
    account: Option<Arc<Account>>,
    flow: Flow,
}

impl Owner {
    /// Whether both are the same.
    pub fn is(&self, other: &Owner) -> bool {
        let accounts = (self.account.as_ref().map(Arc::as_ptr), other.account.as_ref().map(Arc::as_ptr));
        self.signal == other.signal
            && self.flow.number() == other.flow.number()
            && accounts.0 == accounts.1
            && self.tenant == other.tenant
    }
}

/// What else is in memory of a batch that a log on disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// As [`Batch::items`].
    pub items: u64,
    /// As [`Batch::size`].
    pub size: u64,
    /// As [`Batch::received_at`].
    pub received_at: Instant,
    /// As [`Batch::opens_request`].
    pub opens_request: bool,
}

impl Batch {
    /// A batch whose end will be written to `account`.
    pub fn new(
        signal: Signal,
        tenant: TenantId,
        account: Arc<Account>,
        (items, bytes): (u64, Bytes),
    ) -> Self {
        Self::made(signal, tenant, account, (items, bytes.len() as u64, Some(bytes)))
    }

    /// A batch that a log on disk has had since before the program started: `items` in `size` bytes. It is
    /// counted as recovered.
    pub fn recovered(
        signal: Signal,
        tenant: TenantId,
        account: Arc<Account>,
        (items, size): (u64, u64),
    ) -> Self {
        account.signal(signal).add_recovered(items);
        Self::made(signal, tenant, account, (items, size, None))
    }

    fn made(
        signal: Signal,
        tenant: TenantId,
        account: Arc<Account>,
        (items, size, bytes): (u64, u64, Option<Bytes>),
    ) -> Self {
        let (account, flow) = (Some(account), Flow::of_nobody());
        let (received_at, receipt, origin) = (Instant::now(), None, None);
        let opens_request = true;
        Self {
            signal,
            tenant,
            items,
            size,
            bytes,
            received_at,
            account,
            flow,
            opens_request,
            receipt,
            origin,
        }
    }

    /// Says when the pipeline made it, as far back as the clock goes.
    pub fn received(mut self, ago: std::time::Duration) -> Self {
        self.received_at = self.received_at.checked_sub(ago).unwrap_or(self.received_at);
        self
    }

    /// Belongs to a request for which another batch counts where requests are counted.
    pub fn joins_request(mut self) -> Self {
        self.opens_request = false;
        self
    }

    /// Whether it counts for its request where requests are counted: one batch of each request does.
    pub fn opens_request(&self) -> bool {
        self.opens_request
    }

    /// Stands in the line of its tenant in every queue, instead of nobody's.
    pub fn in_flow(mut self, flow: Flow) -> Self {
        self.flow = flow;
        self
    }

    /// Remembers where it came from.
    pub fn from(mut self, origin: Arc<Origin>) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Asks for a word to `receipt` when this batch ends.
    pub fn with_receipt(mut self, receipt: Receipt) -> Self {
        self.receipt = Some(receipt);
        self
    }

    /// The same data once more, for another exporter; counted as copied.
    pub fn copy(&self) -> Self {
        if let Some(account) = &self.account {
            account.signal(self.signal).add_copied(self.items);
        }
        Self {
            signal: self.signal,
            tenant: self.tenant.clone(),
            items: self.items,
            size: self.size,
            bytes: self.bytes.clone(),
            received_at: self.received_at,
            account: self.account.clone(),
            flow: self.flow.clone(),
            opens_request: self.opens_request,
            receipt: self.receipt.clone(),
            origin: self.origin.clone(),
        }
    }

    /// The same items in several batches; together the pieces have as many.
    pub fn cut(mut self, pieces: Vec<(u64, Bytes)>) -> Vec<Self> {
        debug_assert_eq!(pieces.iter().map(|(items, _)| items).sum::<u64>(), self.items);
        let account = self.account.take();
        let piece = |(items, bytes): (u64, Bytes)| Self {
            signal: self.signal,
            tenant: self.tenant.clone(),
            items,
            size: bytes.len() as u64,
            bytes: Some(bytes),
            received_at: self.received_at,
            account: account.clone(),
            flow: self.flow.clone(),
            opens_request: self.opens_request,
            receipt: self.receipt.clone(),
            origin: self.origin.clone(),
        };
        pieces.into_iter().map(piece).collect()
    }

    /// What policy left of it: `items`, encoded in `bytes`; `None` if that is nothing.
    pub fn sampled(mut self, items: u64, bytes: Option<Bytes>) -> Option<Self> {
        let left = if bytes.is_some() { items.min(self.items) } else { 0 };
        if let Some(account) = &self.account {
            account.signal(self.signal).add_sampled_out(self.items - left);
        }
        self.items = left;
        match bytes {
            Some(bytes) => {
                (self.size, self.bytes) = (bytes.len() as u64, Some(bytes));
                Some(self)
            }
            None => {
                self.account = None;
                None
            }
        }
    }

    /// The signal of all items.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// The tenant all items belong to; past the cap of labels still the real one.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Whose line it stands in.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// How many spans, data points or log records.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Bytes of the encoded request.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The encoded request; `None` while only a log on disk has it.
    pub fn bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// As [`Batch::bytes`], for what no log has had yet: empty otherwise.
    pub fn encoded(&self) -> Bytes {
        self.bytes.clone().unwrap_or_default()
    }

    /// Where it came from, if that was noted.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// Lets go of the encoded request, and of what only the log needs to know: the log has it.
    pub fn put_down(&mut self) {
        (self.bytes, self.origin) = (None, None);
    }

    /// Has the encoded request again.
    pub fn take_up(&mut self, bytes: Bytes) {
        self.bytes = Some(bytes);
    }

    /// Takes a batch apart that a log on disk has; [`Batch::joined`] puts it together again, without its
    /// bytes. Whoever has the parts owns it.
    pub fn parted(mut self) -> (Owner, Numbers) {
        let Self { signal, items, size, received_at, opens_request, .. } = self;
        debug_assert!(!self.is_awaited(), "nobody waits for what is on disk");
        let (tenant, account, flow) = (self.tenant.clone(), self.account.take(), self.flow.clone());
        (Owner { signal, tenant, account, flow }, Numbers { items, size, received_at, opens_request })
    }

    /// What [`Batch::parted`] took apart.
    pub fn joined(owner: &Owner, numbers: Numbers) -> Self {
        let Owner { signal, tenant, account, flow } = owner.clone();
        let Numbers { items, size, received_at, opens_request } = numbers;
        let (bytes, receipt, origin) = (None, None, None);
        Self {
            signal,
            tenant,
            items,
            size,
            bytes,
            received_at,
            account,
            flow,
            opens_request,
            receipt,
            origin,
        }
    }

    /// When the pipeline made it.
    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// A queue takes this batch; [`Batch::leave_queue`] undoes it in the books.
    pub fn enter_queue(&self) {
        if let Some(account) = &self.account {
            account.signal(self.signal).enter_queue(self.items, self.size);
        }
    }

    /// A queue's ownership of this batch ends.
    pub fn leave_queue(&self) {
        if let Some(account) = &self.account {
            account.signal(self.signal).leave_queue(self.items, self.size);
        }
    }

    /// A destination took it, all but `rejected` items (partial success).
    pub fn sent(mut self, rejected: u64) {
        let rejected = rejected.min(self.items);
        if let Some(account) = self.account.take() {
            account.signal(self.signal).add_sent(self.items - rejected);
            account.signal(self.signal).add_dropped(DroppedReason::PartialSuccess, rejected);
        }
        if let Some(receipt) = self.receipt.take() {
            receipt.tell_rejected(rejected);
        }
    }

    /// It is lost after acceptance.
    pub fn dropped(mut self, reason: DroppedReason) {
        if let Some(account) = self.account.take() {
            account.signal(self.signal).add_dropped(reason, self.items);
        }
    }

    /// The program lets go of it, and a log on disk has it for the next start.
    pub fn stored(mut self) {
        if let Some(account) = self.account.take() {
            account.signal(self.signal).add_stored(self.items);
        }
    }

    /// It was not accepted; the sender is told.
    pub fn refused(mut self, reason: RefusedReason) {
        if let Some(account) = self.account.take() {
            account.signal(self.signal).add_refused(reason, self.items);
        }
    }

    /// Sending failed and the sender, who waits for the result, is told so.
    pub fn refused_after(mut self, failure: SendFailure, reason: RefusedReason) {
        if let Some(receipt) = self.receipt.take() {
            receipt.tell_failure(failure);
        }
        self.refused(reason);
    }

    /// Whether a sender waits for the result, so that a failure is a refusal and not a loss.
    pub fn is_awaited(&self) -> bool {
        self.receipt.is_some()
    }

    /// Cancelled once the sender who waits for the result has stopped waiting.
    pub fn abandoned(&self) -> Option<&CancellationToken> {
        self.receipt.as_ref().map(|receipt| &receipt.0.abandoned)
    }

    /// When the sender who waits for the result stops waiting.
    pub fn awaited_until(&self) -> Option<Instant> {
        self.receipt.as_ref().and_then(|receipt| receipt.0.until)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(account) = self.account.take() {
            account.signal(self.signal).add_dropped(DroppedReason::Abandoned, self.items);
        }
    }
}

/// What a destination answered, for a sender who waits for the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFailure {
    /// The gRPC status code that describes it.
    pub code: i32,
    /// The destination's words.
    pub message: String,
    /// The delay the destination asked for.
    pub retry_after: Option<std::time::Duration>,
}

/// What all batches of one request came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Result {
    /// Items the destinations rejected by partial success.
    pub rejected: u64,
    /// The first failure, if any batch failed.
    pub failure: Option<SendFailure>,
}

/// Held by every batch of a request whose sender waits for the result; resolves when the last is gone.
#[derive(Debug, Clone)]
pub struct Receipt(Arc<ReceiptState>);

#[derive(Debug)]
struct ReceiptState {
    result: Mutex<Result>,
    done: Mutex<Option<oneshot::Sender<Result>>>,
    until: Option<Instant>,
    abandoned: CancellationToken,
}

impl Receipt {
    /// A receipt and where its result arrives.
    pub fn new() -> (Self, oneshot::Receiver<Result>) {
        Self::of(None)
    }

    /// As [`Receipt::new`], for a sender who stops waiting at `deadline`: retries end there.
    pub fn until(deadline: Instant) -> (Self, oneshot::Receiver<Result>) {
        Self::of(Some(deadline))
    }

    fn of(until: Option<Instant>) -> (Self, oneshot::Receiver<Result>) {
        let (sender, receiver) = oneshot::channel();
        let (result, done) = (Mutex::default(), Mutex::new(Some(sender)));
        let state = ReceiptState { result, done, until, abandoned: CancellationToken::new() };
        (Self(Arc::new(state)), receiver)
    }

    /// To be held by whoever waits: once it is dropped, nobody does.
    pub fn waiting(&self) -> DropGuard {
        self.0.abandoned.clone().drop_guard()
    }

    fn tell_rejected(&self, rejected: u64) {
        lock(&self.0.result).rejected += rejected;
    }

    fn tell_failure(&self, failure: SendFailure) {
        lock(&self.0.result).failure.get_or_insert(failure);
    }
}

impl Drop for ReceiptState {
    fn drop(&mut self) {
        if let Some(done) = lock(&self.done).take() {
            // The sender may have gone away; then nobody wants to know.
            let _gone = done.send(lock(&self.result).clone());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(account: &Arc<Account>) -> Batch {
        account.signal(Signal::Traces).add_received(3);
        Batch::new(Signal::Traces, account.label().clone(), account.clone(), (3, Bytes::from_static(b"abc")))
    }

    #[test]
    fn every_end_is_counted_once() {
        let account = Account::detached(TenantId::unattributed());
        batch(&account).sent(1);
        batch(&account).dropped(DroppedReason::Permanent);
        batch(&account).refused(RefusedReason::QueueFull);
        batch(&account).copy().sent(0);
        let books = account.signal(Signal::Traces).read();
        assert!(books.balanced(), "{books:?}");
        assert_eq!((books.sent, books.copied), (5, 3));
        assert_eq!(books.dropped[DroppedReason::Abandoned as usize], 3);
    }

    #[tokio::test]
    async fn a_receipt_resolves_when_the_last_batch_ended() {
        let account = Account::detached(TenantId::unattributed());
        let (receipt, result) = Receipt::new();
        let first = batch(&account).with_receipt(receipt.clone());
        let second = batch(&account).with_receipt(receipt);
        let failure = SendFailure { code: 14, message: "down".into(), retry_after: None };
        first.refused_after(failure.clone(), RefusedReason::Destination);
        second.sent(2);
        assert_eq!(result.await, Ok(Result { rejected: 2, failure: Some(failure) }));
    }
}

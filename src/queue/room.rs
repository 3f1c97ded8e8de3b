//! How much a queue holds and may hold, and when there may be room again. No locks.

use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Batch;
pub use crate::config::exporter::Sizer;

/// What batches come to, in all units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Requests of clients, however many tenants they have data of.
    pub requests: u64,
    /// Batches: one for each tenant of a request.
    pub batches: u64,
    /// Spans, data points, log records.
    pub items: u64,
    /// Encoded bytes.
    pub bytes: u64,
}

impl Size {
    /// The size of one batch.
    pub fn one(batch: &Batch) -> Self {
        Self {
            requests: u64::from(batch.opens_request()),
            batches: 1,
            items: batch.items(),
            bytes: batch.size(),
        }
    }

    /// The size of several.
    pub fn of(batches: &[Batch]) -> Self {
        batches.iter().map(Self::one).sum()
    }

    /// In the unit of a sizer.
    pub fn by(&self, sizer: Sizer) -> u64 {
        match sizer {
            Sizer::Requests => self.requests,
            Sizer::Items => self.items,
            Sizer::Bytes => self.bytes,
        }
    }

    /// Whether it is at most `other`, in every unit.
    pub fn is_within(&self, other: &Size) -> bool {
        self.requests <= other.requests
            && self.batches <= other.batches
            && self.items <= other.items
            && self.bytes <= other.bytes
    }
}

impl std::ops::Add for Size {
    type Output = Size;
    fn add(self, other: Size) -> Size {
        Size {
            requests: self.requests + other.requests,
            batches: self.batches + other.batches,
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Size) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Size {
    fn sub_assign(&mut self, other: Size) {
        self.requests -= other.requests;
        self.batches -= other.batches;
        self.items -= other.items;
        self.bytes -= other.bytes;
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Size>>(sizes: I) -> Size {
        sizes.fold(Size::default(), std::ops::Add::add)
    }
}

/// What a queue may hold; all bounds always apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The unit of `capacity`.
    pub sizer: Sizer,
    /// The configured bound, inclusive.
    pub capacity: u64,
    /// The bound in bytes that holds whatever the sizer is, inclusive.
    pub max_bytes: u64,
    /// The bound in batches that holds whatever the sizer is, inclusive: each costs memory even when its
    /// bytes are on disk.
    pub max_batches: u64,
}

impl Bounds {
    /// A part of both bounds; at least one request, where requests are counted.
    pub(super) fn share(&self, share: f64) -> Self {
        // Every bound in use is far below 2^53.
        let part = |bound: u64| if share >= 1.0 { bound } else { (bound as f64 * share) as u64 };
        let least = u64::from(self.sizer == Sizer::Requests);
        Self {
            sizer: self.sizer,
            capacity: part(self.capacity).max(least),
            max_bytes: part(self.max_bytes),
            max_batches: part(self.max_batches).max(1),
        }
    }
}

/// Why a queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// What is not guaranteed to others is in use, or the queue is closed.
    Full,
    /// A tenant of the request has its share of the queue already.
    Share,
}

/// A queue has no room: refuse the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", match cause {
    Cause::Full => "sending queue is full",
    Cause::Share => "the tenant's share of the sending queue is used up",
})]
pub struct QueueFull {
    /// Who has to wait: everybody, or the tenant.
    pub cause: Cause,
    /// When there may be room, going by how fast the queue empties: 1 to 30 s, scattered by a quarter so
    /// that clients do not come back together.
    pub retry_after: Duration,
    /// The request is larger than the queue, or its tenant's share of it, could ever be; it must not be tried again.
    pub never_fits: bool,
}

/// Retry-After of HTTP has whole seconds.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// A client that waits longer has lost its data by then.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// With nothing sent lately there is nothing to go by.
const UNKNOWN_WAIT: Duration = Duration::from_secs(5);
/// Over which the speed is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// The room of one queue.
#[derive(Debug)]
pub(super) struct Room {
    bounds: Bounds,
    used: Size,
    window_start: Instant,
    window_bytes: u64,
    bytes_per_second: f64,
}

impl Room {
    pub(super) fn new(bounds: Bounds) -> Self {
        let window_start = Instant::now();
        Self { bounds, used: Size::default(), window_start, window_bytes: 0, bytes_per_second: 0.0 }
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Changes what fits from now on; what is there stays.
    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(super) fn set_max_bytes(&mut self, max_bytes: u64) {
        self.bounds.max_bytes = max_bytes;
    }

    pub(super) fn used(&self) -> &Size {
        &self.used
    }

    pub(super) fn is_within_bounds(&self, size: &Size) -> bool {
        let Bounds { sizer, capacity, max_bytes, max_batches } = self.bounds;
        size.by(sizer) <= capacity && size.bytes <= max_bytes && size.batches <= max_batches
    }

    pub(super) fn take(&mut self, size: &Size) {
        self.used += *size;
    }

    /// Takes a [`Room::take`] back, as if it had not been.
    pub(super) fn undo(&mut self, size: &Size) {
        self.used -= *size;
    }

    /// What was reserved turned out to be less.
    pub(super) fn replace(&mut self, reserved: &Size, actual: &Size) {
        self.used -= *reserved;
        self.used += *actual;
    }

    pub(super) fn give_back(&mut self, size: &Size, now: Instant) {
        self.used -= *size;
        self.window_bytes += size.bytes;
        let elapsed = now - self.window_start;
        if elapsed >= WINDOW {
            let latest = self.window_bytes as f64 / elapsed.as_secs_f64();
            self.bytes_per_second = (self.bytes_per_second + latest) / 2.0;
            (self.window_start, self.window_bytes) = (now, 0);
        }
    }

    /// What a request is told that finds everything in use.
    pub(super) fn refusal(&self, size: &Size, now: Instant) -> QueueFull {
        QueueFull {
            cause: Cause::Full,
            retry_after: scattered(self.wait(size, now)),
            never_fits: !self.is_within_bounds(size),
        }
    }

    /// What a tenant is told that has its share: `bytes` have to go at its `part` of the speed.
    pub(super) fn share_refusal(&self, (bytes, part): (u64, f64), now: Instant) -> QueueFull {
        let speed = self.speed(now).map(|speed| speed * part).filter(|speed| *speed >= 1.0);
        let wait = speed.map_or(UNKNOWN_WAIT, |speed| at_speed(bytes as f64, speed));
        QueueFull { cause: Cause::Share, retry_after: scattered(wait), never_fits: false }
    }

    /// The share of the queue that has to go, at the speed at which it goes.
    fn wait(&self, size: &Size, now: Instant) -> Duration {
        let asked = self.used + *size;
        let share = |asked: u64, bound: u64, used: u64| match used {
            0 => 0.0,
            _ => asked.saturating_sub(bound) as f64 / used as f64,
        };
        let sizer = self.bounds.sizer;
        let units = share(asked.by(sizer), self.bounds.capacity, self.used.by(sizer));
        let bytes = share(asked.bytes, self.bounds.max_bytes, self.used.bytes);
        let batches = share(asked.batches, self.bounds.max_batches, self.used.batches);
        let share = units.max(bytes).max(batches);
        self.speed(now).map_or(UNKNOWN_WAIT, |speed| at_speed(share * self.used.bytes as f64, speed))
    }

    /// Bytes a second, if anything was sent lately.
    fn speed(&self, now: Instant) -> Option<f64> {
        let is_stale = now.saturating_duration_since(self.window_start) > LONGEST_WAIT;
        (!is_stale && self.bytes_per_second >= 1.0).then_some(self.bytes_per_second)
    }
}

fn at_speed(bytes: f64, speed: f64) -> Duration {
    Duration::from_secs_f64((bytes / speed).min(LONGEST_WAIT.as_secs_f64())).max(SHORTEST_WAIT)
}

fn scattered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + 0.5 * fastrand::f64()).clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

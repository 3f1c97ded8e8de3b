//! How much of one tenant's data may come in: token buckets by dimension, and bytes in flight.
//!
//! ```text
//! refill all buckets -> does each have what is asked? --all--> take from each
//!                                                      `one lacks--> take nothing, say how long
//! ```
//!
//! Rates and bursts are arguments, the fill is state: it outlives a reload of the policies and is clamped
//! to the new burst. Not here: whose meter it is (`meters`), what a request is charged (`admission`).
//! Invariant: a charge is taken from every dimension or from none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::otlp::Signal;
use crate::policies::Limits;
use crate::table::Idle;

/// The shortest and the longest delay a client is told, before jitter.
const DELAY: (f64, f64) = (1.0, 60.0);
/// How often a client near its limit is told so.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// The share of the burst below which a client is near its limit.
const NEAR: f64 = 0.1;

/// Who is not refused for this long, and for its burst, is no longer over its limit: clients that are come
/// back sooner, because the shortest delay they are told is half of it with jitter.
const QUIET: Duration = Duration::from_secs(2);

/// What one request costs its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// 1, or 0 where the request itself was charged before.
    pub requests: u64,
    /// Estimated bytes of the decoded request.
    pub bytes: u64,
    /// What the items are.
    pub signal: Signal,
    /// How many.
    pub items: u64,
}

/// Why a charge was not taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Over {
    /// There will be enough after this time.
    Now {
        /// The limit.
        limit: &'static str,
        /// 1 to 60 seconds.
        delay: Duration,
    },
    /// The tenant has been over its limit for longer than `sustained`.
    Sustained {
        /// The limit.
        limit: &'static str,
    },
    /// More than the limit ever lets through at once.
    Never {
        /// The limit.
        limit: &'static str,
        /// What it lets through at once.
        most: u64,
    },
}

/// What a charge that was taken leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Enough.
    Enough,
    /// Less than a tenth of some burst; said at most once a minute.
    Little {
        /// The limit.
        limit: &'static str,
    },
}

/// The fill of one tenant's buckets.
#[derive(Debug, Default)]
pub struct Meter {
    buckets: Mutex<Buckets>,
    in_flight: AtomicU64,
}

#[derive(Debug, Default)]
struct Buckets {
    requests: Bucket,
    bytes: Bucket,
    items: [Bucket; 3],
    warned: Option<Instant>,
}

/// One token bucket; full as long as nothing was taken.
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    state: Option<Fill>,
    over: Option<OverSince>,
}

/// Charges are not taken, time and again.
#[derive(Debug, Clone, Copy)]
struct OverSince {
    first: Instant,
    last: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Fill {
    tokens: f64,
    at: Instant,
    /// Per second and at most, as of the last charge.
    rate: f64,
    capacity: f64,
}

impl Bucket {
    /// Refills to `now`; the tokens there are and the most there can be.
    fn refill(&mut self, rate: f64, burst: Duration, now: Instant) -> (f64, f64) {
        // A whole item must fit, however slow the rate.
        let capacity = (rate * burst.as_secs_f64()).max(1.0);
        let tokens = self.state.map_or(capacity, |fill| {
            let passed = now.saturating_duration_since(fill.at).as_secs_f64();
            (fill.tokens + passed * rate).min(capacity)
        });
        let quiet = burst.max(QUIET);
        self.over = self.over.filter(|over| now.saturating_duration_since(over.last) <= quiet);
        self.state = Some(Fill { tokens, at: now, rate, capacity });
        (tokens, capacity)
    }

    fn take(&mut self, amount: f64) -> f64 {
        self.state.as_mut().map_or(0.0, |fill| {
            fill.tokens -= amount;
            fill.tokens
        })
    }

    fn is_full(&self, now: Instant) -> bool {
        self.state.is_none_or(|fill| {
            let passed = now.saturating_duration_since(fill.at).as_secs_f64();
            fill.tokens + passed * fill.rate >= fill.capacity
        })
    }
}

/// One dimension of a charge.
struct Ask<'b> {
    bucket: &'b mut Bucket,
    limit: &'static str,
    rate: f64,
    amount: f64,
}

impl Ask<'_> {
    fn check(&mut self, limits: &Limits, now: Instant) -> Result<(), Over> {
        let (tokens, capacity) = self.bucket.refill(self.rate, limits.burst, now);
        let limit = self.limit;
        if self.amount > capacity {
            return Err(Over::Never { limit, most: capacity as u64 });
        }
        // Sums of refills may miss a whole token by a rounding.
        if self.amount <= tokens + 1e-6 {
            return Ok(());
        }
        let over = self.bucket.over.get_or_insert(OverSince { first: now, last: now });
        over.last = now;
        if !limits.sustained.is_zero() && now.saturating_duration_since(over.first) >= limits.sustained {
            return Err(Over::Sustained { limit });
        }
        let seconds = (self.amount - tokens) / self.rate;
        Err(Over::Now { limit, delay: Duration::from_secs_f64(seconds.clamp(DELAY.0, DELAY.1)) })
    }
}

impl Buckets {
    fn asks(&mut self, limits: &Limits, charge: &Charge) -> impl Iterator<Item = Ask<'_>> + use<'_> {
        let items_limit = match charge.signal {
            Signal::Traces => "spans_per_second",
            Signal::Metrics => "data_points_per_second",
            Signal::Logs => "log_records_per_second",
        };
        let of_items = limits.items_per_second[charge.signal];
        let dimensions = [
            (&mut self.requests, "requests_per_second", limits.requests_per_second, charge.requests),
            (&mut self.bytes, "bytes_per_second", limits.bytes_per_second, charge.bytes),
            (&mut self.items[charge.signal as usize], items_limit, of_items, charge.items),
        ];
        dimensions.into_iter().filter_map(|(bucket, limit, rate, amount)| {
            (amount > 0).then_some(Ask { bucket, limit, rate: rate?, amount: amount as f64 })
        })
    }
}

impl Meter {
    /// Takes a charge from every bucket that has a limit, or from none.
    ///
    /// # Errors
    /// [`Over`]: the worst of what the dimensions say.
    pub fn charge(&self, limits: &Limits, charge: &Charge, now: Instant) -> Result<Left, Over> {
        let mut buckets = self.lock();
        let mut worst = None;
        for mut ask in buckets.asks(limits, charge) {
            if let Err(over) = ask.check(limits, now) {
                worst = Some(worst.map_or(over, |before| worse(before, over)));
            }
        }
        if let Some(over) = worst {
            return Err(over);
        }
        let mut little = None;
        for ask in buckets.asks(limits, charge) {
            let left = ask.bucket.take(ask.amount);
            if left < NEAR * ask.bucket.state.map_or(0.0, |fill| fill.capacity) {
                little = Some(ask.limit);
            }
        }
        match little {
            Some(limit) if buckets.warned.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) => {
                buckets.warned = Some(now);
                Ok(Left::Little { limit })
            }
            _ => Ok(Left::Enough),
        }
    }

    /// Gives a charge back, because nothing of the request was kept.
    pub fn refund(&self, limits: &Limits, charge: &Charge) {
        let mut buckets = self.lock();
        for ask in buckets.asks(limits, charge) {
            if let Some(fill) = &mut ask.bucket.state {
                fill.tokens = (fill.tokens + ask.amount).min(fill.capacity);
            }
        }
    }

    /// Counts bytes as in flight until the result is let go.
    ///
    /// # Errors
    /// [`Over`], with the shortest delay: how long the bytes before stay in flight is not known.
    pub fn hold(self: &Arc<Self>, limits: &Limits, bytes: u64) -> Result<InFlight, Over> {
        let held = InFlight { meter: self.clone(), bytes: AtomicU64::new(0) };
        held.resize(limits, bytes)?;
        Ok(held)
    }

    /// What is left in the buckets that were charged, by the name of their limit.
    pub fn fills(&self, now: Instant) -> Vec<(&'static str, f64)> {
        let buckets = self.lock();
        let [spans, data_points, log_records] = &buckets.items;
        let named = [
            ("requests_per_second", &buckets.requests),
            ("bytes_per_second", &buckets.bytes),
            ("spans_per_second", spans),
            ("data_points_per_second", data_points),
            ("log_records_per_second", log_records),
        ];
        let left = |fill: &Fill| {
            let passed = now.saturating_duration_since(fill.at).as_secs_f64();
            (fill.tokens + passed * fill.rate).min(fill.capacity)
        };
        named.into_iter().filter_map(|(limit, bucket)| Some((limit, left(bucket.state.as_ref()?)))).collect()
    }

    /// Bytes in flight now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Once all buckets are full and nothing is in flight.
impl Idle for Meter {
    fn is_idle(&self, now: Instant) -> bool {
        let buckets = self.lock();
        let mut all = [&buckets.requests, &buckets.bytes].into_iter().chain(&buckets.items);
        all.all(|bucket| bucket.is_full(now)) && self.in_flight() == 0
    }
}

/// Bytes of a request that count as in flight while this lives.
#[derive(Debug)]
pub struct InFlight {
    meter: Arc<Meter>,
    bytes: AtomicU64,
}

impl InFlight {
    /// Changes how many bytes are held, when more is known of them.
    ///
    /// # Errors
    /// [`Over`]; what was held stays held.
    pub fn resize(&self, limits: &Limits, bytes: u64) -> Result<(), Over> {
        let before = self.bytes.load(Ordering::Relaxed);
        let limit = "max_in_flight_bytes";
        let most = limits.max_in_flight_bytes.unwrap_or(u64::MAX);
        if bytes > most {
            return Err(Over::Never { limit, most });
        }
        let change = |now: u64| {
            let after = now - before.min(now) + bytes;
            (after <= most || bytes <= before).then_some(after)
        };
        let changed = self.meter.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        if changed.is_err() {
            return Err(Over::Now { limit, delay: Duration::from_secs_f64(DELAY.0) });
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.meter.in_flight.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A delay with up to half of it more or less, so that clients do not come back together; `random` is
/// from 0 to 1.
pub fn with_jitter(delay: Duration, random: f64) -> Duration {
    delay.mul_f64(0.5 + random)
}

/// What cannot be cured by waiting outweighs what can, a longer wait a shorter one.
fn worse(a: Over, b: Over) -> Over {
    let rank = |over: &Over| match over {
        Over::Now { .. } => 0,
        Over::Sustained { .. } => 1,
        Over::Never { .. } => 2,
    };
    match (&a, &b) {
        (Over::Now { delay: first, .. }, Over::Now { delay: second, .. }) if second > first => b,
        _ if rank(&b) > rank(&a) => b,
        _ => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::PerSignal;

    fn limits(spans: f64) -> Limits {
        let items_per_second = PerSignal::from_fn(|signal| (signal == Signal::Traces).then_some(spans));
        Limits { items_per_second, ..Limits::default() }
    }

    fn spans(items: u64) -> Charge {
        Charge { requests: 1, bytes: 1000, signal: Signal::Traces, items }
    }

    fn seconds(delay: u64) -> Duration {
        Duration::from_secs(delay)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (meter, limits, start) = (Meter::default(), limits(100.0), Instant::now());
        assert!(meter.charge(&limits, &spans(200), start).is_ok());
        let over = Over::Now { limit: "spans_per_second", delay: seconds(1) };
        assert_eq!(meter.charge(&limits, &spans(1), start), Err(over));
        let mut taken = 0;
        for tick in 1..=1000 {
            let now = start + Duration::from_millis(10 * tick);
            taken += u64::from(meter.charge(&limits, &spans(1), now).is_ok());
        }
        assert_eq!(taken, 1000);
    }

    #[test]
    fn the_delay_is_what_the_deficit_takes_within_bounds() {
        let check = |rate: f64, amount: u64, expected: u64| {
            let (meter, start) = (Meter::default(), Instant::now());
            let limits = Limits { burst: seconds(60), ..limits(rate) };
            meter.charge(&limits, &spans((rate * 60.0) as u64), start).unwrap();
            let over = Over::Now { limit: "spans_per_second", delay: seconds(expected) };
            assert_eq!(meter.charge(&limits, &spans(amount), start), Err(over), "{rate} {amount}");
        };
        check(10.0, 1, 1);
        check(10.0, 50, 5);
        check(10.0, 600, 60);
        assert_eq!(with_jitter(seconds(10), 0.0), seconds(5));
        assert_eq!(with_jitter(seconds(10), 1.0), seconds(15));
    }

    #[test]
    fn what_exceeds_the_burst_can_never_pass_and_a_slow_rate_still_lets_one_by() {
        let (meter, start) = (Meter::default(), Instant::now());
        let never = Over::Never { limit: "spans_per_second", most: 200 };
        assert_eq!(meter.charge(&limits(100.0), &spans(201), start), Err(never));
        let slow = Limits { requests_per_second: Some(0.1), ..Limits::default() };
        assert!(meter.charge(&slow, &spans(5), start).is_ok());
        let over = Over::Now { limit: "requests_per_second", delay: seconds(10) };
        assert_eq!(meter.charge(&slow, &spans(5), start), Err(over));
    }

    #[test]
    fn all_dimensions_are_charged_or_none() {
        let (meter, start) = (Meter::default(), Instant::now());
        let limits = Limits { requests_per_second: Some(10.0), ..limits(10.0) };
        meter.charge(&limits, &spans(20), start).unwrap();
        for _ in 0..100 {
            assert!(meter.charge(&limits, &spans(1), start).is_err());
        }
        let logs = Charge { signal: Signal::Logs, ..spans(1) };
        for _ in 0..19 {
            assert!(meter.charge(&limits, &logs, start).is_ok(), "refused requests cost nothing");
        }
        assert!(meter.charge(&limits, &logs, start).is_err());
    }

    #[test]
    fn who_stays_over_its_limit_is_refused_for_good_until_it_was_below() {
        let (meter, start) = (Meter::default(), Instant::now());
        let limits = Limits { sustained: seconds(10), ..limits(100.0) };
        let mut last = Ok(Left::Enough);
        for tick in 0..300 {
            last = meter.charge(&limits, &spans(20), start + Duration::from_millis(50 * tick));
        }
        assert_eq!(last, Err(Over::Sustained { limit: "spans_per_second" }));
        let later = start + seconds(15 + 3);
        assert!(meter.charge(&limits, &spans(200), later).is_ok());
        let over = meter.charge(&limits, &spans(20), later);
        assert!(matches!(over, Err(Over::Now { .. })), "{over:?}");
    }

    #[test]
    fn the_fill_outlives_a_change_of_the_limits() {
        let (meter, start) = (Meter::default(), Instant::now());
        meter.charge(&limits(100.0), &spans(150), start).unwrap();
        assert!(meter.charge(&limits(1000.0), &spans(51), start).is_err(), "50 are left");
        assert!(meter.charge(&limits(10.0), &spans(21), start).is_err(), "clamped to 20");
        assert!(meter.charge(&limits(10.0), &spans(20), start).is_ok());
    }

    #[test]
    fn a_tenant_near_its_limit_is_warned_once_a_minute() {
        let (meter, limits, start) = (Meter::default(), limits(100.0), Instant::now());
        let at = |after: u64| meter.charge(&limits, &spans(190), start + seconds(after));
        let little = Left::Little { limit: "spans_per_second" };
        assert_eq!(
            [at(0), at(10), at(59), at(60)],
            [
                Ok(little),
                Ok(Left::Enough),
                Ok(Left::Enough),
                Err(Over::Now { limit: "spans_per_second", delay: seconds(1) })
            ]
        );
        assert_eq!(at(70), Ok(little));
    }

    #[test]
    fn bytes_in_flight_are_held_as_long_as_the_permit_lives() {
        let meter = Arc::new(Meter::default());
        let limits = Limits { max_in_flight_bytes: Some(100), ..Limits::default() };
        let first = meter.hold(&limits, 60).unwrap();
        assert!(matches!(meter.hold(&limits, 60), Err(Over::Now { .. })));
        assert!(matches!(meter.hold(&limits, 101), Err(Over::Never { .. })));
        first.resize(&limits, 40).unwrap();
        let second = meter.hold(&limits, 60).unwrap();
        assert!(first.resize(&limits, 41).is_err());
        assert_eq!(meter.in_flight(), 100);
        drop((first, second));
        assert!(meter.is_idle(Instant::now()));
    }
}

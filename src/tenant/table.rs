//! Which tenants are told apart: a bounded table that outlives revisions of the policies.
//!
//! ```text
//! listed by exact id ──────────────▶ configured: as many as are listed, never given up
//! others, proven ──room?──▶ dynamic: at most `max_dynamic`, made at a limited rate
//!                   └─ no ─▶ _overflow: 16 lines by hash ──every minute, the busiest──▶ dynamic
//! others, not proven ──────▶ _overflow                    ◀──idle, when others need the place──┘
//! ```
//!
//! A tenant that is told apart has a line in every queue and an account of its own. Not here: what a line
//! may have (`policies`, `queue`). Invariant: no place is held for good by who was merely first: each
//! minute busier tenants take the places of quieter ones whose queues are empty and whose buckets are full,
//! so nothing is forgotten that matters.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::busiest::Busiest;
use super::meters::Meters;
use crate::flow::{Board, Flow, Share};
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::outcome::{Account, Ledger};
use crate::policies::Plan;
use crate::table::Idle;

/// How many lines those share who have none of their own: one that is bad leaves fifteen.
const OVERFLOW_LINES: usize = 16;
/// How often places change hands.
const TURN: Duration = Duration::from_secs(60);
/// Who takes a place must be this many times as busy as who had it, or places would go to and fro.
const BUSIER: u64 = 2;
/// How many requests of who shares are counted together at most.
const STEP: u64 = 16;

/// Where a tenant stands in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Listed in the policies by its exact id.
    Configured,
    /// Told apart while there is room.
    Dynamic,
    /// One of those who share.
    Overflow,
}

impl Class {
    /// The class as people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Configured => "configured",
            Class::Dynamic => "dynamic",
            Class::Overflow => "_overflow",
        }
    }
}

/// A tenant's place; clones are the same place.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Where its items are counted.
    pub account: Arc<Account>,
    /// Its line in the queues.
    pub flow: Flow,
    /// Why it has this place.
    pub class: Class,
    /// The turn in which it was given; those who share ask again in the next.
    turn: u64,
    state: Arc<SeatState>,
}

#[derive(Debug, Default)]
struct SeatState {
    requests: AtomicU64,
    given_up: AtomicBool,
}

/// The table.
#[derive(Debug)]
pub struct Tenants {
    ledger: Arc<Ledger>,
    board: Arc<Board>,
    meters: Meters,
    overflow: [Flow; OVERFLOW_LINES],
    turn: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Arc<Plan>,
    max_dynamic: usize,
    dynamic: usize,
    seats: HashMap<TenantId, Seat>,
    busiest: Busiest,
    turn_began: Instant,
    /// Dynamic tenants that may be made now; grows to a quarter of the table in a turn.
    allowance: f64,
    allowed_at: Instant,
}

impl Tenants {
    /// An empty table that tells at most `max_dynamic` tenants apart that are not listed in `plan`.
    pub fn new(ledger: &Arc<Ledger>, plan: &Arc<Plan>, max_dynamic: usize) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            plan: plan.clone(),
            max_dynamic,
            dynamic: 0,
            seats: HashMap::new(),
            busiest: Busiest::default(),
            turn_began: now,
            allowance: State::burst(max_dynamic),
            allowed_at: now,
        };
        let tenants = Self {
            ledger: ledger.clone(),
            board: Arc::default(),
            meters: Meters::default(),
            overflow: std::array::from_fn(|_| Flow::new(TenantId::overflow(), Share::DEFAULT)),
            turn: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        tenants.adopt(plan);
        Arc::new(tenants)
    }

    /// What tenants have used of their limits.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// What tells queues that shares changed.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The account of a tenant whose data no `tenant` processor looked at.
    pub(super) fn account(&self, id: &TenantId) -> Arc<Account> {
        self.ledger.account(id)
    }

    /// Changes how many tenants are told apart that are not listed; those beyond leave when they are idle.
    pub fn set_max_dynamic(&self, max_dynamic: usize) {
        let mut state = self.state();
        state.max_dynamic = max_dynamic;
        state.allowance = state.allowance.min(State::burst(max_dynamic));
    }

    /// Puts a plan in force: who is listed, and what each may have.
    pub fn adopt(&self, plan: &Arc<Plan>) {
        let mut state = self.state();
        state.plan = plan.clone();
        let mut dynamic = 0;
        for (id, seat) in &mut state.seats {
            seat.class = class(plan, id);
            seat.flow.set_share(plan.share(id.as_str()));
            dynamic += usize::from(seat.class == Class::Dynamic);
        }
        state.dynamic = dynamic;
        let shared = plan.share(TenantId::overflow().as_str());
        self.overflow.iter().for_each(|flow| flow.set_share(shared));
        self.board.publish(plan.guaranteed_bytes());
        self.count(&state);
        drop(state);
        // Whoever shares may be listed now.
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// The place of a tenant. One whose id is not `proven` is told apart only if it is listed.
    pub fn seat(&self, id: &TenantId, proven: bool) -> Seat {
        self.seat_at(id, proven, Instant::now())
    }

    fn seat_at(&self, id: &TenantId, proven: bool, now: Instant) -> Seat {
        let mut state = self.state();
        if let Some(seat) = state.seats.get(id) {
            seat.state.requests.fetch_add(1, Ordering::Relaxed);
            return seat.clone();
        }
        match class(&state.plan, id) {
            _ if id.as_str().starts_with('_') => self.shared(id),
            Class::Configured => self.give(&mut state, id),
            _ if proven && state.dynamic < state.max_dynamic && state.allows(now) => {
                state.allowance -= 1.0;
                self.give(&mut state, id)
            }
            _ => {
                if proven {
                    state.busiest.count(id, 1);
                }
                self.turn_over(&mut state, now);
                self.count(&state);
                state.seats.get(id).cloned().unwrap_or_else(|| self.shared(id))
            }
        }
    }

    /// The place of a tenant whose data was on disk when the program started: told apart while there is
    /// room, however many come at once.
    pub fn seat_of_stored(&self, id: &TenantId) -> Seat {
        let mut state = self.state();
        if let Some(seat) = state.seats.get(id) {
            return seat.clone();
        }
        let is_own = id.as_str().starts_with('_');
        let has_room = class(&state.plan, id) == Class::Configured || state.dynamic < state.max_dynamic;
        let seat = if has_room && !is_own { self.give(&mut state, id) } else { self.shared(id) };
        self.count(&state);
        seat
    }

    /// Whether a place still is the tenant's; counts a request if it is.
    pub fn is_current(&self, id: &TenantId, seat: &Seat, proven: bool) -> bool {
        let requests = seat.state.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if seat.class == Class::Overflow {
            // Unless places changed hands, asking again changes nothing; it is counted all the same.
            return seat.turn == self.turn.load(Ordering::Acquire) && !self.noted((id, requests), proven);
        }
        !seat.state.given_up.load(Ordering::Relaxed)
    }

    /// Counts the requests of who shares, of which this is number `requests` since it has its place; whether a
    /// new turn began with it.
    fn noted(&self, (id, requests): (&TenantId, u64), proven: bool) -> bool {
        let told = told_with(requests);
        if told == 0 || !proven || id.as_str().starts_with('_') {
            return false;
        }
        let mut state = self.state();
        state.busiest.count(id, told);
        self.turn_over(&mut state, Instant::now())
    }

    fn give(&self, state: &mut State, id: &TenantId) -> Seat {
        let class = class(&state.plan, id);
        let seat = Seat {
            account: self.ledger.account(id),
            flow: Flow::new(id.clone(), state.plan.share(id.as_str())),
            class,
            turn: self.turn.load(Ordering::Acquire),
            state: Arc::default(),
        };
        state.dynamic += usize::from(class == Class::Dynamic);
        state.seats.insert(id.clone(), seat.clone());
        self.count(state);
        seat
    }

    fn shared(&self, id: &TenantId) -> Seat {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        Seat {
            account: self.ledger.overflow().clone(),
            flow: self.overflow[hasher.finish() as usize % OVERFLOW_LINES].clone(),
            class: Class::Overflow,
            turn: self.turn.load(Ordering::Acquire),
            state: Arc::default(),
        }
    }

    /// Once a minute the busiest of those who share take free places, then those of idler tenants.
    fn turn_over(&self, state: &mut State, now: Instant) -> bool {
        if now.saturating_duration_since(state.turn_began) < TURN {
            return false;
        }
        state.turn_began = now;
        let mut idlest = state.idlest(&self.meters, now);
        for (id, requests) in state.busiest.take() {
            if state.seats.contains_key(&id) {
                continue;
            }
            if state.dynamic >= state.max_dynamic {
                let yields = idlest.pop().filter(|(seen, _)| seen.saturating_mul(BUSIER) < requests);
                let Some((_, id)) = yields else { break };
                self.take_away(state, &id);
            }
            if state.dynamic < state.max_dynamic {
                self.give(state, &id);
            }
        }
        while state.dynamic > state.max_dynamic {
            let Some((_, id)) = idlest.pop() else { break };
            self.take_away(state, &id);
        }
        state.seats.values().for_each(|seat| seat.state.requests.store(0, Ordering::Relaxed));
        self.turn.fetch_add(1, Ordering::Release);
        true
    }

    fn take_away(&self, state: &mut State, id: &TenantId) {
        if let Some(seat) = state.seats.remove(id) {
            seat.state.given_up.store(true, Ordering::Relaxed);
            state.dynamic -= 1;
            drop(seat);
            self.ledger.close(id);
        }
    }

    fn count(&self, state: &State) {
        let census = &self.ledger.census;
        let configured = state.seats.len() - state.dynamic;
        census.configured.store(configured as u64, Ordering::Relaxed);
        census.dynamic.store(state.dynamic as u64, Ordering::Relaxed);
        census.overflow.store(state.busiest.len() as u64, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn burst(max_dynamic: usize) -> f64 {
        max_dynamic as f64 / 4.0
    }

    /// Whether one more dynamic tenant may be made: a flood of new ids takes the table slowly.
    fn allows(&mut self, now: Instant) -> bool {
        let burst = Self::burst(self.max_dynamic).max(1.0);
        let elapsed = now.saturating_duration_since(self.allowed_at);
        self.allowed_at = now;
        let grown = burst * elapsed.as_secs_f64() / TURN.as_secs_f64();
        self.allowance = (self.allowance + grown).min(burst);
        self.allowance >= 1.0
    }

    /// Dynamic tenants with nothing in any queue and all buckets full, the idlest last, and how many requests
    /// each had.
    fn idlest(&self, meters: &Meters, now: Instant) -> Vec<(u64, TenantId)> {
        let is_idle = |(id, seat): &(&TenantId, &Seat)| {
            Signal::ALL.iter().all(|s| seat.account.signal(*s).read().queued == 0)
                && meters.find(id).is_none_or(|meter| meter.is_idle(now))
        };
        let dynamic = self.seats.iter().filter(|(_, seat)| seat.class == Class::Dynamic).filter(is_idle);
        let requests = |seat: &Seat| seat.state.requests.load(Ordering::Relaxed);
        let mut idlest: Vec<_> = dynamic.map(|(id, seat)| (requests(seat), id.clone())).collect();
        idlest.sort_by(|a, b| b.cmp(a));
        idlest
    }
}

/// How many requests of who shares are counted with its request of this number: all workers count in one
/// place, so they come there in steps that double up to [`STEP`].
fn told_with(number: u64) -> u64 {
    match number {
        1 => 1,
        _ if number.is_power_of_two() && number <= STEP => number / 2,
        _ if number.is_multiple_of(STEP) => STEP,
        _ => 0,
    }
}

/// The class of a tenant that is told apart.
fn class(plan: &Plan, id: &TenantId) -> Class {
    match plan.is_configured(id.as_str()) || *id == TenantId::unattributed() {
        true => Class::Configured,
        false => Class::Dynamic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Source;

    fn plan(tenants: &str) -> Arc<Plan> {
        let text = format!("version: 1\nrules: []\ntenants: {tenants}");
        Arc::new(crate::policies::parse(&Source::new("test", text), jiff::Timestamp::UNIX_EPOCH).unwrap().0)
    }

    fn id(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    fn table(max_dynamic: usize) -> (Arc<Tenants>, Arc<Ledger>) {
        let ledger = Arc::<Ledger>::default();
        (Tenants::new(&ledger, &plan("{ acme: { queue: { weight: 3 } } }"), max_dynamic), ledger)
    }

    #[test]
    fn listed_tenants_always_have_a_place_and_others_while_there_is_room() {
        let (tenants, ledger) = table(8);
        let now = Instant::now();
        let of = |name: &str, proven| tenants.seat_at(&id(name), proven, now).class;
        assert_eq!([of("a", true), of("b", true)], [Class::Dynamic; 2]);
        assert_eq!(of("c", true), Class::Overflow, "a quarter of the table at once");
        assert_eq!(of("d", false), Class::Overflow);
        assert_eq!([of("acme", false), of("a", true)], [Class::Configured, Class::Dynamic]);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(tenants.seat_at(&id("c"), true, later(29)).class, Class::Overflow);
        assert_eq!(tenants.seat_at(&id("c"), true, later(31)).class, Class::Dynamic);
        assert_eq!(tenants.seat_at(&id("acme"), true, now).flow.share().weight, 3);
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        assert_eq!((read(&ledger.census.configured), read(&ledger.census.dynamic)), (1, 3));
    }

    #[test]
    fn junk_ids_do_not_keep_a_real_tenant_out_beyond_a_turn() {
        let (tenants, ledger) = table(4);
        let start = Instant::now();
        for n in 0..1000 {
            // The busiest of them take the table in the first turn.
            tenants.seat_at(&id(&format!("junk-{}", n % 100)), true, start + Duration::from_millis(61 * n));
        }
        let (real, late) = (id("real"), start + Duration::from_secs(70));
        (0..20).for_each(|_| _ = tenants.seat_at(&real, true, late));
        let seat = tenants.seat_at(&real, true, late);
        assert_eq!(seat.class, Class::Overflow);
        assert!(tenants.is_current(&real, &seat, true));
        let junk: Vec<Seat> = tenants.state().seats.values().cloned().collect();
        assert_eq!(junk.len(), 4);
        let turn = late + Duration::from_secs(60);
        assert_eq!(tenants.seat_at(&real, true, turn).class, Class::Dynamic);
        assert!(!tenants.is_current(&real, &seat, true), "who holds the old place asks again");
        assert!(junk.iter().any(|seat| seat.state.given_up.load(Ordering::Relaxed)));
        assert!(ledger.accounts().iter().any(|account| *account.label() == real));
    }

    #[test]
    fn the_requests_of_who_shares_are_told_in_steps() {
        let (tenants, _) = table(4);
        tenants.set_max_dynamic(0);
        let seat = tenants.seat(&id("busy"), true);
        let told = |requests: u64| {
            (0..requests).for_each(|_| assert!(tenants.is_current(&id("busy"), &seat, true)));
            tenants.state().busiest.take().iter().map(|(_, requests)| requests).sum::<u64>()
        };
        assert_eq!(told(1), 2, "one when the place was given");
        assert_eq!([told(2), told(4), told(9), told(15), told(1)], [1, 2, 12, 0, 16]);
        assert_eq!(told(16_000), 16_000);
    }

    #[test]
    fn a_tenant_with_something_in_a_queue_keeps_its_place() {
        let (tenants, _) = table(4);
        let start = Instant::now();
        let seat = tenants.seat_at(&id("slow"), true, start);
        seat.account.signal(Signal::Logs).enter_queue(1, 100);
        tenants.set_max_dynamic(1);
        let turn = |n: u64| start + Duration::from_secs(61 * n);
        for n in 1..4 {
            (0..9).for_each(|_| _ = tenants.seat_at(&id("busy"), true, turn(n)));
            assert_eq!(tenants.seat_at(&id("slow"), true, turn(n)).class, Class::Dynamic);
        }
        seat.account.signal(Signal::Logs).leave_queue(1, 100);
        (0..9).for_each(|_| _ = tenants.seat_at(&id("busy"), true, turn(3)));
        assert_eq!(tenants.seat_at(&id("busy"), true, turn(4)).class, Class::Dynamic);
        assert_eq!(tenants.seat_at(&id("slow"), true, turn(4)).class, Class::Overflow);
    }

    #[test]
    fn a_tenant_that_owes_to_its_limits_keeps_its_place() {
        use super::super::limits::Charge;
        use super::super::meters::Metered;
        use crate::table::Known;
        let (tenants, _) = table(4);
        let start = Instant::now();
        tenants.seat_at(&id("slow"), true, start);
        tenants.set_max_dynamic(1);
        let limits = crate::policies::Limits {
            requests_per_second: Some(0.01),
            burst: Duration::from_secs(60),
            ..crate::policies::Limits::default()
        };
        let Metered::Own(meter) = tenants.meters().of(&id("slow"), &Known::default(), || start) else {
            panic!("a table with room")
        };
        let charge = Charge { requests: 1, bytes: 0, signal: Signal::Logs, items: 0 };
        meter.charge(&limits, &charge, start).unwrap();
        let turn = |n: u64| start + Duration::from_secs(61 * n);
        let busy = |n: u64| {
            (0..9).for_each(|_| _ = tenants.seat_at(&id("busy"), true, turn(n)));
            tenants.seat_at(&id("busy"), true, turn(n)).class
        };
        assert_eq!((busy(0), busy(1)), (Class::Overflow, Class::Overflow), "full again after 100 s");
        assert_eq!(busy(2), Class::Dynamic);
    }

    #[test]
    fn a_plan_that_lists_others_moves_tenants_between_the_classes() {
        let (tenants, _) = table(8);
        let seat = tenants.seat(&id("a"), true);
        let shared = tenants.seat(&id("b"), false);
        let version = tenants.board().version();
        tenants.adopt(&plan("{ a: { queue: { guaranteed_bytes: 1KiB } }, b: { queue: { weight: 7 } } }"));
        assert_eq!(tenants.board().guaranteed(), 1024);
        assert!(tenants.board().version() > version);
        assert_eq!(seat.flow.share().guaranteed_bytes, 1024, "the line stays, its share changes");
        assert!(tenants.is_current(&id("a"), &seat, true));
        assert!(!tenants.is_current(&id("b"), &shared, false));
        assert_eq!(tenants.seat(&id("b"), false).class, Class::Configured);
    }
}

//! Fairness, by simulation: the real queue, driven step by step without threads.

use super::*;
use crate::flow::{Board, Flow, Share};

const ITEM: u64 = 1024;

/// A queue whose quantum is one item, and what becomes of each tenant's items.
struct Sim {
    queue: Queue,
    account: Arc<Account>,
    board: Arc<Board>,
}

impl Sim {
    fn new(items: u64) -> Self {
        Self::with(items * ITEM, (ITEM, ITEM))
    }

    fn with(max_bytes: u64, (quantum, lease): (u64, u64)) -> Self {
        let bounds = Bounds { sizer: Sizer::Bytes, capacity: max_bytes, max_bytes, max_batches: u64::MAX };
        let metrics = ExporterMetrics::default();
        let queue = Queue::with((bounds, Wanted::up_to(lease)), (&metrics, quantum), None);
        let board = Arc::<Board>::default();
        queue.follow(&board);
        Self { queue, account: Account::detached(TenantId::unattributed()), board }
    }

    fn offer(&self, flow: &Flow, bytes: u64) -> Result<(), QueueFull> {
        self.offer_of(Signal::Logs, flow, bytes)
    }

    fn offer_of(&self, signal: Signal, flow: &Flow, bytes: u64) -> Result<(), QueueFull> {
        self.account.signal(signal).add_received(1);
        let data = (1, Bytes::from(vec![0; bytes as usize]));
        let batch = Batch::new(signal, TenantId::unattributed(), self.account.clone(), data);
        let batch = batch.in_flow(flow.clone());
        match self.queue.reserve(std::slice::from_ref(&batch)) {
            Ok(room) => {
                room.commit(vec![batch]);
                Ok(())
            }
            Err(full) => {
                batch.refused(crate::outcome::RefusedReason::QueueShare);
                Err(full)
            }
        }
    }

    /// What a consumer gets now, without waiting.
    fn lease(&self) -> Option<Lease> {
        match self.queue.next(None) {
            Next::Taken(load) => Some(Lease::new(self.queue.clone(), load)),
            _ => None,
        }
    }

    /// One lease, sent; the bytes of each flow, in order.
    fn serve(&self) -> Vec<(u64, u64)> {
        let Some(lease) = self.lease() else { return Vec::new() };
        let sent = lease.batches().map(|b| (b.flow().number(), b.size())).collect();
        end(lease);
        sent
    }

    /// The bytes of `flow` among the next `bytes` that are sent.
    fn served_of(&self, flow: &Flow, bytes: u64) -> u64 {
        let (mut all, mut own) = (0, 0);
        while all < bytes {
            let sent = self.serve();
            assert!(!sent.is_empty(), "nothing is sent after {all} of {bytes} bytes");
            all += sent.iter().map(|(_, bytes)| bytes).sum::<u64>();
            own += sent.iter().filter(|(n, _)| *n == flow.number()).map(|(_, bytes)| bytes).sum::<u64>();
        }
        own
    }

    fn finish(self) {
        while !self.serve().is_empty() {}
        assert_eq!((self.queue.bytes(), self.queue.size()), (0, 0));
        assert!(self.queue.bytes_by_tenant().is_empty());
        Signal::ALL.iter().for_each(|s| assert!(self.account.signal(*s).read().balanced()));
    }
}

fn flow(name: &str) -> Flow {
    Flow::new(TenantId::new(name).unwrap(), Share::DEFAULT)
}

fn flow_with(name: &str, change: impl FnOnce(&mut Share)) -> Flow {
    let mut share = Share::DEFAULT;
    change(&mut share);
    Flow::new(TenantId::new(name).unwrap(), share)
}

fn flows(count: usize) -> Vec<Flow> {
    (0..count).map(|n| flow(&format!("t{n}"))).collect()
}

/// The well-behaved: one item a tick each. The attack: 1,000 items a tick, from the flows in turn.
/// 200 items a tick are sent, 2,000 wait at most. What part of the well-behaved data is kept.
fn kept(well_behaved: &[Flow], attack: &[Flow]) -> f64 {
    let sim = Sim::new(2000);
    let random = &mut fastrand::Rng::with_seed(7);
    let mut accepted = 0;
    let mut next = (0..attack.len()).cycle();
    const TICKS: usize = 120;
    const WARM: usize = 20;
    for tick in 0..TICKS {
        let mut arrivals: Vec<(&Flow, bool)> = well_behaved.iter().map(|flow| (flow, true)).collect();
        arrivals.extend(next.by_ref().take(1000).map(|n| (&attack[n], false)));
        random.shuffle(&mut arrivals);
        for (n, (flow, good)) in arrivals.iter().enumerate() {
            let is_kept = sim.offer(flow, ITEM).is_ok();
            accepted += usize::from(is_kept && *good && tick >= WARM);
            if n % 11 < 2 {
                sim.serve();
            }
            assert!(sim.queue.bytes() <= 2000 * ITEM);
        }
    }
    sim.finish();
    accepted as f64 / ((TICKS - WARM) * well_behaved.len()) as f64
}

#[test]
fn one_tenant_at_a_thousand_times_takes_nothing_from_a_hundred_others() {
    let good = flows(100);
    let in_one_line = kept(&vec![Flow::of_nobody(); 100], &[Flow::of_nobody()]);
    assert!((0.16..0.20).contains(&in_one_line), "{in_one_line}");
    assert_eq!(kept(&good, &[flow("noisy")]), 1.0);
}

#[test]
fn five_thousand_invented_ids_take_nothing_if_they_share_lines() {
    let good = flows(100);
    let with_a_line_each = kept(&good, &flows(5000));
    // Worse than one line for all: who has something waiting needs twice the free room of a newcomer.
    assert!(with_a_line_each < 0.2, "{with_a_line_each}");
    assert_eq!(kept(&good, &flows(16)), 1.0);
}

#[test]
fn an_item_above_the_quantum_waits_for_as_many_rounds_as_it_needs() {
    let sim = Sim::new(1000);
    let (large, small) = (flow("large"), flow("small"));
    (0..100).for_each(|_| sim.offer(&small, ITEM).unwrap());
    sim.offer(&large, 10 * ITEM).unwrap();
    sim.offer(&large, 10 * ITEM).unwrap();
    let mut order = Vec::new();
    for _ in 0..40 {
        order.extend(sim.serve().into_iter().map(|(number, _)| number));
    }
    let turns: Vec<usize> = (0..order.len()).filter(|n| order[*n] == large.number()).collect();
    assert!((9..=11).contains(&turns[0]) && (10..=12).contains(&(turns[1] - turns[0])), "{turns:?}");
    sim.finish();
    // Alone it waits for nothing.
    let sim = Sim::new(4000);
    sim.offer(&large, 1500 * ITEM).unwrap();
    assert_eq!(sim.serve(), [(large.number(), 1500 * ITEM)]);
}

#[test]
fn service_is_shared_by_weight_in_bytes_whatever_the_sizes() {
    let sim = Sim::with(100_000 * ITEM, (4 * ITEM, 8 * ITEM));
    let light = flow("light");
    let heavy = flow_with("heavy", |share| share.weight = 3);
    (0..4000).for_each(|_| sim.offer(&light, ITEM / 4).unwrap());
    (0..2000).for_each(|_| sim.offer(&heavy, 7 * ITEM).unwrap());
    let served = sim.served_of(&light, 2000 * ITEM);
    assert!((450 * ITEM..550 * ITEM).contains(&served), "{}", served / ITEM);
}

#[test]
fn who_was_idle_has_saved_nothing_up() {
    let sim = Sim::new(4000);
    let (busy, idle) = (flow("busy"), flow("idle"));
    sim.offer(&idle, ITEM / 2).unwrap();
    (0..1000).for_each(|_| sim.offer(&busy, ITEM).unwrap());
    sim.served_of(&busy, 500 * ITEM);
    (0..500).for_each(|_| sim.offer(&idle, ITEM).unwrap());
    let served = sim.served_of(&idle, 100 * ITEM);
    assert!((49 * ITEM..=51 * ITEM).contains(&served), "{}", served / ITEM);
}

#[test]
fn a_weight_that_changes_holds_for_what_waits_already() {
    let sim = Sim::with(100_000 * ITEM, (4 * ITEM, ITEM));
    let (one, other) = (flow("one"), flow("other"));
    for _ in 0..3000 {
        sim.offer(&one, ITEM).unwrap();
        sim.offer(&other, ITEM).unwrap();
    }
    let served = sim.served_of(&one, 800 * ITEM);
    assert!((390 * ITEM..=410 * ITEM).contains(&served), "{}", served / ITEM);
    for (weight, expected) in [(4, 640), (1, 400)] {
        one.set_share(Share { weight, ..Share::DEFAULT });
        sim.board.publish(0);
        let state = sim.queue.lock();
        let deficits = state.schedule.flows.iter().map(|s| (s.lines[Signal::Logs].deficit, s.share.weight));
        deficits.for_each(|(deficit, weight)| assert!(deficit <= u64::from(weight) * 4 * ITEM));
        drop(state);
        let served = sim.served_of(&one, 800 * ITEM) / ITEM;
        assert!((expected - 12..=expected + 12).contains(&served), "{served} at weight {weight}");
    }
}

#[test]
fn who_comes_back_again_and_again_gets_no_more_than_who_stays() {
    let sim = Sim::new(4000);
    let (stays, first, second) = (flow("stays"), flow("first"), flow("second"));
    (0..1000).for_each(|_| sim.offer(&stays, ITEM).unwrap());
    [&first, &second].iter().for_each(|churner| sim.offer(churner, ITEM).unwrap());
    let mut own = 0;
    for _ in 0..600 {
        for (number, _) in sim.serve() {
            own += u64::from(number == stays.number());
            // Each line empties with every turn, and is there again at once.
            [&first, &second]
                .iter()
                .filter(|f| f.number() == number)
                .for_each(|f| sim.offer(f, ITEM).unwrap());
        }
    }
    assert!(own >= 199, "{own} of 600");
}

#[test]
fn signals_of_one_tenant_do_not_add_up_to_more_than_its_share() {
    let sim = Sim::with(100_000 * ITEM, (6 * ITEM, ITEM));
    let (three, one) = (flow("three"), flow("one"));
    for _ in 0..2000 {
        Signal::ALL.iter().for_each(|signal| sim.offer_of(*signal, &three, ITEM).unwrap());
        sim.offer(&one, ITEM).unwrap();
    }
    let served = sim.served_of(&one, 1200 * ITEM) / ITEM;
    assert!((570..=630).contains(&served), "{served}");
}

#[test]
fn a_line_of_old_traces_does_not_hold_up_new_logs_of_others() {
    let sim = Sim::new(4000);
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    (0..1000).for_each(|_| sim.offer_of(Signal::Traces, &noisy, ITEM).unwrap());
    sim.served_of(&noisy, 100 * ITEM);
    sim.offer_of(Signal::Logs, &quiet, ITEM).unwrap();
    let waited = (0..).find(|_| sim.serve().iter().any(|(number, _)| *number == quiet.number())).unwrap();
    assert!(waited <= 1, "{waited}");
}

#[test]
fn tenants_that_are_all_over_their_share_leave_no_slot_and_no_room_unused() {
    let sim = Sim::new(1000);
    sim.queue.set_slots(10);
    let all = flows(3);
    let mut refused = [false; 3];
    while refused != [true; 3] {
        for (n, flow) in all.iter().enumerate() {
            refused[n] |= sim.offer(flow, ITEM).is_err();
        }
    }
    // Three heavy tenants leave a fourth of the queue free.
    assert!((745..=750).contains(&(sim.queue.bytes() / ITEM)), "{}", sim.queue.bytes() / ITEM);
    let leases: Vec<Lease> = (0..30).map(|_| sim.lease().expect("something for every slot")).collect();
    leases.into_iter().for_each(end);
    sim.finish();
}

#[test]
fn a_stalled_exporter_keeps_guaranteed_room_for_whom_it_is_guaranteed() {
    let sim = Sim::new(1000);
    let vip = flow_with("vip", |share| share.guaranteed_bytes = 400 * ITEM);
    let absent = 100 * ITEM;
    sim.board.publish(400 * ITEM + absent);
    let mut heavy = flows(50);
    heavy.push(flow_with("whole", |share| *share = Share::WHOLE));
    let mut accepted = true;
    while accepted {
        accepted = false;
        heavy.iter().for_each(|flow| accepted |= sim.offer(flow, ITEM).is_ok());
    }
    assert_eq!(sim.queue.bytes(), 500 * ITEM, "the rest is guaranteed to others");
    let full = sim.offer(&heavy[50], ITEM).unwrap_err();
    assert_eq!((full.cause, full.never_fits), (Cause::Full, false));
    (0..400).for_each(|_| sim.offer(&vip, ITEM).unwrap());
    assert_eq!(sim.queue.bytes(), 1000 * ITEM - absent);
    assert!(sim.offer(&vip, ITEM).is_err());
    sim.finish();
}

#[test]
fn a_tenant_over_its_share_is_told_so_and_others_are_taken() {
    let sim = Sim::new(1000);
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    let taken = (0..).take_while(|_| sim.offer(&noisy, ITEM).is_ok()).count();
    assert_eq!(taken, 500, "one heavy tenant gets half");
    let full = sim.offer(&noisy, ITEM).unwrap_err();
    assert_eq!((full.cause, full.never_fits), (Cause::Share, false));
    assert!(full.retry_after >= seconds(1) && full.retry_after <= seconds(30), "{full:?}");
    assert_eq!(full.to_string(), "the tenant's share of the sending queue is used up");
    sim.offer(&quiet, ITEM).unwrap();
    assert!(sim.offer(&quiet, 501 * ITEM).unwrap_err().never_fits, "more than max_share");
    let capped = flow_with("capped", |share| share.max_share = 0.1);
    assert_eq!((0..).take_while(|_| sim.offer(&capped, ITEM).is_ok()).count(), 100);
    sim.finish();
    let sim = Sim::new(1000);
    let alone = flow_with("alone", |share| share.max_share = 1.0);
    assert_eq!((0..).take_while(|_| sim.offer(&alone, ITEM).is_ok()).count(), 1000);
    assert_eq!(sim.offer(&alone, ITEM).unwrap_err().cause, Cause::Full);
}

#[test]
fn shares_hold_in_units_of_the_sizer_too() {
    let world = World::new(Sizer::Requests, 100, Wanted::up_to(MIB));
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    let put = |flow: &Flow| world.put(world.logs(1).in_flow(flow.clone()));
    assert_eq!((0..).take_while(|_| put(&noisy).is_ok()).count(), 50);
    assert_eq!(put(&noisy).unwrap_err().cause, Cause::Share);
    put(&quiet).unwrap();
    let world = World::new(Sizer::Requests, 1, Wanted::up_to(MIB));
    world.put(world.logs(1).in_flow(noisy)).unwrap();
}

#[test]
fn a_request_of_several_tenants_is_taken_whole_or_not_at_all() {
    let sim = Sim::new(1000);
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    while sim.offer(&noisy, ITEM).is_ok() {}
    let before = sim.queue.bytes();
    let batch = |flow: &Flow| {
        sim.account.signal(Signal::Logs).add_received(1);
        let data = (1, Bytes::from(vec![0; ITEM as usize]));
        Batch::new(Signal::Logs, TenantId::unattributed(), sim.account.clone(), data).in_flow(flow.clone())
    };
    let mixed = [batch(&quiet), batch(&noisy)];
    assert_eq!(sim.queue.reserve(&mixed).unwrap_err().cause, Cause::Share);
    assert_eq!(sim.queue.bytes(), before);
    assert_eq!(sim.queue.bytes_by_tenant().len(), 1, "who has nothing leaves no trace");
    mixed.into_iter().for_each(|batch| batch.refused(crate::outcome::RefusedReason::QueueShare));
    sim.finish();
}

#[test]
fn a_tenant_begins_no_more_than_its_slots_while_others_wait() {
    let sim = Sim::new(10_000);
    sim.queue.set_slots(10);
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    let begun = |leases: &[Lease], flow: &Flow| {
        leases.iter().filter(|lease| lease.batches().all(|b| b.flow().number() == flow.number())).count()
    };
    (0..100).for_each(|_| sim.offer(&noisy, ITEM).unwrap());
    let mut leases: Vec<Lease> = (0..3).map(|_| sim.lease().unwrap()).collect();
    (0..50).for_each(|_| sim.offer(&quiet, ITEM).unwrap());
    leases.extend((0..7).map(|_| sim.lease().unwrap()));
    assert_eq!((begun(&leases, &noisy), begun(&leases, &quiet)), (5, 5));
    let first = leases.remove(0);
    drop(first);
    leases.push(sim.lease().unwrap());
    assert_eq!(begun(&leases, &noisy), 5, "a slot that is given back is used again");
    leases.into_iter().for_each(end);
    sim.finish();
}

#[test]
fn what_comes_back_goes_to_the_head_of_its_own_line() {
    let sim = Sim::new(1000);
    let (one, other) = (flow("one"), flow("other"));
    for size in 1..=3 {
        sim.offer(&one, size).unwrap();
        sim.offer(&other, 10 * size).unwrap();
    }
    let all = |lease: &Lease| lease.batches().map(|b| b.size()).collect::<Vec<_>>();
    let lease = sim.lease().unwrap();
    let mut before = all(&lease);
    before.sort_unstable();
    assert_eq!(before, [1, 2, 3, 10, 20, 30]);
    drop(lease);
    let again = all(&sim.lease().unwrap());
    let of = |own: fn(&u64) -> bool| again.iter().copied().filter(own).collect::<Vec<_>>();
    assert_eq!((of(|size| *size < 10), of(|size| *size >= 10)), (vec![1, 2, 3], vec![10, 20, 30]));
    sim.finish();
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_changes_neither_shares_nor_waits() {
    let sim = Sim::new(1000);
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    (0..400).for_each(|_| sim.offer(&noisy, ITEM).unwrap());
    (0..100).for_each(|_| sim.offer(&quiet, ITEM).unwrap());
    sim.serve();
    tokio::time::advance(Duration::from_secs(10 * 365 * 86_400)).await;
    let served = sim.served_of(&quiet, 100 * ITEM) / ITEM;
    assert!((49..=51).contains(&served), "{served}");
    while sim.offer(&noisy, ITEM).is_ok() {}
    let full = sim.offer(&noisy, ITEM).unwrap_err();
    assert!(full.retry_after >= seconds(1) && full.retry_after <= seconds(30), "{full:?}");
    sim.finish();
}

#[test]
fn a_flood_of_new_ids_leaves_nothing_behind() {
    let sim = Sim::new(200_000);
    let good = flow("good");
    for n in 0..20_000 {
        sim.offer(&flow(&format!("junk{n}")), 16).unwrap();
        if n % 100 == 0 {
            sim.offer(&good, ITEM).unwrap();
        }
    }
    assert_eq!(sim.queue.bytes_by_tenant().len(), 20_001);
    let queue = sim.queue.clone();
    sim.finish();
    let state = queue.lock();
    assert_eq!(state.schedule.flows.iter().count(), 0);
    assert_eq!(state.schedule.places(), (0, 0), "memory is given back");
}

#[tokio::test(start_paused = true)]
async fn senders_of_a_tenant_over_its_share_hold_up_nobody_else() {
    let sim = Sim::new(100);
    let (noisy, quiet) = (flow("noisy"), flow("quiet"));
    while sim.offer(&noisy, ITEM).is_ok() {}
    let batch = |flow: &Flow| {
        sim.account.signal(Signal::Logs).add_received(1);
        let data = (1, Bytes::from(vec![0; ITEM as usize]));
        [Batch::new(Signal::Logs, TenantId::unattributed(), sim.account.clone(), data).in_flow(flow.clone())]
    };
    let (first, second, third) = (batch(&noisy), batch(&quiet), batch(&noisy));
    let until = Instant::now() + seconds(60);
    let order = std::cell::RefCell::new(Vec::new());
    let reserve = async |name: &'static str, batch: [Batch; 1]| {
        let reservation = sim.queue.reserve_waiting(&batch, until).await.unwrap();
        order.borrow_mut().push(name);
        reservation.commit(Vec::from(batch));
    };
    let serve = async {
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(*order.borrow(), ["quiet"]);
        while !sim.serve().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(reserve("noisy 1", first), reserve("quiet", second), reserve("noisy 2", third), serve);
    assert_eq!(*order.borrow(), ["quiet", "noisy 1", "noisy 2"]);
    sim.finish();
}

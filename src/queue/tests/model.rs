//! A second, tiny queue: a list, and sums. Slow, and obviously right.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::otlp::PerSignal;

const CAPACITY: u64 = 40;
const MAX_BYTES: u64 = 400;
const MAX: u64 = 12;

/// What is done to both.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Puts one batch of (signal, items, bytes).
    Put(usize, u64, usize),
    /// Reserves room for one batch and gives it back.
    Waver(u64),
    /// Takes a lease.
    Lease,
    /// Ends one of the leases.
    End(Index),
    /// Drops one of the leases.
    Nack(Index),
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize, 0..9u64, 0..60usize).prop_map(|(s, items, bytes)| Step::Put(s, items, bytes)),
        1 => (0..60u64).prop_map(Step::Waver),
        2 => Just(Step::Lease),
        1 => any::<Index>().prop_map(Step::End),
        1 => any::<Index>().prop_map(Step::Nack),
    ];
    prop::collection::vec(step, 0..120)
}

/// One batch as the model sees it.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    number: usize,
    signal: Signal,
    items: u64,
    bytes: u64,
}

#[derive(Default)]
struct Model {
    waiting: Vec<Place>,
    leased: Vec<Vec<Place>>,
    next: usize,
}

impl Model {
    fn sum(&self, of: impl Fn(&Place) -> u64) -> u64 {
        self.waiting.iter().chain(self.leased.iter().flatten()).map(of).sum()
    }

    fn fits(&self, items: u64, bytes: u64) -> bool {
        self.sum(|p| p.items) + items <= CAPACITY && self.sum(|p| p.bytes) + bytes <= MAX_BYTES
    }

    /// Which signal is next depends on what was sent of each before; the rest does not.
    fn lease(&mut self, signal: Signal) -> Vec<Place> {
        self.waiting.sort_by_key(|place| place.number);
        let mut taken: Vec<Place> = Vec::new();
        for place in self.waiting.iter().filter(|place| place.signal == signal) {
            let items: u64 = taken.iter().map(|place| place.items).sum();
            if !taken.is_empty() && items + place.items > MAX {
                break;
            }
            taken.push(place.clone());
        }
        self.waiting.retain(|place| !taken.contains(place));
        taken
    }
}

/// Hands a batch over that a log has, without its bytes.
pub(super) fn put_down(world: &World, mut batch: Batch, number: usize) -> Result<(), QueueFull> {
    match world.queue.reserve(std::slice::from_ref(&batch)) {
        Ok(room) => drop(room),
        Err(full) => {
            batch.refused(crate::outcome::RefusedReason::QueueFull);
            return Err(full);
        }
    }
    batch.put_down();
    let place = super::packed::place([number as u64, 0, 64 * number as u64], batch.size());
    world.queue.recover([(batch, place)]);
    Ok(())
}

/// `on_disk`, a log has the bytes of all that waits.
pub(super) async fn run(steps: Vec<Step>, on_disk: bool) {
    let wanted = Wanted { sizer: Sizer::Items, max: MAX, ..Wanted::up_to(MIB) };
    let bounds =
        Bounds { sizer: Sizer::Items, capacity: CAPACITY, max_bytes: MAX_BYTES, max_batches: u64::MAX };
    let world = World::bounded(bounds, wanted);
    let mut model = Model::default();
    let mut leases: Vec<Lease> = Vec::new();
    let mut most_leased = PerSignal::<usize>::default();
    for step in steps {
        match step {
            Step::Put(signal, items, bytes) => {
                let signal = Signal::ALL[signal];
                let batch = world.batch(signal, items, bytes);
                let put = if on_disk { put_down(&world, batch, model.next) } else { world.put(batch) };
                assert_eq!(put.is_ok(), model.fits(items, bytes as u64));
                if put.is_ok() {
                    model.waiting.push(Place { number: model.next, signal, items, bytes: bytes as u64 });
                    model.next += 1;
                }
            }
            Step::Waver(items) => {
                let batch = [world.batch(Signal::Logs, items, 1)];
                assert_eq!(world.queue.reserve(&batch).is_ok(), model.fits(items, 1));
                batch.into_iter().for_each(|batch| batch.sent(0));
            }
            Step::Lease if model.waiting.is_empty() => {}
            Step::Lease => {
                let lease = world.queue.lease().await.unwrap();
                let expected = model.lease(lease.signal());
                let sizes: Vec<_> = lease.batches().map(|b| (b.items(), b.size())).collect();
                assert_eq!(sizes, expected.iter().map(|p| (p.items, p.bytes)).collect::<Vec<_>>());
                leases.push(lease);
                model.leased.push(expected);
            }
            Step::End(_) | Step::Nack(_) if leases.is_empty() => {}
            Step::End(which) => {
                let which = which.index(leases.len());
                end(leases.remove(which));
                model.leased.remove(which);
            }
            Step::Nack(which) => {
                let which = which.index(leases.len());
                drop(leases.remove(which));
                let back = model.leased.remove(which);
                model.waiting.extend(back);
            }
        }
        assert_eq!(world.queue.items(), model.sum(|place| place.items));
        assert_eq!(world.queue.bytes(), model.sum(|place| place.bytes));
        for signal in Signal::ALL {
            world.books(signal);
        }
        for signal in Signal::ALL {
            let leased = model.leased.iter().flatten().filter(|place| place.signal == signal).count();
            most_leased[signal] = most_leased[signal].max(leased);
        }
        if on_disk {
            // The head of each line, and what was leased of it and came back.
            let entries = world.queue.lock().schedule.places().1;
            let most = most_leased.iter().map(|(_, leased)| 1 + leased).sum();
            assert!(entries <= most, "{entries} entries, {most_leased:?} leased");
        }
    }
    drop(leases);
    world.queue.take_all().for_each(|(batch, _)| batch.sent(0));
    assert_eq!(world.queue.bytes(), 0);
}

//! What waits on disk, packed: it comes out as it went in, and takes little.

use std::collections::VecDeque;

use super::*;
use crate::batch::{Numbers, Owner};
use crate::flow::{Flow, Share};
use crate::queue::packed::Packed;
use crate::queue::schedule::Entry;

/// A place in the log for a batch of this size.
pub(super) fn place([id, segment, offset]: [u64; 3], size: u64) -> Place {
    let header = (1 << 20) - Place::of_numbers([0, 0, 0, 1 << 20]).payload_bytes();
    Place::of_numbers([id, segment, offset, size + header])
}

#[derive(Debug, Clone)]
struct Row {
    sequence: u64,
    place: [u64; 3],
    size: u64,
    items: u64,
    received_us: u64,
    owner: usize,
    opens_request: bool,
}

/// Rows and how many are taken out after each.
fn rows() -> impl Strategy<Value = Vec<(Row, usize)>> {
    let small_or_any = || prop_oneof![3 => 0..4u64, 1 => 0..u64::from(u32::MAX) / 2];
    let place = (any::<u64>(), prop_oneof![3 => Just(7), 1 => any::<u64>()], small_or_any());
    let rest = (small_or_any(), small_or_any(), 0..20_000_000u64, 0..3usize, any::<bool>());
    let row = (0..1_000_000u64, place, rest, 0..3usize).prop_map(|(sequence, place, rest, taken)| {
        let (size, items, received_us, owner, opens_request) = rest;
        let place = [place.0, place.1, place.2];
        (Row { sequence, place, size, items, received_us, owner, opens_request }, taken)
    });
    prop::collection::vec(row, 1..400)
}

struct World {
    owners: Vec<Owner>,
    accounts: Vec<Arc<Account>>,
    now: Instant,
}

impl World {
    fn new(tenants: usize) -> Self {
        let id = |n: usize| TenantId::new(&format!("tenant-{n}")).unwrap();
        let accounts: Vec<_> = (0..tenants).map(|n| Account::detached(id(n))).collect();
        let owner = |(n, account): (usize, &Arc<Account>)| {
            let batch = Batch::recovered(Signal::Logs, id(n), account.clone(), (0, 0));
            batch.in_flow(Flow::new(id(n), Share::DEFAULT)).parted().0
        };
        Self { owners: accounts.iter().enumerate().map(owner).collect(), accounts, now: Instant::now() }
    }

    fn entry(&self, row: &Row) -> (Entry, Place) {
        let (kept, received_at) =
            (place(row.place, row.size), self.now + Duration::from_micros(row.received_us));
        let &Row { sequence, size, items, opens_request, .. } = row;
        let numbers = Numbers { items, size, received_at, opens_request };
        let batch = Batch::joined(&self.owners[row.owner], numbers);
        (Entry { sequence, place: 5, batch, kept: Some(kept) }, kept)
    }

    fn add(&self, packed: &mut Option<Packed>, row: &Row) {
        let (entry, kept) = self.entry(row);
        match packed {
            None => *packed = Some(Packed::beginning_with(entry, kept)),
            Some(packed) => packed.push(entry, kept),
        }
    }

    /// Takes the next out and compares it with what went in.
    fn take(&self, packed: &mut Option<Packed>, expected: Option<&Row>) {
        let found = packed.as_mut().and_then(Iterator::next);
        *packed = packed.take().filter(|packed| !packed.is_empty());
        let (Some(found), Some(row)) = (found, expected) else {
            return assert!(expected.is_none(), "{expected:?} is missing");
        };
        assert!(found.batch.bytes().is_none());
        assert_eq!((found.sequence, found.place), (row.sequence, 5));
        assert_eq!(found.kept, Some(place(row.place, row.size)));
        let (owner, numbers) = found.batch.parted();
        assert!(owner.is(&self.owners[row.owner]), "{owner:?}");
        let received_at = numbers.received_at;
        let &Row { size, items, opens_request, .. } = row;
        assert_eq!(numbers, Numbers { items, size, received_at, opens_request });
        let earlier = (self.now + Duration::from_micros(row.received_us)).checked_duration_since(received_at);
        assert!(earlier.is_some_and(|earlier| earlier < Duration::from_millis(1)), "{earlier:?}");
    }

    fn bytes_each(&self, rows: impl Iterator<Item = Row>) -> f64 {
        let (mut packed, mut count) = (None, 0.0);
        rows.for_each(|row| {
            self.add(&mut packed, &row);
            count += 1.0;
        });
        let bytes = packed.as_ref().unwrap().memory() as f64 / count;
        packed.into_iter().flatten().for_each(|entry| _ = entry.batch.parted());
        bytes
    }
}

proptest! {
    #[test]
    fn a_batch_comes_out_as_it_went_in(rows in rows()) {
        let world = World::new(3);
        let (mut packed, mut model) = (None, VecDeque::new());
        for (row, taken) in rows {
            world.add(&mut packed, &row);
            model.push_back(row);
            (0..taken).for_each(|_| world.take(&mut packed, model.pop_front().as_ref()));
        }
        while let Some(row) = model.pop_front() {
            world.take(&mut packed, Some(&row));
        }
        world.take(&mut packed, None);
    }
}

/// What is let go of is written down as what it is.
#[test]
fn what_is_let_go_ends_in_the_books() {
    let (world, mut packed) = (World::new(2), None);
    for n in 0..300 {
        let owner = n as usize % 2;
        let row =
            Row { sequence: n, place: [n; 3], size: 9, items: 3, received_us: 0, owner, opens_request: true };
        world.accounts[owner].signal(Signal::Logs).add_received(3);
        world.add(&mut packed, &row);
    }
    (0..10).for_each(|_| packed.as_mut().unwrap().next().unwrap().batch.sent(0));
    drop(packed);
    for account in &world.accounts {
        let books = account.signal(Signal::Logs).read();
        assert_eq!((books.sent, books.dropped[DroppedReason::Abandoned as usize]), (15, 435));
    }
}

/// The documentation of `file_storage.max_records` says about 10 bytes, and 64 at most.
#[test]
fn a_batch_that_waits_takes_about_ten_bytes_and_never_more_than_sixty_four() {
    let world = World::new(1000);
    let random = &mut fastrand::Rng::with_seed(1);
    // Two tenants in turns, in requests of 64 KiB.
    let alike = |n: u64| Row {
        sequence: 2 * n,
        place: [1 + 2 * n, 1 + n / 512 * 1024, 64 + n % 512 * 2 * 65_600],
        size: 65_536,
        items: 100,
        received_us: n * 13_107,
        owner: 0,
        opens_request: true,
    };
    let bytes = world.bytes_each((0..100_000).map(alike));
    assert!(bytes < 6.0, "{bytes}");
    // Among 20 others, of all sizes.
    let (mut sequence, mut offset, mut received_us) = (0, 0, 0);
    let mut differ = |owner: &dyn Fn(u64) -> usize, others: u64, random: &mut fastrand::Rng| {
        sequence += random.u64(1..=others);
        offset = (offset + random.u64(8..1 << 18) * 8) % (1 << 30);
        received_us += random.u64(0..2_000_000);
        let (size, items) = (random.u64(100..1 << 18), random.u64(1..2_000));
        let (segment, owner) = (1 + sequence / 1000 * 1000, owner(sequence));
        Row {
            sequence,
            place: [sequence + 5, segment, offset],
            size,
            items,
            received_us,
            owner,
            opens_request: true,
        }
    };
    let rows: Vec<_> = (0..100_000).map(|_| differ(&|_| 0, 40, random)).collect();
    let bytes = world.bytes_each(rows.into_iter());
    assert!(bytes < 16.0, "{bytes}");
    // Everybody in one line.
    let rows: Vec<_> = (0..100_000).map(|_| differ(&|n| n as usize % 1000, 1000, random)).collect();
    let bytes = world.bytes_each(rows.into_iter());
    assert!((32.0..=64.0).contains(&bytes), "{bytes}");
}

//! Bit flips, smears, cuts and deletions in any file: the journal opens, loses only what was hit, counts it,
//! goes on, and never gives out wrong bytes.
//!
//! `TOLLGATE_DAMAGE_CASES` is how many cases are tried; a failure names the case.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::memory::{Files, MemoryDisk};
use super::record;
use crate::journal::ends::EndsFile;
use crate::journal::engine::Engine;
use crate::journal::shared::{Append, ends_name, segment_name};
use crate::journal::storage::Storage;
use crate::journal::types::*;
use crate::journal::{Journal, Recovery};

const DIR: &str = "/queue";
const CASES: u64 = 10_000;

fn options() -> Options {
    Options { segment_size: 4 << 10, ..Options::for_size(1 << 20, 8 << 10) }
}

fn open(disk: &MemoryDisk) -> (Journal, Engine, Recovery) {
    Journal::inline(Arc::new(disk.clone()), Path::new(DIR), options()).expect("opens whatever the bytes are")
}

fn payload(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let len = rng.usize(10..900);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

fn append(journal: &Journal, engine: &mut Engine, number: u64) -> Place {
    let mut record = record(["acme", "zeta"][number as usize % 2], payload(number));
    record.head.items = number;
    let (answer, mut stored) = oneshot::channel();
    journal.shared.push(Append { records: vec![record], answer, permit: None }).unwrap();
    turn(journal, engine);
    stored.try_recv().unwrap().unwrap().take()[0]
}

fn turn(journal: &Journal, engine: &mut Engine) {
    let work = std::mem::take(&mut *journal.shared.inbox.lock().unwrap());
    engine.step(work, Instant::now());
}

/// What waits, by the number of the record.
type Waiting = BTreeMap<u64, Place>;

/// How the last process ended, and the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Closed,
    KilledThenClosed,
}

/// Files of a process that was killed or has closed them: sealed segments, an open one, ends, a note, dead letters.
fn files(end: End) -> (Files, Waiting) {
    let disk = MemoryDisk::default();
    let (journal, mut engine, _) = open(&disk);
    let mut waiting: Waiting =
        (1..60).map(|number| (number, append(&journal, &mut engine, number))).collect();
    let ended = (1..14).chain((14..50).step_by(3)).chain([58]);
    let ended: Vec<Place> = ended.filter_map(|number| waiting.remove(&number)).collect();
    let dead = waiting.remove(&15).unwrap();
    engine.set_aside(dead, "given up").unwrap();
    journal.end(&ended);
    turn(&journal, &mut engine);
    engine.flush_ends().unwrap();
    engine.retire(Instant::now());
    engine.tidy(Instant::now());
    if end == End::KilledThenClosed {
        engine = open(&disk).1;
    }
    if end != End::Killed {
        engine.finish(Instant::now());
    }
    (disk.files(), waiting)
}

/// What is done to a file.
#[derive(Debug)]
enum Harm {
    Flip(usize, u8),
    Smear(Range<usize>),
    Cut(usize),
    Delete,
}

impl Harm {
    fn any(rng: &mut fastrand::Rng, len: usize) -> Self {
        let at = rng.usize(..len.max(1));
        match rng.u8(..8) {
            0..=3 => Self::Flip(at, rng.u8(..8)),
            4 => Self::Smear(at..(at + rng.usize(1..600)).min(len)),
            5 | 6 => Self::Cut(at),
            _ => Self::Delete,
        }
    }

    fn apply(&self, files: &mut Files, path: &Path, rng: &mut fastrand::Rng) {
        let bytes = files.get_mut(path).unwrap();
        match self {
            Self::Flip(at, bit) => bytes[*at] ^= 1 << bit,
            Self::Smear(range) => bytes[range.clone()].iter_mut().for_each(|byte| *byte = rng.u8(..)),
            Self::Cut(len) => bytes.truncate(*len),
            Self::Delete => _ = files.remove(path),
        }
    }

    /// Whether a record may be lost by it. A smear may hit both copies of a name.
    fn may_hit(&self, place: &Place) -> bool {
        let record = place.offset as usize..(place.offset + place.len) as usize;
        match self {
            Self::Flip(at, _) => record.contains(at),
            Self::Cut(len) => *len < record.end,
            Self::Smear(_) | Self::Delete => true,
        }
    }
}

fn segment_path(place: &Place) -> PathBuf {
    Path::new(DIR).join(format!("{:016x}.seg", place.segment))
}

/// The records that can be read; panics on wrong bytes.
fn readable(journal: &Journal, recovery: &Recovery) -> BTreeMap<u64, Place> {
    let mut found = BTreeMap::new();
    for waits in recovery.waiting.clone() {
        match journal.shared.read(waits.place) {
            Ok(bytes) => {
                assert_eq!(bytes, payload(waits.head.items), "record {}", waits.head.items);
                found.insert(waits.head.items, waits.place);
            }
            Err(ReadError::Damaged) => {}
            Err(error) => panic!("record {}: {error}", waits.head.items),
        }
    }
    found
}

fn check(case: u64, (files, waiting): &(Files, Waiting), end: End) {
    let mut rng = fastrand::Rng::with_seed(case);
    let mut files = files.clone();
    let path = rng.choice(files.keys()).unwrap().clone();
    let harm = Harm::any(&mut rng, files[&path].len());
    if files[&path].is_empty() {
        return;
    }
    harm.apply(&mut files, &path, &mut rng);
    let context = format!("case {case}, {end:?}: {harm:?} in {}", path.display());
    let disk = MemoryDisk::of(&files);
    let (journal, mut engine, recovery) = open(&disk);
    let found = readable(&journal, &recovery);
    let lost: Vec<&Place> =
        waiting.iter().filter(|(number, _)| !found.contains_key(number)).map(|(_, place)| place).collect();
    for place in &lost {
        assert!(segment_path(place) == path && harm.may_hit(place), "{context}: lost {place:?}");
    }
    let damage = journal.usage().damage;
    let is_newest = waiting.values().all(|place| segment_path(place) <= path);
    match is_newest && end == End::Killed && path.extension().is_some_and(|ending| ending == "seg") {
        // Nothing vouches for the end of a segment that is written to: a cut looks like a write that was not
        // finished.
        true => {
            let noticed = damage.records + damage.segments + damage.stretches + damage.torn_bytes;
            let is_cut = matches!(harm, Harm::Cut(_));
            assert!(lost.is_empty() || noticed > 0 || is_cut, "{context}: {damage:?}");
        }
        false if path.extension().is_some_and(|ending| ending == "seg") => {
            assert_eq!(damage.records, lost.len() as u64, "{context}: {damage:?}");
        }
        false => assert!(lost.is_empty(), "{context}"),
    }
    // It goes on, and nothing more is lost at the next start.
    append(&journal, &mut engine, 1000);
    engine.finish(Instant::now());
    drop((journal, engine));
    let (journal, _, recovery) = open(&disk);
    assert_eq!(recovery.damage.records, 0, "{context}: counted again");
    let again = readable(&journal, &recovery);
    assert!(found.keys().chain([&1000]).all(|number| again.contains_key(number)), "{context}: lost later");
}

#[test]
fn damage_costs_what_it_hit_and_is_counted() {
    let cases = std::env::var("TOLLGATE_DAMAGE_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let states = [End::Killed, End::Closed, End::KilledThenClosed].map(|end| (files(end), end));
    let endings = ["seg", "ends", "dead"];
    let has = |ending: &&str| {
        states[0].0.0.keys().any(|path| path.extension().is_some_and(|other| other == *ending))
    };
    assert!(endings.iter().all(has), "{:?}", states[0].0.0.keys());
    let next = std::sync::atomic::AtomicU64::new(0);
    let worker = || loop {
        let case = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if case >= cases {
            break;
        }
        let (files, end) = &states[case as usize % states.len()];
        check(case, files, *end);
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
}

/// A power loss brings segments back of which a note, by then merged with those of older ones, is durable.
#[test]
fn segments_that_come_back_after_their_notes_were_merged_are_no_damage() {
    let disk = MemoryDisk::default();
    let (journal, mut engine, _) = open(&disk);
    let places: Waiting = (1..30).map(|number| (number, append(&journal, &mut engine, number))).collect();
    engine.finish(Instant::now());
    let bases: Vec<u64> = engine.segments.keys().copied().collect();
    let last = *bases.last().unwrap();
    assert!(bases.len() > 4, "{bases:?}");
    for (base, segment) in &engine.segments {
        if *base < last {
            let path = engine.path(&ends_name(*base));
            let file = disk.open(&path).unwrap();
            let len = file.size().unwrap();
            EndsFile::resume(segment.identity, len).note(&*file, &(1..segment.next())).unwrap();
        }
    }
    disk.remove(&engine.path(&segment_name(bases[0]))).unwrap();
    drop((journal, engine));
    let waiting: Vec<u64> =
        places.iter().filter(|(_, place)| place.segment == last).map(|(number, _)| *number).collect();
    for _ in 0..3 {
        let (journal, mut engine, recovery) = open(&disk);
        assert_eq!(recovery.damage, Damage::default());
        assert_eq!(readable(&journal, &recovery).into_keys().collect::<Vec<_>>(), waiting);
        engine.finish(Instant::now());
    }
    let segments = disk.files().into_keys().filter(|path| path.extension().is_some_and(|end| end == "seg"));
    assert_eq!(segments.count(), 1);
}

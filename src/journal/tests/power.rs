//! Power losses, torn writes, failing syncs and full disks, by the thousand; and mutants that must be caught.
//!
//! `TOLLGATE_CRASH_SEEDS` is how many lives are lived; a failure names its seed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Faults, Mutant};
use super::life::{Caller, Life, Step};
use crate::journal::types::Options;

const SEEDS: u64 = 5_000;

fn options(rng: &mut fastrand::Rng) -> Options {
    let segment_size = rng.choice([4 << 10, 8 << 10, 16 << 10]).unwrap();
    let max_bytes = segment_size * rng.choice([4, 6, 16, 64]).unwrap();
    Options { segment_size, ..Options::for_size(max_bytes, 8 << 10) }
}

fn faults(rng: &mut fastrand::Rng, mutant: Mutant) -> Faults {
    let is_harsh = rng.bool() || mutant == Mutant::RetrySync;
    Faults {
        sync: if is_harsh { 0.05 } else { 0.0 },
        read_or_write: if rng.u8(..4) == 0 { 0.01 } else { 0.0 },
        write_back: rng.choice([0.0, 0.1, 0.4]).unwrap(),
        capacity: (rng.u8(..4) == 0).then(|| rng.u64(40 << 10..200 << 10)),
    }
}

fn step(rng: &mut fastrand::Rng) -> Step {
    let len = |rng: &mut fastrand::Rng| match rng.u8(..8) {
        0 => rng.usize(1000..6000),
        _ => rng.usize(1..300),
    };
    match rng.u8(..10) {
        0..=4 => {
            let append = |rng: &mut fastrand::Rng| {
                let lens = (0..rng.usize(1..4)).map(|_| len(rng)).collect();
                (lens, if rng.u8(..8) == 0 { Caller::Left } else { Caller::Waits })
            };
            Step::Append((0..rng.usize(1..4)).map(|_| append(rng)).collect())
        }
        5..=7 => Step::End((0..rng.usize(1..8)).map(|_| rng.usize(..1000)).collect()),
        8 if rng.u8(..4) == 0 => Step::SetAside(rng.usize(..1000)),
        _ => Step::Wait(rng.u64(..200)),
    }
}

/// A life of six rounds; how many records were acknowledged in it.
fn live(seed: u64, mutant: Mutant) -> Result<u64, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let faults = faults(&mut rng, mutant);
    let mut life = Life::start(seed, mutant, faults, options(&mut rng))?;
    for _ in 0..6 {
        if rng.bool() {
            life.step(&Step::Fuse(rng.u64(1..150)))?;
        }
        for _ in 0..rng.usize(1..16) {
            life.step(&step(&mut rng))?;
        }
        let end = match rng.u8(..8) {
            0 => Step::Close,
            1 => Step::Kill,
            _ => Step::PowerLoss,
        };
        life.step(&end)?;
    }
    Ok(life.finish()?.acknowledged)
}

/// Lives on all cores; the first seed that fails, and what was acknowledged.
fn live_all(seeds: u64, mutant: Mutant) -> (Option<(u64, String)>, u64) {
    let (next, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = std::sync::Mutex::new(None::<(u64, String)>);
    let worker = || {
        while failed.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            match live(seed, mutant) {
                Ok(count) => _ = acknowledged.fetch_add(count, Ordering::Relaxed),
                Err(error) => _ = failed.lock().unwrap().get_or_insert((seed, error)),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
    (failed.into_inner().unwrap(), acknowledged.into_inner())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let seeds = std::env::var("TOLLGATE_CRASH_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (failed, acknowledged) = live_all(seeds, Mutant::None);
    assert_eq!(failed, None, "seed and what was wrong");
    println!("{seeds} seeds, {acknowledged} records acknowledged, none lost");
    assert!(acknowledged > seeds * 10, "{acknowledged} of {seeds} seeds");
}

/// Lives in which something was wrong once, beyond those that are lived always.
#[test]
fn lives_that_went_wrong_once_go_well() {
    for seed in [6_202, 50_466] {
        assert_eq!(live(seed, Mutant::None).err(), None, "seed {seed}");
    }
}

#[test]
fn every_mutant_is_caught() {
    let mutants = [
        Mutant::AcknowledgeBeforeSync,
        Mutant::NoDirectorySync,
        Mutant::NoChecksum,
        Mutant::UnlinkBeforeEnds,
        Mutant::RetrySync,
    ];
    for mutant in mutants {
        let (failed, _) = live_all(2_000, mutant);
        println!("{mutant:?}: {failed:?}");
        assert!(failed.is_some(), "{mutant:?} was not caught");
    }
}

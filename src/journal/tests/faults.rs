//! Single faults, one by one: a sync that fails, writes that fail, a disk that fills up and is freed.

use super::disk::{Faults, Mutant};
use super::life::{Caller, Life, Step};
use crate::journal::types::Options;

fn start(faults: Faults) -> Life {
    let options = Options { segment_size: 8 << 10, ..Options::for_size(256 << 10, 8 << 10) };
    Life::start(7, Mutant::None, faults, options).unwrap()
}

fn append(len: usize) -> Step {
    Step::Append(vec![(vec![len], Caller::Waits)])
}

#[test]
fn a_batch_whose_sync_failed_is_stored_in_a_fresh_segment() {
    let mut life = start(Faults::default());
    life.step(&append(500)).unwrap();
    life.fail_next_syncs(1);
    life.step(&append(600)).unwrap();
    let usage = life.usage();
    assert_eq!((life.acknowledged, life.refused), (2, 0));
    assert_eq!((usage.poisoned, usage.failures, usage.records), (1, 1, 2));
    life.step(&Step::PowerLoss).unwrap();
    assert_eq!(life.usage().records, 2);
    life.finish().unwrap();
}

#[test]
fn a_disk_that_keeps_failing_refuses_and_the_next_append_is_taken_when_it_works_again() {
    let mut life = start(Faults::default());
    life.step(&append(500)).unwrap();
    life.fail_next_syncs(2);
    life.step(&append(600)).unwrap();
    assert_eq!((life.acknowledged, life.refused), (1, 1));
    life.step(&append(700)).unwrap();
    assert_eq!((life.acknowledged, life.refused), (2, 1));
    life.step(&Step::PowerLoss).unwrap();
    life.finish().unwrap();
}

#[test]
fn a_full_disk_refuses_and_takes_again_when_records_have_ended() {
    let faults = Faults { capacity: Some(60 << 10), ..Faults::default() };
    let mut life = start(faults);
    while life.refused == 0 {
        life.step(&append(2000)).unwrap();
    }
    assert!(life.acknowledged > 10, "{}", life.acknowledged);
    assert!(life.usage().full > 0);
    life.step(&Step::End((0..8).map(|_| 0).collect())).unwrap();
    life.step(&Step::Wait(200)).unwrap();
    life.step(&Step::Wait(2000)).unwrap();
    let before = life.acknowledged;
    life.step(&append(2000)).unwrap();
    assert_eq!(life.acknowledged, before + 1);
    life.step(&Step::PowerLoss).unwrap();
    life.finish().unwrap();
}

#[test]
fn a_full_disk_that_somebody_else_frees_is_used_again() {
    let mut life = start(Faults { capacity: Some(60 << 10), ..Faults::default() });
    while life.refused == 0 {
        life.step(&append(2000)).unwrap();
    }
    let before = life.acknowledged;
    life.set_capacity(120 << 10);
    life.step(&append(2000)).unwrap();
    assert_eq!(life.acknowledged, before + 1);
    life.finish().unwrap();
}

/// After a start whose first sync failed, all files of ends are written anew.
#[test]
fn on_a_full_disk_files_of_ends_are_written_anew_in_the_room_of_the_reserve() {
    let mut life = start(Faults { capacity: Some(60 << 10), ..Faults::default() });
    while life.refused == 0 {
        life.step(&append(2000)).unwrap();
    }
    life.fail_next_syncs(1);
    life.step(&Step::Kill).unwrap();
    assert_eq!(life.usage().failures, 1);
    life.set_capacity(life.usage().disk_bytes - 100);
    life.finish().unwrap();
}

/// Records are copied forward, the write of the copies fails half-way, and then the records themselves end: what
/// the disk kept of the copies must not bring them back.
#[test]
fn what_was_copied_in_vain_does_not_come_back_after_its_record_has_ended() {
    let mut copied_in_vain = 0;
    for seed in 0..400 {
        let faults = Faults { write_back: 0.4, read_or_write: 0.2, ..Faults::default() };
        let options = Options { segment_size: 8 << 10, ..Options::for_size(256 << 10, 8 << 10) };
        let mut life = Life::start(seed, Mutant::None, faults, options).unwrap();
        for _ in 0..28 {
            life.step(&Step::Append(vec![(vec![700, 700, 700, 3000, 2000], Caller::Waits)])).unwrap();
        }
        let before = life.usage().poisoned;
        for stay in 1..28 {
            life.step(&Step::End(vec![3 * stay, 3 * stay])).unwrap();
        }
        life.step(&Step::Wait(1000)).unwrap();
        copied_in_vain += life.usage().poisoned - before;
        life.step(&Step::End(vec![0; 80])).unwrap();
        for _ in 0..5 {
            life.step(&Step::Wait(200)).unwrap();
        }
        life.step(&Step::PowerLoss).unwrap();
        life.finish().unwrap();
    }
    assert!(copied_in_vain > 0, "no copy failed");
}

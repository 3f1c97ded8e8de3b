//! A directory written by the first version of the format, which every later version must read.
//!
//! It is written once, by `TOLLGATE_BLESS=1` where it does not exist, and never again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::memory::{Files, MemoryDisk};
use super::record;
use crate::journal::shared::Append;
use crate::journal::{Damage, Journal, Options, read_segment};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal")
}

fn options() -> Options {
    Options { segment_size: 4 << 10, ..Options::for_size(1 << 20, 8 << 10) }
}

/// A sealed segment, one that a kill left open, ends of both.
fn write() -> Files {
    let disk = MemoryDisk::default();
    let (journal, mut engine, _) =
        Journal::inline(Arc::new(disk.clone()), Path::new("/"), options()).unwrap();
    let mut places = Vec::new();
    for number in 0..12u8 {
        let record =
            record(["acme", "zeta"][usize::from(number % 2)], vec![number; 300 + usize::from(number)]);
        let (answer, mut stored) = oneshot::channel();
        journal.shared.push(Append { records: vec![record], answer, permit: None }).unwrap();
        let work = std::mem::take(&mut *journal.shared.inbox.lock().unwrap());
        engine.step(work, Instant::now());
        places.extend(stored.try_recv().unwrap().unwrap().take());
    }
    journal.end(&[places[2], places[3], places[10]]);
    let work = std::mem::take(&mut *journal.shared.inbox.lock().unwrap());
    engine.step(work, Instant::now());
    engine.flush_ends().unwrap();
    disk.files().into_iter().filter(|(path, _)| path.extension().is_some()).collect()
}

#[test]
fn the_segments_of_version_1_are_read() {
    let folder = folder();
    if std::env::var_os("TOLLGATE_BLESS").is_some() && !folder.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        for (path, bytes) in write() {
            std::fs::write(folder.join(path.file_name().unwrap()), bytes).unwrap();
        }
    }
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
    let files: Files = entries
        .map(|entry| (Path::new("/").join(entry.file_name()), std::fs::read(entry.path()).unwrap()))
        .collect();
    assert_eq!(files.len(), 4, "two segments and their ends");
    let in_segments: usize =
        files.values().filter_map(|bytes| read_segment(bytes)).map(|records| records.len()).sum();
    assert_eq!(in_segments, 12);
    let disk = MemoryDisk::of(&files);
    let (journal, _, recovery) = Journal::inline(Arc::new(disk), Path::new("/"), options()).unwrap();
    assert_eq!(recovery.damage, Damage::default());
    let numbers: Vec<u8> = recovery
        .waiting
        .map(|waits| {
            let bytes = journal.shared.read(waits.place).unwrap();
            let number = bytes[0];
            let expected =
                record(["acme", "zeta"][usize::from(number % 2)], vec![number; 300 + usize::from(number)]);
            assert_eq!((&waits.head, bytes), (&expected.head, expected.payload));
            number
        })
        .collect();
    assert_eq!(numbers, [0, 1, 4, 5, 6, 7, 8, 9, 11]);
}

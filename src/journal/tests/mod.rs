//! Tests of the journal: on the real disk here, on simulated ones in the modules below.

mod damage;
mod disk;
mod faults;
mod golden;
mod life;
mod memory;
mod model;
mod power;

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::identity::TenantId;
use crate::otlp::Signal;

/// Small segments, so that a test has several.
fn options() -> Options {
    Options { segment_size: 16 << 10, max_record: 64 << 10, ..Options::for_size(1 << 20, 64 << 10) }
}

fn record(tenant: &str, payload: impl Into<Bytes>) -> Record {
    let head = Head {
        tenant: TenantId::new(tenant).unwrap(),
        principal: "spiffe://example.org/sender".into(),
        revision: "r1".into(),
        signal: Signal::Logs,
        items: 3,
        flags: 7,
        received_unix_nanos: 1_700_000_000_000_000_000,
    };
    Record { head, payload: payload.into() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// The numbers once they are so: what has ended is in them when the round is over.
async fn usage_when(journal: &Journal, is_so: impl Fn(&Usage) -> bool) -> Usage {
    let deadline = soon();
    loop {
        let usage = journal.usage();
        if is_so(&usage) {
            return usage;
        }
        assert!(Instant::now() < deadline, "{usage:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn close(journal: Journal) {
    assert!(journal.close(soon()).await, "closed in time");
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart_in_order() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b");
    let (journal, recovery) = Journal::open(&path, options()).unwrap();
    assert_eq!(recovery.waiting.len(), 0);
    for n in 0..40u8 {
        let places =
            journal.append(vec![record("acme", vec![n; 1500]), record("zeta", vec![n; 10])]).await.unwrap();
        assert_eq!(journal.read(places[0]).await.unwrap(), vec![n; 1500]);
    }
    close(journal).await;
    let (journal, recovery) = Journal::open(&path, options()).unwrap();
    assert_eq!(recovery.damage, Damage::default());
    assert_eq!(recovery.waiting.len(), 80);
    let waiting: Vec<_> = recovery.waiting.collect();
    for (n, pair) in waiting.chunks(2).enumerate() {
        assert_eq!(pair[0].head, record("acme", "").head);
        assert_eq!(pair[1].head.tenant.as_str(), "zeta");
        assert_eq!((pair[0].bytes, pair[1].bytes), (1500, 10));
        assert_eq!(journal.read(pair[1].place).await.unwrap(), vec![n as u8; 10]);
    }
    close(journal).await;
}

#[tokio::test]
async fn what_has_ended_is_gone_and_so_are_its_segments() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    let mut places = Vec::new();
    for n in 0..100u8 {
        places.extend(journal.append(vec![record("acme", vec![n; 1500])]).await.unwrap());
    }
    let (last, ended) = places.split_last().unwrap();
    journal.end(ended);
    close(journal).await;
    let (journal, recovery) = Journal::open(dir.path(), options()).unwrap();
    assert_eq!(recovery.waiting.clone().map(|waits| waits.place).collect::<Vec<_>>(), [*last]);
    assert_eq!(recovery.damage, Damage::default());
    assert_eq!(journal.usage().segments, 1);
    journal.end(&[*last]);
    close(journal).await;
    let (journal, recovery) = Journal::open(dir.path(), options()).unwrap();
    assert_eq!((recovery.waiting.len(), journal.usage().segments), (0, 0));
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files <= 3, "lock, reserve and one note are left, not {files} files");
    close(journal).await;
}

#[tokio::test]
async fn a_full_journal_refuses_and_takes_again_when_records_have_ended() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    let mut places = Vec::new();
    let full = loop {
        match journal.append(vec![record("acme", vec![1; 4000])]).await {
            Ok(more) => places.extend(more),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full { max_bytes } if max_bytes == 1 << 20), "{full}");
    assert!(journal.usage().disk_bytes <= 1 << 20);
    assert!(places.len() > 200, "{}", places.len());
    journal.end(&places[..20]);
    // Ends are handled before the next append is.
    while journal.append(vec![record("acme", vec![1; 4000])]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(journal.usage().disk_bytes <= 1 << 20);
    close(journal).await;
}

#[tokio::test]
async fn a_second_opener_is_told_and_a_record_that_never_fits_too() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    let error = Journal::open(dir.path(), options()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is in use by another process", dir.path().display()));
    let error = journal.append(vec![record("acme", vec![0; 65 << 10])]).await.unwrap_err();
    assert_eq!(error.to_string(), "a record of 66560 bytes does not fit; 1 to 65536 do");
    assert!(matches!(journal.append(vec![record("acme", "")]).await, Err(AppendError::TooLarge { .. })));
    close(journal.clone()).await;
    assert!(matches!(journal.append(vec![record("acme", "x")]).await, Err(AppendError::Closed)));
}

#[tokio::test]
async fn a_stuck_record_pins_its_own_bytes_and_not_its_segment() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    let mut stuck = Vec::new();
    for n in 0..400u32 {
        let places = journal
            .append(vec![record("stuck", n.to_le_bytes().to_vec()), record("acme", vec![1; 4000])])
            .await
            .unwrap();
        stuck.push(places[0]);
        journal.end(&places[1..]);
    }
    let usage = usage_when(&journal, |usage| usage.records >= 400).await;
    assert!(usage.moved > 0, "{usage:?}");
    for (n, place) in stuck.iter().enumerate() {
        assert_eq!(journal.read(*place).await.unwrap(), (n as u32).to_le_bytes().to_vec());
    }
    close(journal).await;
    let (journal, recovery) = Journal::open(dir.path(), options()).unwrap();
    let order: Vec<u64> = recovery.waiting.clone().map(|waits| waits.place.sequence()).collect();
    assert_eq!(order, stuck.iter().map(Place::sequence).collect::<Vec<_>>());
    let all: Vec<Place> = recovery.waiting.clone().map(|waits| waits.place).collect();
    journal.end(&all);
    close(journal).await;
    let (journal, recovery) = Journal::open(dir.path(), options()).unwrap();
    assert_eq!((recovery.waiting.len(), recovery.damage), (0, Damage::default()));
    close(journal).await;
}

#[tokio::test]
async fn dead_letters_are_kept_within_their_bound() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    for _ in 0..60 {
        let places = journal.append(vec![record("acme", vec![1; 4000])]).await.unwrap();
        journal.set_aside(places[0], "the destination refused it").await.unwrap();
    }
    let usage = usage_when(&journal, |usage| usage.dead_letters + usage.dead_letters_dropped == 60).await;
    assert_eq!(usage.records, 0);
    assert!(usage.dead_letters > 10 && usage.dead_letters_dropped > 10, "{usage:?}");
    close(journal).await;
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    assert_eq!(journal.usage().dead_letters, usage.dead_letters);
    close(journal).await;
}

#[tokio::test]
async fn an_append_nobody_waits_for_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    for _ in 0..50 {
        let append = journal.append(vec![record("acme", vec![1; 1000])]);
        let mut append = std::pin::pin!(append);
        let poll = std::future::Future::poll(
            append.as_mut(),
            &mut std::task::Context::from_waker(std::task::Waker::noop()),
        );
        assert!(poll.is_pending());
    }
    close(journal).await;
    let (journal, recovery) = Journal::open(dir.path(), options()).unwrap();
    assert_eq!(recovery.waiting.len(), 0);
    close(journal).await;
}

#[tokio::test]
async fn a_journal_that_is_closed_has_no_file_open() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), options()).unwrap();
    let places = journal.append(vec![record("acme", vec![1; 1000])]).await.unwrap();
    journal.read(places[0]).await.unwrap();
    assert!(open_below(dir.path()) > 0);
    close(journal.clone()).await;
    assert_eq!(open_below(dir.path()), 0);
}

/// How many files of the process are open below a folder.
fn open_below(folder: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    links.filter_map(|link| std::fs::read_link(link).ok()).filter(|path| path.starts_with(folder)).count()
}

#[tokio::test]
async fn a_backlog_of_many_segments_keeps_few_files_open() {
    let dir = TempDir::new().unwrap();
    let large = Options { segment_size: 4 << 10, ..Options::for_size(16 << 20, 64 << 10) };
    let (journal, _) = Journal::open(dir.path(), large.clone()).unwrap();
    let mut places = Vec::new();
    for _ in 0..100 {
        places.extend(journal.append(vec![record("acme", vec![1; 2500])]).await.unwrap());
    }
    for place in &places {
        journal.read(*place).await.unwrap();
    }
    usage_when(&journal, |usage| usage.segments >= 99).await;
    assert!(open_below(dir.path()) < 25, "{} files", open_below(dir.path()));
    close(journal).await;
    let (journal, _) = Journal::open(dir.path(), large).unwrap();
    assert!(open_below(dir.path()) < 25, "{} files", open_below(dir.path()));
    close(journal).await;
}

#[tokio::test]
async fn what_comes_within_the_commit_delay_is_synced_together() {
    let dir = TempDir::new().unwrap();
    let delayed = Options { commit_delay: Duration::from_millis(500), ..options() };
    let (journal, _) = Journal::open(dir.path(), delayed).unwrap();
    journal.append(vec![record("acme", vec![1; 10])]).await.unwrap();
    let before = usage_when(&journal, |usage| usage.records == 1).await.syncs;
    let append = || async { journal.append(vec![record("acme", vec![1; 10])]).await.unwrap() };
    tokio::join!(append(), append(), append(), append(), append());
    assert_eq!(usage_when(&journal, |usage| usage.records == 6).await.syncs, before + 1);
    close(journal).await;
}

#[tokio::test]
async fn who_has_an_answer_finds_it_in_the_numbers() {
    let (journal, _) =
        Journal::open_on(Arc::new(memory::MemoryDisk::default()), Path::new("/"), options()).unwrap();
    for n in 1..=500 {
        let append = tokio::task::unconstrained(journal.append(vec![record("acme", vec![1; 10])]));
        let mut append = std::pin::pin!(append);
        // Nothing sleeps between the answer and the look.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let deadline = soon();
        while append.as_mut().poll(&mut context).is_pending() {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(journal.usage().records, n);
    }
    close(journal).await;
}

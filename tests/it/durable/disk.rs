//! Disks that are full, and disks that change what was written.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use tonic::Code;

use super::{Bound, arrivals, client, durable, figure, lost, ms, names, number, seed, send};
use crate::backpressure::Details;
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, scaled, spans};

/// A file system of 8 MiB; `None` where the test may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: no right to mount a small disk, so a full one is not tested");
        }
        mounted.then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Sends spans of 64 KiB until one is refused; which were taken, and the refusal.
async fn fill(grpc: &Grpc, prefix: &str) -> (HashSet<String>, tonic::Status) {
    let filler: String = std::iter::repeat_with(fastrand::alphanumeric).take(64 * 1024).collect();
    let mut taken = HashSet::new();
    for name in names(prefix, 1000) {
        match grpc.spans(spans(&[], &[Item::named(&name).attribute("filler", &filler)])).await {
            Ok(_) => _ = taken.insert(name),
            Err(status) => return (taken, status),
        }
    }
    panic!("the disk has no end");
}

pub(super) fn is_told_when_to_retry(refusal: &tonic::Status) {
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    let details = Details::decode(refusal.details()).unwrap();
    assert!(details.details.iter().any(|any| any.type_url.ends_with("google.rpc.RetryInfo")), "{details:?}");
}

pub(super) const WHOLE_QUEUE: &str = "
version: 1
identity: { claims: [{ header: x-tenant-id }] }
defaults: { queue: { max_share: 1 } }
rules: []
";

/// Freed, it takes data again; the name of the span that was taken.
async fn taken_again(grpc: &Grpc, round: &str) -> String {
    let (name, freed) = (format!("{round}-again"), std::time::Instant::now());
    eventually("room", || async {
        grpc.spans(spans(&[], &[Item::named(&name)])).await.is_ok().then_some(())
    })
    .await;
    figure("full.freed_to_taken_ms", ms(freed.elapsed()), Bound::AtMost(5000.0));
    name
}

/// Fills a queue up, empties it, and fills it again.
async fn full_and_freed(sink: &Sink, config: &str) -> Vec<tonic::Status> {
    sink.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(config).policies(WHOLE_QUEUE).start().await;
    let grpc = client(&tollgate, "acme").await;
    let (mut acknowledged, mut refusals) = (HashSet::new(), Vec::new());
    for round in ["first", "second"] {
        let (taken, refusal) = fill(&grpc, round).await;
        assert!(taken.len() > 10, "{} taken before {refusal:?}", taken.len());
        is_told_when_to_retry(&refusal);
        refusals.push(refusal);
        acknowledged.extend(taken);
        sink.answer(Answer::Ok);
        sink.wait_for("traces", acknowledged.len()).await;
        tollgate.settled().await;
        acknowledged.insert(taken_again(&grpc, round).await);
        sink.wait_for("traces", acknowledged.len()).await;
        sink.answer(Answer::Unavailable);
    }
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    let lost = lost(&acknowledged, &arrivals(sink));
    figure("full.lost", lost.len() as f64, Bound::AtMost(0.0));
    assert_eq!(lost, Vec::<String>::new());
    tollgate.stop().await;
    refusals
}

/// Scorecard, test 11.
#[tokio::test]
async fn a_full_disk_refuses_and_takes_data_again_when_it_is_freed() {
    let Some(disk) = SmallDisk::mount() else { return };
    let sink = Sink::start().await;
    let config = durable(&sink, disk.0.path(), ("max_size: 100MiB", ""));
    for refusal in full_and_freed(&sink, &config).await {
        assert!(refusal.message().contains("could not be put down for exporter `otlp_grpc`"), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_disk_that_somebody_else_fills_and_frees_is_used_again() {
    let Some(disk) = SmallDisk::mount() else { return };
    let sink = Sink::start().await;
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, disk.0.path(), ("max_size: 100MiB", ""));
    let tollgate = Tollgate::with(&config).policies(WHOLE_QUEUE).start().await;
    let grpc = client(&tollgate, "acme").await;
    send(&grpc, names("before", 5)).await;
    let filler = disk.0.path().join("filler");
    assert!(std::fs::write(&filler, vec![1; 16 << 20]).is_err(), "8 MiB are full");
    let (mut acknowledged, refusal) = fill(&grpc, "full").await;
    is_told_when_to_retry(&refusal);
    std::fs::remove_file(&filler).unwrap();
    acknowledged.insert(taken_again(&grpc, "freed").await);
    acknowledged.extend(names("before", 5));
    sink.answer(Answer::Ok);
    sink.wait_for("traces", acknowledged.len()).await;
    tollgate.settled().await;
    assert_eq!(lost(&acknowledged, &arrivals(&sink)), Vec::<String>::new());
    tollgate.stop().await;
}

#[tokio::test]
async fn a_queue_that_has_its_part_of_the_disk_refuses_and_takes_data_again_when_it_is_freed() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let config = durable(&sink, folder.path(), ("max_size: 12MiB", ""));
    full_and_freed(&sink, &config).await;
    let bytes: u64 = files(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= 12 << 20, "{bytes} bytes on disk");
}

/// One of two disks is full: the request is refused as a whole, and neither destination gets it.
#[tokio::test]
async fn a_request_goes_to_all_disks_or_to_none() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, disk.0.path(), ("max_size: 100MiB", ""))
        .replace("exporters:\n", &format!(
            "exporters:\n  otlp_grpc/large: {{ endpoint: '{}', tls: {{ insecure: true }}, sending_queue: {{ storage: file_storage/large }} }}\n",
            sink.address()
        ))
        .replace("extensions: { ", &format!(
            "extensions: {{ file_storage/large: {{ directory: '{}' }}, ",
            folder.path().display()
        ))
        .replace("extensions: [file_storage,", "extensions: [file_storage, file_storage/large,")
        .replace("exporters: [otlp_grpc] }", "exporters: [otlp_grpc, otlp_grpc/large] }");
    let tollgate = Tollgate::with(&config).policies(WHOLE_QUEUE).start().await;
    let (taken, refusal) = fill(&client(&tollgate, "acme").await, "x").await;
    is_told_when_to_retry(&refusal);
    sink.answer(Answer::Ok);
    sink.wait_for("traces", 2 * taken.len()).await;
    let metrics = tollgate.settled().await;
    assert_eq!(
        metrics.sum("tollgate_refused_items_total", &[("reason", "storage")]),
        2.0,
        "one and its copy"
    );
    let arrived = arrivals(&sink);
    assert!(taken.iter().all(|name| arrived[name] == 2), "{arrived:?}");
    assert_eq!(arrived.len(), taken.len());
    tollgate.stop().await;
}

pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            all.extend(files(&entry));
        } else {
            all.push(entry);
        }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, &to).unwrap();
    }
}

/// Flips a bit, cuts, or deletes one of the files.
fn damage(folder: &Path, random: &mut fastrand::Rng) -> String {
    let files: Vec<_> = files(folder).into_iter().filter(|path| path.metadata().unwrap().len() > 0).collect();
    let path = &files[random.usize(..files.len())];
    let mut bytes = std::fs::read(path).unwrap();
    let at = random.usize(..bytes.len());
    let what = match random.u8(..10) {
        0 => {
            std::fs::remove_file(path).unwrap();
            return format!("{} deleted", path.display());
        }
        1..=3 => {
            bytes.truncate(at);
            "cut"
        }
        _ => {
            bytes[at] ^= 1 << random.u8(..8);
            "flipped"
        }
    };
    std::fs::write(path, bytes).unwrap();
    format!("{} {what} at {at}", path.display())
}

/// Scorecard, test 12.
#[tokio::test]
async fn whatever_happens_to_its_files_the_program_starts_and_never_sends_wrong_bytes() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(
        &durable(&sink, folder.path(), ("segment_size: 64KiB", "")).replace("segment_size: 1MiB, ", ""),
    )
    .start()
    .await;
    let count = 100;
    let grpc = client(&tollgate, "acme").await;
    for name in names("a", count) {
        let filler = name.repeat(500);
        grpc.spans(spans(&[], &[Item::named(&name).attribute("filler", &filler)])).await.unwrap();
    }
    tollgate.stop().await;
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (cases, mut slowest, mut total) = (scaled(8, 2000), std::time::Duration::ZERO, 0);
    for _ in 0..cases {
        let (sink, damaged) = (Sink::start().await, tempfile::tempdir().unwrap());
        copy(folder.path(), damaged.path());
        let what = damage(damaged.path(), &mut random);
        let config =
            durable(&sink, damaged.path(), ("", "")).replace("segment_size: 1MiB", "segment_size: 64KiB");
        let starting = std::time::Instant::now();
        let tollgate = Tollgate::with(&config).start().await;
        slowest = slowest.max(starting.elapsed());
        let recovered = tollgate.event("queue.recovered").map_or(0, |event| number(&event, "records"));
        let metrics = tollgate.settled().await;
        let arrived = arrivals(&sink);
        for item in sink.items("traces") {
            assert_eq!(item.attributes["filler"], item.name.repeat(500), "seed {seed}: {what}");
        }
        let dropped = metrics.sum("tollgate_dropped_items_total", &[("reason", "damaged")]) as usize;
        assert_eq!(arrived.len() + dropped, recovered as usize, "seed {seed}: {what}");
        assert!(arrived.values().all(|times| *times == 1), "seed {seed}: {what}");
        let counted = metrics.sum("tollgate_storage_damaged_records_total", &[])
            + metrics.sum("tollgate_storage_damaged_segments_total", &[]);
        let gone = count - arrived.len();
        assert!(gone == 0 || counted > 0.0, "seed {seed}: {what}: {gone} are gone and not counted");
        total += gone;
        // It works on.
        send(&client(&tollgate, "acme").await, names("b", 1)).await;
        sink.wait_for("traces", arrived.len() + 1).await;
        tollgate.settled().await;
        tollgate.stop().await;
    }
    println!("{cases} damaged files: {total} of {} records gone, all counted", cases * count);
    figure("damage.slowest_start_ms", ms(slowest), Bound::AtMost(2000.0));
}

//! A disk that fails: writes and syncs answer EIO.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::is_told_when_to_retry;
use super::{Bound, arrivals, client, durable, figure, lost, ms};
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, scaled, spans};

/// Builds what fails calls into the C library; the path of the library.
fn library(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/durable/eio.c");
    let library = folder.join("eio.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
    let built = built.expect("a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

async fn send(grpc: &Grpc, name: &str) -> Result<(), tonic::Status> {
    grpc.spans(spans(&[], &[Item::named(name)])).await.map(drop)
}

/// Scorecard, test 13.
#[tokio::test]
async fn a_disk_that_answers_eio_is_written_elsewhere_or_refused_and_never_the_end() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let (control, queue) = (folder.path().join("control"), folder.path().join("queue"));
    [&control, &queue].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let library = library(folder.path());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, &queue, ("", ""));
    let tollgate = Tollgate::with(&config)
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("TOLLGATE_TEST_EIO", control.to_str().unwrap())
        .start()
        .await;
    let grpc = client(&tollgate, "acme").await;
    let mut acknowledged = HashSet::new();
    let rounds = scaled(3, 200);
    let mut slowest = std::time::Duration::ZERO;
    for round in 0..rounds {
        for what in ["pwrite", "fdatasync"] {
            let name = |part: &str| format!("{round}-{what}-{part}");
            // A fault that passes: what it hit is written to another file, and the sender notices nothing.
            std::fs::write(control.join(format!("{what}.once")), "").unwrap();
            send(&grpc, &name("once")).await.unwrap();
            assert!(!control.join(format!("{what}.once")).exists(), "it failed");
            // A fault that stays: nothing is acknowledged.
            std::fs::write(control.join(what), "").unwrap();
            let refusal = send(&grpc, &name("lasting")).await.unwrap_err();
            is_told_when_to_retry(&refusal);
            assert!(refusal.message().contains("put down for exporter `otlp_grpc`"), "{refusal:?}");
            std::fs::remove_file(control.join(what)).unwrap();
            let working = std::time::Instant::now();
            eventually("the next request to be taken", || async { send(&grpc, &name("again")).await.ok() })
                .await;
            slowest = slowest.max(working.elapsed());
            acknowledged.extend([name("once"), name("again")]);
        }
    }
    let metrics = tollgate.metrics().await;
    let faults = (2 * rounds) as f64;
    assert!(metrics.sum("tollgate_storage_failures_total", &[]) >= 2.0 * faults);
    assert!(metrics.sum("tollgate_storage_poisoned_segments_total", &[]) >= faults);
    tollgate.kill();
    sink.answer(Answer::Ok);
    let tollgate = Tollgate::with(&config).start().await;
    let metrics = tollgate.settled().await;
    let lost = lost(&acknowledged, &arrivals(&sink));
    figure("eio.lost", lost.len() as f64, Bound::AtMost(0.0));
    figure("eio.slowest_to_take_again_ms", ms(slowest), Bound::AtMost(5000.0));
    assert_eq!(lost, Vec::<String>::new());
    assert_eq!(metrics.sum("tollgate_storage_damaged_records_total", &[]), 0.0);
    tollgate.stop().await;
}

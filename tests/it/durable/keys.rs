//! What each key of `file_storage` does; sizes are in `disk`.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use tollgate::identity::TenantId;
use tollgate::journal::{Head, Journal, Options, Record};
use tollgate::otlp::Signal;

use super::disk::{WHOLE_QUEUE, files, is_told_when_to_retry};
use super::{client, durable, names, send};
use crate::harness::{Answer, Item, Sink, Tollgate, eventually, spans};

#[tokio::test]
async fn directories_are_made_with_the_permissions_that_are_written() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let keys = "create_directory: true, directory_permissions: '0710', recreate: true, compaction: { on_start: true }";
    let config = durable(&sink, &folder.path().join("a/b"), (keys, ""));
    Tollgate::with(&config).start().await.stop().await;
    for made in ["a", "a/b", "a/b/otlp_grpc"] {
        let mode = folder.path().join(made).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o710, "{made} has {mode:o}");
    }
}

#[tokio::test]
async fn a_folder_that_another_program_has_is_waited_for() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let config = durable(&sink, folder.path(), ("timeout: 1m", ""));
    sink.answer(Answer::Unavailable);
    let first = Tollgate::with(&config).start().await;
    send(&client(&first, "acme").await, names("a", 3)).await;
    let (second, _) = tokio::join!(Tollgate::with(&config).start(), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.stop().await
    });
    sink.answer(Answer::Ok);
    sink.wait_for("traces", 3).await;
    second.settled().await;
    second.stop().await;
}

#[tokio::test]
async fn no_more_batches_wait_than_may() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, folder.path(), ("max_records: 7", ""));
    let tollgate = Tollgate::with(&config).policies(WHOLE_QUEUE).start().await;
    let grpc = client(&tollgate, "acme").await;
    send(&grpc, names("a", 7)).await;
    is_told_when_to_retry(&grpc.spans(spans(&[], &[Item::named("one too many")])).await.unwrap_err());
    sink.answer(Answer::Ok);
    sink.wait_for("traces", 7).await;
    tollgate.settled().await;
    send(&grpc, names("b", 1)).await;
    tollgate.stop().await;
}

#[tokio::test]
async fn files_are_as_large_as_is_written() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, folder.path(), ("", "")).replace("segment_size: 1MiB", "segment_size: 64KiB");
    let tollgate = Tollgate::with(&config).start().await;
    let (grpc, filler) = (client(&tollgate, "acme").await, "x".repeat(10_000));
    for name in names("a", 50) {
        grpc.spans(spans(&[], &[Item::named(&name).attribute("filler", &filler)])).await.unwrap();
    }
    let sizes: Vec<u64> = files(folder.path()).iter().map(|path| path.metadata().unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size <= 64 << 10), "{sizes:?}");
    let segments = tollgate.metrics().await.sum("tollgate_storage_segments", &[]);
    assert!(segments >= 8.0, "{segments} files for 500 kB");
    tollgate.stop().await;
}

/// Batches that are as old as they are, not as old as the program.
#[tokio::test]
async fn after_a_restart_batches_have_their_real_age() {
    const AGE: Duration = Duration::from_secs(3 * 3600);
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let received = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() - AGE;
    let head = Head {
        tenant: TenantId::new("acme").unwrap(),
        principal: "".into(),
        revision: "".into(),
        signal: Signal::Traces,
        items: 1,
        flags: 0,
        received_unix_nanos: received.as_nanos() as u64,
    };
    let payload = prost::Message::encode_to_vec(&spans(&[], &[Item::named("old")]));
    let queue = folder.path().join("otlp_grpc");
    let (journal, _) = Journal::open(&queue, Options::for_size(64 << 20, 1 << 20)).unwrap();
    let record = Record { head, payload: payload.into() };
    journal.append(vec![record; 3]).await.unwrap();
    assert!(journal.close(tokio::time::Instant::now() + Duration::from_secs(60)).await);
    let one_at_a_time = "num_consumers: 1, batch: { min_size: 0, max_size: 1, flush_timeout: 1ms }";
    let tollgate = Tollgate::with(&durable(&sink, folder.path(), ("", one_at_a_time))).start().await;
    eventually("the real ages", || async {
        let metrics = tollgate.metrics().await;
        let is_age = |name: &str| {
            let age = metrics.sum(name, &[("exporter", "otlp_grpc")]);
            (AGE.as_secs_f64()..AGE.as_secs_f64() + 3600.0).contains(&age)
        };
        let both = ["tollgate_exporter_queue_oldest_age_seconds", "tollgate_storage_oldest_age_seconds"];
        both.into_iter().all(is_age).then_some(())
    })
    .await;
    sink.answer(Answer::Ok);
    sink.wait_for("traces", 3).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

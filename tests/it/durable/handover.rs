//! SIGHUP: the next configuration takes the queue over, with all that waits in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{arrivals, client, duplicates, durable, lost, names, send};
use crate::harness::{Answer, Item, Sink, Tollgate, eventually, scaled, spans};
use crate::life::at;

async fn reload(tollgate: &Tollgate, config: &str) {
    let text = config.replace("{otlp}", &at(tollgate));
    std::fs::write(tollgate.dir.path().join("collector.yaml"), text).unwrap();
    let before = tollgate.events("config.reloaded");
    tollgate.signal("HUP");
    eventually("the reload", || async { (tollgate.events("config.reloaded") > before).then_some(()) }).await;
}

#[tokio::test]
async fn a_corrected_destination_gets_what_waited_for_the_wrong_one() {
    let (wrong, right) = (Sink::start().await, Sink::start().await);
    let folder = tempfile::tempdir().unwrap();
    wrong.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(&durable(&wrong, folder.path(), ("", ""))).start().await;
    send(&client(&tollgate, "acme").await, names("a", 100)).await;
    reload(&tollgate, &durable(&right, folder.path(), ("", ""))).await;
    send(&client(&tollgate, "acme").await, names("b", 10)).await;
    right.wait_for("traces", 110).await;
    tollgate.settled().await;
    assert_eq!(duplicates(&arrivals(&right)), 0);
    assert_eq!(wrong.items("traces").len(), 0);
    tollgate.stop().await;
}

#[tokio::test]
async fn reloads_under_load_lose_nothing_and_send_nothing_twice() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let config = durable(&sink, folder.path(), ("", ""));
    // Each reload is told, however many there are in a second.
    let whole_log = "--set=service.telemetry.logs.sampling.enabled=false";
    let tollgate = Tollgate::with(&config).argument(whole_log).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for sender in 0..4 {
        let (address, stop) = (tollgate.address("otlp/grpc").to_owned(), stop.clone());
        senders.push(tokio::spawn(async move {
            let mut acknowledged = HashSet::new();
            let connect = || async { crate::harness::Grpc::connect(&address).await.tenant("acme") };
            let mut grpc = connect().await;
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("{sender}-{n}");
                match grpc.spans(spans(&[], &[Item::named(&name)])).await {
                    Ok(_) => _ = acknowledged.insert(name),
                    // The old configuration's connections end.
                    Err(_) => grpc = connect().await,
                }
            }
            acknowledged
        }));
    }
    for _ in 0..scaled(5, 200) {
        let before = sink.items("traces").len();
        reload(&tollgate, &config).await;
        sink.wait_for("traces", before + 20).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = HashSet::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    tollgate.settled().await;
    let arrived = arrivals(&sink);
    assert_eq!(lost(&acknowledged, &arrived), Vec::<String>::new());
    assert_eq!(duplicates(&arrived), 0);
    tollgate.stop().await;
}

#[tokio::test]
async fn an_exporter_that_comes_back_finds_its_queue() {
    let (sink, other, folder) = (Sink::start().await, Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, folder.path(), ("", ""));
    let without = crate::gate::gate(&other).replace("otlp_grpc", "otlp_grpc/other");
    let tollgate = Tollgate::with(&config).start().await;
    send(&client(&tollgate, "acme").await, names("a", 20)).await;
    reload(&tollgate, &without).await;
    send(&client(&tollgate, "acme").await, names("b", 5)).await;
    other.wait_for("traces", 5).await;
    reload(&tollgate, &durable(&other, folder.path(), ("", ""))).await;
    other.wait_for("traces", 25).await;
    tollgate.settled().await;
    assert_eq!((duplicates(&arrivals(&other)), sink.items("traces").len()), (0, 0));
    tollgate.stop().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_had_is_told_with_its_key() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let config = durable(&sink, folder.path(), ("timeout: 100ms", ""));
    let tollgate = Tollgate::with(&config).start().await;
    let check = |config: String| {
        let path = folder.path().join("collector.yaml");
        std::fs::write(&path, config.replace("{otlp}", crate::harness::EPHEMERAL)).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let readers = "--set=service.telemetry.metrics.level=none";
        command.arg("run").arg("--config").arg(&path).arg(readers);
        command.arg("--set=extensions.admin.endpoint=127.0.0.1:0");
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let in_use = check(config.clone());
    assert!(in_use.contains("extensions.file_storage.directory: "), "{in_use}");
    assert!(in_use.contains("is in use by another process"), "{in_use}");
    let missing = check(durable(&sink, &folder.path().join("missing"), ("", "")));
    assert!(missing.contains("does not exist; make it, or write `create_directory: true`"), "{missing}");
    tollgate.stop().await;
    let made = durable(&sink, &folder.path().join("a/b"), ("create_directory: true", ""));
    Tollgate::with(&made).start().await.stop().await;
    assert!(folder.path().join("a/b/otlp_grpc").is_dir());
}

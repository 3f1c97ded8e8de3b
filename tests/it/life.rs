//! From ready to stopped: readiness, drain, reload of the configuration.

use crate::gate::gate;
use crate::harness::{Answer, Group, Grpc, Item, Sink, Tollgate, eventually, get, spans};

#[tokio::test]
async fn sigterm_drains_what_was_accepted() {
    let sink = Sink::start().await;
    sink.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    for i in 0..50 {
        grpc.spans(spans(&[], &[Item::named(format!("{i}"))])).await.unwrap();
    }
    let health = tollgate.address("health_check").to_owned();
    assert_eq!(get(&health, "/").await.0, 200);
    tollgate.signal("TERM");
    eventually("readiness to fail", || async { (get(&health, "/").await.0 == 503).then_some(()) }).await;
    sink.answer(Answer::Ok);
    let ended = tollgate.ended().await;
    assert_eq!(sink.items("traces").len(), 50);
    let stopped = ended.log.iter().find(|line| line["event"] == "stopped").unwrap();
    assert_eq!((&stopped["received"], &stopped["sent"]), (&50.into(), &50.into()), "{stopped}");
}

#[tokio::test]
async fn what_cannot_be_delivered_before_the_grace_ends_is_counted_as_dropped() {
    let sink = Sink::start().await;
    sink.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(&gate(&sink)).argument("--shutdown-grace=500ms").start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    let ended = tollgate.stop().await;
    let stopped = ended.log.iter().find(|line| line["event"] == "stopped").unwrap();
    assert_eq!((&stopped["dropped"], &stopped["queued"]), (&1.into(), &0.into()), "{stopped}");
}

#[tokio::test]
async fn a_connection_is_told_to_go_away_and_its_calls_finish() {
    let sink = Sink::start().await;
    let config = gate(&sink)
        .replace("retry_on_failure:", "sending_queue: { wait_for_result: true }, retry_on_failure:");
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    sink.answer(Answer::Silence);
    let calls: Vec<_> = (0..20)
        .map(|i| {
            let grpc = grpc.clone();
            tokio::spawn(async move { grpc.spans(spans(&[], &[Item::named(format!("{i}"))])).await })
        })
        .collect();
    eventually("all calls to be queued", || async {
        (tollgate.metrics().await.sum("tollgate_queued_items", &[]) == 20.0).then_some(())
    })
    .await;
    tollgate.signal("TERM");
    eventually("the listener to close", || async {
        tokio::net::TcpStream::connect(tollgate.address("otlp/grpc")).await.err()
    })
    .await;
    sink.answer(Answer::Ok);
    for call in calls {
        call.await.unwrap().expect("a call in flight at SIGTERM is answered");
    }
    tollgate.ended().await;
}

#[tokio::test]
async fn sighup_takes_a_new_configuration_without_losing_accepted_data() {
    let (old, new) = (Sink::start().await, Sink::start().await);
    old.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(&gate(&old)).start().await;
    let address = tollgate.address("otlp/grpc").to_owned();
    let grpc = Grpc::connect(&address).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("to-old")])).await.unwrap();

    std::fs::write(tollgate.dir.path().join("collector.yaml"), gate(&new).replace("{otlp}", &at(&tollgate)))
        .unwrap();
    tollgate.signal("HUP");
    eventually("the reload", || async { tollgate.event("config.reloaded") }).await;
    let again = Grpc::connect(&address).await.tenant("acme");
    again.spans(spans(&[], &[Item::named("to-new")])).await.unwrap();
    assert_eq!(new.wait_for("traces", 1).await[0].name, "to-new");
    old.answer(Answer::Ok);
    assert_eq!(old.wait_for("traces", 1).await[0].name, "to-old");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn sighup_with_a_bad_configuration_changes_nothing() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let address = tollgate.address("otlp/grpc").to_owned();
    std::fs::write(tollgate.dir.path().join("collector.yaml"), "receivers: { otlq: }").unwrap();
    tollgate.signal("HUP");
    let refused = eventually("the refusal", || async { tollgate.event("config.refused") }).await;
    assert!(refused.to_string().contains("otlq"), "{refused}");
    let grpc = Grpc::connect(&address).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    sink.wait_for("traces", 1).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn worker_threads_follow_the_cpu_quota() {
    let sink = Sink::start().await;
    let group = Group::of_cpus(1);
    let enter = group.as_ref().map(Group::enter);
    let start = Tollgate::with(&gate(&sink));
    let start = match &enter {
        Some(enter) => start.by(&["sh", "-c", enter, "sh"]),
        // Without the right to make control groups, the affinity stands for the quota.
        None => start.by(&["taskset", "-c", "0"]),
    };
    let tollgate = start.start().await;
    assert_eq!(tollgate.event("ready").unwrap()["workers"], 1);
    assert_eq!(tollgate.metrics().await.sum("tollgate_workers", &[]), 1.0);
    if let Some(group) = &group {
        group.set_cpus(2);
        let most = std::thread::available_parallelism().unwrap().get().min(2);
        eventually("as many workers as the real quota allows", || async {
            (tollgate.metrics().await.sum("tollgate_workers", &[]) == most as f64).then_some(())
        })
        .await;
    }
    tollgate.stop().await;
}

#[tokio::test]
async fn pools_follow_a_real_memory_limit() {
    const MIB: u64 = 1 << 20;
    let Some(group) = Group::of_memory(256 * MIB) else { return };
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).by(&["sh", "-c", &group.enter(), "sh"]).start().await;
    for limit in [256 * MIB, 192 * MIB] {
        group.set_memory(limit);
        eventually("pools within the real limit", || async {
            let metrics = tollgate.metrics().await;
            let pools = metrics.sum("tollgate_memory_pool_bytes", &[]);
            let seen = metrics.sum("tollgate_memory_limit_bytes", &[]) == limit as f64;
            (seen && pools <= limit as f64).then_some(())
        })
        .await;
    }
    tollgate.stop().await;
}

#[tokio::test]
async fn every_task_is_listed_with_parent_age_state_and_origin() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    sink.wait_for("traces", 1).await;
    let (status, page) = tollgate.get("admin", "/debug/tasks").await;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let tasks = page["tasks"].as_array().unwrap();
    assert_eq!((status, &page["requests"], &page["overdue"]), (200, &0.into(), &0.into()), "{page}");
    // The listing was made by a task too.
    assert!(page["alive"].as_u64().unwrap().abs_diff(tasks.len() as u64) <= 2, "{page}");
    for (name, parent, file) in [
        ("connection", "tollgate/pipelines/receiver", "src/receiver/listen.rs:"),
        ("consumer", "tollgate/pipelines/otlp_grpc/consumers", "src/exporter/crew.rs:"),
        ("accept", "tollgate/pipelines/receiver/accept", "src/receiver/mod.rs:"),
        ("admin listener", "tollgate/admin", "src/admin/server.rs:"),
    ] {
        let found = tasks.iter().find(|task| task["name"] == name && task["parent"] == parent);
        let task = found.unwrap_or_else(|| panic!("no {name} in {parent}: {page}"));
        assert_eq!(task["state"], "running", "{task}");
        assert!(task["age_seconds"].as_f64().unwrap() >= 0.0, "{task}");
        assert!(task["spawned_at"].as_str().unwrap().starts_with(file), "{task}");
    }
    tollgate.stop().await;
}

/// The receiver section of a running Tollgate, with the ports it got.
pub fn at(tollgate: &Tollgate) -> String {
    let (grpc, http) = (tollgate.address("otlp/grpc"), tollgate.address("otlp/http"));
    format!(
        "\nreceivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: '{grpc}' }}, http: {{ endpoint: '{http}' }} }} }} }}\n"
    )
}

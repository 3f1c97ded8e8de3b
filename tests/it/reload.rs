//! SIGHUP: what may change, what stays, and what cannot be had.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::gate::gate;
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, get, spans};

fn rewrite(tollgate: &Tollgate, config: &str) {
    std::fs::write(tollgate.dir.path().join("collector.yaml"), config).unwrap();
}

/// SIGHUP, and the event that says what became of it.
async fn hang_up(tollgate: &Tollgate, expected: &str) -> serde_json::Value {
    let before = tollgate.events(expected);
    tollgate.signal("HUP");
    eventually(expected, || async { (tollgate.events(expected) > before).then_some(()) }).await;
    tollgate.log().into_iter().rfind(|line| line["event"] == expected).unwrap()
}

#[tokio::test]
async fn a_unix_socket_survives_the_reload_and_is_removed_at_the_end() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let socket = folder.path().join("otlp.sock");
    let config = gate(&sink).replace(
        "{otlp}",
        &format!(
            "receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: '{}', transport: unix }} }} }} }}",
            socket.display()
        ),
    );
    let tollgate = Tollgate::with(&config).start().await;
    for i in 0..3 {
        let grpc = Grpc::unix(&socket).await.tenant("acme");
        grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
        sink.wait_for("traces", i + 1).await;
        tollgate.settled().await;
        eventually("the reload", || async {
            tollgate.signal("HUP");
            (tollgate.events("config.reloaded") > i).then_some(())
        })
        .await;
    }
    assert_eq!(tollgate.events("config.refused"), 0);
    tollgate.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_surface_changes_its_settings_and_keeps_its_port() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let health = tollgate.address("health_check").to_owned();
    let changed = gate(&sink).replace(
        "health_check: { endpoint: '127.0.0.1:0' }",
        &format!(
            "health_check: {{ endpoint: '{health}', path: /ready, response_body: {{ healthy: fine }} }}"
        ),
    );
    rewrite(&tollgate, &changed.replace("{otlp}", crate::harness::EPHEMERAL));
    hang_up(&tollgate, "config.reloaded").await;
    assert_eq!(get(&health, "/ready").await, (200, "fine".to_owned()));
    assert_eq!(get(&health, "/").await.0, 404);
    tollgate.stop().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_had_changes_nothing_and_is_told_once() {
    let (sink, taken) = (Sink::start().await, Sink::start().await);
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let address = tollgate.address("otlp/grpc").to_owned();
    let busy = taken.address();
    for section in [
        format!("receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: '{busy}' }} }} }} }}"),
        format!("{}extensions: {{ health_check: {{ endpoint: '{busy}' }} }}", crate::harness::EPHEMERAL),
    ] {
        let config = gate(&sink).replace("{otlp}", "");
        let config = match section.contains("extensions") {
            true => config.replace("extensions: { admin: , health_check: { endpoint: '127.0.0.1:0' } }", ""),
            false => config,
        };
        rewrite(&tollgate, &format!("{section}\n{config}"));
        let refused = hang_up(&tollgate, "config.refused").await;
        let message = refused["msg"].as_str().unwrap();
        assert!(message.contains(&format!("cannot listen on {busy}")), "{message}");
        assert_eq!(message.matches("Address already in use").count(), 1, "{message}");
    }
    let grpc = Grpc::connect(&address).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    sink.wait_for("traces", 1).await;
    assert_eq!(get(tollgate.address("health_check"), "/").await.0, 200);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn the_log_level_changes_and_what_needs_a_restart_is_told() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let config = gate(&sink).replace("{otlp}", crate::harness::EPHEMERAL);
    rewrite(&tollgate, &format!("{config}\n  telemetry: {{ logs: {{ level: debug }} }}\n"));
    hang_up(&tollgate, "config.reloaded").await;
    assert_eq!(tollgate.events("config.restart_needed"), 0);
    eventually("a line of level debug", || async {
        get(tollgate.address("health_check"), "/").await;
        let http = tollgate.event("config.reloaded").unwrap()["addresses"].as_str().unwrap().to_owned();
        let http = http.split(' ').find_map(|pair| pair.strip_prefix("otlp/http=")).unwrap().to_owned();
        get(&http, "/nothing").await;
        tollgate.log().iter().any(|line| line["level"] == "debug").then_some(())
    })
    .await;
    rewrite(&tollgate, &format!("{config}\n  telemetry: {{ resource: {{ service.name: other }} }}\n"));
    eventually("the second reload", || async {
        tollgate.signal("HUP");
        (tollgate.events("config.restart_needed") > 0).then_some(())
    })
    .await;
    tollgate.stop().await;
}

#[tokio::test]
async fn with_a_dead_destination_a_second_reload_still_gets_through() {
    let (dead, sink) = (Sink::start().await, Sink::start().await);
    dead.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(&gate(&dead)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("to-dead")])).await.unwrap();
    let config = gate(&dead).replace("{otlp}", &crate::life::at(&tollgate));
    rewrite(&tollgate, &config);
    hang_up(&tollgate, "config.reloaded").await;
    let config = gate(&sink).replace("{otlp}", &crate::life::at(&tollgate));
    rewrite(&tollgate, &config);
    hang_up(&tollgate, "config.reloaded").await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("to-sink")])).await.unwrap();
    assert_eq!(sink.wait_for("traces", 1).await[0].name, "to-sink");
    dead.answer(Answer::Ok);
    assert_eq!(dead.wait_for("traces", 1).await[0].name, "to-dead");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn reloads_under_load_lose_nothing_that_was_accepted() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    rewrite(&tollgate, &gate(&sink).replace("{otlp}", &crate::life::at(&tollgate)));
    let done = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for sender in 0..4 {
        let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
        let done = done.clone();
        senders.push(tokio::spawn(async move {
            let mut accepted = Vec::new();
            for i in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("{sender}/{i}");
                // A call that meets a connection on its way out may fail; then nothing is promised.
                if grpc.spans(spans(&[], &[Item::named(&name)])).await.is_ok() {
                    accepted.push(name);
                }
            }
            accepted
        }));
    }
    for _ in 0..10 {
        let before = sink.items("traces").len();
        eventually("a reload", || async {
            let reloads = tollgate.events("config.reloaded");
            tollgate.signal("HUP");
            eventually("its end", || async {
                let ended = tollgate.events("config.reloaded") + tollgate.events("config.refused");
                (ended > reloads).then_some(())
            })
            .await;
            (tollgate.events("config.reloaded") > reloads).then_some(())
        })
        .await;
        sink.wait_for("traces", before + 20).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut accepted = Vec::new();
    for sender in senders {
        accepted.extend(sender.await.unwrap());
    }
    tollgate.settled().await;
    let arrived: HashSet<String> = sink.items("traces").into_iter().map(|item| item.name).collect();
    let lost: Vec<_> = accepted.iter().filter(|name| !arrived.contains(*name)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), accepted.len());
    tollgate.stop().await;
}

#[tokio::test]
async fn what_earlier_configurations_could_not_deliver_is_counted_at_the_end() {
    let dead = Sink::start().await;
    dead.answer(Answer::Unavailable);
    let tollgate = Tollgate::with(&gate(&dead)).argument("--shutdown-grace=500ms").start().await;
    rewrite(&tollgate, &gate(&dead).replace("{otlp}", &crate::life::at(&tollgate)));
    for reloads in 0..3 {
        let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
        grpc.spans(spans(&[], &[Item::named("x"), Item::named("y")])).await.unwrap();
        if reloads < 2 {
            hang_up(&tollgate, "config.reloaded").await;
        }
    }
    assert_eq!(tollgate.metrics().await.sum("tollgate_queued_items", &[]), 6.0);
    assert_eq!(tollgate.metrics().await.sum("otelcol_exporter_queue_size", &[]), 3.0);
    let ended = tollgate.stop().await;
    let stopped = ended.log.iter().find(|line| line["event"] == "stopped").unwrap();
    assert_eq!((&stopped["received"], &stopped["dropped"]), (&6.into(), &6.into()), "{stopped}");
}

#[tokio::test]
async fn another_policies_file_takes_effect_and_a_bad_one_changes_nothing() {
    let sink = Sink::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policies = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let text = |revision: &str| {
        format!(
            "version: 1\nrevision: {revision}\nidentity: {{ claims: [{{ header: x-tenant-id }}], anonymous: refuse }}\nrules: []\n"
        )
    };
    let with = |path: &str| {
        let extension = format!("extensions: {{ policies: {{ path: '{path}' }}, admin: ,");
        gate(&sink).replace("extensions: { admin: ,", &extension).replace("[admin,", "[policies, admin,")
    };
    let tollgate = Tollgate::with(&with(&policies("one.yaml", &text("one")))).start().await;
    let at = crate::life::at(&tollgate);
    let in_force = async || {
        let (_, text) = tollgate.get("admin", "/v1/revisions").await;
        let text: serde_json::Value = serde_json::from_str(&text).unwrap();
        text["in_force"]["revision"].as_str().unwrap().to_owned()
    };
    assert_eq!(in_force().await, "one");
    rewrite(&tollgate, &with(&policies("bad.yaml", "version: 1\nrulez: []\n")).replace("{otlp}", &at));
    let refused = hang_up(&tollgate, "config.refused").await;
    assert!(refused["msg"].as_str().unwrap().contains("bad.yaml:2:1: rulez: unknown key"), "{refused}");
    assert_eq!(in_force().await, "one");
    rewrite(&tollgate, &with(&policies("two.yaml", &text("two"))).replace("{otlp}", &at));
    hang_up(&tollgate, "config.reloaded").await;
    assert_eq!(in_force().await, "two");
    // And it is the new file that is watched.
    policies("one.yaml", &text("late"));
    policies("two.yaml", &text("three"));
    eventually("the change of the new file", || async { (in_force().await == "three").then_some(()) }).await;
    tollgate.stop().await;
}

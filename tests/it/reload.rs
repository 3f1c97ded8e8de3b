//! SIGHUP: what may change, what stays, and what cannot be had.

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

//! Real clients: the OpenTelemetry SDK for Python, and Tollgate itself as an agent before a gateway.

use std::path::Path;

use crate::gate::gate;
use crate::harness::{Grpc, Item, Sink, Tollgate, logs, metrics, spans};

/// `./test` makes this environment; nothing is skipped without it.
fn python() -> std::path::PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    assert!(
        python.exists(),
        "the Python SDK is not installed: run ./test, which installs what the tests need"
    );
    python
}

async fn python_sdk_sends(protocol: &str, prefix: &str, address: &str) {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let endpoint = format!("{prefix}{}", tollgate.address(address));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/send.py");
    let sent = tokio::process::Command::new(python())
        .arg(script)
        .args([protocol, &endpoint, "acme"])
        .output()
        .await
        .unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    for (signal, name) in [("traces", "python-span"), ("metrics", "python_counter"), ("logs", "python-log")] {
        let items = sink.wait_for(signal, 1).await;
        let item =
            items.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("{name} in {items:?}"));
        let resource = |key: &str| item.resource[key].as_str();
        assert_eq!(resource("service.name"), "python");
        assert_eq!(resource("tenant.id"), "acme");
        assert_eq!((resource("model.name"), resource("model.version")), ("ranker", "7.1.0"));
    }
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn the_python_sdk_sends_over_grpc() {
    python_sdk_sends("grpc", "", "otlp/grpc").await;
}

#[tokio::test]
async fn the_python_sdk_sends_over_http() {
    python_sdk_sends("http", "http://", "otlp/http").await;
}

#[tokio::test]
async fn an_agent_sends_through_a_gateway() {
    let sink = Sink::start().await;
    let gateway = Tollgate::with(&gate(&sink)).start().await;
    let agent = gate(&sink).replace(&sink.address().to_string(), gateway.address("otlp/grpc"));
    let agent = Tollgate::with(&agent).start().await;
    let grpc = Grpc::connect(agent.address("otlp/grpc")).await.tenant("acme");
    let items: Vec<_> = (0..500).map(|i| Item::named(format!("{i}"))).collect();
    grpc.spans(spans(&[("model.name", "m")], &items)).await.unwrap();
    grpc.metrics(metrics(&[("model.name", "m")], &items)).await.unwrap();
    grpc.logs(logs(&[("model.name", "m")], &items)).await.unwrap();
    for signal in ["traces", "metrics", "logs"] {
        let arrived = sink.wait_for(signal, 500).await;
        assert!(
            arrived.iter().all(|item| item.resource["tenant.id"] == "acme"),
            "the tenant survives the hop"
        );
        assert_eq!(arrived.len(), 500);
    }
    agent.settled().await;
    agent.stop().await;
    gateway.settled().await;
    gateway.stop().await;
}

//! TLS and mTLS between two Tollgates: an agent whose exporter is the client of a gateway's receiver.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Authority, Grpc, Item, Sink, Tollgate, eventually, spans};

/// Takes OTLP over mTLS from files in `{folder}`; connections are short so that handshakes are many.
const GATEWAY: &str = "
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:0
        tls: { cert_file: '{folder}/server.crt', key_file: '{folder}/server.key', client_ca_file: '{folder}/clients.pem', reload_interval: 200ms }
        keepalive: { server_parameters: { max_connection_age: 100ms, max_connection_age_grace: 5s } }
      http:
        endpoint: 127.0.0.1:0
        tls: { cert_file: '{folder}/server.crt', key_file: '{folder}/server.key', client_ca_file: '{folder}/clients.pem' }
exporters:
  otlp_grpc: { endpoint: '{sink}', tls: { insecure: true } }
service:
  pipelines:
    traces: { receivers: [otlp], exporters: [otlp_grpc] }
";

/// Sends over mTLS.
const AGENT: &str = "
{otlp}
exporters:
  {exporter}:
    endpoint: 'https://{gateway}'
    tls: { ca_file: '{folder}/servers.pem', cert_file: '{folder}/client.crt', key_file: '{folder}/client.key', reload_interval: 200ms }
    sending_queue: { queue_size: 100000 }
    retry_on_failure: { initial_interval: 20ms, max_interval: 100ms }
service:
  pipelines:
    traces: { receivers: [otlp], exporters: [{exporter}] }
";

fn text(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

async fn gateway(folder: &Path, sink: &Sink) -> Tollgate {
    let config = GATEWAY.replace("{folder}", text(folder)).replace("{sink}", &sink.address().to_string());
    Tollgate::with(&config).start().await
}

async fn agent(folder: &Path, exporter: &str, gateway: &str) -> Tollgate {
    let config = AGENT.replace("{folder}", text(folder)).replace("{exporter}", exporter);
    Tollgate::with(&config.replace("{gateway}", gateway)).start().await
}

/// One authority for everybody, and a pair for each side.
fn certificates(folder: &Path) -> Authority {
    let authority = Authority::new();
    authority.sign("127.0.0.1").write(folder, "server");
    authority.sign("agent").write(folder, "client");
    std::fs::write(folder.join("servers.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("clients.pem"), authority.pem()).unwrap();
    authority
}

#[tokio::test]
async fn data_passes_over_mutual_tls_by_grpc_and_by_http() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    certificates(folder.path());
    let gateway = gateway(folder.path(), &sink).await;
    for (count, (exporter, door)) in
        [("otlp_grpc", "otlp/grpc"), ("otlp_http", "otlp/http")].iter().enumerate()
    {
        let agent = agent(folder.path(), exporter, gateway.address(door)).await;
        let grpc = Grpc::connect(agent.address("otlp/grpc")).await;
        grpc.spans(spans(&[], &[Item::named(*exporter)])).await.unwrap();
        assert_eq!(sink.wait_for("traces", count + 1).await[count].name, *exporter);
        agent.settled().await;
        agent.stop().await;
    }
    gateway.settled().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_without_a_valid_certificate_is_refused() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    certificates(folder.path());
    let gateway = gateway(folder.path(), &sink).await;
    let stranger = tempfile::tempdir().unwrap();
    certificates(stranger.path());
    std::fs::copy(folder.path().join("servers.pem"), stranger.path().join("servers.pem")).unwrap();
    let agent = agent(stranger.path(), "otlp_grpc", gateway.address("otlp/grpc")).await;
    let grpc = Grpc::connect(agent.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    eventually("the stranger to be refused", || async {
        let refused = gateway.metrics().await.sum("tollgate_receiver_connections_refused_total", &[]);
        (refused > 0.0).then_some(())
    })
    .await;
    assert!(sink.items("traces").is_empty());
    // The right certificate is noticed without a restart.
    for name in ["client.crt", "client.key"] {
        std::fs::copy(folder.path().join(name), stranger.path().join(name)).unwrap();
    }
    sink.wait_for("traces", 1).await;
    agent.settled().await;
    agent.stop().await;
    gateway.settled().await;
    gateway.stop().await;
}

#[tokio::test]
async fn certificates_and_authorities_rotate_under_load_and_nothing_is_lost() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let folder = folder.path();
    let mut old = certificates(folder);
    let gateway = gateway(folder, &sink).await;
    let agent = agent(folder, "otlp_grpc", gateway.address("otlp/grpc")).await;
    let done = Arc::new(AtomicBool::new(false));
    let (grpc, stop) = (Grpc::connect(agent.address("otlp/grpc")).await, done.clone());
    let load = tokio::spawn(async move {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            grpc.spans(spans(&[], &[Item::named(format!("{sent}"))])).await.unwrap();
            sent += 1;
        }
        sent
    });
    for _ in 0..4 {
        let new = Authority::new();
        let reloads = gateway.events("tls.reloaded") + agent.events("tls.reloaded");
        let both = format!("{}{}", old.pem(), new.pem());
        for authorities in ["servers.pem", "clients.pem"] {
            std::fs::write(folder.join(authorities), &both).unwrap();
        }
        new.sign("127.0.0.1").write(folder, "server");
        new.sign("agent").write(folder, "client");
        // Two listeners and one exporter.
        eventually("all sides to reload", || async {
            (gateway.events("tls.reloaded") + agent.events("tls.reloaded") >= reloads + 3).then_some(())
        })
        .await;
        let arrived = sink.items("traces").len();
        sink.wait_for("traces", arrived + 20).await;
        old = new;
    }
    done.store(true, Ordering::Relaxed);
    let sent = load.await.unwrap();
    sink.wait_for("traces", sent).await;
    agent.settled().await;
    let metrics = agent.metrics().await;
    assert_eq!(metrics.sum("tollgate_dropped_items_total", &[]), 0.0);
    agent.stop().await;
    gateway.settled().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_pair_that_does_not_load_is_counted_and_the_old_one_stays() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let authority = certificates(folder.path());
    let gateway = gateway(folder.path(), &sink).await;
    let agent = agent(folder.path(), "otlp_grpc", gateway.address("otlp/grpc")).await;
    // Keys that belong to other certificates.
    for name in ["server.key", "client.key"] {
        std::fs::write(folder.path().join(name), authority.sign("other").key).unwrap();
    }
    let failures = async |tollgate: &Tollgate, component: &str| {
        let metrics = tollgate.metrics().await;
        metrics.sum("tollgate_tls_reload_failures_total", &[("component", component)])
    };
    eventually("the broken pairs to be counted", || async {
        let counted = failures(&gateway, "receiver/otlp/grpc").await == 1.0
            && failures(&agent, "exporter/otlp_grpc").await == 1.0;
        counted.then_some(())
    })
    .await;
    let grpc = Grpc::connect(agent.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    sink.wait_for("traces", 1).await;
    agent.settled().await;
    agent.stop().await;
    gateway.settled().await;
    gateway.stop().await;
}

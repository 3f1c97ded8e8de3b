//! Certificates and authorities that change all the time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{count, figure};
use crate::harness::{Authority, Pair, Sink, Tollgate, eventually, post_with, secured};

/// Takes OTLP/HTTP over mTLS; open connections live for about a second, and the load is a new one a request.
const GATEWAY: &str = "
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:0
        limits: { max_connections_per_ip_per_second: 0 }
        tls: { cert_file: '{folder}/server.crt', key_file: '{folder}/server.key', client_ca_file: '{folder}/clients.pem', reload_interval: 200ms }
        keepalive: { server_parameters: { max_connection_age: 1s, max_connection_age_grace: 1s } }
exporters:
  otlp_grpc: { endpoint: '{sink}', tls: { insecure: true } }
service:
  # Every event is waited for, and there are more of a kind than are said in ten seconds.
  telemetry: { logs: { sampling: { enabled: false } } }
  pipelines:
    traces: { receivers: [otlp], exporters: [otlp_grpc] }
";

/// In one step, as Kubernetes does: readers see the old text or the new.
fn put(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

async fn tls_metric(tollgate: &Tollgate, name: &str) -> f64 {
    tollgate.metrics().await.sum(name, &[("component", "receiver/otlp/http")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_rotate_under_load_without_a_failed_request_and_removed_authorities_are_gone() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let folder = folder.path();
    // The clients' own authority stays until the end; beside it others come and go.
    let (servers, clients) = (Authority::new(), Authority::new());
    let (trusted, own) = (servers.pem(), Arc::new(clients.sign("client")));
    servers.sign("localhost").write(folder, "server");
    put(folder, "clients.pem", &clients.pem());
    let config = GATEWAY.replace("{folder}", folder.to_str().unwrap());
    let tollgate = Tollgate::with(&config.replace("{sink}", &sink.address().to_string())).start().await;
    let address = tollgate.address("otlp/http").to_owned();

    let stop = Arc::new(AtomicBool::new(false));
    let load = |stop: Arc<AtomicBool>| {
        let (address, trusted, own) = (address.clone(), trusted.clone(), own.clone());
        tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let status = post_with(&address, (&trusted, Some(&own)), &[], Vec::new()).await;
                assert_eq!(status, Some(200), "request {sent}");
                sent += 1;
            }
            sent
        })
    };
    let loads = [load(stop.clone()), load(stop.clone())];
    let (mut broken, begin) = (0.0, Instant::now());
    let rounds = count(9, 100);
    for round in 0..rounds {
        let reloads = tollgate.events("tls.reloaded");
        if round % 3 == 2 {
            put(folder, "server.key", &Authority::new().sign("localhost").key);
            broken += 1.0;
            eventually("the broken pair to be counted", || async {
                (tls_metric(&tollgate, "tollgate_tls_reload_failures_total").await >= broken).then_some(())
            })
            .await;
        }
        let next = servers.sign("localhost");
        put(folder, "clients.pem", &format!("{}{}", clients.pem(), Authority::new().pem()));
        put(folder, "server.crt", &next.cert);
        put(folder, "server.key", &next.key);
        eventually("the new pair", || async { (tollgate.events("tls.reloaded") > reloads).then_some(()) })
            .await;
        broken = tls_metric(&tollgate, "tollgate_tls_reload_failures_total").await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for load in loads {
        sent += load.await.unwrap();
    }
    println!("{rounds} rotations in {seconds:.1} s, {broken} broken pairs, {sent} requests, none failed");
    // A certificate of rcgen ends in the year 4096.
    assert!(tls_metric(&tollgate, "tollgate_tls_not_after_seconds").await > 60_000_000_000.0);

    removed_authorities_are_gone(folder, &address, (&trusted, &own)).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

/// Removes the authority of a client, whose new connections are refused and whose open one ends by its age.
async fn removed_authorities_are_gone(folder: &Path, address: &str, (trusted, own): (&str, &Pair)) {
    let mut open = secured(address, (trusted, Some(own))).await.unwrap();
    let begin = Instant::now();
    put(folder, "clients.pem", &Authority::new().pem());
    eventually("the removed authority to be refused", || async {
        let status = post_with(address, (trusted, Some(own)), &[], Vec::new()).await;
        status.is_none().then_some(())
    })
    .await;
    // The open connection goes on being used, and is gone by its age.
    let request = "POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    let gone = async {
        let mut answer = vec![0; 4096];
        loop {
            let written = open.write_all(request.as_bytes()).await;
            if written.is_err() || matches!(open.read(&mut answer).await, Ok(0) | Err(_)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, gone).await.expect("the connection is gone");
    figure("removed_authority.gone_s", begin.elapsed().as_secs_f64(), 2.1);
}

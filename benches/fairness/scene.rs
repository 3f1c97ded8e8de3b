//! What the benchmark plays with: tenants that send at a steady rate, and a backend that takes its time.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::{Instant, MissedTickBehavior};

use crate::support::{http2, payload};

/// A backend that answers every request after a delay, on a thread of its own.
pub(crate) struct SlowSink {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl SlowSink {
    pub(crate) fn start(delay: Duration) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let count = requests.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let (listener, address) = http2::listen().await;
                tell.send(address).expect("the benchmark waits for the address");
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(connection(tcp, delay, count.clone()));
                }
            });
        });
        Self { address: told.recv().expect("the sink listens"), requests }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn connection(tcp: tokio::net::TcpStream, delay: Duration, count: Arc<AtomicU64>) {
    let Some(mut connection) = http2::accept(tcp).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let count = count.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(chunk)) = body.data().await {
                // An error here or in the answer means that the client is gone, and with it the request.
                drop(body.flow_control().release_capacity(chunk.len()));
            }
            tokio::time::sleep(delay).await;
            count.fetch_add(1, Ordering::Relaxed);
            drop(http2::answer_ok(&mut respond));
        });
    }
}

/// A tenant with a connection.
#[derive(Clone)]
pub(crate) struct Tenant {
    requests: SendRequest<Bytes>,
    head: http::Request<()>,
    body: Bytes,
}

/// What became of one tenant's requests.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) accepted: u64,
    /// Answered with RESOURCE_EXHAUSTED.
    pub(crate) over_share: u64,
    pub(crate) otherwise_refused: u64,
    pub(crate) latencies_ms: Vec<f64>,
}

const RESOURCE_EXHAUSTED: u16 = 8;

impl Tenant {
    pub(crate) async fn connect(target: SocketAddr, name: &str, spans: usize) -> Self {
        let requests = http2::connect(target).await;
        Self { requests, head: http2::export_head(target, name, None), body: body(spans) }
    }

    /// The same connection and payload for another tenant.
    pub(crate) fn named(&self, target: SocketAddr, name: &str) -> Self {
        Self { head: http2::export_head(target, name, None), ..self.clone() }
    }

    pub(crate) async fn send(&self) -> u16 {
        self.try_send().await.expect("the target answers")
    }

    /// As [`Tenant::send`], to a target that may go away.
    pub(crate) async fn try_send(&self) -> Result<u16, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(self.head.clone(), false)?;
        stream.send_data(self.body.clone(), true)?;
        http2::grpc_status(response).await
    }

    /// Sends every `interval` for as long as `lasting`, whether or not answers have come.
    pub(crate) async fn keep_sending(self, interval: Duration, lasting: Duration) -> Outcome {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let until = Instant::now() + lasting;
        let mut calls = tokio::task::JoinSet::new();
        loop {
            let planned = ticks.tick().await;
            if planned >= until {
                break;
            }
            let tenant = self.clone();
            calls.spawn(async move { (tenant.send().await, planned.elapsed()) });
        }
        let mut outcome = Outcome::default();
        for (status, latency) in calls.join_all().await {
            match status {
                0 => outcome.accepted += 1,
                RESOURCE_EXHAUSTED => outcome.over_share += 1,
                _ => outcome.otherwise_refused += 1,
            }
            outcome.latencies_ms.push(latency.as_secs_f64() * 1000.0);
        }
        outcome
    }
}

fn body(spans: usize) -> Bytes {
    payload::requests(spans, 1, 7).swap_remove(0)
}

/// The keys of an exporter that sends to `endpoint` on `consumers` connections' worth of slots.
pub(crate) fn exporter(endpoint: SocketAddr, queue: &str) -> String {
    format!(
        "{{ endpoint: 'http://{endpoint}', compression: none, tls: {{ insecure: true }}, \
         retry_on_failure: {{ max_elapsed_time: 0s }}, sending_queue: {{ {queue} }} }}"
    )
}

/// A collector with one exporter; `dead` adds a second pipeline to where nobody listens, behind a receiver
/// of its own.
pub(crate) fn collector_yaml(exporter: &str, dead: Option<(&str, SocketAddr)>) -> String {
    let receiver = |at: &str| format!("{{ protocols: {{ grpc: {{ endpoint: '{at}' }} }} }}");
    let (mut receivers, mut exporters) = (format!("  otlp: {}\n", receiver("127.0.0.1:0")), String::new());
    let mut pipelines =
        "    traces: { receivers: [otlp], processors: [tenant], exporters: [otlp_grpc] }\n".to_owned();
    exporters += &format!("  otlp_grpc: {exporter}\n");
    if let Some((dead, address)) = dead {
        receivers += &format!("  otlp/dead: {}\n", receiver(&address.to_string()));
        exporters += &format!("  otlp_grpc/dead: {dead}\n");
        pipelines += "    traces/dead: { receivers: [otlp/dead], processors: [tenant], exporters: [otlp_grpc/dead] }\n";
    }
    format!(
        "receivers:\n{receivers}processors: {{ tenant: }}\nexporters:\n{exporters}extensions: {{ admin: \
         {{ endpoint: '127.0.0.1:0' }} }}\nservice:\n  extensions: [admin]\n  telemetry: {{ metrics: {{ \
         readers: [{{ pull: {{ exporter: {{ prometheus: {{ host: 127.0.0.1, port: 0 }} }} }} }}] }} }}\n  \
         pipelines:\n{pipelines}"
    )
}

/// A policies file that lists `tenants` by their exact ids.
pub(crate) fn policies(folder: &Path, tenants: usize) -> PathBuf {
    let listed: String = (0..tenants).map(|n| format!("  tenant-{n}: {{}}\n")).collect();
    let listed = if tenants > 0 { format!("tenants:\n{listed}") } else { String::new() };
    let text =
        format!("version: 1\nrules: []\nidentity: {{ claims: [{{ header: x-scope-orgid }}] }}\n{listed}");
    let path = folder.join("policies.yaml");
    std::fs::write(&path, text).expect("a writable temporary folder");
    path
}

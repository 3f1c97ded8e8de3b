mod fake;
mod grpc;
mod http;
mod life;
mod merged;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::batch::{Batch, Receipt};
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::outcome::{Account, Books};

use fake::{Fake, Reply, eventually, patiently};

/// A span export request with one span: enough for every destination here.
const REQUEST: &[u8] = b"\x0a\x08\x12\x06\x12\x04\x2a\x02ab";

/// One exporter and its surroundings.
struct World {
    exporter: Exporter,
    metrics: ExporterMetrics,
    account: Arc<Account>,
    scope: Scope,
    workers: Workers,
}

impl World {
    fn grpc(fake: &Fake, more: Value) -> Self {
        let endpoint = match fake.address.strip_prefix("unix:") {
            Some(_) => fake.address.clone(),
            None => format!("http://{}", fake.address),
        };
        let config = with_quick_retries(endpoint, more);
        Self::start(&config::Exporter::OtlpGrpc(Box::new(serde_json::from_value(config).unwrap())))
    }

    fn http(fake: &Fake, more: Value) -> Self {
        let config = with_quick_retries(format!("http://{}", fake.address), more);
        Self::start(&config::Exporter::OtlpHttp(Box::new(serde_json::from_value(config).unwrap())))
    }

    fn start(config: &config::Exporter) -> Self {
        assert_eq!(config.check(), []);
        let metrics = ExporterMetrics::default();
        let exporter = Exporter::prepare("otlp/test", config, None, metrics.clone()).unwrap();
        let (scope, workers) = (Scope::root("test"), Workers::start(2).unwrap());
        exporter.start(&scope, &workers).unwrap();
        let account = Account::detached(TenantId::unattributed());
        Self { exporter, metrics, account, scope, workers }
    }

    fn batch(&self, items: u64, bytes: impl Into<Bytes>) -> Batch {
        self.account.signal(Signal::Traces).add_received(items);
        let tenant = TenantId::unattributed();
        Batch::new(Signal::Traces, tenant, self.account.clone(), (items, bytes.into()))
    }

    fn put(&self, batches: Vec<Batch>) {
        self.exporter.queue().reserve(&batches).unwrap().commit(batches);
    }

    fn send(&self, items: u64) {
        self.put(vec![self.batch(items, REQUEST)]);
    }

    fn books(&self) -> Books {
        self.account.signal(Signal::Traces).read()
    }

    fn dropped(&self, reason: DroppedReason) -> u64 {
        self.books().dropped[reason as usize]
    }

    /// Waits until nothing is queued and the books say where everything ended, which is a moment later.
    async fn empty(&self) {
        let ended = || self.exporter.queue().size() == 0 && self.books().balanced();
        eventually("the queue is empty", ended).await;
    }

    /// Drains; afterwards nothing may be left of the exporter.
    async fn end(self) -> Books {
        self.end_after(Duration::from_secs(10)).await
    }

    async fn end_after(self, time: Duration) -> Books {
        patiently(self.exporter.drain(Instant::now() + time)).await;
        assert_eq!((self.scope.alive(), self.scope.aborted()), (0, 0), "tasks");
        assert_eq!((self.metrics.in_flight.get(), self.metrics.queue_bytes.get()), (0, 0));
        let books = self.books();
        assert!(books.balanced() && books.queued == 0, "{books:?}");
        self.workers.stop();
        books
    }
}

/// The retries of a test should not take seconds.
fn with_quick_retries(endpoint: String, more: Value) -> Value {
    let mut config = json!({
        "endpoint": endpoint,
        "compression": "none",
        "retry_on_failure": {"initial_interval": "5ms", "randomization_factor": 0.0},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

//! The exporter `debug`: batches in Tollgate's own log.
//!
//! The data becomes JSON before it is logged, so that no attribute can forge a line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::config::exporter::{Debug as Config, Verbosity};
use crate::otlp::status::ExportResponse;
use crate::otlp::{Signal, json};

use super::destination::{Destination, Outgoing, SendError};

/// Tells of every request.
#[derive(Debug)]
pub(super) struct Log {
    id: Arc<str>,
    config: Config,
    second: Mutex<Second>,
}

#[derive(Debug)]
struct Second {
    start: Instant,
    seen: u64,
}

impl Log {
    pub(super) fn new(id: &Arc<str>, config: &Config) -> Self {
        let second = Mutex::new(Second { start: Instant::now(), seen: 0 });
        Self { id: id.clone(), config: config.clone(), second }
    }

    /// Whether this request is one of those that are told.
    fn is_due(&self) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now - second.start >= Duration::from_secs(1) {
            *second = Second { start: now, seen: 0 };
        }
        second.seen += 1;
        let later = second.seen.saturating_sub(self.config.sampling_initial);
        later == 0 || later.checked_rem(self.config.sampling_thereafter) == Some(0)
    }
}

impl Destination for Log {
    async fn send(&self, request: Outgoing) -> Result<ExportResponse, SendError> {
        if !self.is_due() {
            return Ok(ExportResponse::default());
        }
        let (exporter, signal, size) = (&*self.id, request.signal, request.size);
        let (batches, items, bytes) = (size.batches, size.items, size.bytes);
        tracing::info!(name: "debug.batch", exporter, %signal, batches, items, bytes, "batch");
        if self.config.verbosity == Verbosity::Basic {
            return Ok(ExportResponse::default());
        }
        let mut text = Vec::new();
        json::from_protobuf(signal, &request.whole(), &mut text);
        // Our own JSON is well-formed; if it were not, there is nothing to show.
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        if self.config.verbosity == Verbosity::Normal {
            for item in items_of(signal, &value) {
                tracing::info!(name: "debug.item", exporter, %signal, %item, "item");
            }
        } else {
            tracing::info!(name: "debug.data", exporter, %signal, "{value:#}");
        }
        Ok(ExportResponse::default())
    }
}

/// Spans, metrics with their points, or log records.
fn items_of(signal: Signal, request: &Value) -> impl Iterator<Item = &Value> {
    let [resources, scopes, items] = match signal {
        Signal::Traces => ["resourceSpans", "scopeSpans", "spans"],
        Signal::Metrics => ["resourceMetrics", "scopeMetrics", "metrics"],
        Signal::Logs => ["resourceLogs", "scopeLogs", "logRecords"],
    };
    list(request, resources)
        .iter()
        .flat_map(move |resource| list(resource, scopes))
        .flat_map(move |scope| list(scope, items))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

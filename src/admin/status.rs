//! `GET /v1/status`: how one collector does, for `tollgate status`. The keys are a promise to scripts.

use serde_json::{Value, json};

use super::readiness::State;
use crate::internal_telemetry::Families;

/// An exporter whose oldest batch waits longer than this is behind, in seconds.
const BEHIND: f64 = 30.0;
/// A queue with more than this share of its bytes in use is full.
const FULL: f64 = 0.95;

/// One reading as JSON; `revisions` is what `/v1/revisions` tells.
pub(super) fn status(families: &Families, state: State, revisions: Value) -> Value {
    let sum = |name: &str| families.sum(name, &[]);
    let count = |name: &str| sum(name) as u64;
    let items = json!({
        "received": count("tollgate_received_items_total"),
        "refused": count("tollgate_refused_items_total"),
        "sampled_out": count("tollgate_sampled_out_items_total"),
        "sent": count("tollgate_sent_items_total"),
        "dropped": count("tollgate_dropped_items_total"),
        "queued": count("tollgate_queued_items"),
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state.as_str(),
        "ready": state == State::Ready,
        "uptime_seconds": count("otelcol_process_uptime"),
        "memory_bytes": count("otelcol_process_memory_rss"),
        "policies": revisions,
        "watches": watches(families),
        "exporters": exporters(families),
        "items": items,
    })
}

fn labels_of<'f>(families: &'f Families, name: &str, label: &str) -> Vec<&'f str> {
    let points = families.points(name).iter();
    let value = |point: &'f crate::internal_telemetry::Point| {
        point.labels.iter().find(|(known, _)| known == label).map(|(_, value)| value.as_str())
    };
    points.filter_map(value).collect()
}

fn watches(families: &Families) -> Value {
    let of = |resource: &str| {
        let sum = |name: &str| families.sum(name, &[("resource", resource)]);
        json!({
            "resource": resource,
            "up": sum("tollgate_kubernetes_watch_up") > 0.0,
            "failures": sum("tollgate_kubernetes_watch_failures_total") as u64,
        })
    };
    labels_of(families, "tollgate_kubernetes_watch_up", "resource").into_iter().map(of).collect()
}

fn exporters(families: &Families) -> Value {
    let of = |id: &str| {
        let sum = |name: &str| families.sum(name, &[("exporter", id)]);
        let (bytes, capacity) =
            (sum("tollgate_exporter_queue_bytes"), sum("tollgate_exporter_queue_capacity_bytes"));
        let oldest = sum("tollgate_exporter_queue_oldest_age_seconds");
        let state = match () {
            () if capacity > 0.0 && bytes >= FULL * capacity => "full",
            () if oldest > BEHIND => "behind",
            () => "ok",
        };
        let signals = |prefix: &str| {
            let of = ["spans", "metric_points", "log_records"].map(|items| sum(&format!("{prefix}_{items}")));
            of.iter().sum::<f64>() as u64
        };
        json!({
            "id": id,
            "state": state,
            "queue_bytes": bytes as u64,
            "queue_capacity_bytes": capacity as u64,
            "oldest_seconds": oldest as u64,
            "sent_items": signals("otelcol_exporter_sent"),
            "send_failed_items": signals("otelcol_exporter_send_failed"),
            "retries": sum("tollgate_exporter_retries_total") as u64,
        })
    };
    labels_of(families, "tollgate_exporter_queue_bytes", "exporter").into_iter().map(of).collect()
}

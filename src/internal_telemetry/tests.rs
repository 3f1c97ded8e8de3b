//! A reading of everything, and the text made from it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::text::{Style, render};
use super::*;
use crate::config::service::{Prometheus, ResourceLabels};
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::outcome::{DroppedReason, RefusedReason};

/// Telemetry in which every metric has a point.
pub(super) fn busy(rule: &str) -> Telemetry {
    let telemetry = Telemetry::detached();
    telemetry.receiver("otlp", "grpc").accepted[Signal::Traces].add(3);
    let exporter = telemetry.exporter("otlp_grpc/a");
    exporter.sent[Signal::Logs].add(2);
    let bytes = |bytes| vec![(TenantId::new("acme").unwrap(), bytes)];
    exporter.tenants.watch(move || Some(bytes(400)));
    exporter.tenants.watch(move || Some(bytes(100)));
    exporter.tenants.watch(|| None);
    exporter.storage.watch(|| Some(("memory".into(), None)));
    exporter.storage.watch(|| Some(("file_storage".into(), Some(StorageUsage::default()))));
    telemetry.processor("sampling").incoming[Signal::Metrics].add(1);
    telemetry.memory_limiter("memory_limiter").refused[Signal::Traces].add(1);
    telemetry.sampler("probabilistic_sampler").count(Signal::Traces, "trace_id_hash", (true, 1));
    telemetry.sampler("probabilistic_sampler").count(Signal::Logs, "trace_id_hash", (false, 1));
    let column_of = |tenant: &str| telemetry.ledger().account(&TenantId::new(tenant).unwrap());
    let account = column_of("acme");
    let column = account.signal(Signal::Traces);
    column.add_received(6);
    column.add_recovered(3);
    column.add_stored(3);
    column.add_refused(RefusedReason::QueueFull, 1);
    column.add_dropped(DroppedReason::Permanent, 1);
    column.add_sampled_out(1);
    column.add_sent(1);
    column.enter_queue(2, 500);
    let (tenant, rule) = (TenantId::new("acme").unwrap(), Arc::from(rule));
    let counters = telemetry.sampling().rule(&telemetry.sampling().of(&tenant), Signal::Traces, &rule);
    counters.add(Decision::SampledOut, 1);
    counters.add_adjusted(2.5);
    counters.set_probability(0.4);
    let budget = BudgetThreshold { rule: "_kept".into(), tenant: Some(tenant.clone()), share: 0.25 };
    telemetry.sampling().watch_thresholds(move || vec![budget.clone()]);
    let sampling = telemetry.sampling().of(&tenant);
    let randomness = sampling.randomness();
    randomness.inconsistent_threshold.add(1);
    randomness.missing_randomness.add(1);
    randomness.no_random_flag.add(1);
    randomness.oversized_traces.add(1);
    account.add_refused_request(crate::outcome::RefusedReason::RateLimit);
    account.add_trimmed(crate::outcome::Trimmed::Event, 1);
    telemetry.models().count(&telemetry.models().of(&tenant), ("ranker", "7"), 20, 1);
    telemetry.policies().loaded("7", "ab12", Duration::from_millis(3));
    telemetry.failover("failover").sent_by("otlp_grpc/a");
    telemetry.kubernetes_watch("configmaps").up.set(1);
    telemetry.pods().watch(super::Watched::Pods).start();
    telemetry.pods().contradicted("k8s.pod.uid");
    telemetry.watch_tasks(&crate::tasks::Scope::root("test"));
    telemetry.kubernetes_watch("configmaps").failures.add(1);
    telemetry.watch_tls("receiver/otlp", || TlsReading { failed_reloads: 2, not_after: Some(1) });
    let groups = tempfile::tempdir().unwrap();
    std::fs::write(groups.path().join("cgroup.controllers"), "").unwrap();
    std::fs::write(groups.path().join("cpu.max"), "150000 100000").unwrap();
    telemetry.watch_capacity(&crate::cgroup::Capacity::read(groups.path()));
    telemetry.set_pools(vec![("requests".into(), 64 << 20)]);
    telemetry
}

fn plain(telemetry: &Telemetry) -> String {
    let reader = Prometheus {
        with_resource_constant_labels: Some(ResourceLabels::default()),
        ..Prometheus::default()
    };
    render(&telemetry.read(), &Style::new(&reader, telemetry.resource()))
}

#[test]
fn every_metric_of_the_list_is_read() {
    let families = busy("r").read();
    let read: BTreeSet<_> = families.iter().map(|family| family.definition.name).collect();
    let listed: BTreeSet<_> = metrics_reference().iter().map(|metric| metric.name).collect();
    assert_eq!(read, listed);
}

#[test]
fn each_family_is_written_once_and_whole() {
    let telemetry = busy("r");
    telemetry.receiver("otlp", "http");
    telemetry.exporter("b");
    let text = plain(&telemetry);
    let mut current = "";
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap();
            assert!(seen.insert(current), "{current} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, current, "{line}");
        }
    }
}

/// Reads one sample line as Prometheus would: name, labels, value.
fn sample(line: &str) -> (String, HashMap<String, String>, f64) {
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').unwrap();
        return (name.to_owned(), HashMap::new(), value.parse().unwrap());
    };
    let mut labels = HashMap::new();
    loop {
        let (key, after) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c => c,
                }),
                (i, '"') => break i,
                (_, c) => value.push(c),
            }
        };
        labels.insert(key.trim_start_matches(',').to_owned(), value);
        rest = &after[end + 1..];
        if let Some(value) = rest.strip_prefix("} ") {
            return (name.to_owned(), labels, value.parse().unwrap());
        }
    }
}

#[test]
fn hostile_label_values_come_back_whole() {
    let hostile = "a\"} 1\notelcol_forged{x=\"\\y\\n\u{1f600}=,";
    let text = plain(&busy(hostile));
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
    assert!(samples.iter().all(|(name, ..)| !name.contains("forged")), "{text}");
    let with_rule = |name: &str| samples.iter().find(|sample| sample.0 == name).unwrap();
    let (_, labels, value) = with_rule("tollgate_sampling_items_total");
    assert_eq!((labels["rule"].as_str(), labels["decision"].as_str(), *value), (hostile, "sampled_out", 1.0));
    assert_eq!(with_rule("tollgate_sampling_adjusted_items_total").2, 2.5);
}

#[test]
fn collector_names_have_no_suffix_unless_asked_for() {
    let telemetry = busy("r");
    let check = |without: bool, expected: &[&str]| {
        let reader =
            Prometheus { without_units: without, without_type_suffix: without, ..Prometheus::default() };
        let text = render(&telemetry.read(), &Style::new(&reader, telemetry.resource()));
        for line in expected {
            assert!(text.contains(&format!("\n# TYPE {line}\n")), "{line}: {text}");
        }
    };
    check(
        true,
        &[
            "otelcol_receiver_accepted_spans counter",
            "otelcol_process_uptime counter",
            "otelcol_process_memory_rss gauge",
            "tollgate_received_items_total counter",
        ],
    );
    check(
        false,
        &[
            "otelcol_receiver_accepted_spans_total counter",
            "otelcol_process_uptime_seconds_total counter",
            "otelcol_process_cpu_seconds_total counter",
            "otelcol_process_memory_rss_bytes gauge",
            "tollgate_received_items_total counter",
        ],
    );
}

#[test]
fn the_instance_is_a_label_of_collector_series_and_the_resource_is_target_info() {
    let telemetry = busy("r");
    let text = render(&telemetry.read(), &Style::new(&Prometheus::default(), telemetry.resource()));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels, _) = sample(line);
        let expected = !name.starts_with("tollgate_");
        assert_eq!(labels.contains_key("service_instance_id"), expected, "{line}");
    }
    let info = text.lines().find(|line| line.starts_with("target_info")).unwrap();
    assert_eq!(sample(info).1["service_name"], "tollgate");
}

#[test]
fn any_resource_attribute_can_be_a_label() {
    let telemetry = busy("r");
    let labels = ResourceLabels { included: vec!["*".into()], excluded: vec!["service.instance.id".into()] };
    let reader = Prometheus { with_resource_constant_labels: Some(labels), ..Prometheus::default() };
    let text = render(&telemetry.read(), &Style::new(&reader, telemetry.resource()));
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("tollgate_workers{{service_name=\"tollgate\",service_version=\"{version}\"}} 0");
    assert!(text.contains(&line), "{text}");
}

#[test]
fn the_same_component_has_the_same_counters_after_a_reload() {
    let telemetry = Telemetry::detached();
    telemetry.exporter("a").sent[Signal::Traces].add(1);
    telemetry.exporter("a").sent[Signal::Traces].add(1);
    let reading = |failed_reloads, not_after| TlsReading { failed_reloads, not_after };
    telemetry.watch_tls("receiver/otlp", move || reading(2, Some(7)));
    telemetry.watch_tls("receiver/otlp", move || reading(1, Some(9)));
    let families = telemetry.read();
    assert_eq!(families.sum("otelcol_exporter_sent_spans", &[("exporter", "a")]), 2.0);
    assert_eq!(families.sum("tollgate_tls_reload_failures_total", &[]), 3.0);
    assert_eq!(families.sum("tollgate_tls_not_after_seconds", &[]), 9.0);
}

#[test]
fn the_books_of_a_tenant_balance_in_the_metrics() {
    let families = busy("r").read();
    let sum = |name: &str| families.sum(name, &[("tenant", "acme"), ("signal", "traces")]);
    let into: f64 = ["received", "copied", "recovered"]
        .iter()
        .map(|end| sum(&format!("tollgate_{end}_items_total")))
        .sum();
    let ends = ["refused", "sampled_out", "sent", "dropped", "stored"];
    let out: f64 = ends.iter().map(|end| sum(&format!("tollgate_{end}_items_total"))).sum();
    assert_eq!(into, out + sum("tollgate_queued_items"));
    assert_eq!(families.sum("tollgate_tenant_queue_bytes", &[("tenant", "acme")]), 500.0, "over a reload");
}

#[test]
fn a_refused_policies_file_leaves_the_revision_in_force() {
    let telemetry = busy("r");
    telemetry.policies().refused(Duration::from_secs(1));
    let families = telemetry.read();
    assert_eq!(families.sum("tollgate_policies_info", &[("revision", "7"), ("sha256", "ab12")]), 1.0);
    assert_eq!(families.sum("tollgate_policies_last_reload_success", &[]), 0.0);
    assert_eq!(families.sum("tollgate_policies_reloads_total", &[("outcome", "failure")]), 1.0);
}

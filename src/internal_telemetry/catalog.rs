//! Every metric this program has: its name, kind, unit, labels and meaning. Nothing else may be measured.
//!
//! `otelcol_*` are the Collector's names and labels, so that dashboards made for it work; `tollgate_*`
//! are our own, with units and `_total`. `tests/golden/metrics.txt` holds the list.

use crate::otlp::Signal;

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the program restarts.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// The word Prometheus uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// As the default reader shows it.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// The unit as OTLP writes it: `1`, `s`, `By`, `{spans}`.
    pub unit: &'static str,
    /// The labels, in the order of the values of a point.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! define {
    ($($id:ident: $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub(super) static $id: Definition = Definition {
                name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help,
            };
        )+
        /// Metrics with one name.
        static SINGLE: &[&Definition] = &[$(&$id),+];
    };
}

macro_rules! define_per_signal {
    ($($id:ident: $prefix:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub(super) static $id: [Definition; 3] = [
                define_per_signal!(one $prefix "spans" [$($label),*] $help),
                define_per_signal!(one $prefix "metric_points" [$($label),*] $help),
                define_per_signal!(one $prefix "log_records" [$($label),*] $help),
            ];
        )+
        /// Metrics whose name ends with the items of a signal.
        static PER_SIGNAL: &[&[Definition; 3]] = &[$(&$id),+];
    };
    (one $prefix:literal $items:literal [$($label:literal),*] $help:literal) => {
        Definition {
            name: concat!($prefix, "_", $items),
            kind: Kind::Counter,
            unit: concat!("{", $items, "}"),
            labels: &[$($label),*],
            help: $help,
        }
    };
}

define_per_signal! {
    RECEIVER_ACCEPTED: "otelcol_receiver_accepted" ["receiver", "transport"]
        "Items handed to the pipeline without error.";
    RECEIVER_REFUSED: "otelcol_receiver_refused" ["receiver", "transport"]
        "Items of well-formed requests that were not accepted; the sender was told.";
    EXPORTER_SENT: "otelcol_exporter_sent" ["exporter"]
        "Items the destination took.";
    EXPORTER_SEND_FAILED: "otelcol_exporter_send_failed" ["exporter"]
        "Items that were given up after sending failed.";
    EXPORTER_ENQUEUE_FAILED: "otelcol_exporter_enqueue_failed" ["exporter"]
        "Items the queue had no room for; the sender was told.";
    MEMORY_LIMITER_ACCEPTED: "otelcol_processor_memory_limiter_accepted" ["processor"]
        "Items that passed the memory limiter.";
    MEMORY_LIMITER_REFUSED: "otelcol_processor_memory_limiter_refused" ["processor"]
        "Items the memory limiter refused; it measures resident memory.";
}

define! {
    RECEIVER_REQUESTS: Counter "otelcol_receiver_requests" "{requests}" ["receiver", "transport", "outcome"]
        "Requests by outcome: success, refused, or failure if they were not valid OTLP.";
    PROCESSOR_INCOMING: Counter "otelcol_processor_incoming_items" "{items}" ["processor", "otel_signal"]
        "Items that came to the processor.";
    PROCESSOR_OUTGOING: Counter "otelcol_processor_outgoing_items" "{items}" ["processor", "otel_signal"]
        "Items the processor passed on.";
    SAMPLER_TRACES: Counter "otelcol_processor_probabilistic_sampler_count_traces_sampled" "{traces}" ["processor", "policy", "sampled"]
        "Spans a probabilistic_sampler decided about, by what the decision rests on.";
    SAMPLER_LOGS: Counter "otelcol_processor_probabilistic_sampler_count_logs_sampled" "{logs}" ["processor", "policy", "sampled"]
        "Log records a probabilistic_sampler decided about, by what the decision rests on.";
    EXPORTER_QUEUE_SIZE: Gauge "otelcol_exporter_queue_size" "1" ["exporter", "data_type"]
        "What waits in the queue, in units of its sizer; data_type is all, because signals share the queue.";
    EXPORTER_QUEUE_CAPACITY: Gauge "otelcol_exporter_queue_capacity" "1" ["exporter", "data_type"]
        "What the queue holds at most, in units of its sizer.";
    EXPORTER_IN_FLIGHT: Gauge "otelcol_exporter_in_flight_requests" "{requests}" ["exporter"]
        "Requests sent and not yet answered.";
    UPTIME: Counter "otelcol_process_uptime" "s" []
        "Seconds since the program started.";
    CPU_SECONDS: Counter "otelcol_process_cpu_seconds" "s" []
        "CPU time of user and system, in seconds.";
    MEMORY_RSS: Gauge "otelcol_process_memory_rss" "By" []
        "Resident memory.";
    HEAP_ALLOC: Gauge "otelcol_process_runtime_heap_alloc_bytes" "By" []
        "Resident anonymous memory: heap and stacks, with what the allocator keeps for reuse.";
    SYS_MEMORY: Gauge "otelcol_process_runtime_total_sys_memory_bytes" "By" []
        "Writable private address space taken from the system, resident or not.";
    RECEIVER_REQUEST_COUNT: Counter "tollgate_receiver_requests_total" "{requests}" ["receiver", "transport", "outcome"]
        "Requests by outcome: accepted, refused or malformed.";
    RECEIVER_REQUEST_BYTES: Counter "tollgate_receiver_request_bytes_total" "By" ["receiver", "transport"]
        "Request bodies after decompression.";
    RECEIVER_IN_FLIGHT: Gauge "tollgate_receiver_in_flight_requests" "{requests}" ["receiver", "transport"]
        "Requests that are read or worked on now; of the listener they came to.";
    CANCELLATIONS: Counter "tollgate_cancellations_total" "{requests}" ["reason"]
        "Requests whose work was stopped before it was done: client (gone), deadline, drain, reload, or forced (cut past a grace).";
    RECEIVER_CONNECTIONS: Gauge "tollgate_receiver_connections" "{connections}" ["receiver", "transport"]
        "Connections open now.";
    RECEIVER_CONNECTIONS_REFUSED: Counter "tollgate_receiver_connections_refused_total" "{connections}" ["receiver", "transport"]
        "Connections beyond a cap, or whose handshake failed.";
    WINDOW_STALLS: Counter "tollgate_window_stalls_total" "{stalls}" ["peer", "component"]
        "Times that something being sent did not get on for 100 ms because the other side opened no HTTP/2 window, or read nothing: answers (peer receiver) or requests (peer exporter); counted when the stall ends.";
    WINDOW_STALL_SECONDS: Counter "tollgate_window_stall_seconds_total" "s" ["peer", "component"]
        "How long these stalls were, in all.";
    REQUESTS_NORMALISED: Counter "tollgate_requests_normalised_total" "{requests}" ["signal"]
        "Requests of a rare legal shape that were decoded and encoded once before going on.";
    EXPORTER_RETRIES: Counter "tollgate_exporter_retries_total" "{requests}" ["exporter"]
        "Attempts to send after the first.";
    EXPORTER_IN_FLIGHT_LIMIT: Gauge "tollgate_exporter_in_flight_limit" "{requests}" ["exporter"]
        "Requests at a time: num_consumers, or what adaptive_consumers found.";
    EXPORTER_SENT_BYTES: Counter "tollgate_exporter_sent_bytes_total" "By" ["exporter"]
        "Request bodies that were sent, before compression.";
    EXPORTER_QUEUE_BYTES: Gauge "tollgate_exporter_queue_bytes" "By" ["exporter"]
        "Bytes that wait in the queue.";
    EXPORTER_QUEUE_CAPACITY_BYTES: Gauge "tollgate_exporter_queue_capacity_bytes" "By" ["exporter"]
        "Bytes the queue holds at most.";
    FAILOVER_LEVEL: Gauge "tollgate_failover_level" "1" ["connector"]
        "The level a failover uses: 1 is the best, 0 means that none works.";
    FAILOVER_SWITCHES: Counter "tollgate_failover_switches_total" "1" ["connector"]
        "How often a failover came to use another level.";
    FAILOVER_SENT: Counter "tollgate_failover_sent_items_total" "{items}" ["connector", "exporter"]
        "Items of a failover by the exporter that took them.";
    EXPORTER_QUEUE_OLDEST_AGE: Gauge "tollgate_exporter_queue_oldest_age_seconds" "s" ["exporter"]
        "How long the oldest batch is in the queue that waits or is being sent; 0 if there is none.";
    EXPORTER_QUEUE_STORAGE: Gauge "tollgate_exporter_queue_storage" "1" ["exporter", "storage"]
        "Where what waits is kept: the id of a storage extension, or memory, where it is lost with the process. Always 1.";
    STORAGE_DISK_BYTES: Gauge "tollgate_storage_disk_bytes" "By" ["exporter"]
        "Disk that a queue takes, its reserve included.";
    STORAGE_LIVE_BYTES: Gauge "tollgate_storage_live_bytes" "By" ["exporter"]
        "Of these, bytes of batches that wait or are under way.";
    STORAGE_SEGMENTS: Gauge "tollgate_storage_segments" "{segments}" ["exporter"]
        "Files of a queue on disk that hold batches.";
    STORAGE_RECORDS: Gauge "tollgate_storage_records" "{records}" ["exporter"]
        "Batches on disk that wait or are under way.";
    STORAGE_OLDEST_AGE: Gauge "tollgate_storage_oldest_age_seconds" "s" ["exporter"]
        "How long ago the oldest file that still holds a waiting batch was begun; 0 if nothing waits.";
    STORAGE_SYNCS: Counter "tollgate_storage_syncs_total" "{syncs}" ["exporter"]
        "Syncs of files and directories that succeeded.";
    STORAGE_COMMITS: Counter "tollgate_storage_commits_total" "{requests}" ["exporter"]
        "Requests whose batches were synced to disk before they were answered.";
    STORAGE_COMMIT_SECONDS: Counter "tollgate_storage_commit_seconds_total" "s" ["exporter"]
        "How long these waited for the disk, added up.";
    STORAGE_WRITTEN_BYTES: Counter "tollgate_storage_written_bytes_total" "By" ["exporter"]
        "Bytes written to the disk.";
    STORAGE_FAILURES: Counter "tollgate_storage_failures_total" "{failures}" ["exporter"]
        "Writes, syncs and reads the disk failed.";
    STORAGE_FULL: Counter "tollgate_storage_full_total" "{requests}" ["exporter"]
        "Times there was no room on the disk, or none left of max_size.";
    STORAGE_POISONED: Counter "tollgate_storage_poisoned_segments_total" "{segments}" ["exporter"]
        "Files given up because a write or a sync failed; what was not yet answered was written elsewhere.";
    STORAGE_DAMAGED_RECORDS: Counter "tollgate_storage_damaged_records_total" "{records}" ["exporter"]
        "Batches that were on disk and are lost, because their bytes changed or their file is missing.";
    STORAGE_DAMAGED_SEGMENTS: Counter "tollgate_storage_damaged_segments_total" "{segments}" ["exporter"]
        "Files that are missing or unreadable as a whole.";
    STORAGE_MOVED: Counter "tollgate_storage_moved_records_total" "{records}" ["exporter"]
        "Batches that were copied to a newer file, so that the old one could be removed.";
    STORAGE_DEAD_LETTERS: Gauge "tollgate_storage_dead_letters" "{records}" ["exporter"]
        "Batches that were given up and are kept for inspection.";
    STORAGE_DEAD_LETTERS_DROPPED: Counter "tollgate_storage_dead_letters_dropped_total" "{records}" ["exporter"]
        "Batches that were given up earlier and had to make room for later ones.";
    RECEIVED_ITEMS: Counter "tollgate_received_items_total" "{items}" ["tenant", "signal"]
        "Items that arrived in well-formed requests.";
    COPIED_ITEMS: Counter "tollgate_copied_items_total" "{items}" ["tenant", "signal"]
        "Items that came to be because a batch went to one more exporter or pipeline.";
    REFUSED_ITEMS: Counter "tollgate_refused_items_total" "{items}" ["tenant", "signal", "reason"]
        "Items that were not accepted; the sender was told.";
    REFUSED_REQUESTS: Counter "tollgate_refused_requests_total" "{requests}" ["tenant", "reason"]
        "Requests that a limit of their tenant refused, before or after their items were known.";
    TRIMMED: Counter "tollgate_trimmed_total" "1" ["tenant", "what"]
        "What was cut off items above the limits of their tenant: attribute_value, attribute, event or link.";
    SAMPLED_OUT_ITEMS: Counter "tollgate_sampled_out_items_total" "{items}" ["tenant", "signal"]
        "Items left out by policy.";
    SENT_ITEMS: Counter "tollgate_sent_items_total" "{items}" ["tenant", "signal"]
        "Items a destination took.";
    DROPPED_ITEMS: Counter "tollgate_dropped_items_total" "{items}" ["tenant", "signal", "reason"]
        "Items lost after they were accepted.";
    RECOVERED_ITEMS: Counter "tollgate_recovered_items_total" "{items}" ["tenant", "signal"]
        "Items that a queue on disk had when the program started.";
    STORED_ITEMS: Counter "tollgate_stored_items_total" "{items}" ["tenant", "signal"]
        "Items left in a queue on disk for the next start: at the end of the program, or because the disk could not be read.";
    QUEUED_ITEMS: Gauge "tollgate_queued_items" "{items}" ["tenant", "signal"]
        "Items that queues own now.";
    TENANT_QUEUE_BYTES: Gauge "tollgate_tenant_queue_bytes" "By" ["tenant", "exporter"]
        "Bytes a tenant has in a queue, those under way included; absent while there are none.";
    TENANTS: Gauge "tollgate_tenants" "{tenants}" ["class"]
        "Tenants by class: configured (listed by exact id, and met), dynamic, or _overflow, those who share its queues as far as they are followed.";
    MODEL_ITEMS: Counter "tollgate_model_items_total" "{items}" ["tenant", "model", "model_version"]
        "Items that came from a model; versions past the tenant's max_model_versions are _other.";
    SAMPLING_ITEMS: Counter "tollgate_sampling_items_total" "{items}" ["tenant", "signal", "rule", "decision", "stage"]
        "Items by deciding rule and decision: kept, sampled_out, rule_drop, shadow_kept or shadow_out.";
    SAMPLING_ADJUSTED: Counter "tollgate_sampling_adjusted_items_total" "{items}" ["tenant", "signal", "rule"]
        "What the kept items stand for: the sum of their adjusted counts.";
    SAMPLING_PROBABILITY: Gauge "tollgate_sampling_probability" "1" ["tenant", "rule"]
        "The probability with which a rule kept its last item, earlier samplers and budgets included; the lowest of all signals.";
    SAMPLING_THRESHOLD: Gauge "tollgate_sampling_threshold" "1" ["rule", "key"]
        "The threshold of a budget as a share of 2^56: what is left out. The highest 20; key is the tenant, or empty for a budget of all; the rule of kept_spans_per_second is _kept.";
    SAMPLING_INCONSISTENT: Counter "tollgate_sampling_inconsistent_threshold_total" "{items}" ["tenant"]
        "Items whose threshold contradicts their randomness; the threshold was removed.";
    SAMPLING_MISSING_RANDOMNESS: Counter "tollgate_sampling_missing_randomness_total" "{items}" ["tenant"]
        "Items without a trace id or any other randomness.";
    SAMPLING_NO_RANDOM_FLAG: Counter "tollgate_sampling_no_random_flag_total" "{items}" ["tenant"]
        "Items whose trace flags do not promise a random trace id.";
    SAMPLING_OVERSIZED: Counter "tollgate_sampling_oversized_traces_total" "{traces}" ["tenant"]
        "Traces that alone exceed a budget of kept items and passed on credit, counted once a second and budget.";
    POLICIES_INFO: Gauge "tollgate_policies_info" "1" ["revision", "sha256"]
        "1 for the policies in force.";
    POLICIES_LAST_RELOAD_SUCCESS: Gauge "tollgate_policies_last_reload_success" "1" []
        "1 if the policies last read were good, 0 if they were refused and older ones stay in force.";
    POLICIES_RELOAD_SECONDS: Gauge "tollgate_policies_reload_seconds" "s" []
        "How long the last reload of policies took, from reading the file to being in force.";
    POLICIES_RELOADS: Counter "tollgate_policies_reloads_total" "{reloads}" ["outcome"]
        "Reloads of policies by outcome: success or failure.";
    KUBERNETES_WATCH_UP: Gauge "tollgate_kubernetes_watch_up" "1" ["resource"]
        "1 while the API server tells what changes, 0 while what is known of the resource may be old.";
    KUBERNETES_WATCH_FAILURES: Counter "tollgate_kubernetes_watch_failures_total" "{failures}" ["resource"]
        "Lists and watches of the resource that failed or broke off.";
    AUTHENTICATIONS: Counter "tollgate_authentications_total" "{requests}" ["source", "outcome"]
        "Requests by what proved their sender (mtls, jwt, service_account, api_key, pod, anonymous) and outcome: accepted, invalid or unavailable.";
    KUBERNETES_OBJECTS: Gauge "tollgate_kubernetes_objects" "{objects}" ["resource"]
        "Pods or namespaces that are remembered, those that ended a moment ago included.";
    KUBERNETES_LISTED: Gauge "tollgate_kubernetes_listed" "1" ["resource"]
        "1 once a first list was had, 0 until then.";
    KUBERNETES_LISTS: Counter "tollgate_kubernetes_lists_total" "{lists}" ["resource"]
        "Lists that were read to their end: one at the start, one more whenever a watch cannot go on.";
    PODS_LEFT_OUT: Counter "tollgate_pods_left_out_total" "{pods}" []
        "Pods that were told about and not kept, because max_pods are.";
    POD_LOOKUPS: Counter "tollgate_pod_lookups_total" "{requests}" ["used_for", "outcome"]
        "Addresses of senders looked up, for identity or attributes, by outcome: found, unknown, ended, host_network, not_listed, newcomer or no_address.";
    POD_MISMATCHES: Counter "tollgate_pod_mismatches_total" "{resources}" ["attribute"]
        "Resources whose sender wrote an attribute that contradicts the pod at its address.";
    TLS_RELOAD_FAILURES: Counter "tollgate_tls_reload_failures_total" "{reloads}" ["component"]
        "Certificates or keys that changed on disk and could not be used; the old ones stay.";
    CPU_LIMIT: Gauge "tollgate_cpu_limit" "{cpu}" []
        "CPUs the control group allows; absent without a quota.";
    MEMORY_LIMIT: Gauge "tollgate_memory_limit_bytes" "By" []
        "Memory the control group allows; without a limit, what the machine has.";
    MEMORY_POOL: Gauge "tollgate_memory_pool_bytes" "By" ["pool"]
        "What may take memory, and how much at most: program, tenants, queue/EXPORTER, requests; the sum is below the limit.";
    REQUESTS_HELD: Gauge "tollgate_requests_held_bytes" "By" []
        "What requests under way take of their pool now.";
    TLS_NOT_AFTER: Gauge "tollgate_tls_not_after_seconds" "s" ["component"]
        "When the certificate in use, or one of its chain, ends, in seconds since 1970; absent without one.";
    TASKS_ALIVE: Gauge "tollgate_tasks_alive" "{tasks}" []
        "Tasks alive now.";
    TASKS_ABORTED: Counter "tollgate_tasks_aborted_total" "{tasks}" []
        "Tasks that did not stop in their grace.";
    TASKS_OVERDUE: Counter "tollgate_tasks_overdue_total" "{tasks}" ["reason"]
        "Tasks found alive that should have ended: outlived_scope (past its end) or outlived_parent (nobody could end it); the log names each.";
    WORKERS: Gauge "tollgate_workers" "{threads}" []
        "Threads that carry requests.";
    LOG_LINES_SUPPRESSED: Counter "tollgate_log_lines_suppressed_total" "{lines}" []
        "Log lines left out because one place logged too often.";
    TELEMETRY_PUSHES: Counter "tollgate_telemetry_pushes_total" "{requests}" ["outcome"]
        "Pushes of own metrics by outcome: success or failure.";
    READY: Gauge "tollgate_ready" "1" []
        "1 while the collector takes data, 0 while it starts or drains.";
    TARGET_INFO: Gauge "target_info" "1" []
        "1, with the resource attributes as labels.";
}

/// The metric of `signal` among three.
pub(super) fn of(three: &'static [Definition; 3], signal: Signal) -> &'static Definition {
    &three[signal as usize]
}

/// Every metric there is, sorted by name.
pub fn metrics_reference() -> Vec<&'static Definition> {
    let per_signal = PER_SIGNAL.iter().flat_map(|three| three.iter());
    let mut all: Vec<_> = SINGLE.iter().copied().chain(per_signal).collect();
    all.sort_by_key(|definition| definition.name);
    all
}

/// Every metric as rows of a Markdown table, for the documentation.
pub fn metrics_table() -> String {
    let mut table = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics_reference() {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        table += &format!("| `{}` | {} | {labels} | {} |\n", metric.name, metric.kind.as_str(), metric.help);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a file of this repository; `TOLLGATE_BLESS=1` writes it.
    fn check_file(name: &str, expected: &str) {
        let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("TOLLGATE_BLESS").is_some() {
            std::fs::write(&path, expected).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected, "{name} is not up to date");
    }

    #[test]
    fn every_metric_is_documented() {
        let page = format!("{DOCUMENTATION}\n{}", metrics_table());
        check_file("docs/metrics.md", &page);
    }

    const DOCUMENTATION: &str = "\
# Metrics

This page is generated from the program (`TOLLGATE_BLESS=1 cargo test --lib catalog`).

Metrics are served as Prometheus text on `localhost:8888/metrics`; `service.telemetry.metrics` changes
where, and pushes them by OTLP. Names with `otelcol_` and their labels are the OpenTelemetry Collector's,
without unit or `_total` unless a reader asks for them, so that dashboards made for it work; they carry
`service_instance_id`. Names with `tollgate_` are Tollgate's own. Tenants listed in the policies by their
exact id and at most `max_dynamic_tenants` others are told apart, and at most 10000 pairs of tenant and rule;
the rest is `_overflow`. Memory figures are the system's (resident set), not
an allocator's, and there is no `otelcol_process_runtime_total_alloc_bytes`.

For every tenant and signal, whenever no request is being worked on:

`received + copied + recovered = refused + sampled_out + sent + dropped + stored + queued`
";

    /// The file is what dashboards and alerts are built on: a change here is a change for users.
    #[test]
    fn names_kinds_and_labels_are_those_of_the_golden_list() {
        let mut list = String::new();
        for metric in metrics_reference() {
            let labels = metric.labels.join(",");
            list += &format!("{} {} {{{labels}}}\n", metric.name, metric.kind.as_str());
        }
        check_file("tests/golden/metrics.txt", &list);
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in metrics_reference() {
            let (name, counter) = (metric.name, metric.kind == Kind::Counter);
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(metric.help.ends_with('.'), "{name}");
            if name.starts_with("tollgate_") {
                assert_eq!(counter, name.ends_with("_total"), "{name}");
            } else {
                assert!(!name.ends_with("_total"), "{name}");
            }
        }
        let names: std::collections::HashSet<_> = metrics_reference().iter().map(|m| m.name).collect();
        assert_eq!(names.len(), metrics_reference().len());
    }
}

//! Reads every counter into [`Families`], in the order in which people look for them.
//!
//! Components show zeros from the start; tenants show what they have, so that a thousand quiet tenants
//! do not cost forty thousand lines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::families::{Families, Point, Value};
use super::metrics::Counter;
use super::{Inner, StorageUsage, catalog, text, usage};
use crate::otlp::Signal;
use crate::outcome::{Account, Books, CancelReason, DroppedReason, RefusedReason, Trimmed};
use crate::tasks::Overdue;

/// A reading of everything.
pub(super) fn read(inner: &Inner) -> Families {
    let mut families = Families::default();
    target(inner, &mut families);
    receivers(inner, &mut families);
    processors(inner, &mut families);
    exporters(inner, &mut families);
    failovers(inner, &mut families);
    resources_used(inner, &mut families);
    tenants(inner, &mut families);
    inner.models.read(&mut families);
    inner.sampling.read(&mut families);
    inner.policies.read(&mut families);
    inner.authentication.read(&mut families);
    inner.pods.read(&mut families);
    for (resource, metrics) in inner.watches.all() {
        families.add(&catalog::KUBERNETES_WATCH_UP, &[resource], metrics.up.get());
        families.add(&catalog::KUBERNETES_WATCH_FAILURES, &[resource], metrics.failures.get());
    }
    program(inner, &mut families);
    families
}

fn target(inner: &Inner, families: &mut Families) {
    let label = |(key, value): &(String, String)| (Cow::Owned(text::label_name(key)), value.clone());
    let labels = inner.resource.attributes().iter().map(label).collect();
    families.add_point(&catalog::TARGET_INFO, Point { labels, value: Value::Int(1) });
}

fn receivers(inner: &Inner, families: &mut Families) {
    for ((id, transport), metrics) in inner.receivers.all() {
        let labels = [id.as_str(), transport];
        families.add_per_signal(&catalog::RECEIVER_ACCEPTED, &labels, &metrics.accepted);
        families.add_per_signal(&catalog::RECEIVER_REFUSED, &labels, &metrics.refused);
        let outcomes = [
            ("success", "accepted", &metrics.requests_accepted),
            ("refused", "refused", &metrics.requests_refused),
            ("failure", "malformed", &metrics.requests_malformed),
        ];
        for (collectors, ours, counter) in outcomes {
            families.add(&catalog::RECEIVER_REQUESTS, &[&id, transport, collectors], counter.get());
            families.add(&catalog::RECEIVER_REQUEST_COUNT, &[&id, transport, ours], counter.get());
        }
        families.add(&catalog::RECEIVER_REQUEST_BYTES, &labels, metrics.request_bytes.get());
        families.add(&catalog::RECEIVER_IN_FLIGHT, &labels, metrics.in_flight.get());
        families.add(&catalog::RECEIVER_CONNECTIONS, &labels, metrics.connections.get());
        families.add(&catalog::RECEIVER_CONNECTIONS_REFUSED, &labels, metrics.connections_refused.get());
    }
    let mut answers: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    let receivers = inner.receivers.all();
    for ((id, _), metrics) in &receivers {
        let sum = answers.entry(id).or_default();
        *sum = (sum.0 + metrics.stalls.count(), sum.1 + metrics.stalls.total().as_secs_f64());
    }
    for (id, (count, seconds)) in answers {
        families.add(&catalog::WINDOW_STALLS, &["receiver", id], count);
        families.add(&catalog::WINDOW_STALL_SECONDS, &["receiver", id], seconds);
    }
    for reason in CancelReason::ALL {
        families.add(&catalog::CANCELLATIONS, &[reason.as_str()], inner.cancellations.get(*reason));
    }
    for (signal, counter) in inner.requests_normalised.iter() {
        families.add(&catalog::REQUESTS_NORMALISED, &[signal.as_str()], counter.get());
    }
}

fn processors(inner: &Inner, families: &mut Families) {
    for (id, metrics) in inner.processors.all() {
        for signal in Signal::ALL {
            let labels = [id.as_str(), signal.as_str()];
            families.add(&catalog::PROCESSOR_INCOMING, &labels, metrics.incoming[signal].get());
            families.add(&catalog::PROCESSOR_OUTGOING, &labels, metrics.outgoing[signal].get());
        }
    }
    for (id, metrics) in inner.samplers.all() {
        for ((signal, policy, sampled), counter) in metrics.all() {
            let definition = match signal {
                Signal::Traces => &catalog::SAMPLER_TRACES,
                _ => &catalog::SAMPLER_LOGS,
            };
            let sampled = if sampled { "true" } else { "false" };
            families.add(definition, &[&id, &policy, sampled], counter.get());
        }
    }
    for (id, metrics) in inner.memory_limiters.all() {
        families.add_per_signal(&catalog::MEMORY_LIMITER_ACCEPTED, &[&id], &metrics.accepted);
        families.add_per_signal(&catalog::MEMORY_LIMITER_REFUSED, &[&id], &metrics.refused);
    }
}

fn exporters(inner: &Inner, families: &mut Families) {
    for (id, metrics) in inner.exporters.all() {
        let id = id.as_str();
        families.add_per_signal(&catalog::EXPORTER_SENT, &[id], &metrics.sent);
        families.add_per_signal(&catalog::EXPORTER_SEND_FAILED, &[id], &metrics.send_failed);
        families.add_per_signal(&catalog::EXPORTER_ENQUEUE_FAILED, &[id], &metrics.enqueue_failed);
        families.add(&catalog::EXPORTER_QUEUE_SIZE, &[id, "all"], metrics.queue_size.get());
        families.add(&catalog::EXPORTER_QUEUE_CAPACITY, &[id, "all"], metrics.queue_capacity.get());
        families.add(&catalog::EXPORTER_IN_FLIGHT, &[id], metrics.in_flight.get());
        families.add(&catalog::WINDOW_STALLS, &["exporter", id], metrics.stalls.count());
        families.add(&catalog::WINDOW_STALL_SECONDS, &["exporter", id], metrics.stalls.total().as_secs_f64());
        families.add(&catalog::EXPORTER_IN_FLIGHT_LIMIT, &[id], metrics.in_flight_limit.get());
        families.add(&catalog::EXPORTER_RETRIES, &[id], metrics.retries.get());
        families.add(&catalog::EXPORTER_SENT_BYTES, &[id], metrics.sent_bytes.get());
        families.add(&catalog::EXPORTER_QUEUE_BYTES, &[id], metrics.queue_bytes.get());
        families.add(&catalog::EXPORTER_QUEUE_CAPACITY_BYTES, &[id], metrics.queue_capacity_bytes.get());
        let storages = metrics.storage.read();
        for storage in storages.keys() {
            families.add(&catalog::EXPORTER_QUEUE_STORAGE, &[id, storage], 1_u64);
        }
        if let Some(usage) = storages.values().flatten().next() {
            storage_of(id, usage, families);
        }
        let oldest = metrics.oldest.read().as_secs_f64();
        families.add(&catalog::EXPORTER_QUEUE_OLDEST_AGE, &[id], oldest);
    }
}

fn failovers(inner: &Inner, families: &mut Families) {
    for (id, metrics) in inner.failovers.all() {
        let id = id.as_str();
        families.add(&catalog::FAILOVER_LEVEL, &[id], metrics.level.get());
        families.add(&catalog::FAILOVER_SWITCHES, &[id], metrics.switches.get());
        for (exporter, sent) in metrics.sent() {
            families.add(&catalog::FAILOVER_SENT, &[id, &exporter], sent.get());
        }
    }
}

fn storage_of(exporter: &str, usage: &StorageUsage, families: &mut Families) {
    let whole = [
        (&catalog::STORAGE_DISK_BYTES, usage.disk_bytes),
        (&catalog::STORAGE_LIVE_BYTES, usage.live_bytes),
        (&catalog::STORAGE_SEGMENTS, usage.segments),
        (&catalog::STORAGE_RECORDS, usage.records),
        (&catalog::STORAGE_SYNCS, usage.syncs),
        (&catalog::STORAGE_COMMITS, usage.commits),
        (&catalog::STORAGE_WRITTEN_BYTES, usage.written_bytes),
        (&catalog::STORAGE_FAILURES, usage.failures),
        (&catalog::STORAGE_FULL, usage.full),
        (&catalog::STORAGE_POISONED, usage.poisoned),
        (&catalog::STORAGE_DAMAGED_RECORDS, usage.damaged_records),
        (&catalog::STORAGE_DAMAGED_SEGMENTS, usage.damaged_segments),
        (&catalog::STORAGE_MOVED, usage.moved),
        (&catalog::STORAGE_DEAD_LETTERS, usage.dead_letters),
        (&catalog::STORAGE_DEAD_LETTERS_DROPPED, usage.dead_letters_dropped),
    ];
    for (definition, value) in whole {
        families.add(definition, &[exporter], value);
    }
    families.add(&catalog::STORAGE_OLDEST_AGE, &[exporter], usage.oldest_age.as_secs_f64());
    families.add(&catalog::STORAGE_COMMIT_SECONDS, &[exporter], usage.commit_time.as_secs_f64());
}

fn resources_used(inner: &Inner, families: &mut Families) {
    families.add(&catalog::UPTIME, &[], inner.started.elapsed().as_secs_f64());
    if let Some(usage) = usage::Usage::read() {
        families.add(&catalog::CPU_SECONDS, &[], usage.cpu_seconds);
        families.add(&catalog::MEMORY_RSS, &[], usage.resident);
        families.add(&catalog::HEAP_ALLOC, &[], usage.anonymous);
        families.add(&catalog::SYS_MEMORY, &[], usage.data_segment);
    }
}

fn tenants(inner: &Inner, families: &mut Families) {
    let census = &inner.ledger.census;
    let classes =
        [("configured", &census.configured), ("dynamic", &census.dynamic), ("_overflow", &census.overflow)];
    for (class, tenants) in classes {
        families.add(&catalog::TENANTS, &[class], tenants.load(Ordering::Relaxed));
    }
    for account in &inner.ledger.accounts() {
        tenant(account, families);
    }
    for (exporter, metrics) in inner.exporters.all() {
        for (tenant, bytes) in metrics.tenants.read() {
            families.add(&catalog::TENANT_QUEUE_BYTES, &[tenant.as_str(), &exporter], bytes);
        }
    }
}

fn tenant(account: &Account, families: &mut Families) {
    let tenant = account.label().as_str();
    for signal in Signal::ALL {
        let books = account.signal(signal).read();
        if books == Books::default() {
            continue;
        }
        let labels = [tenant, signal.as_str()];
        families.add(&catalog::RECEIVED_ITEMS, &labels, books.received);
        families.add(&catalog::COPIED_ITEMS, &labels, books.copied);
        if books.recovered > 0 {
            families.add(&catalog::RECOVERED_ITEMS, &labels, books.recovered);
        }
        if books.stored > 0 {
            families.add(&catalog::STORED_ITEMS, &labels, books.stored);
        }
        families.add(&catalog::SAMPLED_OUT_ITEMS, &labels, books.sampled_out);
        families.add(&catalog::SENT_ITEMS, &labels, books.sent);
        families.add(&catalog::QUEUED_ITEMS, &labels, books.queued);
        for reason in RefusedReason::ALL.iter().filter(|reason| books.refused[**reason as usize] > 0) {
            let all = [tenant, signal.as_str(), reason.as_str()];
            families.add(&catalog::REFUSED_ITEMS, &all, books.refused[*reason as usize]);
        }
        for reason in DroppedReason::ALL.iter().filter(|reason| books.dropped[**reason as usize] > 0) {
            let all = [tenant, signal.as_str(), reason.as_str()];
            families.add(&catalog::DROPPED_ITEMS, &all, books.dropped[*reason as usize]);
        }
    }
    for reason in RefusedReason::ALL.iter().filter(|reason| account.refused_requests(**reason) > 0) {
        let requests = account.refused_requests(*reason);
        families.add(&catalog::REFUSED_REQUESTS, &[tenant, reason.as_str()], requests);
    }
    for what in Trimmed::ALL.iter().filter(|what| account.trimmed(**what) > 0) {
        families.add(&catalog::TRIMMED, &[tenant, what.as_str()], account.trimmed(*what));
    }
}

fn program(inner: &Inner, families: &mut Families) {
    families.add(&catalog::READY, &[], inner.ready.get());
    families.add(&catalog::WORKERS, &[], inner.workers.get());
    if let Some(capacity) = inner.capacity.get() {
        if let Some(cpus) = capacity.cpus() {
            families.add(&catalog::CPU_LIMIT, &[], cpus);
        }
        families.add(&catalog::MEMORY_LIMIT, &[], capacity.memory());
    }
    for (pool, bytes) in &*inner.pools.lock().unwrap_or_else(PoisonError::into_inner) {
        families.add(&catalog::MEMORY_POOL, &[pool], *bytes);
    }
    let held = inner.requests_held.get().map_or(0, |held| held.load(Ordering::Relaxed));
    families.add(&catalog::REQUESTS_HELD, &[], held);
    if let Some(tasks) = &*inner.tasks.read().unwrap_or_else(PoisonError::into_inner) {
        families.add(&catalog::TASKS_ALIVE, &[], tasks.alive() as u64);
        families.add(&catalog::TASKS_ABORTED, &[], tasks.aborted() as u64);
        for why in [Overdue::OutlivedScope, Overdue::OutlivedParent] {
            families.add(&catalog::TASKS_OVERDUE, &[why.as_str()], tasks.overdue(why) as u64);
        }
    }
    for (component, tls) in inner.tls.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let reading = tls.read();
        families.add(&catalog::TLS_RELOAD_FAILURES, &[component], reading.failed_reloads);
        if let Some(seconds) = reading.not_after {
            families.add(&catalog::TLS_NOT_AFTER, &[component], seconds);
        }
    }
    let suppressed = inner.log_lines_suppressed.get().map_or(0, Counter::get);
    families.add(&catalog::LOG_LINES_SUPPRESSED, &[], suppressed);
    families.add(&catalog::TELEMETRY_PUSHES, &["success"], inner.pushes.get());
    families.add(&catalog::TELEMETRY_PUSHES, &["failure"], inner.pushes_failed.get());
}

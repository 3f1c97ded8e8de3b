//! Status as text for people.

use serde_json::Value;

use super::fleet::OfPod;

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("?")
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// The first digits of a digest, enough to tell revisions apart.
fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

/// Bytes with three digits: `1.21 MiB`.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            let digits = if unit == "B" || value >= 100.0 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Seconds in two units: `3h 2m`.
fn seconds(count: u64) -> String {
    match count {
        0..60 => format!("{count}s"),
        60..3600 => format!("{}m {}s", count / 60, count % 60),
        3600..86400 => format!("{}h {}m", count / 3600, count % 3600 / 60),
        _ => format!("{}d {}h", count / 86400, count % 86400 / 3600),
    }
}

/// One collector on a few lines.
pub(super) fn one(status: &Value) -> String {
    let (policies, items) = (&status["policies"], &status["items"]);
    let in_force = &policies["in_force"];
    let mut shown = format!(
        "tollgate {}, {} for {}, {}\n\npolicies   revision {}, sha256 {}, since {}\n           from {}\n",
        text(status, "version"),
        text(status, "state"),
        seconds(number(status, "uptime_seconds")),
        bytes(number(status, "memory_bytes")),
        text(in_force, "revision"),
        short(text(in_force, "sha256")),
        text(in_force, "since"),
        text(policies, "origin"),
    );
    let refused = &policies["refused"];
    if !refused.is_null() {
        shown += &format!("REFUSED    {} at {}:\n", text(refused, "origin"), text(refused, "at"));
        for line in refused["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            shown += &format!("           {}\n", line.replace('\n', "\n           "));
        }
    }
    for watch in status["watches"].as_array().into_iter().flatten() {
        let state = if watch["up"] == true { "followed" } else { "NOT FOLLOWED" };
        let failures = number(watch, "failures");
        shown += &format!("api server {} {state}, {failures} failures so far\n", text(watch, "resource"));
    }
    shown += "\n";
    for exporter in status["exporters"].as_array().into_iter().flatten() {
        let (used, capacity) = (number(exporter, "queue_bytes"), number(exporter, "queue_capacity_bytes"));
        shown += &format!(
            "exporter   {} {}: {} of {} wait, the oldest for {}; {} items sent, {} given up, {} retries\n",
            text(exporter, "id"),
            text(exporter, "state"),
            bytes(used),
            bytes(capacity),
            seconds(number(exporter, "oldest_seconds")),
            number(exporter, "sent_items"),
            number(exporter, "send_failed_items"),
            number(exporter, "retries"),
        );
    }
    let item = |key: &str| number(items, key);
    shown += &format!(
        "items      {} received, {} refused, {} sampled out, {} sent, {} dropped, {} queued\n",
        item("received"),
        item("refused"),
        item("sampled_out"),
        item("sent"),
        item("dropped"),
        item("queued"),
    );
    shown
}

/// One line a pod, and one for all.
pub(super) fn fleet(pods: &[OfPod]) -> String {
    let head = ["POD", "NODE", "STATE", "REVISION", "SHA256", "DRIFT", "REFUSED", "QUEUED", "OLDEST"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(pods.iter().map(row));
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() > 3 || column < 2);
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut shown = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        shown += cells.collect::<Vec<_>>().join("  ").trim_end();
        shown += "\n";
    }
    let count = |is: &dyn Fn(&OfPod) -> bool| pods.iter().filter(|pod| is(pod)).count();
    let refused =
        |pod: &OfPod| pod.status.as_ref().is_ok_and(|status| !status["policies"]["refused"].is_null());
    shown
        + &format!(
            "\n{} pods: {} ready, {} drift, {} refuse, {} not reached\n",
            pods.len(),
            count(&|pod| pod.status.as_ref().is_ok_and(|status| status["ready"] == true)),
            count(&|pod| pod.drifts),
            count(&refused),
            count(&|pod| pod.status.is_err()),
        )
}

fn row(pod: &OfPod) -> Vec<String> {
    let status = match &pod.status {
        Ok(status) => status,
        Err(why) => {
            let why = why.replace('\n', " ");
            return vec![pod.name.clone(), pod.node.clone(), format!("not reached: {why}")];
        }
    };
    let (in_force, refused) = (&status["policies"]["in_force"], &status["policies"]["refused"]);
    let exporters: Vec<&Value> = status["exporters"].as_array().into_iter().flatten().collect();
    let sum = |key: &str| exporters.iter().map(|exporter| number(exporter, key)).sum::<u64>();
    let oldest = exporters.iter().map(|exporter| number(exporter, "oldest_seconds")).max().unwrap_or(0);
    let (used, capacity) = (sum("queue_bytes"), sum("queue_capacity_bytes"));
    let share = (used * 100).checked_div(capacity).unwrap_or(0);
    vec![
        pod.name.clone(),
        pod.node.clone(),
        text(status, "state").to_owned(),
        text(in_force, "revision").to_owned(),
        short(text(in_force, "sha256")).to_owned(),
        if pod.drifts { "DRIFT" } else { "-" }.to_owned(),
        match refused.is_null() {
            true => "-".to_owned(),
            false => format!("since {}", text(refused, "at").split('.').next().unwrap_or_default()),
        },
        format!("{} ({share}%)", bytes(used)),
        seconds(oldest),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0, 999, 1000, 1 << 20, 256 << 20, 5 << 30].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 KiB", "1.0 MiB", "256 MiB", "5.0 GiB"]);
        let shown = [0, 59, 61, 7320, 90_000].map(seconds);
        assert_eq!(shown, ["0s", "59s", "1m 1s", "2h 2m", "1d 1h"]);
    }
}

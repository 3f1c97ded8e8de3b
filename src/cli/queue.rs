//! `tollgate queue inspect DIR`: what the directory of a durable queue holds, read-only.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::{fail, print};
use crate::journal::{Inspection, inspect};

/// What to do with a durable queue.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show segments, tenants, ages, damage and dead letters; changes nothing, also beside a running process.
    Inspect(InspectArguments),
}

#[derive(Debug, Args)]
struct InspectArguments {
    /// The directory of one queue: the one that holds files ending in .seg.
    dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Prints what is there; exit code 1 if the directory cannot be read.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Command::Inspect(arguments) = &arguments.command;
    let inspection = match inspect(&arguments.dir) {
        Ok(inspection) => inspection,
        Err(error) => return fail(&error.into()),
    };
    match arguments.json {
        true => match serde_json::to_string_pretty(&inspection) {
            Ok(json) => print(&(json + "\n")),
            Err(error) => fail(&error.into()),
        },
        false => print(&text(&inspection, SystemTime::now())),
    }
}

fn text(inspection: &Inspection, now: SystemTime) -> String {
    let mut text = format!(
        "{:<16}  {:<7}  {:>12}  {:>8}  {:>8}  {:>7}\n",
        "segment", "state", "bytes", "records", "waiting", "damaged"
    );
    for segment in &inspection.segments {
        text += &format!(
            "{:016x}  {:<7}  {:>12}  {:>8}  {:>8}  {:>7}\n",
            segment.base, segment.state, segment.bytes, segment.records, segment.waiting, segment.damaged
        );
    }
    text += &format!("\n{:<24}  {:>8}  {:>10}  {:>12}  oldest\n", "tenant", "waiting", "items", "bytes");
    for (name, tenant) in &inspection.tenants {
        text += &format!(
            "{name:<24}  {:>8}  {:>10}  {:>12}  {}\n",
            tenant.records,
            tenant.items,
            tenant.bytes,
            age(tenant.oldest_unix_nanos, now)
        );
    }
    text + &format!("\ndead letters: {} in {} bytes\n", inspection.dead_letters, inspection.dead_letter_bytes)
}

/// `3m12s ago`, to the second.
fn age(unix_nanos: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_nanos(unix_nanos));
    format!("{} ago", crate::units::duration::format(Duration::from_secs(age.as_secs())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::journal::{SegmentReport, TenantReport};

    #[test]
    fn segments_and_tenants_are_lines() {
        let segment =
            SegmentReport { base: 26, state: "sealed", bytes: 4096, records: 9, waiting: 2, damaged: 1 };
        let tenant = TenantReport { records: 2, items: 40, bytes: 900, oldest_unix_nanos: 5_000_000_000 };
        let inspection = Inspection {
            segments: vec![segment],
            tenants: BTreeMap::from([("acme".to_owned(), tenant)]),
            dead_letters: 1,
            dead_letter_bytes: 512,
        };
        let text = text(&inspection, UNIX_EPOCH + Duration::from_secs(65));
        assert_eq!(
            text,
            "segment           state           bytes   records   waiting  damaged\n\
             000000000000001a  sealed           4096         9         2        1\n\n\
             tenant                     waiting       items         bytes  oldest\n\
             acme                             2          40           900  1m ago\n\n\
             dead letters: 1 in 512 bytes\n"
        );
    }
}

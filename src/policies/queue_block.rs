//! Reads `queue` of a block: what a tenant may have of each exporter's queue.
//!
//! Not here: what a share means (`queue`). Invariant: a share that was merged is within its ranges.

use std::sync::Arc;

use super::plan::Plan;
use super::reader::{At, Keys};
use crate::flow::Share;
use crate::units::ByteSize;
use crate::yaml::{Location, Problems, Source, Value};

const KEYS: Keys = Keys { known: &["weight", "guaranteed_bytes", "max_share"], later: &[] };
const MAX_WEIGHT: i128 = 100;

/// `queue` as written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    weight: Option<u32>,
    guaranteed_bytes: Option<u64>,
    max_share: Option<f64>,
}

impl Written {
    /// Field by field, what is written here, else what is written in `lower`.
    pub(super) fn over(self, lower: Self) -> Self {
        Self {
            weight: self.weight.or(lower.weight),
            guaranteed_bytes: self.guaranteed_bytes.or(lower.guaranteed_bytes),
            max_share: self.max_share.or(lower.max_share),
        }
    }

    /// Every field, with the defaults.
    pub(super) fn share(self) -> Share {
        Share {
            weight: self.weight.unwrap_or(Share::DEFAULT.weight),
            guaranteed_bytes: self.guaranteed_bytes.unwrap_or(Share::DEFAULT.guaranteed_bytes),
            max_share: self.max_share.unwrap_or(Share::DEFAULT.max_share),
            ..Share::DEFAULT
        }
    }
}

/// Reads `queue` below a block.
pub(super) fn read(block: &At<'_>, problems: &mut Problems) -> Written {
    let Some(at) = block.key("queue") else { return Written::default() };
    if !at.check_keys(&KEYS, problems) {
        return Written::default();
    }
    Written {
        weight: at.key("weight").and_then(|value| weight(&value, problems)),
        guaranteed_bytes: at.key("guaranteed_bytes").and_then(|value| bytes(&value, problems)),
        max_share: at.key("max_share").and_then(|value| max_share(&value, problems)),
    }
}

fn weight(at: &At<'_>, problems: &mut Problems) -> Option<u32> {
    match at.node.value {
        Value::Int(weight @ 1..=MAX_WEIGHT) => Some(weight as u32),
        Value::Int(other) => {
            at.error(problems, format!("{other} is out of range; allowed are 1 to {MAX_WEIGHT}"));
            None
        }
        _ => {
            at.wrong_type(problems, "a whole number");
            None
        }
    }
}

fn max_share(at: &At<'_>, problems: &mut Problems) -> Option<f64> {
    let share = at.number(problems)?;
    if !(share > 0.0 && share <= 1.0) {
        at.error(problems, format!("{share} is out of range; allowed is above 0 and up to 1"));
        return None;
    }
    Some(share)
}

fn bytes(at: &At<'_>, problems: &mut Problems) -> Option<u64> {
    let text = match &at.node.value {
        Value::Str(text) => text.clone(),
        Value::Int(value) => value.to_string(),
        _ => {
            at.wrong_type(problems, "a size such as 64MiB");
            return None;
        }
    };
    match ByteSize::parse(&text) {
        Ok(size) => Some(size.0),
        Err(bad) => {
            at.error(problems, bad.to_string());
            None
        }
    }
}

impl Plan {
    /// The share of a tenant: a guarantee has who is listed by exact id, others have the rest.
    pub fn share(&self, tenant: &str) -> Share {
        let block = self.block(tenant);
        let export_in_flight = block.limits.export_in_flight.unwrap_or(Share::DEFAULT.export_in_flight);
        let share = Share { export_in_flight, ..block.queue };
        match self.is_configured(tenant) {
            true => share,
            false => Share { guaranteed_bytes: 0, ..share },
        }
    }

    /// Whether a tenant is listed by its exact id.
    pub fn is_configured(&self, tenant: &str) -> bool {
        self.blocks.exact.contains_key(tenant) && !tenant.starts_with('_')
    }

    /// The guarantees of all tenants listed by their exact id, in bytes.
    pub fn guaranteed_bytes(&self) -> u64 {
        let configured = self.blocks.exact.iter().filter(|(id, _)| !id.starts_with('_'));
        configured.map(|(_, block)| block.queue.guaranteed_bytes).fold(0, u64::saturating_add)
    }

    /// Reports guarantees that come to more than half of the smallest queue: others must have room too.
    /// `source` is what the plan was read from.
    pub fn check_guarantees(&self, smallest_queue: u64, source: &Source, problems: &mut Problems) {
        let guaranteed = self.guaranteed_bytes();
        if guaranteed <= smallest_queue / 2 {
            return;
        }
        let tree = crate::yaml::parse(source).ok();
        let tenants = tree.as_ref().and_then(|node| node.entry("tenants"));
        let start = || Location::start_of(Arc::new(source.clone()));
        let place = tenants.map_or_else(start, |entry| entry.key_location.clone());
        let message = format!(
            "queue.guaranteed_bytes of all listed tenants come to {guaranteed} bytes, more than half of \
             the smallest queue ({smallest_queue} bytes)"
        );
        let help = "guarantee less, or raise sending_queue.max_bytes of the exporter".to_owned();
        problems.error(&place, "tenants", message, Some(help));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Plan, Vec<String>> {
        let source = Source::new("p.yaml", format!("version: 1\nrules: []\n{body}"));
        match super::super::parse(&source, jiff::Timestamp::UNIX_EPOCH) {
            Ok((plan, _)) => Ok(plan),
            Err(problems) => Err(problems.lines()),
        }
    }

    const BLOCKS: &str = "
defaults: { tier: standard, queue: { max_share: 0.25 } }
tiers:
  vip: { queue: { weight: 8, guaranteed_bytes: 64MiB } }
  standard: {}
tenants:
  acme: { tier: vip }
  globex: { tier: vip, queue: { weight: 2 } }
  \"trial-*\": { tier: vip, queue: { max_share: 1 } }
  _overflow: { queue: { weight: 3, guaranteed_bytes: 1KiB } }
";

    #[test]
    fn shares_are_merged_field_by_field_and_guaranteed_to_listed_tenants_only() {
        let plan = read(BLOCKS).unwrap();
        let check = |tenant: &str, (weight, mib, max_share): (u32, u64, f64)| {
            let expected = Share { weight, guaranteed_bytes: mib << 20, max_share, ..Share::DEFAULT };
            assert_eq!(plan.share(tenant), expected, "{tenant}");
        };
        check("acme", (8, 64, 0.25));
        check("globex", (2, 64, 0.25));
        check("trial-1", (8, 0, 1.0));
        check("anybody", (1, 0, 0.25));
        check("_overflow", (3, 0, 0.25));
        assert_eq!(plan.guaranteed_bytes(), 128 << 20);
    }

    #[test]
    fn requests_at_a_time_are_part_of_the_share() {
        let plan = read(
            "defaults: { limits: { export_in_flight: 4 } }\ntenants: { a: { limits: { burst: 1s } }, b: \
                         { limits: { export_in_flight: 2 } } }",
        )
        .unwrap();
        assert_eq!(["a", "b", "c"].map(|tenant| plan.share(tenant).export_in_flight), [4, 2, 4]);
        assert_eq!(read("").unwrap().share("a").export_in_flight, u32::MAX);
        for bad in ["0", "1001", "x"] {
            let problems =
                read(&format!("defaults: {{ limits: {{ export_in_flight: {bad} }} }}")).unwrap_err();
            assert!(problems[0].contains("defaults.limits.export_in_flight: "), "{problems:?}");
        }
    }

    #[test]
    fn guarantees_fit_in_half_of_the_smallest_queue() {
        let plan = read(BLOCKS).unwrap();
        let check = |queue: u64, expected: &[&str]| {
            let mut problems = Problems::new();
            let source = Source::new("p.yaml", format!("version: 1\nrules: []\n{BLOCKS}"));
            plan.check_guarantees(queue, &source, &mut problems);
            assert_eq!(problems.lines(), expected);
        };
        check(256 << 20, &[]);
        let expected = "p.yaml:8:1: tenants: queue.guaranteed_bytes of all listed tenants come to 134217728 \
                        bytes, more than half of the smallest queue (268435454 bytes); guarantee less, or \
                        raise sending_queue.max_bytes of the exporter";
        check((256 << 20) - 2, &[expected]);
    }

    #[test]
    fn what_is_out_of_range_is_reported_where_it_stands() {
        let check = |queue: &str, expected: &str| {
            let problems = read(&format!("defaults: {{ queue: {queue} }}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(expected), "{problems:?}");
        };
        check("{ weight: 0 }", "defaults.queue.weight: 0 is out of range; allowed are 1 to 100");
        check("{ weight: 101 }", "defaults.queue.weight: 101 is out of range");
        check("{ weight: 1.5 }", "defaults.queue.weight: expected a whole number");
        check(
            "{ max_share: 0 }",
            "defaults.queue.max_share: 0 is out of range; allowed is above 0 and up to 1",
        );
        check("{ max_share: 1.01 }", "defaults.queue.max_share: 1.01 is out of range");
        check("{ guaranteed_bytes: [] }", "defaults.queue.guaranteed_bytes: expected a size such as 64MiB");
        check("{ guaranteed_bytes: 3 apples }", "defaults.queue.guaranteed_bytes: ");
        check("{ wait: 1 }", "defaults.queue.wait: unknown key");
        check("[]", "defaults.queue: expected a map");
    }
}

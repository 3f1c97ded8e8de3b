//! Reads one entry of `rules`.
//!
//! Not here: `match` (`matching`), the order of rules (`document`). Invariant: a rule has one action, or
//! none and something that changes what later rules give.

use std::time::Duration;

use super::condition::ResourceDimension;
use super::limits::{self, RuleLimit};
use super::matching::{Matched, Matching, resource_dimension};
use super::plan::{Action, Active, Mode, Rule, Upstream};
use super::reader::{At, Keys, STAGE_2, STAGE_3};
use crate::otlp::{PerSignal, Signal};
use crate::yaml::Problems;

const KEYS: Keys = Keys {
    known: &[
        "name", "match", "scope", "rate", "keep", "drop", "factor", "at_least", "at_most", "active", "mode",
        "upstream", "group_by", "limit", "owner", "reason",
    ],
    later: &[("target", STAGE_2), ("overload", STAGE_2)],
};

/// What traces can be grouped by.
const GROUPS: &[&str] =
    &["tenant", "tier", "model.name", "model.version", "service", "environment", "resource.<k>"];
/// The longest name of a rule.
const MAX_NAME: usize = 64;
/// The longest `owner` or `reason`: they go to the audit log.
const MAX_TEXT: usize = 1024;
/// The largest `factor`.
const MAX_FACTOR: f64 = 1000.0;

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Trace,
    Span,
    Root,
}

/// Reads a rule; `None` if it cannot even be named or matched.
pub(super) fn read(at: &At<'_>, matching: &mut Matching<'_>, problems: &mut Problems) -> Option<Rule> {
    if !at.check_keys(&KEYS, problems) {
        return None;
    }
    let name = read_name(at, problems);
    let scopes = [("trace", Scope::Trace), ("span", Scope::Span), ("root", Scope::Root)];
    let scope = at.key("scope").and_then(|value| value.choice(&scopes, problems));
    matching.span_scope = scope == Some(Scope::Span);
    let matched = match at.key("match") {
        Some(value) => matching.read(&value, problems),
        None => Matched::everything(),
    };
    let action = read_action(at, problems);
    check_signals(at, &matched, action, problems);
    let matched_signals = matched.signals.clone();
    let modes = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)];
    let upstreams = [("equalize", Upstream::Equalize), ("multiply", Upstream::Multiply)];
    let rule = Rule {
        name: name?.into(),
        signals: matched.signals,
        condition: matched.condition,
        action,
        factor: read_factor(at, problems),
        at_least: probability(at, "at_least", problems).unwrap_or(0.0),
        at_most: probability(at, "at_most", problems).unwrap_or(1.0),
        active: at.key("active").map(|value| read_active(&value, action, problems)).unwrap_or_default(),
        mode: at.key("mode").and_then(|value| value.choice(&modes, problems)).unwrap_or_default(),
        upstream: at.key("upstream").and_then(|value| value.choice(&upstreams, problems)).unwrap_or_default(),
        group_by: at.key("group_by").and_then(|value| read_group(&value, action, problems)),
        limit: at.key("limit").and_then(|value| read_limit(&value, &matched_signals, action, problems)),
        owner: text(at, "owner", problems),
        reason: text(at, "reason", problems),
    };
    Some(rule)
}

fn read_name<'n>(at: &At<'n>, problems: &mut Problems) -> Option<&'n str> {
    let Some(value) = at.key("name") else {
        if !at.has("name") {
            at.error(problems, "`name` is missing");
        }
        return None;
    };
    let name = value.text(problems)?;
    if name.starts_with('_') {
        value.error(problems, format!("`{name}` is reserved: names that start with `_` are Tollgate's own"));
        return None;
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(allowed) {
        value.error(problems, format!("`{name}` is no name; names are 1 to {MAX_NAME} of a-z 0-9 -"));
        return None;
    }
    Some(name)
}

fn read_action(at: &At<'_>, problems: &mut Problems) -> Action {
    let rate = at.key("rate").map(|value| value.probability(problems));
    let keep = at.key("keep").map(|value| value.only_true(problems));
    let drop = at.key("drop").map(|value| value.only_true(problems));
    let written: Vec<&str> =
        ["rate", "keep", "drop", "target"].into_iter().filter(|key| at.has(key)).collect();
    if let [first, .., last] = written.as_slice() {
        let place = at.key(last).unwrap_or_else(|| at.clone());
        place.error(problems, format!("a rule has one action, this one has `{first}` and `{last}`"));
    }
    let modifies = ["factor", "at_least", "at_most"].into_iter().any(|key| at.has(key));
    if written.is_empty() && !modifies {
        let help = "write rate, keep or drop; or factor, at_least or at_most to change what later rules give";
        at.error_with(problems, "the rule does nothing", help);
    }
    if modifies && (keep.is_some() || drop.is_some()) {
        let help = "leave factor, at_least and at_most out";
        at.warning(problems, format!("nothing changes what `{}` gives", written[0]), help);
    }
    match (rate, keep, drop) {
        (Some(rate), ..) => Action::Rate(rate.unwrap_or(1.0)),
        (_, Some(_), _) => Action::Keep,
        (.., Some(_)) => Action::Drop,
        _ => Action::Modify,
    }
}

/// Data points can only be dropped by rule.
fn check_signals(at: &At<'_>, matched: &Matched, action: Action, problems: &mut Problems) {
    if matched.signals[Signal::Metrics] && action != Action::Drop {
        let place = at.key("match").and_then(|value| value.key("signal")).unwrap_or_else(|| at.clone());
        place.error_with(
            problems,
            "data points are not sampled",
            "with `signal: metrics` only `drop: true` is allowed",
        );
    }
}

fn read_factor(at: &At<'_>, problems: &mut Problems) -> f64 {
    let Some(value) = at.key("factor") else { return 1.0 };
    match value.number(problems) {
        Some(factor) if factor > 0.0 && factor <= MAX_FACTOR => factor,
        Some(factor) => {
            value.error(
                problems,
                format!("{factor} is out of range; a factor is above 0 and at most {MAX_FACTOR}"),
            );
            1.0
        }
        None => 1.0,
    }
}

fn read_active(at: &At<'_>, action: Action, problems: &mut Problems) -> Active {
    at.check_keys(&Keys { known: &["from", "until", "fade"], later: &[] }, problems);
    let active = Active {
        from: at.key("from").and_then(|value| value.instant(problems)),
        until: at.key("until").and_then(|value| value.instant(problems)),
        fade: at.key("fade").and_then(|value| value.duration(problems)).unwrap_or_default(),
    };
    if let (Some(from), Some(until), Some(value)) = (active.from, active.until, at.key("until"))
        && until <= from
    {
        value.error(problems, "`until` is not after `from`");
    }
    if let Some(fade) = at.key("fade").filter(|_| active.fade > Duration::ZERO) {
        if !at.has("until") {
            fade.error_with(problems, "`fade` ends at `until`, which is missing", "write `until`");
        }
        match action {
            Action::Drop => fade.error(problems, "`drop` cannot fade"),
            Action::Modify => fade.error_with(
                problems,
                "a rule without action cannot fade",
                "`fade` moves the probability of `rate` or `keep` to what later rules give",
            ),
            Action::Rate(_) | Action::Keep => {}
        }
    }
    active
}

/// Every span of a trace must yield the same value, so only the resource may give it.
fn read_group(at: &At<'_>, action: Action, problems: &mut Problems) -> Option<ResourceDimension> {
    let name = at.text(problems)?;
    let dimension = resource_dimension(name);
    match &dimension {
        None if name.starts_with("attributes.") => at.error(problems, STAGE_3),
        None => at.not_among(GROUPS, problems),
        Some(_) if !matches!(action, Action::Rate(_)) => {
            at.error(problems, "only a rule with `rate` decides by groups");
        }
        Some(_) => {}
    }
    dimension
}

fn read_limit(
    at: &At<'_>,
    signals: &PerSignal<bool>,
    action: Action,
    problems: &mut Problems,
) -> Option<RuleLimit> {
    if matches!(action, Action::Drop | Action::Modify) {
        at.error_with(problems, "the rule keeps nothing", "a limit caps what `rate` or `keep` lets through");
        return None;
    }
    limits::read_rule(at, signals, problems)
}

fn probability(at: &At<'_>, key: &str, problems: &mut Problems) -> Option<f64> {
    at.key(key)?.probability(problems)
}

fn text(at: &At<'_>, key: &str, problems: &mut Problems) -> Option<String> {
    at.key(key)?.short_text(MAX_TEXT, problems).map(str::to_owned)
}

/// What is said about dimensions of whole traces in places that are not `match`.
pub(super) const LATER_DIMENSIONS: &[(&str, &str)] = &[("trace.spans", STAGE_3)];

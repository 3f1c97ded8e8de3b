//! The decisions of the Collector's `probabilistic_sampler` processor, bit for bit.
//!
//! Its rules differ from those of the policies (hashing, `fail_closed`, priorities, a stricter
//! tracestate), so it shares only the arithmetic with them. Checked against
//! `tests/vectors/probabilistic_sampler.tsv`. Invariant: an item is kept iff T ≤ R.

mod randomness;
mod settings;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use self::randomness::{Marks, Origin};
use self::settings::Share;
pub use self::settings::{BadSettings, Mode, Settings};
use super::go_number;
use super::strict_tracestate::StrictTraceState;
use super::threshold::{Randomness, Threshold};
use crate::policies::Scalar;

/// A compiled sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    settings: Settings,
    share: Share,
}

/// What decided about an item: the `policy` attribute of the processor's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// `trace_id_hash`
    TraceIdHash,
    /// `trace_id_w3c`
    TraceIdW3c,
    /// `sampling_randomness`
    Randomness,
    /// `sampling_priority`, also of a sampler that keeps nothing.
    Priority,
    /// `missing_randomness`
    Missing,
    /// The attribute named by `from_attribute`.
    FromAttribute,
}

impl Decider {
    /// The value of the `policy` attribute.
    pub fn as_str(self, from_attribute: &str) -> &str {
        match self {
            Decider::TraceIdHash => "trace_id_hash",
            Decider::TraceIdW3c => "trace_id_w3c",
            Decider::Randomness => "sampling_randomness",
            Decider::Priority => "sampling_priority",
            Decider::Missing => "missing_randomness",
            Decider::FromAttribute => from_attribute,
        }
    }
}

/// What becomes of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanDecision {
    /// Whether it is kept.
    pub keep: bool,
    /// The `policy` attribute of the counters.
    pub decider: Decider,
    /// Whether the buffer holds the tracestate to write.
    pub rewritten: bool,
}

/// What a log record says about itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogFacts<'a> {
    /// The trace id if it has 16 bytes; all-zero counts as absent.
    pub trace_id: Option<[u8; 16]>,
    /// Whether `attribute_source` is `traceID`.
    pub hash_trace_id: bool,
    /// The value of `from_attribute`: bytes as they are, others in text form.
    pub from_attribute: Option<&'a [u8]>,
    /// Attribute `sampling.randomness` if it is a string.
    pub randomness: Option<&'a str>,
    /// Attribute `sampling.threshold` if it is a string.
    pub threshold: Option<&'a str>,
    /// The attribute named by `sampling_priority`.
    pub priority: Option<Scalar<'a>>,
}

/// What becomes of a log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogDecision {
    /// Whether it is kept.
    pub keep: bool,
    /// The `policy` attribute of the counters.
    pub decider: Decider,
    /// What to write to `sampling.randomness`.
    pub randomness: Option<Randomness>,
    /// What to write to `sampling.threshold`.
    pub threshold: Option<Threshold>,
}

/// A priority that replaces the threshold: `None` inside is "never".
type Override = Option<Option<Threshold>>;

struct Outcome {
    keep: bool,
    decider: Decider,
    writable: bool,
    randomness: Option<Randomness>,
    threshold: Option<Threshold>,
}

impl Sampler {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`BadSettings`]: the configuration is refused.
    pub fn new(settings: Settings) -> Result<Self, BadSettings> {
        let share = settings.share()?;
        Ok(Self { settings, share })
    }

    /// Decides about a span; `priority` is its attribute `sampling.priority`. The tracestate to write,
    /// if there is one, replaces the content of `out`.
    pub fn span(
        &self,
        trace_id: Option<[u8; 16]>,
        trace_state: &str,
        priority: Option<Scalar<'_>>,
        out: &mut String,
    ) -> SpanDecision {
        let (state, readable) = StrictTraceState::read(trace_state);
        let marks = Marks { readable, randomness: state.randomness(), threshold: state.threshold() };
        let id = trace_id.filter(|id| *id != [0; 16]);
        let origin = Origin {
            hashed: id.as_ref().map(|id| (&id[..], Decider::TraceIdHash)),
            trace_id: id.as_ref().and_then(Randomness::from_trace_id),
            substitute: Some(Randomness::MAX),
        };
        let outcome = self.decide(&marks, &origin, priority.and_then(span_priority));
        let rewritten = outcome.keep && outcome.writable;
        if rewritten {
            state.write(out, outcome.randomness, outcome.threshold);
        }
        SpanDecision { keep: outcome.keep, decider: outcome.decider, rewritten }
    }

    /// Decides about a log record.
    pub fn log(&self, facts: &LogFacts<'_>) -> LogDecision {
        let randomness = facts.randomness.map(Randomness::parse);
        let threshold = facts.threshold.map(Threshold::parse);
        let marks = Marks {
            readable: randomness != Some(None) && threshold != Some(None),
            randomness: randomness.flatten(),
            threshold: threshold.flatten(),
        };
        let id = facts.trace_id.filter(|id| *id != [0; 16]);
        let by_id = id.as_ref().filter(|_| facts.hash_trace_id).map(|id| (&id[..], Decider::TraceIdHash));
        let attribute = facts.from_attribute.filter(|value| !value.is_empty());
        let origin = Origin {
            hashed: by_id.or(attribute.map(|value| (value, Decider::FromAttribute))),
            trace_id: id.as_ref().and_then(Randomness::from_trace_id),
            substitute: None,
        };
        let priority = facts.priority.and_then(|value| log_priority(value, self.settings.precision));
        let outcome = self.decide(&marks, &origin, priority.map(Some));
        let written = outcome.keep && outcome.writable;
        LogDecision {
            keep: outcome.keep,
            decider: outcome.decider,
            randomness: outcome.randomness.filter(|_| written),
            threshold: outcome.threshold.filter(|_| written),
        }
    }

    fn decide(&self, marks: &Marks, origin: &Origin<'_>, priority: Override) -> Outcome {
        let mut drawn = self.draw(marks, origin);
        let mut arrived = marks.threshold;
        if !drawn.fault {
            let contradicted =
                drawn.randomness.is_some_and(|r| arrived.is_some_and(|threshold| !threshold.keeps(r)));
            if contradicted {
                arrived = None;
            }
            drawn.fault = contradicted || drawn.randomness.is_none();
        }
        let decided = match self.share {
            _ if drawn.fault => (!self.settings.fail_closed).then_some(Threshold::ALWAYS),
            Share::Nothing => None,
            Share::Fixed(own) if self.settings.mode == Mode::HashSeed => Some(own),
            Share::Fixed(own) => Some(own.max(arrived.unwrap_or(own))),
            Share::Proportional(share) => {
                let incoming = arrived.map_or(1.0, Threshold::probability);
                Threshold::from_probability(incoming * share, self.settings.precision)
            }
        };
        let threshold = priority.unwrap_or(decided);
        let randomness = drawn.randomness.unwrap_or(Randomness::MAX);
        Outcome {
            keep: threshold.is_some_and(|threshold| threshold.keeps(randomness)),
            decider: if priority.is_some() { Decider::Priority } else { drawn.decider },
            writable: drawn.writable,
            randomness: drawn.write,
            threshold: threshold.filter(|threshold| arrived.is_none_or(|arrived| arrived <= *threshold)),
        }
    }
}

/// Zero is "never", more is "always"; anything else says nothing.
fn span_priority(value: Scalar<'_>) -> Override {
    let sign = match value {
        Scalar::Int(number) => Some(number.cmp(&0)),
        Scalar::Double(number) => number.partial_cmp(&0.0),
        Scalar::Str(text) => go_number::sign(text),
        _ => None,
    };
    match sign? {
        Ordering::Less => None,
        Ordering::Equal => Some(None),
        Ordering::Greater => Some(Some(Threshold::ALWAYS)),
    }
}

/// A percentage of its own for one record, in [2^-56, 1]; others are ignored, 0 too.
fn log_priority(value: Scalar<'_>, precision: u8) -> Option<Threshold> {
    let percentage = match value {
        Scalar::Int(number) => number as f64,
        Scalar::Double(number) => number,
        _ => return None,
    };
    Threshold::from_probability(percentage / 100.0, precision)
}

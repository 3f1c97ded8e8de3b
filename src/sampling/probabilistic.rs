//! The decisions of the Collector's `probabilistic_sampler` processor, bit for bit.
//!
//! Its rules differ from those of the policies (hashing, `fail_closed`, priorities, a stricter
//! tracestate), so it shares only the arithmetic with them. Checked against
//! `tests/vectors/probabilistic_sampler.tsv`. Invariant: an item is kept iff T ≤ R.

use std::cmp::Ordering;

use super::go_number;
use super::strict_tracestate::StrictTraceState;
use super::threshold::{MIN_PROBABILITY, Randomness, Threshold};
use crate::policies::Scalar;

/// How a sampler uses what earlier samplers wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Decides by a hash of the trace id and a seed; refuses items another sampler marked.
    #[default]
    HashSeed,
    /// Keeps its share of what arrives.
    Proportional,
    /// Keeps its share of what there was at the source.
    Equalizing,
}

/// The processor's keys that decide about items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// `mode`.
    pub mode: Mode,
    /// `sampling_percentage`, narrowed from the decimal number in the file; above 100 means 100.
    pub percentage: f32,
    /// `hash_seed`.
    pub hash_seed: u32,
    /// `fail_closed`: what cannot be decided is left out.
    pub fail_closed: bool,
    /// `sampling_precision`: 1 to 14 hexadecimal digits.
    pub precision: u8,
}

/// A setting the processor refuses.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BadSettings {
    /// Negative, not a number, or infinite.
    #[error("sampling_percentage: {0} is not a percentage; write 0 to 100")]
    Percentage(f32),
    /// Above zero, but below what a threshold can express.
    #[error(
        "sampling_percentage: {0} is below the smallest probability, 2^-56; write 0 to sample out everything"
    )]
    TooSmall(f32),
    /// Not 1 to 14.
    #[error("sampling_precision: {0} is outside 1 to 14")]
    Precision(u8),
}

/// A compiled sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    settings: Settings,
    share: Share,
}

/// What the percentage means in the mode.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Share {
    Nothing,
    /// The fixed threshold of `hash_seed` and `equalizing`.
    Fixed(Threshold),
    Proportional(f64),
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

/// What an item's tracestate or attributes say.
struct Marks {
    readable: bool,
    randomness: Option<Randomness>,
    threshold: Option<Threshold>,
}

/// Where randomness may come from.
struct Origin<'a> {
    hashed: Option<(&'a [u8], Decider)>,
    trace_id: Option<Randomness>,
    /// Written by `hash_seed` when there is nothing to hash.
    substitute: Option<Randomness>,
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

/// Randomness, who gave it, and what may be written.
struct Drawn {
    randomness: Option<Randomness>,
    decider: Decider,
    fault: bool,
    writable: bool,
    write: Option<Randomness>,
}

impl Sampler {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`BadSettings`]: the configuration is refused.
    pub fn new(settings: Settings) -> Result<Self, BadSettings> {
        let percentage = settings.percentage;
        if !percentage.is_finite() || percentage < 0.0 {
            return Err(BadSettings::Percentage(percentage));
        }
        if !(1..=14).contains(&settings.precision) {
            return Err(BadSettings::Precision(settings.precision));
        }
        let percentage = percentage.min(100.0);
        let probability = f64::from(percentage) / 100.0;
        if percentage > 0.0 && probability < MIN_PROBABILITY {
            return Err(BadSettings::TooSmall(percentage));
        }
        let fixed = |t: Option<Threshold>| t.map_or(Share::Nothing, Share::Fixed);
        let share = match settings.mode {
            _ if percentage == 0.0 => Share::Nothing,
            Mode::HashSeed => {
                let rate = (percentage * 163.84_f32) as u64;
                fixed(Threshold::new((16384 - rate) << 42))
            }
            Mode::Equalizing => fixed(Threshold::from_probability(probability, settings.precision)),
            Mode::Proportional => Share::Proportional(probability),
        };
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

    fn draw(&self, marks: &Marks, origin: &Origin<'_>) -> Drawn {
        let mut drawn = Drawn {
            randomness: None,
            decider: Decider::Missing,
            fault: !marks.readable,
            writable: marks.readable,
            write: None,
        };
        match self.settings.mode {
            // Keeping nothing needs no randomness, and may mend what it cannot read.
            _ if self.share == Share::Nothing => {
                drawn.randomness = Some(Randomness::MAX);
                drawn.decider = Decider::Priority;
                drawn.writable = true;
            }
            Mode::HashSeed => {
                if let Some((input, decider)) = origin.hashed {
                    drawn.randomness = Some(hashed(self.settings.hash_seed, input));
                    drawn.decider = decider;
                }
                if marks.randomness.is_some() || marks.threshold.is_some() {
                    (drawn.fault, drawn.writable) = (true, false);
                }
                drawn.write = drawn.randomness.or(origin.substitute);
            }
            Mode::Proportional | Mode::Equalizing if marks.readable => {
                let (randomness, decider) = match marks.randomness {
                    Some(explicit) => (Some(explicit), Decider::Randomness),
                    None => (origin.trace_id, Decider::TraceIdW3c),
                };
                drawn.randomness = randomness;
                drawn.decider = if randomness.is_some() { decider } else { Decider::Missing };
            }
            Mode::Proportional | Mode::Equalizing => {}
        }
        drawn
    }
}

/// Randomness from a hash with 14 useful bits at the top: FNV-1a 32 over the seed and the input.
fn hashed(seed: u32, input: &[u8]) -> Randomness {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = u64::from(seed.to_le_bytes().iter().chain(input).fold(0x811c_9dc5, step));
    let (low, high) = (hash & 0x3fff, hash >> 18);
    Randomness::from_low_bits((0x3fff - low) << 42 | (high ^ high << 10) << 14 | low)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(mode: Mode, percentage: f32) -> Settings {
        Settings { mode, percentage, hash_seed: 0, fail_closed: true, precision: 4 }
    }

    fn trace_id(hex: &str) -> [u8; 16] {
        u128::from_str_radix(hex, 16).unwrap().to_be_bytes()
    }

    #[test]
    fn every_row_of_the_vectors_is_decided_alike() {
        let mut rows = 0;
        for line in include_str!("../../tests/vectors/probabilistic_sampler.tsv").lines() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let column: Vec<&str> = line.split('\t').collect();
            let settings = Settings {
                mode: match column[0] {
                    "hash_seed" => Mode::HashSeed,
                    "proportional" => Mode::Proportional,
                    _ => Mode::Equalizing,
                },
                percentage: column[1].parse::<f64>().unwrap() as f32,
                hash_seed: column[2].parse().unwrap(),
                precision: column[3].parse().unwrap(),
                fail_closed: column[4] == "true",
            };
            let priority = match column[5] {
                "must" => Some(Scalar::Int(1)),
                "never" => Some(Scalar::Str("0")),
                _ => None,
            };
            let mut out = String::new();
            let decision = Sampler::new(settings).unwrap().span(
                Some(trace_id(column[6])),
                column[7],
                priority,
                &mut out,
            );
            let after = match (decision.keep, decision.rewritten) {
                (true, true) => out.as_str(),
                (true, false) => column[7],
                _ => "",
            };
            assert_eq!((if decision.keep { "1" } else { "0" }, after), (column[8], column[9]), "{line}");
            rows += 1;
        }
        assert_eq!(rows, 549);
    }

    #[test]
    fn hashes_have_the_documented_values() {
        let check = |seed: u32, input: &[u8], expected: &str| {
            assert_eq!(hashed(seed, input).text().as_str(), expected);
        };
        check(0, &[0; 16], "6ea82e749fe455");
        check(0, &trace_id("0af7651916cd43dd8448eb211c80319c"), "886c204b10dde4");
        check(22, &trace_id("0af7651916cd43dd8448eb211c80319c"), "f984040d03019e");
        check(22, b"order-1", "d9d034210b098b");
    }

    #[test]
    fn percentages_have_the_documented_thresholds() {
        let check = |percentage: f32, mode: Mode, precision: u8, expected: &str| {
            let share = Sampler::new(Settings { precision, ..sampler(mode, percentage) }).unwrap().share;
            let text = match share {
                Share::Fixed(threshold) => threshold.text().to_string(),
                _ => "never".to_owned(),
            };
            assert_eq!(text, expected, "{percentage} {mode:?} {precision}");
        };
        for (percentage, hash, one, four, fourteen) in [
            (0.0061, "never", "fffc", "fffc009", "fffc0097"),
            (1.0, "fd74", "fd", "fd70a", "fd70a3d70a3d71"),
            (33.3, "aac4", "b", "aac1", "aac08333333334"),
            (99.9, "0044", "004", "004189", "004188f5c28f6"),
            (12.5, "e", "e", "e", "e"),
            (100.0, "0", "0", "0", "0"),
            (250.0, "0", "0", "0", "0"),
        ] {
            check(percentage, Mode::HashSeed, 4, hash);
            check(percentage, Mode::Equalizing, 1, one);
            check(percentage, Mode::Equalizing, 4, four);
            check(percentage, Mode::Equalizing, 14, fourteen);
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        let new = |percentage: f32, precision: u8| {
            Sampler::new(Settings { precision, ..sampler(Mode::Proportional, percentage) })
        };
        assert_eq!(new(-1.0, 4), Err(BadSettings::Percentage(-1.0)));
        assert!(matches!(new(f32::NAN, 4), Err(BadSettings::Percentage(_))));
        assert!(matches!(new(f32::INFINITY, 4), Err(BadSettings::Percentage(_))));
        assert_eq!(new(1e-15, 4), Err(BadSettings::TooSmall(1e-15)));
        assert_eq!(new(1.0, 0), Err(BadSettings::Precision(0)));
        assert_eq!(new(1.0, 15), Err(BadSettings::Precision(15)));
        assert!(new(0.0, 4).is_ok());
    }

    #[test]
    fn priority_of_a_span_comes_last() {
        let decide = |settings: Settings, trace_state: &str, priority: Scalar<'_>| {
            let mut out = String::new();
            let id = Some(trace_id("ff"));
            Sampler::new(settings).unwrap().span(id, trace_state, Some(priority), &mut out)
        };
        let half = sampler(Mode::Proportional, 50.0);
        assert!(decide(half, "", Scalar::Str("0x1p-2")).keep);
        assert!(decide(half, "bad", Scalar::Double(0.5)).keep, "over fail_closed");
        let open = Settings { fail_closed: false, ..half };
        assert!(!decide(open, "bad", Scalar::Int(0)).keep);
        assert!(decide(open, "bad", Scalar::Int(-1)).keep, "negative is ignored");
        assert!(!decide(half, "", Scalar::Str("1e999")).keep, "unparsable is ignored");
        assert!(!decide(half, "", Scalar::Bool(true)).keep);
        let decision = decide(sampler(Mode::HashSeed, 0.0), "", Scalar::Int(1));
        assert_eq!((decision.keep, decision.decider), (true, Decider::Priority));
    }

    #[test]
    fn logs_carry_their_marks_in_attributes() {
        let all = Sampler::new(sampler(Mode::Equalizing, 50.0)).unwrap();
        let kept = all.log(&LogFacts { randomness: Some("80000000000000"), ..LogFacts::default() });
        let half = Threshold::parse("8");
        let expected =
            LogDecision { keep: true, decider: Decider::Randomness, randomness: None, threshold: half };
        assert_eq!(kept, expected);
        let stricter =
            LogFacts { randomness: Some("e0000000000000"), threshold: Some("c"), ..LogFacts::default() };
        assert_eq!(all.log(&stricter).threshold, Threshold::parse("c"));
        assert!(!all.log(&LogFacts { randomness: Some("8"), ..stricter }).keep, "malformed fails closed");
        let contradicted = LogFacts { randomness: Some("90000000000000"), ..stricter };
        assert!(!all.log(&contradicted).keep);
        assert_eq!(all.log(&LogFacts::default()).decider, Decider::Missing);
    }

    #[test]
    fn logs_are_hashed_by_trace_id_or_attribute() {
        let settings = Settings { hash_seed: 22, ..sampler(Mode::HashSeed, 100.0) };
        let all = Sampler::new(settings).unwrap();
        let order = LogFacts { from_attribute: Some(b"order-1"), hash_trace_id: true, ..LogFacts::default() };
        let by_order = all.log(&order);
        assert_eq!(by_order.randomness, Randomness::parse("d9d034210b098b"));
        assert_eq!((by_order.keep, by_order.decider), (true, Decider::FromAttribute));
        let id = Some(trace_id("0af7651916cd43dd8448eb211c80319c"));
        let by_id = all.log(&LogFacts { trace_id: id, ..order });
        assert_eq!(by_id.randomness, Randomness::parse("f984040d03019e"));
        assert_eq!(all.log(&LogFacts { trace_id: id, hash_trace_id: false, ..order }), by_order);
        assert!(!all.log(&LogFacts { threshold: Some("0"), ..order }).keep, "already marked");
        let open =
            Sampler::new(Settings { fail_closed: false, ..settings }).unwrap().log(&LogFacts::default());
        assert_eq!((open.keep, open.randomness, open.threshold), (true, None, Some(Threshold::ALWAYS)));
    }

    #[test]
    fn the_priority_of_a_log_is_a_percentage_of_its_own() {
        let check = |percentage: f32, priority: Scalar<'_>, th: Option<&str>| {
            let randomness = Some("c0000000000000");
            let facts = LogFacts { randomness, priority: Some(priority), ..LogFacts::default() };
            let decision = Sampler::new(sampler(Mode::Equalizing, percentage)).unwrap().log(&facts);
            assert_eq!(decision.threshold, th.and_then(Threshold::parse), "{percentage} {priority:?}");
            assert_eq!(decision.keep, th.is_some());
        };
        check(10.0, Scalar::Int(50), Some("8"));
        check(90.0, Scalar::Double(50.0), Some("8"));
        check(90.0, Scalar::Int(10), None);
        check(50.0, Scalar::Int(0), Some("8"));
        check(50.0, Scalar::Int(101), Some("8"));
        check(50.0, Scalar::Str("1"), Some("8"));
        check(0.0, Scalar::Int(50), Some("8"));
    }
}

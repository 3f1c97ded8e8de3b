//! What an item says about threshold and randomness, and the decision that follows from it.
//!
//! Not here: which probability applies (the walk in `rules`). Invariant: a malformed mark is left alone,
//! a contradicted threshold is erased, and neither is trusted.

use super::{Decision, Found, ItemFacts, Oddities, RANDOMNESS_ATTRIBUTE, THRESHOLD_ATTRIBUTE, Write};
use crate::otlp::Signal;
use crate::policies::{Lookup, Scalar};
use crate::sampling::threshold::{Randomness, Threshold};
use crate::sampling::tracestate;

/// The random flag of W3C trace flags.
const RANDOM_FLAG: u32 = 0x02;

/// What an item says about threshold and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    pub(super) threshold: Option<Threshold>,
    randomness: Option<Randomness>,
    /// To be written to a log record that has neither randomness nor trace id.
    hashed: Option<Randomness>,
    /// Whether no sampler was here before: only then may a group's randomness be written.
    first: bool,
    oddities: Oddities,
}

impl Marks {
    /// Reads them; `needed` tells whether randomness decides anything here.
    pub(super) fn of(item: &ItemFacts<'_>, signal: Signal, needed: bool) -> Self {
        let mut marks = match signal {
            Signal::Traces => Self::of_trace_state(item.trace_state),
            Signal::Logs => Self::of_attributes(item.attribute),
            Signal::Metrics => return Self::default(),
        };
        marks.first = !marks.oddities.malformed && marks.threshold.is_none() && marks.randomness.is_none();
        if marks.randomness.is_none() && (needed || marks.threshold.is_some()) {
            let oddities;
            (marks.randomness, oddities) = of_unmarked(item);
            if signal == Signal::Traces {
                marks.oddities = Oddities { malformed: marks.oddities.malformed, ..oddities };
            } else if marks.randomness.is_none() {
                marks.hashed = Some(Randomness::from_low_bits(stable_hash(item.encoded)));
                marks.randomness = marks.hashed;
            }
        }
        let contradicted = |(t, r): (Threshold, Randomness)| !t.keeps(r);
        if marks.threshold.zip(marks.randomness).is_some_and(contradicted) {
            marks.threshold = None;
            marks.oddities.inconsistent_threshold = true;
        }
        marks
    }

    fn of_trace_state(trace_state: &str) -> Self {
        match tracestate::read(trace_state) {
            Ok(found) => Self { threshold: found.threshold, randomness: found.randomness, ..Self::default() },
            Err(_) => Self::malformed(),
        }
    }

    fn of_attributes(attribute: &Lookup<'_>) -> Self {
        let (mut threshold, mut randomness) = (None, None);
        attribute(THRESHOLD_ATTRIBUTE, &mut |value| {
            threshold = Some(if let Scalar::Str(text) = value { Threshold::parse(text) } else { None });
            true
        });
        attribute(RANDOMNESS_ATTRIBUTE, &mut |value| {
            randomness = Some(if let Scalar::Str(text) = value { Randomness::parse(text) } else { None });
            true
        });
        match (threshold, randomness) {
            (Some(None), _) | (_, Some(None)) => Self::malformed(),
            _ => Self { threshold: threshold.flatten(), randomness: randomness.flatten(), ..Self::default() },
        }
    }

    fn malformed() -> Self {
        Self { oddities: Oddities { malformed: true, ..Oddities::default() }, ..Self::default() }
    }

    /// What decides: the group's randomness, if the rule decides by groups, else the item's own.
    pub(super) fn randomness_of(&self, found: &Found) -> Option<Randomness> {
        found.group.filter(|_| self.first).or(self.randomness)
    }

    /// Without randomness only certainty keeps.
    pub(super) fn passes(&self, threshold: Threshold, found: &Found) -> bool {
        self.randomness_of(found).map_or(found.probability >= 1.0, |randomness| threshold.keeps(randomness))
    }

    pub(super) fn decide(&self, found: &Found, threshold: Option<Threshold>) -> Decision {
        let kept = threshold.filter(|threshold| self.passes(*threshold, found));
        let untouchable = self.oddities.malformed;
        let write = match kept {
            _ if untouchable => Write::Nothing,
            Some(_) if self.oddities.inconsistent_threshold => Write::Erase,
            Some(threshold) if threshold != self.threshold.unwrap_or(Threshold::ALWAYS) => {
                Write::Threshold(threshold)
            }
            _ => Write::Nothing,
        };
        let group = found.group.filter(|_| self.first);
        let raised = |threshold: Threshold| threshold > self.threshold.unwrap_or(Threshold::ALWAYS);
        let sampled = kept.is_some_and(|kept| found.probability < 1.0 || raised(kept)) && !untouchable;
        let unknown = self.oddities.inconsistent_threshold || untouchable;
        Decision {
            keep: kept.is_some(),
            dropped: found.dropped,
            rule: found.rule,
            probability: found.probability,
            threshold: kept.filter(|_| !unknown),
            write,
            randomness: group.or(self.hashed).filter(|_| sampled),
            oddities: Oddities {
                missing_randomness: self.oddities.missing_randomness && group.is_none(),
                no_random_flag: self.oddities.no_random_flag && group.is_none(),
                ..self.oddities
            },
        }
    }
}

/// The randomness of an item that carries none of its own, and what is odd about it if it is a span.
pub(super) fn of_unmarked(item: &ItemFacts<'_>) -> (Option<Randomness>, Oddities) {
    let randomness = item.trace_id.as_ref().and_then(Randomness::from_trace_id);
    let no_random_flag = randomness.is_some() && item.flags & RANDOM_FLAG == 0;
    (randomness, Oddities { missing_randomness: randomness.is_none(), no_random_flag, ..Oddities::default() })
}

/// A hash that is the same in every process and version: a record sent again is decided alike.
///
/// Multiply and fold over words of eight bytes; the constants are odd and have no meaning.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    hash_on(0, bytes)
}

/// The randomness all traces of a tenant with one value share.
pub(super) fn group_randomness(tenant: &str, value: &str) -> Randomness {
    Randomness::from_low_bits(hash_on(stable_hash(tenant.as_bytes()), value.as_bytes()))
}

fn hash_on(seed: u64, bytes: &[u8]) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(STEP | 1);
        (product as u64) ^ (product >> 64) as u64
    };
    let mut hash = seed ^ STEP ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash.rotate_left(29), u64::from_le_bytes(word));
    }
    mix(hash ^ hash >> 32, STEP.rotate_left(17))
}

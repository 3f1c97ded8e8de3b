//! `probabilistic_sampler`, as the Collector's: spans and log records, in its three modes.
//!
//! Not here: the arithmetic (`sampling::probabilistic`). Data points pass untouched.

use std::borrow::Cow;

use super::Work;
use super::sampling::scalar;
use crate::config::processor::{AttributeSource, ProbabilisticSampler, SamplerMode};
use crate::internal_telemetry::metrics::SamplerMetrics;
use crate::otlp::{Draft, ItemId, Signal, Value};
use crate::sampling::probabilistic::{BadSettings, Decider, LogFacts, Mode, Sampler, Settings};
use crate::sampling::rules::{RANDOMNESS_ATTRIBUTE, THRESHOLD_ATTRIBUTE};

/// The attribute of spans that overrides the decision.
const SPAN_PRIORITY: &str = "sampling.priority";

/// One configured sampler.
#[derive(Debug)]
pub struct Probabilistic {
    sampler: Sampler,
    hash_trace_id: bool,
    from_attribute: String,
    priority: String,
    metrics: SamplerMetrics,
}

impl Probabilistic {
    /// Compiles the keys.
    ///
    /// # Errors
    /// [`BadSettings`]; the check of the configuration finds the same.
    pub fn new(config: &ProbabilisticSampler, metrics: SamplerMetrics) -> Result<Self, BadSettings> {
        // An unset mode is `hash_seed`, whatever the attribute source.
        let mode = match config.mode {
            SamplerMode::Unset | SamplerMode::HashSeed => Mode::HashSeed,
            SamplerMode::Proportional => Mode::Proportional,
            SamplerMode::Equalizing => Mode::Equalizing,
        };
        let sampler = Sampler::new(Settings {
            mode,
            percentage: config.sampling_percentage,
            hash_seed: config.hash_seed,
            fail_closed: config.fail_closed,
            precision: config.sampling_precision,
        })?;
        Ok(Self {
            sampler,
            hash_trace_id: config.attribute_source == AttributeSource::TraceId,
            from_attribute: config.from_attribute.clone(),
            priority: config.sampling_priority.clone(),
            metrics,
        })
    }

    /// Notes which items are left out and what the kept ones say of it.
    pub(super) fn run(&self, work: &mut Work<'_>) {
        let (mut text, mut counts) = (String::new(), Counts::default());
        let signal = work.draft.signal();
        for part in work.draft.parts() {
            let before = work.draft.part_items_left(part);
            work.draft.for_each_item(part, |draft, item| {
                let decided = match signal {
                    Signal::Traces => self.span(draft, item, &mut text),
                    Signal::Logs => self.log(draft, item),
                    Signal::Metrics => None,
                };
                if let Some((decider, keep)) = decided {
                    counts.add(decider, keep);
                    if !keep {
                        draft.leave_out(item);
                    }
                }
            });
            let left_out = before - work.draft.part_items_left(part);
            work.owners.count_sampled_out(work.draft.group(part), left_out);
        }
        for (decider, keep, items) in counts.0 {
            self.metrics.count(signal, decider.as_str(&self.from_attribute), (keep, items));
        }
    }

    fn span(&self, draft: &mut Draft<'_>, item: ItemId, text: &mut String) -> Option<(Decider, bool)> {
        let span = draft.span(item)?;
        let priority = draft.item_attribute(item, SPAN_PRIORITY).map(scalar);
        text.clear();
        let decision = self.sampler.span(span.trace_id(), span.trace_state(), priority, text);
        if decision.rewritten {
            draft.set_trace_state(item, text);
        }
        Some((decision.decider, decision.keep))
    }

    fn log(&self, draft: &mut Draft<'_>, item: ItemId) -> Option<(Decider, bool)> {
        let log = draft.log(item)?;
        let get = |key: &str| draft.item_attribute(item, key);
        let from_attribute = (!self.from_attribute.is_empty()).then(|| get(&self.from_attribute)).flatten();
        let from_attribute = from_attribute.map(bytes);
        let decision = self.sampler.log(&LogFacts {
            trace_id: log.trace_id(),
            hash_trace_id: self.hash_trace_id,
            from_attribute: from_attribute.as_deref(),
            randomness: get(RANDOMNESS_ATTRIBUTE).and_then(Value::as_str),
            threshold: get(THRESHOLD_ATTRIBUTE).and_then(Value::as_str),
            priority: (!self.priority.is_empty()).then(|| get(&self.priority)).flatten().map(scalar),
        });
        if let Some(randomness) = decision.randomness {
            draft.set_item_attribute(item, RANDOMNESS_ATTRIBUTE, randomness.text().as_str());
        }
        if let Some(threshold) = decision.threshold {
            draft.set_item_attribute(item, THRESHOLD_ATTRIBUTE, threshold.text().as_str());
        }
        Some((decision.decider, decision.keep))
    }
}

/// The decisions about one request; there are few kinds.
#[derive(Default)]
struct Counts(Vec<(Decider, bool, u64)>);

impl Counts {
    fn add(&mut self, decider: Decider, keep: bool) {
        match self.0.iter_mut().find(|(known, kept, _)| (*known, *kept) == (decider, keep)) {
            Some((_, _, items)) => *items += 1,
            None => self.0.push((decider, keep, 1)),
        }
    }
}

/// Bytes as they are, others in text form.
fn bytes(value: Value<'_>) -> Cow<'_, [u8]> {
    match value {
        Value::Bytes(bytes) => bytes.into(),
        other => match other.to_text() {
            Cow::Borrowed(text) => text.as_bytes().into(),
            Cow::Owned(text) => text.into_bytes().into(),
        },
    }
}

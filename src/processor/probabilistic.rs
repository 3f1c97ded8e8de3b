//! `probabilistic_sampler`, as the Collector's: spans and log records, in its three modes.
//!
//! Not here: the arithmetic (`sampling::probabilistic`). Data points pass untouched.

use std::borrow::Cow;

use super::Work;
use super::sampling::scalar;
use crate::config::processor::{AttributeSource, ProbabilisticSampler, SamplerMode};
use crate::internal_telemetry::metrics::SamplerMetrics;
use crate::otlp::{AttributeValue, Draft, ItemId, Signal, Value};
use crate::sampling::probabilistic::{BadSettings, LogFacts, Mode, Sampler, Settings};
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
        let mut text = String::new();
        for part in work.draft.parts() {
            let before = work.draft.part_items_left(part);
            match work.draft.signal() {
                Signal::Traces => work.draft.for_each_item(part, |draft, item| self.span(draft, item, &mut text)),
                Signal::Logs => work.draft.for_each_item(part, |draft, item| self.log(draft, item)),
                Signal::Metrics => {}
            }
            let left_out = before - work.draft.part_items_left(part);
            work.owners.count_sampled_out(work.draft.group(part), left_out);
        }
    }

    fn span(&self, draft: &mut Draft<'_>, item: ItemId, text: &mut String) {
        let Some(span) = draft.span(item) else { return };
        let priority = draft.item_attribute(item, SPAN_PRIORITY).map(scalar);
        text.clear();
        let decision = self.sampler.span(span.trace_id(), span.trace_state(), priority, text);
        self.metrics.count(Signal::Traces, decision.decider.as_str(&self.from_attribute), decision.keep);
        if !decision.keep {
            draft.leave_out(item);
        } else if decision.rewritten {
            draft.set_trace_state(item, text);
        }
    }

    fn log(&self, draft: &mut Draft<'_>, item: ItemId) {
        let Some(log) = draft.log(item) else { return };
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
        self.metrics.count(Signal::Logs, decision.decider.as_str(&self.from_attribute), decision.keep);
        if !decision.keep {
            return draft.leave_out(item);
        }
        let text = |shown: &dyn ToString| AttributeValue::Str(shown.to_string());
        if let Some(randomness) = decision.randomness {
            draft.set_item_attribute(item, RANDOMNESS_ATTRIBUTE, &text(&randomness));
        }
        if let Some(threshold) = decision.threshold {
            draft.set_item_attribute(item, THRESHOLD_ATTRIBUTE, &text(&threshold));
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

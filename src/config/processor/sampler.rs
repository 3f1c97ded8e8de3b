//! Keys of the processor `probabilistic_sampler`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The processor `probabilistic_sampler`: keeps a fixed share of traces or log records, bit for bit as
/// the Collector's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProbabilisticSampler {
    /// How the share is decided; tiers that sample one after the other need `proportional` or
    /// `equalizing`. Default: "", which is hash_seed.
    pub mode: SamplerMode,
    /// The share that is kept, in percent; above 100 means 100, 0 keeps nothing. Default: 0.
    /// Range: 0, or at least 100 / 2^56.
    pub sampling_percentage: f32,
    /// Seed of the hash; collectors of one tier have the same, tiers differ. `hash_seed` mode only.
    /// Default: 0.
    pub hash_seed: u32,
    /// Whether items whose randomness or tracestate is unusable are left out. Default: true.
    pub fail_closed: bool,
    /// Hexadecimal digits of the threshold that is written; more is more exact and longer.
    /// Default: 4. Range: 1 to 14.
    #[schemars(range(min = 1, max = 14))]
    pub sampling_precision: u8,
    /// What decides for log records: the trace id or an attribute. Default: traceID.
    pub attribute_source: AttributeSource,
    /// The log attribute that decides where `attribute_source` is `record` or there is no trace id.
    /// Default: "".
    pub from_attribute: String,
    /// The log attribute that holds a percentage of its own for the record. Default: "".
    pub sampling_priority: String,
}

impl Default for ProbabilisticSampler {
    fn default() -> Self {
        Self {
            mode: SamplerMode::Unset,
            sampling_percentage: 0.0,
            hash_seed: 0,
            fail_closed: true,
            sampling_precision: 4,
            attribute_source: AttributeSource::TraceId,
            from_attribute: String::new(),
            sampling_priority: String::new(),
        }
    }
}

/// How the processor decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplerMode {
    /// As `hash_seed`.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// A hash of the trace id and the seed.
    HashSeed,
    /// The share of what arrives, by consistent probability.
    Proportional,
    /// The share of what there was at first, by consistent probability.
    Equalizing,
}

/// What decides for a log record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AttributeSource {
    /// Its trace id.
    #[default]
    #[serde(rename = "traceID")]
    TraceId,
    /// The attribute `from_attribute`.
    #[serde(rename = "record")]
    Record,
}

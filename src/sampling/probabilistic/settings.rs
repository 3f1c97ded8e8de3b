//! The keys of the sampler, checked, and what their percentage means.

use crate::sampling::threshold::{MIN_PROBABILITY, Threshold};

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

/// What the percentage means in the mode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Share {
    Nothing,
    /// The fixed threshold of `hash_seed` and `equalizing`.
    Fixed(Threshold),
    Proportional(f64),
}

impl Settings {
    /// Checks the settings and says what their percentage means.
    pub(super) fn share(&self) -> Result<Share, BadSettings> {
        let percentage = self.percentage;
        if !percentage.is_finite() || percentage < 0.0 {
            return Err(BadSettings::Percentage(percentage));
        }
        if !(1..=14).contains(&self.precision) {
            return Err(BadSettings::Precision(self.precision));
        }
        let percentage = percentage.min(100.0);
        let probability = f64::from(percentage) / 100.0;
        if percentage > 0.0 && probability < MIN_PROBABILITY {
            return Err(BadSettings::TooSmall(percentage));
        }
        let fixed = |t: Option<Threshold>| t.map_or(Share::Nothing, Share::Fixed);
        Ok(match self.mode {
            _ if percentage == 0.0 => Share::Nothing,
            Mode::HashSeed => {
                let rate = (percentage * 163.84_f32) as u64;
                fixed(Threshold::new((16384 - rate) << 42))
            }
            Mode::Equalizing => fixed(Threshold::from_probability(probability, self.precision)),
            Mode::Proportional => Share::Proportional(probability),
        })
    }
}

//! Where an item's randomness comes from: what earlier samplers wrote, its trace id, or a hash.

use super::settings::Share;
use super::{Decider, Mode, Sampler};
use crate::sampling::threshold::{Randomness, Threshold};

/// What an item's tracestate or attributes say.
pub(super) struct Marks {
    pub(super) readable: bool,
    pub(super) randomness: Option<Randomness>,
    pub(super) threshold: Option<Threshold>,
}

/// Where randomness may come from.
pub(super) struct Origin<'a> {
    pub(super) hashed: Option<(&'a [u8], Decider)>,
    pub(super) trace_id: Option<Randomness>,
    /// Written by `hash_seed` when there is nothing to hash.
    pub(super) substitute: Option<Randomness>,
}

/// Randomness, who gave it, and what may be written.
pub(super) struct Drawn {
    pub(super) randomness: Option<Randomness>,
    pub(super) decider: Decider,
    pub(super) fault: bool,
    pub(super) writable: bool,
    pub(super) write: Option<Randomness>,
}

impl Sampler {
    /// Draws an item's randomness in the sampler's mode.
    pub(super) fn draw(&self, marks: &Marks, origin: &Origin<'_>) -> Drawn {
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
pub(super) fn hashed(seed: u32, input: &[u8]) -> Randomness {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = u64::from(seed.to_le_bytes().iter().chain(input).fold(0x811c_9dc5, step));
    let (low, high) = (hash & 0x3fff, hash >> 18);
    Randomness::from_low_bits((0x3fff - low) << 42 | (high ^ high << 10) << 14 | low)
}

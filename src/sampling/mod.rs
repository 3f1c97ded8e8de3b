//! Who is kept: consistent probability sampling by rules, and the Collector's `probabilistic_sampler`.
//!
//! Pure decisions: the plan, the time and the item's fields are arguments, nothing is counted or written
//! here; only caps have a state, which is an argument too. Invariant: an item is kept iff its randomness is at
//! least its threshold, and no stage lowers a threshold.

mod caps;
mod embedded_tests;
mod go_number;
pub mod limit;
pub mod probabilistic;
pub mod rules;
mod strict_tracestate;
#[cfg(test)]
mod tests;
pub mod threshold;
pub mod tracestate;

pub use caps::{Caps, KeptCap, Limiter};
pub use embedded_tests::run_tests;

use crate::policies::{Plan, parse_for};
use crate::yaml::{Problems, Source};

/// Everything between a policies text and a plan that may come into force: reads, compiles, runs the
/// embedded tests. `verifiers` are those that run, if that is known. Also returns warnings.
///
/// # Errors
/// Everything that is wrong; the text must not be used.
pub fn prepare(
    source: &Source,
    now: jiff::Timestamp,
    verifiers: Option<&[String]>,
) -> Result<(Plan, Problems), Problems> {
    let (plan, mut problems) = parse_for(source, now, verifiers)?;
    problems.append(run_tests(&plan, now));
    problems.into_result(Some(plan))
}

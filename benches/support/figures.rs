//! Numbers into lines: medians, and the figures a bound is owed for.

use std::fmt::Display;

/// Which side of its bound a figure must be on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// The figure is good up to and including this.
    AtMost(f64),
    /// The figure is good from this on.
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }
}

/// One line of `--figures`: `figure relay.100.over_raw 1.31 bound 2.2 ok`.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) bound: Bound,
}

impl Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Two decimals are what is printed, so they are also what is judged.
        let value = (self.value * 100.0).round() / 100.0;
        let verdict = if self.bound.holds(value) { "ok" } else { "short" };
        write!(f, "figure {} {value} bound {} {verdict}", self.name, self.bound.limit())
    }
}

/// The value at `share` (0 to 1) of `values` in order; 0 of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// The middle of `values`, the mean of both middles if their number is even; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

//! OTLP on the wire: what a request is made of, without decoding it into structs.
//!
//! [`Index::read`] checks a request and notes where things are, processors edit a [`Draft`] of it, and
//! [`Draft::emit`] writes the result, one buffer for each group of resources.
//! Nothing here knows tenants, rules or queues. Invariant: an item nobody edits leaves byte-identical.

mod check;
mod draft;
mod edits;
mod emit;
mod fields;
mod index;
pub mod json;
mod keys;
mod limits;
mod malformed;
#[cfg(test)]
mod model_tests;
mod normalize;
mod protobuf;
pub mod schema;
mod shapes;
mod split;
pub mod status;
mod trim;
mod value;
mod walk;

use std::fmt;

pub use draft::{Draft, ItemId, PartId};
pub use edits::Edits;
pub use fields::{LogFields, SpanFields};
pub use index::Index;
pub use limits::Limits;
pub use malformed::Malformed;
pub use split::Pieces;
pub use trim::{Cut, Most};
pub use value::{AttributeValue, Value};

/// One of the three OTLP signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Data points.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All signals, in the order of their discriminants.
    pub const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    /// The name as pipelines in the configuration write it: `traces`, `metrics`, `logs`.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
        }
    }

    /// The plural of this signal's items as the Collector's metric names end: `spans`,
    /// `metric_points`, `log_records`.
    pub fn items_name(self) -> &'static str {
        match self {
            Signal::Traces => "spans",
            Signal::Metrics => "metric_points",
            Signal::Logs => "log_records",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One value for each signal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerSignal<T>([T; 3]);

impl<T> PerSignal<T> {
    /// Builds the three values, in the order of [`Signal::ALL`].
    pub fn from_fn(mut build: impl FnMut(Signal) -> T) -> Self {
        Self(Signal::ALL.map(&mut build))
    }

    /// Every signal with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Signal, &T)> {
        Signal::ALL.into_iter().zip(&self.0)
    }
}

impl<T> std::ops::Index<Signal> for PerSignal<T> {
    type Output = T;
    fn index(&self, signal: Signal) -> &T {
        &self.0[signal as usize]
    }
}

impl<T> std::ops::IndexMut<Signal> for PerSignal<T> {
    fn index_mut(&mut self, signal: Signal) -> &mut T {
        &mut self.0[signal as usize]
    }
}

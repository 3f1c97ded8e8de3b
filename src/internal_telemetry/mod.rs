//! What this program says of itself: metrics, logs, traces.

pub mod metrics;

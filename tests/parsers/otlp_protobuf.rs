//! Arbitrary bytes as a request, with an arbitrary script of edits.
//!
//! Fails if the walk takes what a decoder refuses or refuses what a decoder takes (limits aside), if a
//! rewrite differs from the decoded model, or on any panic. The model is the one of the property tests.
//!
//! Input: signal, number of steps (up to 15), five bytes a step, then the request.

#[path = "../../src/otlp/model_tests/model.rs"]
#[allow(unreachable_pub, reason = "a part of the library's own tests")]
mod model;

use model::{Reused, Step};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tollgate::otlp;

/// Checks one input; true if the request is taken.
pub fn check(input: &[u8]) -> bool {
    let [signal, steps, rest @ ..] = input else { return false };
    let Some((script, request)) = rest.split_at_checked(usize::from(steps % 16) * 5) else { return false };
    let (steps, _) = script.as_chunks::<5>();
    let script: Vec<Step> = steps.iter().map(step).collect();
    let mut reused = Reused::default();
    let taken = match signal % 3 {
        0 => model::check::<ExportTraceServiceRequest>(request, &script, &mut reused),
        1 => model::check::<ExportMetricsServiceRequest>(request, &script, &mut reused),
        _ => model::check::<ExportLogsServiceRequest>(request, &script, &mut reused),
    };
    taken.is_ok()
}

fn step(bytes: &[u8; 5]) -> Step {
    let [what, low, high, key, value] = *bytes;
    Step { what, whom: u16::from_le_bytes([low, high]), key, value }
}

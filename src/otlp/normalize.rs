//! The slow road for legal requests that ranges cannot express: decode and encode once.
//!
//! Unknown fields are lost on it, as with any decoder of the same definitions.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::{Malformed, Signal};

/// Decodes and encodes a request that the walk has already checked.
///
/// # Errors
/// [`Malformed::WireType`] if it cannot be decoded; the walk refuses such requests before.
pub(super) fn normalize(signal: Signal, request: &Bytes) -> Result<Bytes, Malformed> {
    match signal {
        Signal::Traces => again::<ExportTraceServiceRequest>(request),
        Signal::Metrics => again::<ExportMetricsServiceRequest>(request),
        Signal::Logs => again::<ExportLogsServiceRequest>(request),
    }
}

fn again<M: Message + Default>(request: &Bytes) -> Result<Bytes, Malformed> {
    let message = M::decode(request.clone()).map_err(|_| Malformed::WireType)?;
    Ok(message.encode_to_vec().into())
}

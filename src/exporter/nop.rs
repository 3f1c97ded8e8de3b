//! The exporter `nop`.

use crate::otlp::status::ExportResponse;

use super::destination::{Destination, Outgoing, SendError};

/// Takes everything, sends nothing.
#[derive(Debug)]
pub(super) struct Nowhere;

impl Destination for Nowhere {
    async fn send(&self, _request: Outgoing) -> Result<ExportResponse, SendError> {
        Ok(ExportResponse::default())
    }
}

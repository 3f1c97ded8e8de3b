//! What operators and probes ask: health, metrics, the read-only API and the status page.
//!
//! Everything here answers GET and HEAD from memory; nothing changes the collector. Each surface has a
//! listener of its own, because they have different audiences: probes and Prometheus come from
//! elsewhere, the API stays on loopback.

mod api;
mod health;
mod readiness;
mod server;
mod status;

use std::sync::Arc;

pub use api::{Api, Json, JsonOfTenant};
pub use health::HealthCheck;
pub use readiness::{Readiness, State};
pub use server::{Answer, BindError, HEADER_TIMEOUT, Handler, MAX_CONNECTIONS, Question, Server};

use crate::config::service::Prometheus;
use crate::internal_telemetry::Telemetry;
use crate::internal_telemetry::text::{self, Style};

/// Prometheus text on `/metrics`.
pub fn metrics(telemetry: &Telemetry, reader: &Prometheus) -> Handler {
    let style = Style::new(reader, telemetry.resource());
    let telemetry = telemetry.clone();
    Arc::new(move |question: &Question| match question.path() {
        "/metrics" => Answer::new(200, text::CONTENT_TYPE, text::render(&telemetry.read(), &style)),
        _ => Answer::text(404, "metrics are at /metrics\n"),
    })
}

#[cfg(test)]
mod tests;

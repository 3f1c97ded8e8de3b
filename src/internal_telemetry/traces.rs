//! Traces of the collector's own work: off unless configured, sampled, and never of themselves.
//!
//! A span is made for a request ([`request_span`]) unless the request carries the telemetry of a
//! collector: else each push would be traced, and the trace pushed.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use tokio::time::Instant;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use super::OwnResource;
use super::push::{PushError, connect, is_own, metadata};
use crate::config::service::{self, Level};
use crate::otlp::Signal;

/// Spans of everything else than [`request_span`] are nobody's business outside.
const TARGET: &str = "tollgate::request";

/// A span for the work on one request; does nothing where traces are off or the request is a
/// collector's own telemetry.
pub fn request_span(signal: Signal, transport: &'static str, headers: &http::HeaderMap) -> Span {
    match is_own(headers) {
        true => Span::none(),
        false => tracing::info_span!(
            target: TARGET,
            "request",
            otel.kind = "server",
            signal = signal.as_str(),
            transport,
            items = tracing::field::Empty,
            outcome = tracing::field::Empty,
        ),
    }
}

/// The way out for own traces.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Sets up what the configuration names; `None` if that is nothing.
    ///
    /// # Errors
    /// [`PushError`]: the configuration is refused.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start(config: &service::Traces, own: &OwnResource) -> Result<Option<Self>, PushError> {
        if config.level == Level::None || config.processors.is_empty() {
            return Ok(None);
        }
        let root = Sampler::TraceIdRatioBased(config.sampler.trace_id_ratio_based.ratio);
        let attributes = own.attributes().iter().cloned();
        let attributes = attributes.map(|(key, value)| KeyValue::new(key, value));
        let mut provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_resource(Resource::builder_empty().with_attributes(attributes).build());
        for processor in &config.processors {
            provider = provider.with_span_processor(batch_processor(&processor.batch, own)?);
        }
        Ok(Some(Self { provider: provider.build() }))
    }

    /// The layer that turns spans of `tracing` into spans of OpenTelemetry.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer: SdkTracer = self.provider.tracer(env!("CARGO_PKG_NAME"));
        let only_requests: FilterFn = filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET);
        let layer = OpenTelemetryLayer::new(tracer).with_location(false).with_threads(false);
        layer.with_context_activation(false).with_filter(only_requests)
    }

    /// Sends what is left, until `deadline`; spans that end later are lost.
    pub async fn close(self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        // The processors' threads need this runtime to send, so the wait must not block it.
        let closing = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(left));
        match tokio::time::timeout_at(deadline, closing).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!(name: "telemetry.traces_lost", "own traces were not sent in time"),
        }
    }
}

fn batch_processor(
    config: &service::BatchSpanProcessor,
    own: &OwnResource,
) -> Result<BatchSpanProcessor, PushError> {
    let otlp = &config.exporter.otlp;
    let timeout = Duration::from_millis(otlp.timeout.min(config.export_timeout));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_channel(connect(otlp)?)
        .with_metadata(metadata(otlp, own)?)
        .with_timeout(timeout)
        .build();
    let exporter = exporter.map_err(|_| PushError::Endpoint(otlp.endpoint.clone()))?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(config.max_queue_size)
        .with_max_export_batch_size(config.max_export_batch_size)
        .with_scheduled_delay(Duration::from_millis(config.schedule_delay))
        .build();
    Ok(BatchSpanProcessor::builder(exporter).with_batch_config(batch).build())
}

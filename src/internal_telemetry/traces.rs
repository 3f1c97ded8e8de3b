//! Traces of the collector's own work: off unless configured, sampled, and never of themselves.
//!
//! A span is made for a request ([`request_span`]) unless the request carries the telemetry of a
//! collector: else each push would be traced, and the trace pushed.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use super::OwnResource;
use super::push::{HttpPost, PushError, connect, is_own, metadata};
use crate::config::service::{self, BadPush, Level, OtlpProtocol, OtlpPush};
use crate::otlp::Signal;
use crate::tasks::Scope;

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
    /// Sets up what the configuration names; `None` if that is nothing. What is sent by HTTP is sent by
    /// tasks of `scope`, which is to be closed after [`Traces::close`].
    ///
    /// # Errors
    /// [`PushError`]: the configuration is refused.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start(
        scope: &Scope,
        config: &service::Traces,
        own: &OwnResource,
    ) -> Result<Option<Self>, PushError> {
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
            provider = provider.with_span_processor(batch_processor(scope, &processor.batch, own)?);
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
    scope: &Scope,
    config: &service::BatchSpanProcessor,
    own: &OwnResource,
) -> Result<BatchSpanProcessor, PushError> {
    let otlp = &config.exporter.otlp;
    let timeout = Duration::from_millis(otlp.timeout.min(config.export_timeout));
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(config.max_queue_size)
        .with_max_export_batch_size(config.max_export_batch_size)
        .with_scheduled_delay(Duration::from_millis(config.schedule_delay))
        .build();
    Ok(match otlp.protocol {
        OtlpProtocol::Grpc => {
            let exporter = grpc_exporter(otlp, own, timeout)?;
            BatchSpanProcessor::builder(exporter).with_batch_config(batch).build()
        }
        OtlpProtocol::Http => {
            let post = HttpPost::new(otlp, "/v1/traces", metadata(otlp, own)?)?;
            let exporter = HttpExporter::new(scope, post, timeout);
            BatchSpanProcessor::builder(exporter).with_batch_config(batch).build()
        }
    })
}

fn grpc_exporter(
    otlp: &OtlpPush,
    own: &OwnResource,
    timeout: Duration,
) -> Result<opentelemetry_otlp::SpanExporter, PushError> {
    let built = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_channel(connect(otlp)?)
        .with_metadata(metadata(otlp, own)?)
        .with_timeout(timeout)
        .build();
    built.map_err(|_| BadPush::Endpoint.into())
}

/// Sends spans by [`HttpPost`]; the processor's thread has no runtime, so tasks of a scope do.
#[derive(Debug)]
struct HttpExporter {
    post: HttpPost,
    timeout: Duration,
    resource: ResourceAttributesWithSchema,
    scope: Scope,
    runtime: Handle,
}

impl HttpExporter {
    fn new(scope: &Scope, post: HttpPost, timeout: Duration) -> Self {
        let resource = ResourceAttributesWithSchema::default();
        Self { post, timeout, resource, scope: scope.clone(), runtime: Handle::current() }
    }
}

impl SpanExporter for HttpExporter {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let (post, timeout) = (self.post.clone(), self.timeout);
        let (answer, answered) = oneshot::channel();
        self.scope.spawn_on(&self.runtime, "trace push", async move {
            let sent = match tokio::time::timeout(timeout, post.send(body)).await {
                Ok(sent) => sent.map_err(|error| OTelSdkError::InternalFailure(error.to_string())),
                Err(_elapsed) => Err(OTelSdkError::Timeout(timeout)),
            };
            // The processor may have given up waiting at shutdown.
            let _told = answer.send(sent);
        });
        answered.await.unwrap_or(Err(OTelSdkError::AlreadyShutdown))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

//! Own metrics, pushed by OTLP at an interval.
//!
//! The request is built from one reading ([`Families`]); a metrics SDK would aggregate a second time
//! what is already a sum. Every request carries [`OWN_HEADER`], so that a collector that receives
//! telemetry of a collector makes no trace of it and no circle can form.

mod channel;
mod http_post;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValueKind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

pub use channel::{OWN_HEADER, PushError, is_own};
pub(super) use channel::{connect, metadata};
pub(super) use http_post::{HttpPost, PostFailure};

use super::{Families, Family, Kind, Point, Telemetry, Value};
use crate::config::service::{OtlpProtocol, OtlpPush, Periodic};
use crate::tasks::Scope;

/// Pushes metrics from now on, and once more when `scope` is cancelled.
///
/// The last push takes at most the configured timeout, and no longer than the scope's grace.
///
/// # Errors
/// [`PushError`]: the configuration is refused. Nothing is sent before this returns.
///
/// # Panics
/// Outside a runtime.
pub fn start(scope: &Scope, telemetry: &Telemetry, config: &Periodic) -> Result<(), PushError> {
    let otlp = &config.exporter.otlp;
    let push = Push {
        destination: Destination::new(otlp, telemetry)?,
        telemetry: telemetry.clone(),
        timeout: Duration::from_millis(config.timeout.min(otlp.timeout)),
        endpoint: otlp.endpoint.clone(),
    };
    let interval = Duration::from_millis(config.interval.max(1));
    let token = scope.token().clone();
    scope.spawn("telemetry push", async move {
        let mut push = push;
        while token.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            push.once().await;
        }
        push.once().await;
    });
    Ok(())
}

/// Where metrics go.
enum Destination {
    Grpc { client: MetricsServiceClient<Channel>, metadata: MetadataMap },
    Http(HttpPost),
}

/// Why a push came to nothing; it is not repeated, the next one says more.
#[derive(Debug, thiserror::Error)]
enum PushFailure {
    #[error("the destination answered {:?}: {}", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    #[error(transparent)]
    Post(#[from] PostFailure),
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

impl Destination {
    fn new(otlp: &OtlpPush, telemetry: &Telemetry) -> Result<Self, PushError> {
        let metadata = metadata(otlp, telemetry.resource())?;
        Ok(match otlp.protocol {
            OtlpProtocol::Grpc => Self::Grpc { client: MetricsServiceClient::new(connect(otlp)?), metadata },
            OtlpProtocol::Http => Self::Http(HttpPost::new(otlp, "/v1/metrics", metadata)?),
        })
    }

    async fn send(&mut self, message: ExportMetricsServiceRequest) -> Result<(), PushFailure> {
        match self {
            Self::Grpc { client, metadata } => {
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = metadata.clone();
                client.export(request).await?;
            }
            Self::Http(post) => post.send(message.encode_to_vec()).await?,
        }
        Ok(())
    }
}

/// One destination of metrics and how long a push may take.
struct Push {
    destination: Destination,
    telemetry: Telemetry,
    timeout: Duration,
    endpoint: String,
}

impl Push {
    async fn once(&mut self) {
        let sending = self.destination.send(export_request(&self.telemetry));
        let sent = match tokio::time::timeout(self.timeout, sending).await {
            Ok(sent) => sent,
            Err(elapsed) => Err(elapsed.into()),
        };
        match sent {
            Ok(()) => self.telemetry.0.pushes.add(1),
            Err(error) => {
                let endpoint = &self.endpoint;
                tracing::warn!(name: "telemetry.push_failed", endpoint, %error, "own metrics were not pushed");
                self.telemetry.0.pushes_failed.add(1);
            }
        }
    }
}

/// A reading of all metrics as an OTLP request; sums are cumulative since the program's start.
pub fn export_request(telemetry: &Telemetry) -> ExportMetricsServiceRequest {
    let times = Times { start: nanos(telemetry.0.started_at), now: nanos(SystemTime::now()) };
    let attributes = telemetry.resource().attributes();
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let resource = Resource {
        attributes: attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
        ..Default::default()
    };
    let scope_metrics = ScopeMetrics {
        scope: Some(scope),
        metrics: metrics(&telemetry.read(), &times),
        ..Default::default()
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource),
        scope_metrics: vec![scope_metrics],
        ..Default::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

struct Times {
    start: u64,
    now: u64,
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn metrics(families: &Families, times: &Times) -> Vec<Metric> {
    // `target_info` is Prometheus' way to tell the resource, which OTLP has a place for.
    let families = families.iter().filter(|family| family.definition.name != "target_info");
    families.map(|family| metric(family, times)).collect()
}

fn metric(family: &Family, times: &Times) -> Metric {
    let definition = family.definition;
    let data_points = family.points.iter().map(|point| data_point(point, times)).collect();
    let data = match definition.kind {
        Kind::Gauge => Data::Gauge(Gauge { data_points }),
        Kind::Counter => Data::Sum(Sum {
            data_points,
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: true,
        }),
    };
    Metric {
        name: definition.name.to_owned(),
        description: definition.help.to_owned(),
        unit: definition.unit.to_owned(),
        data: Some(data),
        ..Default::default()
    }
}

fn data_point(point: &Point, times: &Times) -> NumberDataPoint {
    // The Collector's attribute has a dot, which a Prometheus label cannot have.
    let dotted = |name| if name == "otel_signal" { "otel.signal" } else { name };
    let attributes = point.labels.iter().map(|(name, value)| attribute(dotted(name), value));
    NumberDataPoint {
        attributes: attributes.collect(),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(match point.value {
            Value::Int(value) => Number::AsInt(value),
            Value::Float(value) => Number::AsDouble(value),
        }),
        ..Default::default()
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(AnyValueKind::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

#[cfg(test)]
pub(super) mod tests;

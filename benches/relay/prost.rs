//! The relay as it is usually built: prost and tonic, with the windows, the frames, the allocator and the
//! runtime the others have. It decodes, adds two resource attributes, decides about every span, encodes and
//! answers when the sink has answered.

use std::net::{Ipv4Addr, SocketAddr};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::support::{http2, payload, program};

/// Above the largest request there is.
const MAX_MESSAGE: usize = 64 << 20;
/// What "slow" means to the rule.
const SLOW: u64 = 2_000_000_000;
/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

struct Relay {
    sink: TraceServiceClient<Channel>,
    /// Spans that are neither slow nor failed are kept if their randomness is at least this.
    threshold: u64,
}

/// The role.
pub(crate) async fn serve(sink: SocketAddr) {
    let channel = Endpoint::from_shared(format!("http://{sink}"))
        .expect("an address is a valid authority")
        .initial_stream_window_size(http2::STREAM_WINDOW)
        .initial_connection_window_size(http2::CONNECTION_WINDOW)
        .max_frame_size(http2::FRAME)
        .connect()
        .await
        .expect("the sink accepts connections");
    let sink = TraceServiceClient::new(channel);
    // 100 %, as in Tollgate's policies, and as little known to the compiler as there.
    let threshold = std::hint::black_box(0);
    let relay = TraceServiceServer::new(Relay { sink, threshold }).max_decoding_message_size(MAX_MESSAGE);
    let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free loopback port");
    let _told = program::told();
    program::ready(incoming.local_addr().expect("a bound socket has an address"));
    Server::builder()
        .initial_stream_window_size(http2::STREAM_WINDOW)
        .initial_connection_window_size(http2::CONNECTION_WINDOW)
        .max_frame_size(http2::FRAME)
        .max_concurrent_streams(http2::STREAMS)
        .add_service(relay)
        .serve_with_incoming(incoming.with_nodelay(Some(true)))
        .await
        .expect("a relay serves until it is killed");
}

#[tonic::async_trait]
impl TraceService for Relay {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let tenant = request.metadata().get("x-scope-orgid").and_then(|value| value.to_str().ok());
        let tenant = payload::text("tenant.id", tenant.unwrap_or("unattributed"));
        let mut request = request.into_inner();
        for resource_spans in &mut request.resource_spans {
            let resource = resource_spans.resource.get_or_insert_default();
            resource.attributes.extend([tenant.clone(), payload::text("model.name", "ranker")]);
            for scope_spans in &mut resource_spans.scope_spans {
                scope_spans.spans.retain(|span| self.keeps(span));
            }
        }
        self.sink.clone().export(request).await
    }
}

impl Relay {
    fn keeps(&self, span: &Span) -> bool {
        let status = span.status.as_ref().map_or(0, |status| status.code);
        let duration = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        status == ERROR || duration > SLOW || randomness(&span.trace_id) >= self.threshold
    }
}

/// The low 56 bits of a trace id.
fn randomness(trace_id: &[u8]) -> u64 {
    trace_id.iter().skip(9).fold(0, |value, &byte| value << 8 | u64::from(byte))
}

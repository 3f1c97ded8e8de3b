//! Clients: OTLP/gRPC by tonic, OTLP/HTTP by hyper.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// An OTLP/gRPC client that speaks for a tenant.
#[derive(Clone)]
pub struct Grpc {
    channel: Channel,
    headers: Vec<(&'static str, String)>,
}

impl Grpc {
    pub async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { channel: endpoint.connect().await.unwrap(), headers: Vec::new() }
    }

    /// Over a unix socket.
    pub async fn unix(path: &std::path::Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        Self { channel: endpoint.connect().await.unwrap(), headers: Vec::new() }
    }

    /// Every request from now on carries this metadata too.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Every request from now on names this tenant.
    pub fn tenant(self, tenant: &str) -> Self {
        self.header("x-tenant-id", tenant)
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    pub async fn spans(
        &self,
        message: ExportTraceServiceRequest,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let client = TraceServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        client.max_encoding_message_size(256 << 20).export(self.request(message)).await
    }

    pub async fn logs(
        &self,
        message: ExportLogsServiceRequest,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        LogsServiceClient::new(self.channel.clone()).export(self.request(message)).await
    }

    pub async fn metrics(
        &self,
        message: ExportMetricsServiceRequest,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        MetricsServiceClient::new(self.channel.clone()).export(self.request(message)).await
    }
}

/// An OTLP/HTTP client that speaks for a tenant.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
    headers: Vec<(&'static str, String)>,
}

impl Http {
    pub fn new(address: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, address: address.to_owned(), headers: Vec::new() }
    }

    /// A client whose connections come from a loopback address of its own.
    pub fn from_address(address: &str, source: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(source.parse().unwrap()));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, address: address.to_owned(), headers: Vec::new() }
    }

    /// Every request from now on carries this header too.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Every request from now on names this tenant.
    pub fn tenant(self, tenant: &str) -> Self {
        self.header("x-tenant-id", tenant)
    }

    /// POSTs a body; the whole answer.
    pub async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> http::Response<Bytes> {
        let mut request = http::Request::post(format!("http://{}{path}", self.address));
        request = request.header("content-type", content_type);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let (head, body) = self.client.request(request).await.unwrap().into_parts();
        http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// POSTs a message as protobuf to the path of its signal.
    pub async fn protobuf(&self, path: &str, message: &impl Message) -> http::Response<Bytes> {
        self.post(path, "application/x-protobuf", message.encode_to_vec()).await
    }
}

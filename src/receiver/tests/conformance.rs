//! OTLP 1.11, what a server owes: one test for each numbered statement.

use super::*;
use crate::compression::{Codec, compress};
use crate::otlp::Malformed;
use crate::otlp::status::ExportResponse;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message;

const PATHS: [(Signal, &str); 3] =
    [(Signal::Traces, "/v1/traces"), (Signal::Metrics, "/v1/metrics"), (Signal::Logs, "/v1/logs")];

#[tokio::test]
async fn s01_unary_export_of_three_services_on_the_known_ports() {
    let config: Otlp = serde_json::from_value(json!({"protocols": {"grpc": null, "http": null}})).unwrap();
    assert_eq!(config.protocols.grpc.unwrap().endpoint, "localhost:4317");
    assert_eq!(config.protocols.http.unwrap().endpoint, "localhost:4318");

    let server = start(defaults(), accepts()).await;
    let url = format!("http://{}", server.grpc());
    let channel = tonic::transport::Endpoint::try_from(url).unwrap().connect().await.unwrap();
    TraceServiceClient::new(channel.clone()).export(ExportTraceServiceRequest::default()).await.unwrap();
    assert_eq!(server.request().signal, Signal::Traces);
    MetricsServiceClient::new(channel.clone()).export(tonic::Request::new(Default::default())).await.unwrap();
    assert_eq!(server.request().signal, Signal::Metrics);
    LogsServiceClient::new(channel.clone()).export(tonic::Request::new(Default::default())).await.unwrap();
    let request = server.request();
    assert_eq!((request.signal, request.transport), (Signal::Logs, Transport::Grpc));
    assert!(request.peer.unwrap().ip().is_loopback());
    drop(channel);
    server.stop().await;
}

#[tokio::test]
async fn s02_post_on_three_paths_over_both_versions_in_both_encodings() {
    let server = start(defaults(), accepts()).await;
    for (signal, path) in PATHS {
        for (format, body) in [(PROTOBUF, &b""[..]), (JSON, b"{}")] {
            let answer = server.post(path, &[format], body).await;
            assert_eq!(answer.status, 200, "HTTP/1.1 {path} {format:?}");
            let request = server.request();
            assert_eq!((request.signal, request.transport), (signal, Transport::Http));
            let answer = server.h2(server.http()).await.call("POST", path, &[format], body).await;
            assert_eq!(answer.status, 200, "HTTP/2 {path} {format:?}");
            assert_eq!(server.request().signal, signal);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn s03_none_gzip_and_zstd_are_taken_on_both_transports() {
    let server = start(defaults(), accepts()).await;
    for (encoding, codec) in [("gzip", Some(Codec::Gzip)), ("zstd", Some(Codec::Zstd)), ("identity", None)] {
        let body = match codec {
            Some(codec) => compress(codec, None, &[traces()]).unwrap(),
            None => traces(),
        };
        let frame = framed(codec.is_some(), &body);
        let answer = server.grpc_call(Signal::Traces, &[("grpc-encoding", encoding)], frame).await;
        assert_eq!(answer.code(), 0, "{encoding}");
        assert_eq!(server.request().body, traces(), "{encoding}");
        let answer = server.post("/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], &body).await;
        assert_eq!(answer.status, 200, "{encoding}");
        assert_eq!(server.request().body, traces(), "{encoding}");
    }
    for (encoding, codec) in [("zlib", Codec::Zlib), ("deflate", Codec::Deflate)] {
        let body = compress(codec, None, &[traces()]).unwrap();
        let answer = server.post("/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], &body).await;
        assert_eq!(answer.status, 200, "{encoding}");
        assert_eq!(server.request().body, traces(), "{encoding}");
    }
    server.stop().await;
}

#[tokio::test]
async fn s04_an_empty_request_succeeds() {
    let server = start(defaults(), answers(Ok(Accepted::default()))).await;
    for (signal, path) in PATHS {
        assert_eq!(server.grpc_call(signal, &[], framed(false, b"")).await.code(), 0);
        assert_eq!(server.post(path, &[PROTOBUF], b"").await.status, 200);
        assert_eq!(server.post(path, &[JSON], b"{}").await.status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn s05_full_success_leaves_partial_success_unset() {
    let server = start(defaults(), accepts()).await;
    let answer = server.grpc_call(Signal::Traces, &[], framed(false, &traces())).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::OK, 0));
    assert_eq!((answer.header("content-type"), answer.message().len()), ("application/grpc", 0));
    let answer = server.post("/v1/traces", &[PROTOBUF], &traces()).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    let answer = server.post("/v1/traces", &[JSON], b"{}").await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"{}"[..]));
    assert_eq!(server.metrics.grpc.accepted[Signal::Traces].get(), 1);
    assert_eq!(server.metrics.http.accepted[Signal::Traces].get(), 2);
    assert_eq!(server.metrics.http.requests_accepted.get(), 2);
    assert_eq!(server.metrics.grpc.request_bytes.get(), traces().len() as u64);
    server.stop().await;
}

#[tokio::test]
async fn s06_partial_success_tells_how_many_and_why_and_a_warning_rejects_none() {
    for (rejected, why) in [(2, "two spans without a tenant"), (0, "this key is old")] {
        let accepted = Accepted { items: 3, rejected, message: Some(why.into()) };
        let expected = ExportResponse { rejected, message: why.into() };
        let server = start(defaults(), answers(Ok(accepted))).await;
        let answer = server.grpc_call(Signal::Traces, &[], framed(false, b"")).await;
        assert_eq!(answer.code(), 0);
        assert_eq!(ExportResponse::from_protobuf(&answer.message()).as_ref(), Ok(&expected));
        let answer = server.post("/v1/traces", &[PROTOBUF], b"").await;
        assert_eq!(answer.status, 200);
        assert_eq!(ExportResponse::from_protobuf(&answer.body).as_ref(), Ok(&expected));
        for (signal, path) in PATHS {
            let answer = server.post(path, &[JSON], b"{}").await;
            assert_eq!(answer.status, 200);
            assert_eq!(ExportResponse::from_json(signal, &answer.body).as_ref(), Ok(&expected), "{answer:?}");
        }
        assert_eq!(server.metrics.grpc.accepted[Signal::Traces].get(), 3 - rejected);
        server.stop().await;
    }
}

#[tokio::test]
async fn s07_the_answer_has_the_content_type_of_the_request() {
    let server = start(defaults(), accepts()).await;
    let check = async |sent: &str, body: &[u8], expected: &str| {
        let answer = server.post("/v1/traces", &[("content-type", sent)], body).await;
        assert_eq!(answer.header("content-type"), expected, "{sent}");
    };
    check("application/x-protobuf", b"", "application/x-protobuf").await;
    check("application/json", b"{}", "application/json").await;
    check("application/json; charset=utf-8", b"{}", "application/json").await;
    check("application/json", b"nonsense", "application/json").await;
    server.stop().await;
}

#[tokio::test]
async fn s08_every_error_body_is_a_status_in_the_encoding_of_the_request() {
    let full = Refusal::QueueFull { exporter: "otlp".into(), retry_after: Duration::from_secs(1) };
    let server = start(json!({"http": {"max_request_body_size": 100}}), answers(Err(full))).await;
    let check = async |method: &str, path: &str, headers: &[(&str, &str)], expected: (u16, i32)| {
        for format in [PROTOBUF, JSON] {
            let mut all = vec![format];
            all.extend_from_slice(headers);
            let answer = http1(server.http(), method, path, &all, b"{}").await;
            assert_eq!(answer.status, expected.0, "{method} {path} {headers:?}");
            assert_eq!(answer.header("content-type"), format.1);
            let status = answer.status_body();
            assert!(!status.message.is_empty(), "{answer:?}");
            assert_eq!(status.code, expected.1, "{answer:?}");
        }
    };
    check("POST", "/v1/spans", &[], (404, 12)).await;
    check("GET", "/v1/traces", &[], (405, 12)).await;
    check("POST", "/v1/traces", &[("content-encoding", "br")], (415, 12)).await;
    check("POST", "/v1/traces", &[("content-encoding", "gzip")], (400, 3)).await;
    check("POST", "/v1/traces", &[("content-length", "101")], (413, 8)).await;
    let answer = server.post("/v1/traces", &[JSON], b"{}").await;
    assert_eq!((answer.status.as_u16(), answer.status_body().code), (503, 14));
    let answer = server.post("/v1/traces", &[("content-type", "text/plain")], b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (415, "application/json"));
    let answer = http1(server.http(), "GET", "/v1/traces", &[], b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    server.stop().await;
}

#[tokio::test]
async fn s09_undecodable_data_is_an_invalid_argument_with_bad_request() {
    let server = start(defaults(), answers(Err(Malformed::Truncated.into()))).await;
    let answer = server.grpc_call(Signal::Logs, &[], framed(false, b"\x0a\xff")).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::OK, 3));
    assert_eq!(answer.details().violations.len(), 1);
    assert_eq!(answer.details().retry_after, None);
    let answer = server.post("/v1/logs", &[PROTOBUF], b"\x0a\xff").await;
    assert_eq!((answer.status.as_u16(), answer.status_body().violations.len()), (400, 1));
    let answer = server.post("/v1/logs", &[JSON], br#"{"resourceLogs":[{"resource":5}]}"#).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.status_body().violations[0].field, "resourceLogs[0].resource");
    let answer = server.post("/v1/logs", &[JSON], b"").await;
    assert_eq!(answer.status, 400);
    assert_eq!(server.metrics.grpc.requests_malformed.get(), 1);
    assert_eq!(server.metrics.http.requests_malformed.get(), 3);
    assert_eq!(server.metrics.http.requests_refused.get(), 0);
    server.stop().await;
}

#[tokio::test]
async fn s10_overload_is_unavailable_and_tells_when_to_try_again() {
    let retry_after = Duration::from_millis(1500);
    let server = start(defaults(), answers(Err(Refusal::MemoryPressure { retry_after }))).await;
    let answer = server.grpc_call(Signal::Traces, &[], framed(false, b"")).await;
    assert_eq!(answer.code(), 14);
    assert_eq!(answer.header("grpc-message"), "data refused due to high memory usage");
    assert_eq!(answer.details().retry_after, Some(retry_after));
    let answer = server.post("/v1/traces", &[PROTOBUF], b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "2"));
    assert_eq!(answer.status_body().retry_after, Some(retry_after));
    assert_eq!(server.metrics.grpc.requests_refused.get(), 1);
    server.stop().await;
}

#[tokio::test]
async fn s11_the_size_limit_holds_as_sent_and_decompressed() {
    let limits = json!({"grpc": {"max_recv_msg_size_mib": 1}, "http": {"max_request_body_size": 1 << 20}});
    let server = start(limits, accepts()).await;
    let fits = Bytes::from(vec![b' '; 1 << 20]);
    let larger = Bytes::from(vec![b' '; (1 << 20) + 1]);
    assert_eq!(server.grpc_call(Signal::Traces, &[], framed(false, &fits)).await.code(), 0);
    assert_eq!(server.post("/v1/traces", &[PROTOBUF], &fits).await.status, 200);
    for codec in [None, Some(Codec::Gzip), Some(Codec::Zstd)] {
        let encoding = codec.map_or("identity", Codec::as_str);
        let body = codec
            .map_or(larger.clone(), |codec| compress(codec, None, std::slice::from_ref(&larger)).unwrap());
        let frame = framed(codec.is_some(), &body);
        let answer = server.grpc_call(Signal::Traces, &[("grpc-encoding", encoding)], frame).await;
        assert_eq!((answer.code(), answer.header("grpc-status-details-bin")), (8, ""), "{encoding}");
        let answer = server.post("/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (413, ""), "{encoding}");
    }
    // Without an announced length it is noticed on the way.
    let mut chunked = format!("{:x}\r\n", larger.len()).into_bytes();
    chunked.extend_from_slice(&larger);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = server.post("/v1/traces", &[PROTOBUF, ("transfer-encoding", "chunked")], &chunked).await;
    assert_eq!(answer.status, 413);
    assert_eq!(server.seen.lock().unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn s12_a_long_error_message_is_cut_to_the_limit_of_answers() {
    let long = Accepted { items: 2, rejected: 1, message: Some("ü".repeat(100_000)) };
    let limits = json!({"grpc": {"limits": {"max_response_size": 4096}}, "http": {"limits": {"max_response_size": 4096}}});
    let server = start(limits.clone(), answers(Ok(long))).await;
    let answer = server.grpc_call(Signal::Traces, &[], framed(false, b"")).await;
    let told = ExportResponse::from_protobuf(&answer.message()).unwrap();
    assert!(answer.body.len() <= 4096 && told.message.ends_with('…'), "{}", answer.body.len());
    for (format, body) in [(PROTOBUF, &b""[..]), (JSON, b"{}")] {
        let answer = server.post("/v1/traces", &[format], body).await;
        assert_eq!(answer.status, 200);
        assert!((500..=4096).contains(&answer.body.len()), "{}", answer.body.len());
    }
    server.stop().await;

    let failure = crate::batch::SendFailure { code: 14, message: "%".repeat(100_000), retry_after: None };
    let server = start(limits, answers(Err(Refusal::Destination(failure)))).await;
    let answer = server.grpc_call(Signal::Traces, &[], framed(false, b"")).await;
    assert_eq!(answer.code(), 14);
    assert!(answer.header("grpc-message").len() < 4096);
    let answer = server.post("/v1/traces", &[JSON], b"{}").await;
    assert!(answer.body.len() <= 4096 && answer.status_body().code == 14, "{answer:?}");
    server.stop().await;
}

#[tokio::test]
async fn s13_unknown_fields_are_ignored_in_both_encodings() {
    let server = start(defaults(), accepts()).await;
    let mut unknown = traces().to_vec();
    unknown.extend_from_slice(&[0xf8, 0x07, 0x01]);
    assert_eq!(server.grpc_call(Signal::Traces, &[], framed(false, &unknown)).await.code(), 0);
    assert_eq!(server.request().body, unknown);
    let json =
        br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"gate","soon":{"a":[1]}}]}]}],"more":1}"#;
    assert_eq!(server.post("/v1/traces", &[JSON], json).await.status, 200);
    let request = ExportTraceServiceRequest::decode(server.request().body).unwrap();
    assert_eq!(request.resource_spans[0].scope_spans[0].spans[0].name, "gate");
    server.stop().await;
}

#[tokio::test]
async fn s14_grpc_is_taken_on_the_port_of_http() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.http()).await;
    assert_eq!(client.grpc(Signal::Traces, &[], framed(false, &traces())).await.code(), 0);
    assert_eq!(server.request().transport, Transport::Grpc);
    assert_eq!(client.call("POST", "/v1/traces", &[PROTOBUF], traces()).await.status, 200);
    assert_eq!(server.request().transport, Transport::Http);
    let mut grpc = server.h2(server.grpc()).await;
    assert_eq!(grpc.call("POST", "/v1/traces", &[PROTOBUF], traces()).await.status, 415);
    server.stop().await;
}

#[tokio::test]
async fn j01_to_j03_json_arrives_as_protobuf() {
    let server = start(defaults(), accepts()).await;
    let json = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C",
        "spanId":"eee19b7ec3c1b174","name":"gate","kind":2,"startTimeUnixNano":"1544712660000000000",
        "endTimeUnixNano":1544712661000000000}]}]}]}"#;
    assert_eq!(server.post("/v1/traces", &[JSON], json).await.status, 200);
    let request = ExportTraceServiceRequest::decode(server.request().body).unwrap();
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(span.trace_id[..4], [0x5b, 0x8e, 0xff, 0xf7]);
    assert_eq!(
        (span.kind, span.start_time_unix_nano, span.end_time_unix_nano),
        (2, 1544712660000000000, 1544712661000000000)
    );
    server.stop().await;
}

//! What hostile, slow and mistaken clients meet.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::compression::{Codec, compress};

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// Reads until the server closes or resets the connection.
async fn closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let reading = async {
        let _reset = socket.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server closes the connection");
    rest
}

/// All timeouts short, where the test waits for one of them.
fn hasty(limits: Value) -> Value {
    json!({"grpc": {"limits": limits}, "http": {"limits": limits, "read_header_timeout": "100ms"}})
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let server = start(hasty(json!({"first_request_timeout": "50ms"})), accepts()).await;
    let mut silent = Vec::new();
    for address in [server.grpc(), server.http()] {
        for sent in [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"]
        {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(sent).await.unwrap();
            silent.push(socket);
        }
    }
    for socket in &mut silent {
        closed(socket).await;
    }
    let mut half = TcpStream::connect(server.http()).await.unwrap();
    half.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    closed(&mut half).await;
    server.stop().await;
}

#[tokio::test]
async fn half_sent_headers_end_in_time_even_after_a_first_request() {
    let server = start(hasty(json!({})), accepts()).await;
    let mut socket = TcpStream::connect(server.http()).await.unwrap();
    let request = "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.write_all(b"POST /v1/traces HT").await.unwrap();
    let answers = closed(&mut socket).await;
    assert_eq!(parse_http1(&answers).status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_given_up() {
    let server = start(hasty(json!({"body_progress_timeout": "50ms"})), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b"abcdef").slice(..7), false).await.unwrap();
    let answer = read_answer(response).await.unwrap();
    assert_eq!((answer.code(), answer.header("grpc-message")), (4, "the body stopped arriving"));
    let answer = server.post("/v1/traces", &[PROTOBUF, ("content-length", "9")], b"abc").await;
    assert_eq!(answer.status, 503);
    assert!(server.seen.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_trickles_ends_at_the_deadline() {
    let server = start(hasty(json!({"request_timeout": "100ms"})), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    let trickle = async {
        let mut frame = framed(false, &[0; 100_000]);
        while send(&mut stream, frame.split_to(1), false).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer =
        tokio::select! { answer = read_answer(response) => answer.unwrap(), () = trickle => panic!("reset") };
    assert_eq!(answer.code(), 4);
    server.stop().await;
}

#[tokio::test]
async fn the_clients_deadline_is_honoured_and_capped() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = start(hasty(json!({"request_timeout": "300ms"})), hangs(&waiting)).await;
    let body = framed(false, b"");
    for timeout in ["20m", "0n", "99999999H"] {
        let answer = server.grpc_call(Signal::Traces, &[("grpc-timeout", timeout)], body.clone()).await;
        assert_eq!(answer.code(), 4, "{timeout}");
    }
    let answer = server.post("/v1/traces", &[PROTOBUF, ("grpc-timeout", "20m")], b"").await;
    assert_eq!(answer.status, 503);
    for malformed in ["20", "20s", "123456789m"] {
        let answer = server.grpc_call(Signal::Traces, &[("grpc-timeout", malformed)], body.clone()).await;
        assert_eq!((answer.code(), answer.header("grpc-message")), (3, "grpc-timeout is malformed"));
    }
    assert_eq!(waiting.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_request_whose_client_went_away_is_dropped() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = start(defaults(), hangs(&waiting)).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    let mut socket = TcpStream::connect(server.http()).await.unwrap();
    let request = "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    eventually("both wait", || waiting.load(Ordering::SeqCst) == 2).await;
    drop((response, stream));
    eventually("the reset stream is dropped", || waiting.load(Ordering::SeqCst) == 1).await;
    drop(socket);
    eventually("the closed connection is dropped", || waiting.load(Ordering::SeqCst) == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_by_headers_does_not_wait_for_the_body() {
    let admit: Admit = Arc::new(|arrival| {
        assert_eq!(arrival.headers["x-tenant-id"], "acme");
        Err(Refusal::ShuttingDown { retry_after: Duration::from_secs(1) })
    });
    let server = start_with(defaults(), admit, accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let headers = [GRPC[0], GRPC[1], ("x-tenant-id", "acme")];
    let (response, _stream) = client.open("POST", path(Signal::Traces), &headers).await.unwrap();
    assert_eq!(read_answer(response).await.unwrap().code(), 14);
    let headers = [PROTOBUF, ("content-length", "1000"), ("x-tenant-id", "acme")];
    assert_eq!(server.post("/v1/traces", &headers, b"").await.status, 503);
    server.stop().await;
}

#[tokio::test]
async fn an_announced_length_over_the_limit_is_refused_at_once() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]), false).await.unwrap();
    assert_eq!(read_answer(response).await.unwrap().code(), 8);
    let answer = server.post("/v1/traces", &[PROTOBUF, ("content-length", "99999999999")], b"").await;
    assert_eq!(answer.status, 413);
    server.stop().await;
}

#[tokio::test]
async fn a_body_is_exactly_one_message() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let mut two = framed(false, b"").to_vec();
    two.extend_from_slice(&framed(false, b""));
    let bodies = [vec![], vec![0, 0, 0], framed(false, b"ab")[..6].to_vec(), two, vec![7, 0, 0, 0, 0]];
    for body in bodies {
        assert_eq!(client.grpc(Signal::Traces, &[], body.clone()).await.code(), 3, "{body:?}");
    }
    let answer = client.grpc(Signal::Traces, &[], framed(true, b"a")).await;
    assert_eq!(
        (answer.code(), answer.header("grpc-message")),
        (13, "the message is compressed, but grpc-encoding is missing")
    );
    assert_eq!(server.metrics.grpc.requests_malformed.get(), 6);
    server.stop().await;
}

#[tokio::test]
async fn what_grpc_does_not_serve_is_unimplemented() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let body = framed(false, b"");
    for path in
        ["/opentelemetry.proto.collector.trace.v1.TraceService/Import", "/", "/grpc.health.v1.Health/Check"]
    {
        assert_eq!(client.grpc_at(path, &[], body.clone()).await.code(), 12, "{path}");
    }
    let answer = client.grpc(Signal::Traces, &[("grpc-encoding", "snappy")], body.clone()).await;
    assert_eq!((answer.code(), answer.header("grpc-accept-encoding")), (12, "gzip,zstd"));
    let answer = server.post("/v1/traces", &[("content-type", "application/grpc")], &body).await;
    assert_eq!(answer.code(), 3);
    server.stop().await;
}

#[tokio::test]
async fn compression_bombs_are_refused() {
    let limits = json!({"grpc": {"max_recv_msg_size_mib": 1}, "http": {"max_request_body_size": 1 << 20}});
    let server = start(limits, accepts()).await;
    let zeros = Bytes::from(vec![0; 16 << 20]);
    for codec in [Codec::Gzip, Codec::Zstd] {
        let bomb = compress(codec, None, std::slice::from_ref(&zeros)).unwrap();
        assert!(bomb.len() < 1 << 18);
        let encoding = codec.as_str();
        let answer =
            server.grpc_call(Signal::Traces, &[("grpc-encoding", encoding)], framed(true, &bomb)).await;
        assert_eq!(answer.code(), 8, "{encoding}");
        for format in [PROTOBUF, JSON] {
            let answer = server.post("/v1/traces", &[format, ("content-encoding", encoding)], &bomb).await;
            assert_eq!(answer.status, 413, "{encoding}");
        }
        let answer = server.post("/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], b"no").await;
        assert_eq!(answer.status, 400, "{encoding}");
    }
    let twice = compress(Codec::Gzip, None, &[compress(Codec::Gzip, None, &[zeros]).unwrap()]).unwrap();
    let answer = server.post("/v1/traces", &[PROTOBUF, ("content-encoding", "gzip, gzip")], &twice).await;
    assert_eq!(answer.status, 415);
    assert!(server.seen.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_caps_are_closed_at_once() {
    for cap in ["max_connections", "max_connections_per_ip"] {
        let server = start(hasty(json!({cap: 2})), accepts()).await;
        let mut first = server.h2(server.grpc()).await;
        let second = server.h2(server.grpc()).await;
        let mut third = TcpStream::connect(server.grpc()).await.unwrap();
        closed(&mut third).await;
        assert_eq!(server.metrics.grpc.connections_refused.get(), 1, "{cap}");
        assert_eq!(server.metrics.grpc.connections.get(), 2, "{cap}");
        assert_eq!(first.grpc(Signal::Traces, &[], framed(false, b"")).await.code(), 0);
        drop(second);
        eventually("its place is free again", || server.metrics.grpc.connections.get() == 1).await;
        let mut fourth = server.h2(server.grpc()).await;
        assert_eq!(fourth.grpc(Signal::Traces, &[], framed(false, b"")).await.code(), 0);
        drop((first, fourth));
        server.stop().await;
    }
}

#[tokio::test]
async fn connections_that_come_too_fast_are_closed_at_once() {
    let server = start(hasty(json!({"max_connections_per_ip_per_second": 3})), accepts()).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(TcpStream::connect(server.grpc()).await.unwrap());
    }
    // However slow the machine, three of the twenty were not alone in their second.
    eventually("some are closed", || server.metrics.grpc.connections_refused.get() > 0).await;
    drop(sockets);
    let taken = async {
        loop {
            let mut client = server.h2(server.grpc()).await;
            let headers = [("content-type", "application/grpc"), ("te", "trailers")];
            let call = client.try_call("POST", path(Signal::Traces), &headers, framed(false, b"")).await;
            if call.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("a later second has room");
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_tiny_frames_are_not_an_attack() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    let mut frame = framed(false, &[1; 10_000]);
    while !frame.is_empty() {
        send(&mut stream, frame.split_to(1), false).await.unwrap();
    }
    send(&mut stream, Bytes::new(), true).await.unwrap();
    assert_eq!(read_answer(response).await.unwrap().code(), 0);
    assert_eq!(server.request().body.len(), 10_000);
    server.stop().await;
}

#[tokio::test]
async fn web_pages_may_send_from_allowed_origins() {
    let cors = json!({"allowed_origins": ["https://*.example"], "allowed_headers": ["x-tenant-id"], "max_age": 600, "exposed_headers": ["x-a"]});
    let server =
        start(json!({"http": {"cors": cors, "response_headers": {"x-frame-options": "deny"}}}), accepts())
            .await;
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let answer = http1(server.http(), "OPTIONS", "/v1/traces", &asks, b"").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("access-control-allow-methods"), "POST");
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "accept, content-type, x-requested-with, x-tenant-id"
    );
    assert_eq!(answer.header("access-control-max-age"), "600");
    let answer = server.post("/v1/traces", &[JSON, asks[0]], b"{}").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("access-control-expose-headers"), "x-a");
    assert_eq!((answer.header("x-frame-options"), answer.header("vary")), ("deny", "origin"));
    let answer = server.post("/v1/traces", &[JSON, ("origin", "https://evil.test")], b"{}").await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    server.stop().await;
}

#[tokio::test]
async fn paths_and_metadata_follow_the_configuration() {
    let http = json!({"traces_url_path": "/in/spans", "compression_algorithms": ["gzip"]});
    let server = start(json!({"http": http, "grpc": {"include_metadata": true}}), accepts()).await;
    assert_eq!(server.post("/v1/traces", &[PROTOBUF], b"").await.status, 404);
    assert_eq!(server.post("/in/spans", &[PROTOBUF], b"").await.status, 415);
    let body = compress(Codec::Gzip, None, &[traces()]).unwrap();
    assert_eq!(server.post("/in/spans", &[PROTOBUF, ("content-encoding", "gzip")], &body).await.status, 200);
    assert_eq!(server.request().body, traces());
    let answer = server.grpc_call(Signal::Traces, &[("x-scope-orgid", "acme")], framed(false, b"")).await;
    assert_eq!(answer.code(), 0);
    let request = server.request();
    assert_eq!(
        (&request.headers["host"], &request.headers["x-scope-orgid"]),
        (&"test.example".parse().unwrap(), &"acme".parse().unwrap())
    );
    server.stop().await;
}

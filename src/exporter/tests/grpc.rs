use super::*;
use crate::compression::{self, Codec};
use crate::otlp::status::{ExportResponse, Status};

fn unframed(body: &Bytes) -> Bytes {
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    assert_eq!(length, body.len() - 5);
    body.slice(5..)
}

#[tokio::test]
async fn a_request_arrives_as_it_is_with_its_headers() {
    let fake = Fake::start(|_| Reply::ok()).await;
    let world = World::grpc(&fake, json!({"headers": {"x-scope-orgid": "acme"}, "timeout": "7s"}));
    world.send(1);
    world.empty().await;
    let seen = fake.seen().remove(0);
    assert_eq!(seen.path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(seen.version, ::http::Version::HTTP_2);
    let header = |name: &str| seen.header(name);
    assert_eq!(header("content-type"), "application/grpc");
    assert_eq!((header("te"), header("grpc-timeout")), ("trailers", "7000m"));
    assert_eq!(header("x-scope-orgid"), "acme");
    let agent = header("user-agent");
    assert!(agent.starts_with(concat!("tollgate/", env!("CARGO_PKG_VERSION"), " (")), "{agent}");
    assert_eq!((seen.body[0], unframed(&seen.body)), (0, Bytes::from_static(REQUEST)));
    assert_eq!((world.metrics.sent[Signal::Traces].get(), world.metrics.sent_bytes.get()), (1, 10));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn requests_are_compressed_as_configured() {
    for (name, codec) in [("gzip", Codec::Gzip), ("zstd", Codec::Zstd)] {
        let fake = Fake::start(|_| Reply::ok()).await;
        let world = World::grpc(&fake, json!({"compression": name}));
        world.send(1);
        world.empty().await;
        let seen = fake.seen().remove(0);
        assert_eq!(seen.headers["grpc-encoding"], name);
        assert_eq!(seen.body[0], 1);
        assert_eq!(compression::decompress(codec, &unframed(&seen.body), 100).unwrap(), REQUEST);
        world.end().await;
    }
}

#[tokio::test]
async fn c1_what_may_pass_is_retried_and_the_rest_is_dropped_and_counted() {
    for code in [1, 4, 10, 11, 14, 15] {
        let fake = Fake::start(move |n| if n < 2 { Reply::grpc(code) } else { Reply::ok() }).await;
        let world = World::grpc(&fake, json!({}));
        world.send(3);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.metrics.retries.get()), (3, 2), "{code}");
        assert_eq!(world.end().await.sent, 3);
    }
    for code in [2, 3, 5, 6, 7, 8, 9, 12, 13, 16] {
        let fake = Fake::start(move |_| Reply::grpc(code)).await;
        let world = World::grpc(&fake, json!({}));
        world.send(3);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.dropped(DroppedReason::Permanent)), (1, 3), "{code}");
        assert_eq!(world.metrics.send_failed[Signal::Traces].get(), 3);
        world.end().await;
    }
}

#[tokio::test]
async fn c2_a_partial_success_is_not_retried_and_its_items_are_shared_out() {
    let body = ExportResponse { rejected: 4, message: "too old".into() }.to_protobuf();
    let reply = Reply::Grpc { code: 0, message: "", details: None, body };
    let fake = Fake::start(move |_| reply.clone()).await;
    let world = World::grpc(&fake, json!({}));
    world.put([1, 9].map(|items| world.batch(items, REQUEST)).into());
    world.empty().await;
    assert_eq!((fake.seen().len(), world.dropped(DroppedReason::PartialSuccess)), (1, 4));
    assert_eq!(world.metrics.sent[Signal::Traces].get(), 6);
    assert_eq!(world.end().await.sent, 6);
}

#[tokio::test]
async fn c3_retry_info_is_honoured_and_makes_exhaustion_retryable() {
    let status = Status { retry_after: Some(Duration::from_millis(250)), ..Status::new(8, "full") };
    let reply =
        Reply::Grpc { code: 8, message: "full", details: Some(status.to_protobuf()), body: Bytes::new() };
    let fake = Fake::start(move |n| if n == 0 { reply.clone() } else { Reply::ok() }).await;
    let world = World::grpc(&fake, json!({}));
    world.send(1);
    world.empty().await;
    let seen = fake.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(250));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn c3_a_connection_closed_without_answer_is_backed_off_from() {
    let fake = Fake::start(|n| if n == 0 { Reply::Close } else { Reply::ok() }).await;
    let retry = json!({"initial_interval": "100ms", "randomization_factor": 0.0});
    let world = World::grpc(&fake, json!({"retry_on_failure": retry}));
    world.send(1);
    world.empty().await;
    let seen = fake.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(100));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn c3_a_destination_that_comes_back_gets_everything() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Fake::on(listener, Box::new(|_| Reply::ok()));
    let world = World::grpc(&fake, json!({}));
    world.send(1);
    world.empty().await;
    fake.stop().await;
    world.send(2);
    eventually("an attempt failed", || world.metrics.retries.get() > 0).await;
    let back = Fake::on(tokio::net::TcpListener::bind(address).await.unwrap(), Box::new(|_| Reply::ok()));
    world.empty().await;
    assert_eq!(back.seen().len(), 1);
    assert_eq!(world.end().await.sent, 3);
}

#[tokio::test]
async fn a_destination_that_says_goaway_is_connected_to_again() {
    let fake = Fake::start(|_| Reply::ok()).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"num_consumers": 1}}));
    world.send(1);
    world.empty().await;
    fake.go_away();
    for sent in 2..=10 {
        world.send(1);
        eventually("it is sent", || world.books().sent == sent).await;
    }
    assert!(fake.connections() > 1);
    assert_eq!(world.end().await.sent, 10);
}

#[tokio::test]
async fn c4_connections_are_kept_and_as_many_calls_as_configured_run_at_once() {
    let fake = Fake::start(|n| if n < 40 { Reply::ok() } else { Reply::Never }).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"num_consumers": 3}}));
    for sent in 1..=40 {
        world.send(1);
        eventually("it is sent", || world.books().sent == sent).await;
    }
    assert!(fake.connections() <= 2, "one for each worker: {}", fake.connections());
    for under_way in 1..=3 {
        world.send(1);
        eventually("it is under way", || world.metrics.in_flight.get() == under_way).await;
    }
    world.send(1);
    eventually("three arrived", || fake.seen().len() == 43).await;
    assert_eq!((world.metrics.in_flight.get(), world.exporter.queue().size()), (3, 4));
    assert_eq!(world.end_after(Duration::ZERO).await.dropped[DroppedReason::Shutdown as usize], 4);
}

#[tokio::test]
async fn c5_a_batch_above_the_limit_is_discarded_and_counted() {
    let fake = Fake::start(|_| Reply::ok()).await;
    let world = World::grpc(&fake, json!({"max_request_size": 1024}));
    world.put(vec![world.batch(5, vec![0; 1025])]);
    world.put(vec![world.batch(1, vec![0; 1024])]);
    world.empty().await;
    assert_eq!((fake.seen().len(), world.dropped(DroppedReason::Permanent)), (1, 5));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn c6_an_answer_above_the_limit_is_an_error_that_is_not_retried() {
    let plain = Reply::Grpc { code: 0, message: "", details: None, body: vec![0; 5 << 20].into() };
    let bomb = compression::compress(Codec::Gzip, None, &[vec![0; 5 << 20].into()]).unwrap();
    let length = u32::try_from(bomb.len()).unwrap().to_be_bytes();
    let headers = vec![
        ("content-type", "application/grpc".to_owned()),
        ("grpc-encoding", "gzip".to_owned()),
        ("grpc-status", "0".to_owned()),
    ];
    let bomb = Reply::Http { status: 200, headers, body: [&[1], &length[..], &bomb[..]].concat().into() };
    for reply in [plain, bomb] {
        let fake = Fake::start(move |_| reply.clone()).await;
        let world = World::grpc(&fake, json!({}));
        world.send(2);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.dropped(DroppedReason::Permanent)), (1, 2));
        world.end().await;
    }
}

#[tokio::test]
async fn c8_a_request_is_the_batches_and_nothing_else() {
    let fake = Fake::start(|n| if n == 0 { Reply::grpc(14) } else { Reply::ok() }).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"num_consumers": 1}}));
    let large = vec![7; 300_000];
    let parts: Vec<Bytes> = vec![REQUEST.into(), large.into(), REQUEST.into(), REQUEST.into()];
    world.put(parts.iter().map(|part| world.batch(1, part.clone())).collect());
    world.empty().await;
    for seen in fake.seen() {
        assert_eq!(unframed(&seen.body), parts.concat());
    }
    assert_eq!((fake.seen().len(), world.end().await.sent), (2, 4));
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn an_attempt_ends_at_its_timeout_and_is_retried() {
    let fake = Fake::start(|n| if n == 0 { Reply::Never } else { Reply::ok() }).await;
    let world = World::grpc(&fake, json!({"timeout": "50ms"}));
    world.send(1);
    world.empty().await;
    assert_eq!((fake.seen().len(), world.metrics.retries.get()), (2, 1));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn an_answer_that_is_no_grpc_is_judged_by_its_http_status() {
    for (status, sent) in [(503, 1), (404, 0), (200, 0)] {
        let fake = Fake::start(move |n| if n == 0 { Reply::http(status) } else { Reply::ok() }).await;
        let world = World::grpc(&fake, json!({}));
        world.send(1);
        world.empty().await;
        assert_eq!(world.end().await.sent, sent, "{status}");
    }
}

#[tokio::test]
async fn unix_sockets_are_destinations() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::unix(&dir.path().join("otlp.sock"));
    let world = World::grpc(&fake, json!({}));
    world.send(1);
    world.empty().await;
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn tls_checks_the_destination_and_carries_the_data() {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let cert = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], private)
        .unwrap();
    server.alpn_protocols = vec![b"h2".into()];
    let fake = Fake::tls(server, Box::new(|_| Reply::ok())).await;
    let config = |tls: Value, retries: bool| {
        let more = json!({"tls": tls, "retry_on_failure": {"enabled": retries}});
        with_quick_retries(fake.address.clone(), more)
    };
    let start = |config: Value| {
        World::start(&config::Exporter::OtlpGrpc(Box::new(serde_json::from_value(config).unwrap())))
    };
    let trusting = start(config(json!({"ca_pem": key.cert.pem()}), true));
    trusting.send(1);
    trusting.empty().await;
    assert_eq!(trusting.end().await.sent, 1);
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let wary = start(config(json!({"ca_pem": other.cert.pem()}), false));
    wary.send(1);
    wary.empty().await;
    assert_eq!(wary.dropped(DroppedReason::RetriesExhausted), 1);
    wary.end().await;
}

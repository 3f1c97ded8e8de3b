use super::*;
use crate::compression::{self, Codec};
use crate::otlp::status::{ExportResponse, Status};

#[tokio::test]
async fn a_request_arrives_as_it_is_with_its_headers() {
    let fake = Fake::start(|_| Reply::http(200)).await;
    let world = World::http(&fake, json!({"headers": [{"name": "x-a", "value": "b"}]}));
    world.send(1);
    world.empty().await;
    let seen = fake.seen().remove(0);
    assert_eq!((seen.path.as_str(), seen.version), ("/v1/traces", ::http::Version::HTTP_11));
    assert_eq!((seen.header("content-type"), seen.header("x-a")), ("application/x-protobuf", "b"));
    assert_eq!((seen.header("content-length"), &seen.body[..]), ("10", REQUEST));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn json_and_compression_are_as_configured() {
    let fake = Fake::start(|_| Reply::http(200)).await;
    let more = json!({
        "encoding": "json", "compression": "gzip", "compression_params": {"level": 9},
        "traces_endpoint": format!("http://{}/own/path?x=1", fake.address),
    });
    let world = World::http(&fake, more);
    world.send(1);
    world.empty().await;
    let seen = fake.seen().remove(0);
    assert_eq!((seen.path.as_str(), seen.header("content-type")), ("/own/path", "application/json"));
    assert_eq!(seen.headers["content-encoding"], "gzip");
    let text = compression::decompress(Codec::Gzip, &seen.body, 10_000).unwrap();
    let value: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "ab");
    world.end().await;
}

#[tokio::test]
async fn c1_only_429_502_503_and_504_are_retried() {
    for status in [429, 502, 503, 504] {
        let fake = Fake::start(move |n| Reply::http(if n == 0 { status } else { 200 })).await;
        let world = World::http(&fake, json!({}));
        world.send(1);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.end().await.sent), (2, 1), "{status}");
    }
    for status in [300, 307, 400, 401, 403, 404, 408, 413, 500, 501] {
        let fake = Fake::start(move |_| Reply::http(status)).await;
        let world = World::http(&fake, json!({}));
        world.send(1);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.dropped(DroppedReason::Permanent)), (1, 1), "{status}");
        world.end().await;
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Fake::start(|_| Reply::http(200)).await;
    let headers = vec![("location", format!("http://{}/v1/traces", other.address))];
    let fake =
        Fake::start(move |_| Reply::Http { status: 308, headers: headers.clone(), body: Bytes::new() }).await;
    let world = World::http(&fake, json!({}));
    world.send(1);
    world.empty().await;
    assert_eq!((fake.seen().len(), other.seen().len()), (1, 0));
    world.end().await;
}

#[tokio::test]
async fn c2_a_partial_success_is_not_retried() {
    let response = ExportResponse { rejected: 2, message: "too old".into() };
    let json = vec![("content-type", "application/json; charset=utf-8".to_owned())];
    let replies = [
        Reply::Http { status: 200, headers: Vec::new(), body: response.to_protobuf() },
        Reply::Http { status: 200, headers: json, body: response.to_json(Signal::Traces) },
    ];
    for reply in replies {
        let fake = Fake::start(move |_| reply.clone()).await;
        let world = World::http(&fake, json!({}));
        world.send(5);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.dropped(DroppedReason::PartialSuccess)), (1, 2));
        assert_eq!(world.end().await.sent, 3);
    }
}

#[tokio::test]
async fn c3_retry_after_is_honoured() {
    let headers = vec![("retry-after", "1".to_owned())];
    let busy = Reply::Http { status: 503, headers, body: Bytes::new() };
    let fake = Fake::start(move |n| if n == 0 { busy.clone() } else { Reply::http(200) }).await;
    let world = World::http(&fake, json!({}));
    world.send(1);
    world.empty().await;
    let seen = fake.seen();
    assert!(seen.len() == 2 && seen[1].at - seen[0].at >= Duration::from_secs(1));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn c3_a_connection_closed_without_answer_is_backed_off_from() {
    let fake = Fake::start(|n| if n == 0 { Reply::Close } else { Reply::http(200) }).await;
    let retry = json!({"initial_interval": "100ms", "randomization_factor": 0.0});
    let world = World::http(&fake, json!({"retry_on_failure": retry}));
    world.send(1);
    world.empty().await;
    let seen = fake.seen();
    assert!(seen.len() == 2 && seen[1].at - seen[0].at >= Duration::from_millis(100));
    assert_eq!(world.end().await.sent, 1);
}

#[tokio::test]
async fn c4_connections_are_kept_unless_told_otherwise() {
    for (disable, most, least) in [(false, 2, 1), (true, 20, 20)] {
        let fake = Fake::start(|_| Reply::http(200)).await;
        let world = World::http(&fake, json!({"disable_keep_alives": disable}));
        for sent in 1..=20 {
            world.send(1);
            eventually("it is sent", || world.books().sent == sent).await;
        }
        let connections = fake.connections();
        assert!((least..=most).contains(&connections), "{connections}");
        world.end().await;
    }
}

#[tokio::test]
async fn c6_an_answer_above_the_limit_is_an_error_that_is_not_retried() {
    let bomb = compression::compress(Codec::Gzip, None, &[vec![0; 5 << 20].into()]).unwrap();
    let gzip = vec![("content-encoding", "gzip".to_owned())];
    let replies = [
        Reply::Http { status: 200, headers: Vec::new(), body: vec![0; 5 << 20].into() },
        Reply::Http { status: 200, headers: gzip, body: bomb },
        Reply::Http { status: 200, headers: Vec::new(), body: b"not protobuf"[..].into() },
    ];
    for reply in replies {
        let fake = Fake::start(move |_| reply.clone()).await;
        let world = World::http(&fake, json!({}));
        world.send(1);
        world.empty().await;
        assert_eq!((fake.seen().len(), world.dropped(DroppedReason::Permanent)), (1, 1));
        world.end().await;
    }
}

#[tokio::test]
async fn an_awaited_failure_is_told_in_the_words_of_the_destination() {
    let body = Status::new(3, "no such tenant").to_protobuf();
    let reply = Reply::Http { status: 400, headers: Vec::new(), body };
    let fake = Fake::start(move |_| reply.clone()).await;
    let world = World::http(&fake, json!({"sending_queue": {"enabled": false}}));
    let (receipt, result) = Receipt::new();
    world.put(vec![world.batch(1, REQUEST).with_receipt(receipt)]);
    let failure = patiently(result).await.unwrap().failure.unwrap();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (3, "answered with HTTP status 400: no such tenant")
    );
    assert_eq!(world.end().await.refused_total(), 1);
}

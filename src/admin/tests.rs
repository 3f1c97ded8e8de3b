//! Every surface on a real socket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::config::extensions;
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::tasks::Scope;

/// A server with a handler, and the scope that owns it.
async fn serving(handler: Handler) -> (Scope, std::net::SocketAddr) {
    let scope = Scope::root("test");
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.address();
    server.start(&scope, handler);
    (scope, address)
}

/// The whole response to one request, head and body.
async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

fn parsed(response: &str) -> Value {
    serde_json::from_str(body(response)).unwrap_or_else(|error| panic!("{error}: {response}"))
}

fn api(telemetry: &Telemetry) -> Handler {
    let api = Api {
        telemetry: telemetry.clone(),
        readiness: Readiness::new(telemetry.ready().clone()),
        revisions: Arc::new(|| json!({ "in_force": { "revision": "7" } })),
        effective_policies: Arc::new(|tenant| {
            TenantId::new(tenant).ok().map(|tenant| json!({ "tenant": tenant.as_str() }))
        }),
    };
    api.handler("localhost:55679")
}

#[tokio::test]
async fn health_follows_readiness() {
    let telemetry = Telemetry::detached();
    let readiness = Readiness::new(telemetry.ready().clone());
    let handler = HealthCheck::handler(&extensions::HealthCheck::default(), &readiness);
    let (_scope, address) = serving(handler).await;

    let starting = get(address, "/").await;
    assert!(starting.starts_with("HTTP/1.1 503 "), "{starting}");
    assert_eq!(parsed(&starting)["status"], "Server not available");

    readiness.set_ready();
    let ready = get(address, "/any/path").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert_eq!(parsed(&ready)["status"], "Server available");
    assert!(parsed(&ready)["upSince"].as_str().unwrap().ends_with('Z'), "{ready}");
    assert!(parsed(&ready)["uptime"].as_str().unwrap().ends_with('s'), "{ready}");

    readiness.set_draining();
    assert!(get(address, "/").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn health_answers_with_the_configured_path_and_bodies() {
    let readiness = Readiness::new(Default::default());
    let response_body = extensions::ResponseBody { healthy: "good".to_owned(), unhealthy: "bad".to_owned() };
    let config = extensions::HealthCheck {
        path: "/healthz".to_owned(),
        response_body: Some(response_body),
        ..Default::default()
    };
    let (_scope, address) = serving(HealthCheck::handler(&config, &readiness)).await;
    assert_eq!(body(&get(address, "/healthz").await), "bad");
    readiness.set_ready();
    assert_eq!(body(&get(address, "/healthz").await), "good");
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn metrics_are_text_at_their_path() {
    let telemetry = Telemetry::detached();
    telemetry.receiver("otlp", "grpc").accepted[Signal::Traces].add(3);
    let (_scope, address) = serving(metrics(&telemetry, &Prometheus::default())).await;
    let response = get(address, "/metrics").await;
    assert!(response.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{response}");
    let line = "\notelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"grpc\",";
    assert!(response.contains(line), "{response}");
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn the_api_tells_books_revisions_policies_and_tasks() {
    let telemetry = Telemetry::detached();
    let account = telemetry.ledger().account(&TenantId::new("acme").unwrap());
    account.signal(Signal::Traces).add_received(5);
    account.signal(Signal::Traces).add_sent(4);
    account.signal(Signal::Traces).add_dropped(crate::outcome::DroppedReason::Permanent, 1);
    let (scope, address) = serving(api(&telemetry)).await;
    telemetry.watch_tasks(&scope);

    let books = json!({
        "received": 5, "copied": 0, "recovered": 0, "refused": {}, "sampled_out": 0, "sent": 4,
        "dropped": { "permanent": 1 }, "stored": 0, "queued": 0, "queued_bytes": 0,
    });
    let policies = json!({ "tenant": "acme" });
    let acme = json!({ "policies": policies, "refused_requests": {}, "signals": { "traces": books } });
    let tenants = parsed(&get(address, "/v1/tenants").await);
    assert_eq!(tenants, json!({ "tenants": { "acme": acme }, "totals": books }));

    assert_eq!(parsed(&get(address, "/v1/revisions").await), json!({ "in_force": { "revision": "7" } }));
    let effective = get(address, "/v1/policies/effective?x=1&tenant=%61cme").await;
    assert_eq!(parsed(&effective), json!({ "tenant": "acme" }));
    for query in ["", "?tenant=a%2Fb", "?tenant=%zz"] {
        let refused = get(address, &format!("/v1/policies/effective{query}")).await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    }
    assert!(parsed(&get(address, "/debug/tasks").await)["alive"].as_u64().unwrap() >= 1);
    let page = get(address, "/").await;
    assert!(page.contains("state     starting") && page.contains("acme"), "{page}");
    assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_foreign_host_name_is_refused_and_answers_are_not_stored() {
    let (_scope, address) = serving(api(&Telemetry::detached())).await;
    let rebound = "GET /v1/tenants HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(ask(address, rebound).await.starts_with("HTTP/1.1 403 "));
    let answer = get(address, "/v1/tenants").await;
    for header in ["cache-control: no-store", "x-content-type-options: nosniff", "x-frame-options: DENY"] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let (_scope, address) = serving(api(&Telemetry::detached())).await;
    let request = |method: &str| {
        format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = ask(address, &request(method)).await;
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET, HEAD"), "{refused}");
    }
    let head = ask(address, &request("HEAD")).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body(&head).is_empty(), "{head}");
}

#[tokio::test]
async fn closing_ends_idle_and_half_asked_connections() {
    let (scope, address) = serving(api(&Telemetry::detached())).await;
    let _idle = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET / HT").await.unwrap();
    get(address, "/").await;
    scope.close(Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((scope.alive(), scope.aborted()), (0, 0));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_question_is_let_go() {
    let (_scope, address) = serving(api(&Telemetry::detached())).await;
    let began = Instant::now();
    ask(address, "GET / HT").await;
    assert!(began.elapsed() >= HEADER_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn connections_past_the_cap_wait_for_their_turn() {
    let (_scope, address) = serving(api(&Telemetry::detached())).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let began = Instant::now();
    assert!(get(address, "/").await.starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() >= HEADER_TIMEOUT, "served beside {} others", silent.len());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let first = Server::bind("127.0.0.1:0").await.unwrap();
    let endpoint = first.address().to_string();
    let refused = Server::bind(&endpoint).await.err().map(|error| error.to_string());
    assert_eq!(refused, Some(format!("cannot listen on {endpoint}")));
}

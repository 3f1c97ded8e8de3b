//! Connections age, drain and end; nothing is left behind.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// A pipeline that answers when told, and counts the requests that wait.
fn waits_for(go: &Arc<Notify>, waiting: &Arc<AtomicUsize>) -> Accept {
    let (go, waiting) = (go.clone(), waiting.clone());
    Arc::new(move |_request| {
        let (go, waiting) = (go.clone(), Waiting::new(&waiting));
        Box::pin(async move {
            go.notified().await;
            drop(waiting);
            Ok(Accepted::default())
        })
    })
}

/// Waits until the client was told that it may open no more streams.
async fn goaway(client: &mut Client) {
    let told = async {
        while poll_fn(|cx| client.send.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("GOAWAY");
}

#[tokio::test]
async fn drain_says_goaway_and_lets_requests_under_way_finish() {
    let (go, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = start(defaults(), waits_for(&go, &waiting)).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    let address = server.http();
    let http = http1(address, "POST", "/v1/logs", &[PROTOBUF], b"");
    let mut http = std::pin::pin!(http);
    let both_wait = eventually("both wait", || waiting.load(Ordering::SeqCst) == 2);
    tokio::select! { () = both_wait => {}, answer = http.as_mut() => panic!("{answer:?}") }

    let draining = drained(&server.receiver, Instant::now() + PATIENCE);
    let told = async {
        goaway(&mut client).await;
        assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
        go.notify_waiters();
    };
    let (_, _, answer, http) = tokio::join!(draining, told, read_answer(response), http);
    assert_eq!(answer.unwrap().code(), 0);
    assert_eq!(http.status, 200);
    assert_eq!(server.scope.aborted(), 0);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn clients_with_nothing_under_way_that_do_not_go_do_not_hold_up_the_drain() {
    let server = start(defaults(), accepts()).await;
    // A preface without a request, whose client answers no ping; half a head; nothing at all.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut held = Vec::new();
    for (address, bytes) in
        [(server.grpc(), &preface[..]), (server.http(), b"POST /v1/tra"), (server.http(), b"")]
    {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        held.push(socket);
    }
    let open = || server.metrics.grpc.connections.get() + server.metrics.http.connections.get();
    eventually("all are served", || open() == 3).await;
    drained(&server.receiver, Instant::now() + PATIENCE).await;
    assert_eq!((open(), server.scope.aborted()), (0, 0));
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_finish_by_the_deadline_is_told_so() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = start(defaults(), hangs(&waiting)).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    eventually("it waits", || waiting.load(Ordering::SeqCst) == 1).await;
    drained(&server.receiver, Instant::now() + Duration::from_millis(50)).await;
    assert_eq!(read_answer(response).await.unwrap().code(), 14);
    assert_eq!(waiting.load(Ordering::SeqCst), 0, "it is dropped");
    assert_eq!(server.cancelled(), [(CancelReason::Drain, 1)]);
    server.stop().await;
}

#[tokio::test]
async fn what_is_answered_and_not_taken_is_cut() {
    let server = start(defaults(), accepts()).await;
    // Half a head: there is no request to answer, and nothing makes the connection end.
    let mut socket = TcpStream::connect(server.http()).await.unwrap();
    socket
        .write_all(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n")
        .await
        .unwrap();
    eventually("it is served", || server.metrics.http.connections.get() == 1).await;
    drained(&server.receiver, Instant::now()).await;
    assert_eq!((server.scope.alive(), server.cancelled()), (0, vec![]));
    server.clients.close(Instant::now()).await;
    server.workers.stop();
}

#[tokio::test]
async fn every_request_that_is_stopped_is_counted_once_with_its_reason() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let aged = json!({"server_parameters": {"max_connection_age": "1h"}});
    let server = start(json!({"grpc": {"keepalive": aged}}), hangs(&waiting)).await;
    let gone = || server.metrics.grpc.in_flight.get() == 0 && waiting.load(Ordering::SeqCst) == 0;
    let mut client = server.h2(server.grpc()).await;

    let (_response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    eventually("it waits", || waiting.load(Ordering::SeqCst) == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    eventually("a reset stream is dropped", gone).await;
    assert_eq!(server.cancelled(), [(CancelReason::Client, 1)]);

    let (_response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b"").slice(..3), false).await.unwrap();
    eventually("it is read", || server.metrics.grpc.in_flight.get() == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    eventually("half a body is dropped", gone).await;
    assert_eq!(server.cancelled(), [(CancelReason::Client, 2)]);

    let answer = client.grpc(Signal::Traces, &[("grpc-timeout", "20m")], framed(false, b"")).await;
    assert_eq!(answer.code(), 4);
    let timeout = [PROTOBUF, ("x-envoy-expected-rq-timeout-ms", "20")];
    let answer = server.post("/v1/traces", &timeout, b"").await;
    assert_eq!((answer.status.as_u16(), answer.status_body().code), (503, 4));
    assert_eq!(server.cancelled(), [(CancelReason::Client, 2), (CancelReason::Deadline, 2)]);

    let (_response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    eventually("it waits", || waiting.load(Ordering::SeqCst) == 1).await;
    drop((client, stream, _response));
    server.clients.close(Instant::now()).await;
    eventually("what a closed connection had is dropped", gone).await;
    assert_eq!(server.cancelled(), [(CancelReason::Client, 3), (CancelReason::Deadline, 2)]);
    server.stop().await;
}

#[tokio::test]
async fn a_request_whose_connection_is_cut_is_counted_as_forced() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let old =
        json!({"server_parameters": {"max_connection_age": "50ms", "max_connection_age_grace": "50ms"}});
    let server = start(json!({"grpc": {"keepalive": old}}), hangs(&waiting)).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    assert!(read_answer(response).await.is_err());
    eventually("it is counted", || server.cancelled() == [(CancelReason::Forced, 1)]).await;
    assert_eq!((waiting.load(Ordering::SeqCst), server.metrics.grpc.in_flight.get()), (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn malformed_timeouts_are_refused() {
    let server = start(defaults(), accepts()).await;
    for text in ["", "S", "1", "123456789S", "-1S", "1.5S", "1s"] {
        let answer = server.grpc_call(Signal::Traces, &[("grpc-timeout", text)], framed(false, b"")).await;
        assert_eq!(answer.code(), 3, "{text:?}");
    }
    for (header, text) in [("grpc-timeout", "1"), ("x-envoy-expected-rq-timeout-ms", "1s")] {
        let answer = server.post("/v1/traces", &[PROTOBUF, (header, text)], b"").await;
        assert_eq!(answer.status, 400, "{header}: {text}");
        assert!(answer.status_body().message.contains(header));
    }
    // A client whose time is up already is told so.
    let answer = server.grpc_call(Signal::Traces, &[("grpc-timeout", "0n")], framed(false, b"")).await;
    assert_eq!(answer.code(), 4);
    assert_eq!(server.seen.lock().unwrap().len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn stop_accepting_closes_the_ports_and_leaves_connections() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    assert_eq!(client.grpc(Signal::Traces, &[], framed(false, b"")).await.code(), 0);
    server.receiver.stop_accepting().await;
    for address in [server.grpc(), server.http()] {
        assert!(TcpStream::connect(address).await.is_err());
        drop(std::net::TcpListener::bind(address).expect("the port is free"));
    }
    assert_eq!(client.grpc(Signal::Traces, &[], framed(false, b"")).await.code(), 0);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn an_old_connection_is_asked_to_leave_and_loses_no_call() {
    let aged = json!({"server_parameters": {"max_connection_age": "100ms"}});
    let (go, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = start(json!({"grpc": {"keepalive": aged}}), waits_for(&go, &waiting)).await;
    let mut client = server.h2(server.grpc()).await;
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    eventually("it waits", || waiting.load(Ordering::SeqCst) == 1).await;
    goaway(&mut client).await;
    go.notify_waiters();
    assert_eq!(read_answer(response).await.unwrap().code(), 0);
    eventually("it is closed", || server.metrics.grpc.connections.get() == 0).await;
    assert_eq!(server.scope.aborted(), 0);
    server.stop().await;
}

#[tokio::test]
async fn an_old_connection_that_does_not_leave_is_cut_after_its_grace() {
    let aged =
        json!({"server_parameters": {"max_connection_age": "50ms", "max_connection_age_grace": "50ms"}});
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = start(json!({"grpc": {"keepalive": aged}}), hangs(&waiting)).await;
    let answer = server
        .h2(server.grpc())
        .await
        .try_call("POST", path(Signal::Traces), &GRPC, framed(false, b""))
        .await;
    assert!(answer.is_err(), "{answer:?}");
    eventually("it is dropped", || waiting.load(Ordering::SeqCst) == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let idle = json!({"server_parameters": {"max_connection_idle": "60ms"}});
    let (go, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = start(json!({"grpc": {"keepalive": idle}}), waits_for(&go, &waiting)).await;
    let mut busy = server.h2(server.grpc()).await;
    let mut idle = server.h2(server.grpc()).await;
    let (response, mut stream) = busy.open("POST", path(Signal::Traces), &GRPC).await.unwrap();
    send(&mut stream, framed(false, b""), true).await.unwrap();
    goaway(&mut idle).await;
    go.notify_waiters();
    assert_eq!(read_answer(response).await.unwrap().code(), 0);
    eventually("both are closed", || server.metrics.grpc.connections.get() == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_dead_peer_is_found_by_pings() {
    let pings = json!({"server_parameters": {"time": "30ms", "timeout": "30ms"}});
    let server = start(json!({"grpc": {"keepalive": pings}}), accepts()).await;
    let mut socket = TcpStream::connect(server.grpc()).await.unwrap();
    // A preface and a request, and then nobody is there any more to answer pings.
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    eventually("it is open", || server.metrics.grpc.connections.get() == 1).await;
    eventually("it is closed", || server.metrics.grpc.connections.get() == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_unix_socket_serves_and_its_file_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("otlp.sock");
    // What a crash leaves behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&file).unwrap());
    let server = start(json!({"grpc": {"endpoint": file, "transport": "unix"}}), accepts()).await;
    assert_eq!(server.receiver.local_addrs()[0].1, Address::Unix(file.clone()));
    let socket = tokio::net::UnixStream::connect(&file).await.unwrap();
    let mut client = h2_over(&server.clients, socket).await;
    assert_eq!(client.grpc(Signal::Traces, &[], framed(false, b"")).await.code(), 0);
    assert_eq!(server.request().peer, None);
    drop(client);
    server.stop().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = taken.local_addr().unwrap().to_string();
    let config: Otlp =
        serde_json::from_value(json!({"protocols": {"grpc": {"endpoint": endpoint}}})).unwrap();
    let error = Receiver::bind(&config, &mut crate::receiver::Sockets::default()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {endpoint}: ")), "{error}");
    for endpoint in ["localhost:0", ":0", "[::1]:0"] {
        let config: Otlp =
            serde_json::from_value(json!({"protocols": {"grpc": {"endpoint": endpoint}}})).unwrap();
        if let Err(error) = Receiver::bind(&config, &mut crate::receiver::Sockets::default()).await {
            assert!(endpoint.starts_with('['), "{endpoint}: {error}");
        }
    }
}

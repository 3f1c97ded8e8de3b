//! TLS and mTLS over real sockets, and certificates that change.

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::config::tls::TlsClient;
use crate::tls::ClientTls;
use crate::tls::fixtures::{Authority, Pair};

async fn connect(
    server: &Server,
    address: SocketAddr,
    tls: Value,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let config: TlsClient = serde_json::from_value(tls).unwrap();
    let mut config = rustls::ClientConfig::clone(&ClientTls::load(&config).unwrap().current());
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(address).await.unwrap();
    assert!(server.scope.alive() > 0);
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("collector.test").unwrap(), socket)
        .await
}

/// A call over TLS; none if the connection does not come about.
async fn call(server: &Server, tls: Value) -> Option<i32> {
    let socket = connect(server, server.grpc(), tls, &[b"h2"]).await.ok()?;
    let (mut send, connection) = h2::client::handshake(socket).await.ok()?;
    server.clients.spawn("h2", async move {
        let _ended = connection.await;
    });
    poll_fn(|cx| send.poll_ready(cx)).await.ok()?;
    let mut client = Client { send };
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = client.try_call("POST", path(Signal::Traces), &headers, framed(false, b"")).await.ok()?;
    Some(answer.code())
}

fn listener(folder: &std::path::Path, more: Value) -> Value {
    let mut tls = json!({
        "cert_file": folder.join("a.crt"), "key_file": folder.join("a.key"), "reload_interval": "20ms",
    });
    for (key, value) in more.as_object().unwrap() {
        tls[key] = value.clone();
    }
    json!({"grpc": {"tls": tls}, "http": {"tls": tls}})
}

#[tokio::test]
async fn tls_serves_h2_on_both_ports_and_http1_on_that_of_http() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.sign("collector.test").write(folder.path(), "a");
    let server = start(listener(folder.path(), json!({})), accepts()).await;
    let trust = json!({"ca_pem": authority.pem()});
    assert_eq!(call(&server, trust.clone()).await, Some(0));
    assert_eq!(call(&server, json!({"ca_pem": Authority::new().pem()})).await, None);
    assert_eq!(
        call(&server, json!({"insecure_skip_verify": true, "ca_pem": authority.pem()})).await,
        Some(0)
    );

    let mut socket = connect(&server, server.http(), trust.clone(), &[b"http/1.1"]).await.unwrap();
    let request = "POST /v1/traces HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(parse_http1(&answer).status, 200);

    let socket = connect(&server, server.http(), trust.clone(), &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = h2_over(&server.clients, socket).await;
    assert_eq!(client.call("POST", "/v1/traces", &[JSON], "{}").await.status, 200);
    assert!(connect(&server, server.grpc(), trust, &[b"http/1.1"]).await.is_err());
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn versions_below_the_lowest_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.sign("collector.test").write(folder.path(), "a");
    let server = start(listener(folder.path(), json!({"min_version": "1.3"})), accepts()).await;
    assert_eq!(call(&server, json!({"ca_pem": authority.pem(), "max_version": "1.2"})).await, None);
    assert_eq!(call(&server, json!({"ca_pem": authority.pem()})).await, Some(0));
    eventually("it is counted", || server.metrics.grpc.connections_refused.get() == 1).await;
    server.stop().await;
}

#[tokio::test]
async fn without_a_client_certificate_mtls_serves_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    authority.sign("collector.test").write(folder.path(), "a");
    let ca = folder.path().join("clients.crt");
    std::fs::write(&ca, clients.pem()).unwrap();
    let server = start(listener(folder.path(), json!({"client_ca_file": ca})), accepts()).await;
    let with =
        |Pair { cert, key }: Pair| json!({"ca_pem": authority.pem(), "cert_pem": cert, "key_pem": key});
    assert_eq!(call(&server, json!({"ca_pem": authority.pem()})).await, None);
    assert_eq!(call(&server, with(authority.sign("stranger.test"))).await, None);
    assert_eq!(call(&server, with(clients.sign("agent.test"))).await, Some(0));

    // The authority of the clients changes: old clients are strangers now.
    let others = Authority::new();
    std::fs::write(&ca, others.pem()).unwrap();
    let both_changed = async { while call(&server, with(others.sign("agent.test"))).await.is_none() {} };
    tokio::time::timeout(PATIENCE, both_changed).await.expect("the new authority is believed");
    assert_eq!(call(&server, with(clients.sign("agent.test"))).await, None);
    server.stop().await;
}

#[tokio::test]
async fn rotation_under_calls_fails_none_and_a_broken_pair_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.sign("collector.test").write(folder.path(), "a");
    let server = start(listener(folder.path(), json!({})), accepts()).await;
    let trust = json!({"ca_pem": authority.pem()});
    let mut served = Vec::new();
    for round in 0..20 {
        if round % 5 == 4 {
            std::fs::write(folder.path().join("a.key"), "broken").unwrap();
        } else {
            authority.sign("collector.test").write(folder.path(), "a");
        }
        for _ in 0..3 {
            assert_eq!(call(&server, trust.clone()).await, Some(0), "round {round}");
        }
        let socket = connect(&server, server.grpc(), trust.clone(), &[b"h2"]).await.unwrap();
        served.push(socket.get_ref().1.peer_certificates().unwrap()[0].clone());
    }
    authority.sign("collector.test").write(folder.path(), "a");
    let rotated = async {
        loop {
            let socket = connect(&server, server.grpc(), trust.clone(), &[b"h2"]).await.unwrap();
            if socket.get_ref().1.peer_certificates().unwrap()[0] != served[0] {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, rotated).await.expect("a new certificate");
    server.stop().await;
}

#[tokio::test]
async fn a_silent_tls_client_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new().sign("collector.test").write(folder.path(), "a");
    let mut config = listener(folder.path(), json!({}));
    config["grpc"]["limits"] = json!({"handshake_timeout": "50ms"});
    let server = start(config, accepts()).await;
    let mut silent = TcpStream::connect(server.grpc()).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("closed").unwrap();
    assert!(rest.is_empty());
    eventually("it is counted", || server.metrics.grpc.connections_refused.get() == 1).await;
    server.stop().await;
}

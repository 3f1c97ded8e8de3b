//! Port-forwards of pods, by the websocket protocol `v4.channel.k8s.io`: of each port a channel of data and one of
//! errors, which begin with the port's number.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::serve::{Answer, parameters, status, text};
use super::store::Target;
use super::{Shared, lock};

const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// Answers the upgrade; forwards in a task of its own.
pub(super) fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let target = Target::parse(request.uri().path());
    let pod = target.and_then(|target| target.name).unwrap_or_default();
    let asked = parameters(request.uri().query().unwrap_or_default());
    let port = asked.iter().find(|(name, _)| name == "ports").and_then(|(_, port)| port.parse::<u16>().ok());
    let Some(port) = port else { return status(400, "BadRequest") };
    let forwards = lock(&shared.forwards).clone();
    let Some((_, known, address)) = forwards.into_iter().find(|(name, ..)| *name == pod) else {
        return status(404, "NotFound");
    };
    let address = (known == port).then_some(address);
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            carry(upgraded, port, address).await;
        }
    });
    let mut answer = text(101, String::new());
    let headers = answer.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, http::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(PROTOCOL));
    if let Some(Ok(key)) = key.map(http::HeaderValue::try_from) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    }
    answer
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary(Bytes::from([&[channel], bytes].concat()))
}

/// Carries bytes both ways until a side ends; without an address nobody listens at the port.
async fn carry(upgraded: Upgraded, port: u16, address: Option<SocketAddr>) {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut out, mut incoming) = socket.split();
    for channel in [DATA, ERROR] {
        drop(out.send(message(channel, &port.to_le_bytes())).await);
    }
    let stream = match address {
        Some(address) => TcpStream::connect(address).await.ok(),
        None => None,
    };
    let Some(mut stream) = stream else {
        let problem = format!("dial tcp4 127.0.0.1:{port}: connect: connection refused");
        drop(out.send(message(ERROR, problem.as_bytes())).await);
        drop(out.close().await);
        return;
    };
    let mut buffer = [0; 16 << 10];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(length @ 1..) => drop(out.send(message(DATA, &buffer[..length])).await),
                _ => break,
            },
            came = incoming.next() => match came {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&DATA) => {
                    drop(stream.write_all(&bytes[1..]).await);
                }
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => {}
                _ => break,
            },
        }
    }
    drop(out.close().await);
}

//! HTTP/2 as all actors of our own speak it: h2 without anything above it, wide windows, no Nagle.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tokio::net::{TcpListener, TcpStream};

/// What one stream may have on its way: several of the largest requests.
pub(crate) const STREAM_WINDOW: u32 = 8 << 20;
/// What one connection may have on its way: never the limit, the closed loop is.
pub(crate) const CONNECTION_WINDOW: u32 = 256 << 20;
/// The largest DATA frame an actor takes, Tollgate too: a request of 1000 spans is not cut and put together.
pub(crate) const FRAME: u32 = 1 << 20;
/// Requests of one connection at a time; more than any load sends.
pub(crate) const STREAMS: u32 = 4096;

/// The path of every request.
pub(crate) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// An uncompressed gRPC message of no bytes: an export response that rejects nothing.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Listens on a free loopback port.
pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free loopback port");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}

/// The server's side of a connection; none if the client went away at once.
pub(crate) async fn accept(tcp: TcpStream) -> Option<h2::server::Connection<TcpStream, Bytes>> {
    tcp.set_nodelay(true).ok()?;
    h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(CONNECTION_WINDOW as usize)
        .handshake(tcp)
        .await
        .ok()
}

/// A connection to `target`, driven by a task of its own.
pub(crate) async fn connect(target: SocketAddr) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(target).await.expect("the target accepts connections");
    tcp.set_nodelay(true).expect("a connected socket takes options");
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .initial_max_send_streams(STREAMS as usize)
        .max_send_buffer_size(CONNECTION_WINDOW as usize)
        .enable_push(false)
        .handshake(tcp)
        .await
        .expect("the target speaks HTTP/2");
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("connection to {target} ended: {error}");
        }
    });
    requests
}

/// The head of an export request to `target` that claims a tenant, and proves the sender by an API key.
pub(crate) fn export_head(target: SocketAddr, tenant: &str, key: Option<&str>) -> Request<()> {
    let mut head = Request::post(format!("http://{target}{EXPORT}"))
        .header(header::CONTENT_TYPE, GRPC)
        .header(header::TE, "trailers")
        .header("x-scope-orgid", tenant);
    if let Some(key) = key {
        head = head.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    head.body(()).expect("a well-formed request")
}

/// Answers an export with OK and nothing rejected.
pub(crate) fn answer_ok(respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::OK;
    head.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(EMPTY_MESSAGE, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// Reads an answer to its end and returns its `grpc-status`; what is no gRPC answer counts as 2 (unknown).
pub(crate) async fn grpc_status(response: h2::client::ResponseFuture) -> Result<u16, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    if let Some(status) = status_in(&head.headers) {
        return Ok(status);
    }
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?;
    Ok(trailers.as_ref().and_then(status_in).unwrap_or(2))
}

fn status_in(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

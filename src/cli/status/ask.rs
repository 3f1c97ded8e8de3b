//! One question to an admin listener, over any connection.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The largest answer.
const MAX_ANSWER: usize = 1 << 20;
/// How long a connection may go on after its answer.
const GOODBYE: Duration = Duration::from_millis(100);

/// The status of a collector at a URL.
pub(super) async fn url(url: &Uri) -> anyhow::Result<Value> {
    let host = url.host().filter(|_| url.scheme() == Some(&http::uri::Scheme::HTTP));
    let Some(host) = host else { bail!("a URL is needed, http://host:port/") };
    let address = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address)
        .await
        .context("nobody listens; the extension `admin` does, at localhost:55679 unless it says otherwise")?;
    over(stream, url.authority().map_or("localhost", |authority| authority.as_str())).await
}

/// The status of whoever is at the other end of a stream.
pub(super) async fn over<S>(stream: S, host: &str) -> anyhow::Result<Value>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/v1/status").header(header::HOST, host).header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new())?;
    let exchange = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?.to_bytes();
        match status.as_u16() {
            200 => serde_json::from_slice(&body).context("the answer is no JSON"),
            404 => bail!("the answer is 404: an older tollgate, or not the admin listener"),
            _ => bail!("the answer is {status}"),
        }
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answered = &mut exchange => answered,
        // The connection may end before its answer was taken out.
        ended = &mut connection => match tokio::time::timeout(GOODBYE, exchange).await {
            Ok(answered) => answered,
            Err(_late) => bail!("the connection broke: {ended:?}"),
        },
    }
}

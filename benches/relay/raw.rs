//! The raw relay: what HTTP/2 alone costs. It hands every DATA frame on as it comes and answers when the
//! sink has answered; it looks at nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::Request;
use tokio::net::TcpStream;

use crate::support::{http2, program};

/// The role.
pub(crate) async fn serve(sink: SocketAddr) {
    let (listener, address) = http2::listen().await;
    // One connection to the sink for all: requests that came over several leave in one write.
    let upstream = http2::connect(sink).await;
    let _told = program::told();
    program::ready(address);
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(connection(tcp, upstream.clone()));
    }
}

async fn connection(tcp: TcpStream, upstream: SendRequest<Bytes>) {
    let Some(mut connection) = http2::accept(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let upstream = upstream.clone();
        tokio::spawn(async move {
            if let Err(error) = relay(request, respond, upstream).await {
                eprintln!("a request was not relayed: {error}");
            }
        });
    }
}

async fn relay(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let mut upstream = upstream.ready().await?;
    let (response, mut onward) = upstream.send_request(Request::from_parts(head, ()), false)?;
    let mut ended = false;
    while !ended {
        let chunk = body.data().await.transpose()?.unwrap_or_default();
        body.flow_control().release_capacity(chunk.len())?;
        ended = body.is_end_stream();
        onward.send_data(chunk, ended)?;
    }
    // A status other than OK cannot come from the sink, which knows no other.
    http2::grpc_status(response).await?;
    http2::answer_ok(&mut respond)
}

//! Clients without any policy of their own: HTTP/2 calls with any bytes, and frames nobody should send.

use std::future::poll_fn;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// An HTTP/2 connection.
#[derive(Clone)]
pub struct Raw(h2::client::SendRequest<Bytes>);

/// What a call came to.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    /// Of gRPC.
    pub code: Option<i32>,
}

/// A call that was begun.
pub struct Begun {
    response: h2::client::ResponseFuture,
    pub body: h2::SendStream<Bytes>,
}

impl Raw {
    pub async fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        Self(send)
    }

    /// Sends the headers of a POST.
    pub async fn begin(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<Begun, h2::Error> {
        let mut request = http::Request::post(format!("http://test.example{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        poll_fn(|cx| self.0.poll_ready(cx)).await?;
        let (response, body) = self.0.send_request(request.body(()).unwrap(), false)?;
        Ok(Begun { response, body })
    }

    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Told {
        let mut begun = self.begin(path, headers).await.unwrap();
        // The answer may come before all is sent; then the rest is not wanted.
        let _unwanted = send(&mut begun.body, body).await;
        begun.told().await.unwrap()
    }

    /// A gRPC call with one message of this encoding.
    pub async fn grpc(&mut self, path: &str, encoding: &str, message: &[u8]) -> Told {
        let headers = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-encoding", encoding),
            ("x-tenant-id", "evil"),
        ];
        let compressed = u8::from(encoding != "identity");
        let length = (message.len() as u32).to_be_bytes();
        self.call(path, &headers, [&[compressed], &length[..], message].concat().into()).await
    }

    /// A POST to OTLP/HTTP.
    pub async fn post(&mut self, path: &str, (media, encoding): (&str, &str), body: &Bytes) -> Told {
        let headers = [("content-type", media), ("content-encoding", encoding), ("x-tenant-id", "evil")];
        self.call(path, &headers, body.clone()).await
    }
}

impl Begun {
    /// The answer, read whole.
    pub async fn told(self) -> Result<Told, h2::Error> {
        let (head, mut incoming) = self.response.await?.into_parts();
        while let Some(piece) = incoming.data().await {
            incoming.flow_control().release_capacity(piece?.len())?;
        }
        let trailers = incoming.trailers().await?.unwrap_or_default();
        let code = trailers.get("grpc-status").or(head.headers.get("grpc-status")).cloned();
        let code = code.map(|code| code.to_str().unwrap().parse().unwrap());
        Ok(Told { status: head.status.as_u16(), code })
    }
}

/// Sends all of a body, as the windows allow.
pub async fn send(stream: &mut h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(granted) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        stream.send_data(body.split_to(granted?.min(body.len())), false)?;
    }
    stream.send_data(Bytes::new(), true)
}

/// One HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a gRPC call, as a header block without compression.
pub fn header_block() -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", TRACES),
        (":authority", "test.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// A literal header that is not indexed; name and value are shorter than 127 bytes (RFC 7541 §6.2.2).
pub fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// How a connection ended.
#[derive(Debug, Default)]
pub struct End {
    pub goaway: bool,
    pub closed: bool,
}

/// Writes until the connection ends or `frames` has no more, and reads what comes; then waits for the end.
pub async fn flood(address: &str, mut frames: impl FnMut() -> Option<Vec<u8>>) -> End {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let writing = async {
        let mut is_open = write.write_all(PREFACE).await.is_ok();
        while is_open {
            let Some(bytes) = frames() else { break };
            is_open = write.write_all(&bytes).await.is_ok();
        }
        // Left open: whether and when it ends is the server's business.
        std::future::pending::<()>().await;
    };
    let reading = async {
        let (mut end, mut bytes, mut piece) = (End::default(), Vec::new(), vec![0; 65536]);
        loop {
            match read.read(&mut piece).await {
                Ok(0) | Err(_) => {
                    end.closed = true;
                    return end;
                }
                Ok(length) => bytes.extend_from_slice(&piece[..length]),
            }
            let mut at = 0;
            while let Some(head) = bytes.get(at..at + 9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                end.goaway |= head[3] == 7;
                if bytes.len() < at + 9 + length {
                    break;
                }
                at += 9 + length;
            }
            bytes.drain(..at);
        }
    };
    tokio::select! { end = reading => end, () = writing => End::default() }
}

//! Peers that open no HTTP/2 window: what stalls is seen in the metrics, cut and tried again, never parked.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use prost::Message;

use crate::gate::{GATE, gate};
use crate::harness::{Grpc, Item, Sink, Tollgate, eventually, spans};

/// A gRPC destination whose streams may be sent nothing until it is told to open its window.
#[derive(Default)]
struct Narrow {
    window: AtomicU32,
    calls: AtomicUsize,
    resets: Mutex<Vec<Reason>>,
}

impl Narrow {
    async fn start() -> (Arc<Self>, std::net::SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (narrow, address) = (Arc::new(Self::default()), listener.local_addr().unwrap());
        let state = narrow.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(state.clone().serve(socket));
            }
        });
        (narrow, address)
    }

    async fn serve(self: Arc<Self>, socket: tokio::net::TcpStream) {
        let builder = h2::server::Builder::new().initial_window_size(0).handshake::<_, Bytes>(socket);
        let Ok(mut connection) = builder.await else { return };
        let mut is_open = false;
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            tokio::select! {
                request = connection.accept() => {
                    let Some(Ok((request, respond))) = request else { return };
                    self.calls.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(self.clone().answer(request.into_body(), respond));
                }
                _ = look.tick(), if !is_open => {
                    let window = self.window.load(Ordering::SeqCst);
                    if window > 0 {
                        is_open = connection.set_initial_window_size(window).is_ok();
                    }
                }
            }
        }
    }

    async fn answer(self: Arc<Self>, mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => body.flow_control().release_capacity(data.len()).unwrap(),
                Err(error) => return self.resets.lock().unwrap().extend(error.reason()),
            }
        }
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
        let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        stream.send_trailers(trailers).unwrap();
    }
}

#[tokio::test]
async fn an_export_that_stalls_is_cut_and_tried_again_until_the_window_opens() {
    let (narrow, address) = Narrow::start().await;
    let config = GATE
        .replace("{sink}", &address.to_string())
        .replace("retry_on_failure: {", "timeout: 300ms, compression: none, retry_on_failure: {");
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    // More than goes into the window every stream has until the destination has said otherwise.
    let large = Item::named("x").attribute("text", &"y".repeat(200_000));
    grpc.spans(spans(&[], &[large])).await.unwrap();
    eventually("three attempts", || async { (narrow.calls.load(Ordering::SeqCst) >= 3).then_some(()) }).await;
    eventually("the streams of the first two to be reset", || async {
        let resets = narrow.resets.lock().unwrap();
        (resets.len() >= 2 && resets.iter().all(|reason| *reason == Reason::CANCEL)).then_some(())
    })
    .await;
    narrow.window.store(65_535, Ordering::SeqCst);
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[]), 1.0);
    let exporter = [("peer", "exporter"), ("component", "otlp_grpc")];
    assert!(metrics.sum("tollgate_window_stalls_total", &exporter) >= 2.0);
    assert!(metrics.sum("tollgate_window_stall_seconds_total", &exporter) >= 0.5);
    assert_eq!(metrics.sum("tollgate_window_stalls_total", &[("peer", "receiver")]), 0.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_for_its_answer_is_seen_and_holds_up_nobody() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let address = tollgate.address("otlp/grpc");
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(socket);
    let (sender, mut connection) = handshake.await.unwrap();
    let (open, opened) = tokio::sync::oneshot::channel::<()>();
    let connection = tokio::spawn(async move {
        tokio::select! { ended = &mut connection => return ended, _ = opened => {} }
        connection.set_initial_window_size(65_535).unwrap();
        connection.await
    });
    let uri = format!("http://{address}/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let request =
        http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("x-tenant-id", "acme").body(()).unwrap();
    let (response, mut stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    let message = spans(&[], &[Item::named("x")]).encode_to_vec();
    let frame = [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    stream.send_data(Bytes::from(frame), true).unwrap();
    let mut answer = response.await.unwrap().into_body();
    let answered = Instant::now();
    let grpc = Grpc::connect(address).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("y")])).await.unwrap();
    sink.wait_for("traces", 2).await;
    eventually("a stall that is long enough", || async {
        (answered.elapsed() > Duration::from_millis(200)).then_some(())
    })
    .await;
    open.send(()).unwrap();
    assert_eq!(answer.data().await.unwrap().unwrap(), Bytes::from_static(&[0; 5]));
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_window_stalls_total", &[("peer", "receiver")]), 1.0);
    assert!(metrics.sum("tollgate_window_stall_seconds_total", &[("peer", "receiver")]) >= 0.1);
    connection.abort();
    tollgate.stop().await;
}

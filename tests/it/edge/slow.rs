//! Clients that begin and never end.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use bytes::Bytes;

use super::raw::{PREFACE, Raw, TRACES};
use super::{Neighbour, Usage, count, figure};
use crate::gate::gate;
use crate::harness::{PATIENCE, Sink, Tollgate, eventually};

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// What slow clients begin with; each is the start of something legal.
const BEGUN: [&[u8]; 5] = [
    b"",
    b"PRI * HTTP/2.0\r\n\r\nSM",
    PREFACE,
    b"POST /v1/traces HTTP/1.1\r\nhost: a\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
];

/// With the shipped time-outs in the long form, with short ones in the short.
async fn target() -> (Sink, Tollgate) {
    let sink = Sink::start().await;
    let mut start = Tollgate::with(&gate(&sink)).argument("--workers=2");
    if count(0, 1) == 0 {
        for protocol in ["grpc", "http"] {
            for limit in ["first_request_timeout", "body_progress_timeout"] {
                start =
                    start.argument(&format!("--set=receivers.otlp.protocols.{protocol}.limits.{limit}=1s"));
            }
        }
    }
    let tollgate = start.start().await;
    (sink, tollgate)
}

async fn connections(tollgate: &Tollgate) -> f64 {
    tollgate.metrics().await.sum("tollgate_receiver_connections", &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_request_are_closed_and_neighbours_served() {
    let (_sink, tollgate) = target().await;
    let neighbour = Neighbour::start(&tollgate).await;
    let usage = Usage::from_now(&tollgate);
    let begin = Instant::now();
    let mut held = Vec::new();
    for number in 0..count(200, 1000) {
        let address = tollgate.address(["otlp/grpc", "otlp/http"][number % 2]);
        let mut socket = TcpStream::connect(address).unwrap();
        // The listener of gRPC ends what is not HTTP/2 at once.
        let _ended = socket.write_all(BEGUN[number / 2 % BEGUN.len()]);
        held.push(socket);
    }
    eventually("all but the neighbour to be closed", || async {
        (connections(&tollgate).await <= 1.0).then_some(())
    })
    .await;
    figure("slow_loris.closed_s", begin.elapsed().as_secs_f64(), 15.0);
    figure("slow_loris.rss_rise_mib", usage.rise_mib(), 64.0);
    println!("{} silent connections", held.len());
    figure("slow_loris.neighbour_p99_ratio", neighbour.stop("slow_loris").await, 2.0);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_a_body_and_bodies_without_an_end_are_answered_and_neighbours_served() {
    let (_sink, tollgate) = target().await;
    let neighbour = Neighbour::start(&tollgate).await;
    let usage = Usage::from_now(&tollgate);
    let begin = Instant::now();
    // What one connection may have at the same time.
    const STREAMS: usize = 128;
    let total = count(1_000, 10_000);
    let mut waiting = Vec::new();
    for connection in 0..total.div_ceil(STREAMS) {
        let mut raw = Raw::connect(tollgate.address("otlp/grpc")).await;
        for number in 0..STREAMS.min(total - connection * STREAMS) {
            let mut begun = raw.begin(TRACES, &GRPC).await.unwrap();
            if number % 2 == 0 {
                begun.body.send_data(Bytes::from_static(&[0, 0, 0, 1, 0, 1, 2, 3]), false).unwrap();
            }
            waiting.push(begun);
        }
    }
    let count = waiting.len();
    for begun in waiting {
        let told = tokio::time::timeout(PATIENCE, begun.told()).await.expect("an answer").unwrap();
        assert_eq!(told.code, Some(4));
    }
    figure("idle_streams.answered_s", begin.elapsed().as_secs_f64(), 15.0);
    figure("idle_streams.rss_rise_mib", usage.rise_mib(), 64.0);
    println!("{count} idle streams");
    figure("idle_streams.neighbour_p99_ratio", neighbour.stop("idle_streams").await, 2.0);
    tollgate.settled().await;
    tollgate.stop().await;
}

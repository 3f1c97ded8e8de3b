//! HTTP/2 frames that cost the server and not the client.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::raw::{Raw, TRACES, flood, frame, header, header_block};
use super::{Neighbour, Usage, count, figure};
use crate::gate::gate;
use crate::harness::{PATIENCE, Sink, Tollgate};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

async fn target() -> (Sink, Tollgate) {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).argument("--workers=2").start().await;
    (sink, tollgate)
}

/// The same frames again and again, many a write.
fn again(frames: Vec<u8>) -> impl FnMut() -> Option<Vec<u8>> {
    let many = frames.repeat(1 + 16_384 / frames.len());
    move || Some(many.clone())
}

/// A client that comes back whenever it is thrown out, for as long as the test says; every connection must
/// end by GOAWAY, or at least be closed.
async fn attack(name: &str, mut frames: impl FnMut() -> Box<dyn FnMut() -> Option<Vec<u8>> + Send>) {
    let (_sink, tollgate) = target().await;
    let neighbour = Neighbour::start(&tollgate).await;
    let usage = Usage::from_now(&tollgate);
    let until = Instant::now() + Duration::from_secs(count(2, 60) as u64);
    let (mut connections, mut goaways) = (0, 0);
    while connections == 0 || Instant::now() < until {
        let end = tokio::time::timeout(PATIENCE, flood(tollgate.address("otlp/grpc"), frames()));
        let end = end.await.expect("the flood is ended");
        assert!(end.closed, "{end:?}");
        connections += 1;
        goaways += u32::from(end.goaway);
    }
    figure(&format!("flood_{name}.cores"), usage.cores(), 1.0);
    figure(&format!("flood_{name}.rss_rise_mib"), usage.rise_mib(), 64.0);
    let ratio = neighbour.stop(name).await;
    figure(&format!("flood_{name}.neighbour_p99_ratio"), ratio, 2.0);
    println!("{name}: {connections} connections, {goaways} by GOAWAY");
    assert!(goaways > 0);
    assert!(usage.rise_mib() <= 64.0);
    tollgate.settled().await;
    tollgate.stop().await;
}

/// The next stream of a client.
fn streams() -> impl FnMut() -> u32 {
    let mut last = u32::MAX;
    move || {
        last = last.wrapping_add(2);
        last
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_end_in_goaway() {
    attack("rapid_reset", || {
        let mut next = streams();
        Box::new(move || {
            let mut frames = Vec::new();
            for _ in 0..100 {
                let stream = next();
                frames.extend(frame(HEADERS, END_HEADERS, stream, &header_block()));
                frames.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            }
            Some(frames)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end_end_in_goaway() {
    attack("continuation", || {
        let mut first = true;
        Box::new(move || {
            let more = header("x-more", &"y".repeat(100)).repeat(100);
            if std::mem::take(&mut first) {
                return Some(frame(HEADERS, 0, 1, &header_block()));
            }
            Some(frame(CONTINUATION, 0, 1, &more))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_without_end_end_in_goaway() {
    attack("ping", || Box::new(again(frame(PING, 0, 0, &[7; 8])))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_without_end_end_in_goaway() {
    let change = [0, 3, 0, 0, 0, 100];
    attack("settings", || Box::new(again(frame(SETTINGS, 0, 0, &change)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_updates_without_end_end_in_goaway() {
    let frames = || {
        let mut first = true;
        let mut updates = again(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
        move || match std::mem::take(&mut first) {
            true => Some(frame(HEADERS, END_HEADERS, 1, &header_block())),
            false => updates(),
        }
    };
    attack("window_update", || Box::new(frames())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_pieces_of_a_body_without_end_end_in_goaway() {
    let frames = || {
        let mut first = true;
        let mut pieces = again(frame(DATA, 0, 1, b""));
        move || match std::mem::take(&mut first) {
            true => Some(frame(HEADERS, END_HEADERS, 1, &header_block())),
            false => pieces(),
        }
    };
    attack("empty_data", || Box::new(frames())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_ten_thousand_tiny_frames_is_taken() {
    let (sink, tollgate) = target().await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-tenant-id", "tiny")];
    let mut raw = Raw::connect(tollgate.address("otlp/grpc")).await;
    for _ in 0..count(2, 20) {
        let mut begun = raw.begin(TRACES, &headers).await.unwrap();
        let name = "n".repeat(10_000);
        let message =
            prost::Message::encode_to_vec(&crate::harness::spans(&[], &[crate::harness::Item::named(name)]));
        let mut body = Bytes::from([&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat());
        while !body.is_empty() {
            begun.body.reserve_capacity(1);
            std::future::poll_fn(|cx| begun.body.poll_capacity(cx)).await.unwrap().unwrap();
            begun.body.send_data(body.split_to(1), body.is_empty()).unwrap();
        }
        assert_eq!(begun.told().await.unwrap().code, Some(0));
    }
    sink.wait_for("traces", count(2, 20)).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

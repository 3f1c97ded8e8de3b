//! The sink: counts requests, spans and bytes, answers OK, and costs as little as it can.
//!
//! Spans are counted without decoding and without joining frames: a cursor steps over the message, entering
//! only what encloses spans. Of every thirty-second request it looks whether it was tagged on its way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::payload::{self, GRPC_PREFIX};
use super::program::{self, Program};
use super::{PATIENCE, http2};

/// A running sink.
pub(crate) struct Sink {
    program: Program,
    pub(crate) address: SocketAddr,
}

/// One of so many requests is looked at for its tags: often enough to see whether tagging is on.
const CHECK_EVERY: u64 = 32;
/// The resource of the first spans lies within this.
const CHECKED_BYTES: usize = 2048;

/// What a sink has counted since it started.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) spans: u64,
    /// Requests that were looked at.
    pub(crate) checked: u64,
    /// Those of them that carried the tenant of their header.
    pub(crate) tagged: u64,
}

impl Sink {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let (program, ready) = Program::role("sink", &[]);
        Self { program, address: ready.parse().expect("a sink is ready with its address") }
    }

    /// What it has counted so far.
    pub(crate) fn count(&mut self) -> Count {
        self.program.tell("count");
        let line = self.program.next_line();
        serde_json::from_str(&line).unwrap_or_else(|_| self.program.fail("did not count"))
    }

    /// Waits until `spans` have arrived in all since the start; returns the count, which is short of it if
    /// they did not come in time.
    pub(crate) fn wait_for(&mut self, spans: u64) -> Count {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count = self.count();
            if count.spans >= spans || Instant::now() >= deadline {
                return count;
            }
            // Short against a run, long against the cost of asking.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    begun: AtomicU64,
    requests: AtomicU64,
    spans: AtomicU64,
    checked: AtomicU64,
    tagged: AtomicU64,
}

impl Counters {
    fn count(&self) -> Count {
        Count {
            requests: self.requests.load(Ordering::Relaxed),
            spans: self.spans.load(Ordering::Relaxed),
            checked: self.checked.load(Ordering::Relaxed),
            tagged: self.tagged.load(Ordering::Relaxed),
        }
    }

    fn check(&self, request: &[u8]) {
        let tag = payload::TENANT.as_bytes();
        let is_tagged = request.windows(tag.len()).any(|bytes| bytes == tag);
        self.checked.fetch_add(1, Ordering::Relaxed);
        self.tagged.fetch_add(u64::from(is_tagged), Ordering::Relaxed);
    }
}

/// The role.
pub(crate) async fn serve() {
    let counters = Arc::new(Counters::default());
    let (listener, address) = http2::listen().await;
    program::ready(address);
    let mut told = program::told();
    loop {
        tokio::select! {
            Some(_) = told.recv() => {
                program::say(serde_json::to_string(&counters.count()).expect("a count is plain"));
            }
            Ok((tcp, _)) = listener.accept() => {
                tokio::spawn(connection(tcp, counters.clone()));
            }
        }
    }
}

async fn connection(tcp: TcpStream, counters: Arc<Counters>) {
    let Some(mut connection) = http2::accept(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(export(request.into_body(), respond, counters.clone()));
    }
}

async fn export(mut body: RecvStream, mut respond: SendResponse<Bytes>, counters: Arc<Counters>) {
    let mut spans = SpanCounter::default();
    let is_checked = counters.begun.fetch_add(1, Ordering::Relaxed).is_multiple_of(CHECK_EVERY);
    let mut beginning = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        // An error here or in the answer means that the client is gone, and with it the request.
        drop(body.flow_control().release_capacity(chunk.len()));
        spans.read(&chunk);
        if is_checked && beginning.len() < CHECKED_BYTES {
            beginning.extend(chunk.iter().take(CHECKED_BYTES));
        }
    }
    if is_checked {
        counters.check(&beginning);
    }
    counters.requests.fetch_add(1, Ordering::Relaxed);
    counters.spans.fetch_add(spans.count, Ordering::Relaxed);
    drop(http2::answer_ok(&mut respond));
}

/// Counts the spans of one gRPC-framed export request that comes in pieces.
#[derive(Debug)]
struct SpanCounter {
    count: u64,
    /// Bytes to step over before the next tag.
    skip: u64,
    /// Bytes left in each message that is open, outermost first: `ResourceSpans`, `ScopeSpans`.
    open: [u64; 2],
    depth: usize,
    reading: Reading,
}

/// Where in a field the cursor stands.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Tag,
    Varint,
    Length { tag: u8, value: u64, shift: u32 },
}

impl Default for SpanCounter {
    fn default() -> Self {
        Self { count: 0, skip: GRPC_PREFIX as u64, open: [0; 2], depth: 0, reading: Reading::Tag }
    }
}

impl SpanCounter {
    /// `ExportTraceServiceRequest.resource_spans`, `ResourceSpans.scope_spans`, `ScopeSpans.spans`.
    const ENTER: [u8; 3] = [0x0a, 0x12, 0x12];

    fn read(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            if self.skip > 0 {
                let step = self.skip.min(rest.len() as u64);
                self.skip -= step;
                rest = &rest[step as usize..];
                continue;
            }
            let byte = rest[0];
            rest = &rest[1..];
            self.reading = self.step(byte);
        }
    }

    fn step(&mut self, byte: u8) -> Reading {
        match self.reading {
            Reading::Tag => {
                // A message ends where its bytes are used up, and so may those around it.
                while self.depth > 0 && self.open[self.depth - 1] == 0 {
                    self.depth -= 1;
                }
                self.consume(1);
                match byte & 0x07 {
                    0 => Reading::Varint,
                    1 => self.step_over(8),
                    5 => self.step_over(4),
                    _ => Reading::Length { tag: byte, value: 0, shift: 0 },
                }
            }
            Reading::Varint => {
                self.consume(1);
                if byte & 0x80 == 0 { Reading::Tag } else { Reading::Varint }
            }
            Reading::Length { tag, value, shift } => {
                self.consume(1);
                let value = value | u64::from(byte & 0x7f) << shift;
                if byte & 0x80 != 0 {
                    return Reading::Length { tag, value, shift: shift + 7 };
                }
                self.field(tag, value)
            }
        }
    }

    fn field(&mut self, tag: u8, length: u64) -> Reading {
        if tag != Self::ENTER[self.depth] {
            return self.step_over(length);
        }
        if self.depth == 2 {
            self.count += 1;
            return self.step_over(length);
        }
        // The bytes of an inner message are taken off the outer one at once.
        self.consume(length);
        self.open[self.depth] = length;
        self.depth += 1;
        Reading::Tag
    }

    fn step_over(&mut self, length: u64) -> Reading {
        self.consume(length);
        self.skip = length;
        Reading::Tag
    }

    fn consume(&mut self, bytes: u64) {
        if let Some(innermost) = self.depth.checked_sub(1) {
            self.open[innermost] -= bytes;
        }
    }
}

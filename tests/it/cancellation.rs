//! Work ends with whoever waits for it: deadlines reach the last socket, cancelled requests are dropped and
//! counted once, what a queue owns is not undone.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use prost::Message;

use crate::gate::gate;
use crate::harness::{Answer, Grpc, Http, Item, Metrics, Sink, Tollgate, eventually, scaled, spans};

/// A destination that takes requests and never answers: what their headers said, and how their streams ended.
#[derive(Clone, Default)]
struct Deaf(Arc<Mutex<Vec<Call>>>);

#[derive(Debug, Clone, Default)]
struct Call {
    timeout: String,
    reset: Option<Reason>,
}

impl Deaf {
    async fn start() -> (Self, std::net::SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (deaf, address) = (Self::default(), listener.local_addr().unwrap());
        let calls = deaf.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(calls.clone().serve(socket));
            }
        });
        (deaf, address)
    }

    async fn serve(self, socket: tokio::net::TcpStream) {
        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let header = |name| request.headers().get(name).map_or("", |value| value.to_str().unwrap());
            let call = Call { timeout: header("grpc-timeout").to_owned(), reset: None };
            let number = {
                let mut calls = self.0.lock().unwrap();
                calls.push(call);
                calls.len() - 1
            };
            let calls = self.clone();
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                calls.0.lock().unwrap()[number].reset = reset.ok();
            });
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().clone()
    }

    async fn all_reset(&self, count: usize) {
        eventually(&format!("{count} calls whose streams were reset"), || async {
            let calls = self.calls();
            let reset = calls.iter().filter(|call| call.reset == Some(Reason::CANCEL)).count();
            (calls.len() == count && reset == count).then_some(())
        })
        .await;
    }
}

/// A gate that sends at once, without a queue between sender and destination.
fn direct(address: impl std::fmt::Display) -> String {
    crate::gate::GATE.replace("{sink}", &address.to_string()).replace(
        "retry_on_failure: {",
        "timeout: 10s, compression: none, sending_queue: { enabled: false }, retry_on_failure: {",
    )
}

fn cancelled(metrics: &Metrics) -> Vec<(&'static str, u64)> {
    let of = |reason| (reason, metrics.sum("tollgate_cancellations_total", &[("reason", reason)]) as u64);
    let all = ["client", "deadline", "drain", "reload", "forced"].map(of);
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn one(name: &str) -> opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
    spans(&[], &[Item::named(name)])
}

/// One raw HTTP/2 call; the caller holds its stream and may reset it.
async fn raw_call(address: &str, timeout: Option<&str>) -> RawCall {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = http::Request::post(format!(
        "http://{address}/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .header("x-tenant-id", "acme");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let (response, mut stream) =
        sender.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    let message = one("x").encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    stream.send_data(Bytes::from(frame), true).unwrap();
    RawCall { response, stream, connection }
}

struct RawCall {
    response: h2::client::ResponseFuture,
    stream: h2::SendStream<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

impl RawCall {
    async fn status(self) -> String {
        let head = self.response.await.unwrap();
        head.headers().get("grpc-status").map_or("0", |value| value.to_str().unwrap()).to_owned()
    }
}

#[tokio::test]
async fn the_deadline_of_a_sender_reaches_the_socket_of_the_destination() {
    let (deaf, address) = Deaf::start().await;
    let tollgate = Tollgate::with(&direct(address)).start().await;
    let answer = raw_call(tollgate.address("otlp/grpc"), Some("700m")).await.status().await;
    assert_eq!(answer, "4", "DEADLINE_EXCEEDED");
    deaf.all_reset(1).await;
    let timeout = deaf.calls()[0].timeout.clone();
    let millis: u64 = timeout.strip_suffix('m').unwrap().parse().unwrap();
    assert!(millis <= 700, "{timeout}");
    let metrics = tollgate.settled().await;
    assert_eq!(cancelled(&metrics), [("deadline", 1)]);
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "deadline")]), 1.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn a_deadline_is_capped_by_the_configuration_down_to_the_destination() {
    let (deaf, address) = Deaf::start().await;
    let cap = "--set=receivers.otlp.protocols.grpc.limits.request_timeout=600ms";
    let tollgate = Tollgate::with(&direct(address)).argument(cap).start().await;
    for asked in [Some("99999999H"), None] {
        let answer = raw_call(tollgate.address("otlp/grpc"), asked).await.status().await;
        assert_eq!(answer, "4", "DEADLINE_EXCEEDED");
    }
    deaf.all_reset(2).await;
    for call in deaf.calls() {
        let millis: u64 = call.timeout.strip_suffix('m').unwrap().parse().unwrap();
        assert!(millis <= 600, "{call:?}");
    }
    assert_eq!(cancelled(&tollgate.settled().await), [("deadline", 2)]);
    tollgate.stop().await;
}

#[tokio::test]
async fn the_deadline_of_an_http_sender_reaches_the_destination_too() {
    let sink = Sink::start().await;
    sink.answer(Answer::Silence);
    let config = direct(sink.address())
        .replace("otlp_grpc: { endpoint: '", "otlp_http: { endpoint: 'http://")
        .replace("exporters: [otlp_grpc]", "exporters: [otlp_http]")
        .replace("tls: { insecure: true }, ", "");
    let tollgate = Tollgate::with(&config).start().await;
    for header in ["grpc-timeout", "x-envoy-expected-rq-timeout-ms"] {
        let text = if header == "grpc-timeout" { "400m" } else { "400" };
        let http = Http::new(tollgate.address("otlp/http")).tenant("acme").header(header, text);
        let answer = http.protobuf("/v1/traces", &one("x")).await;
        assert_eq!(answer.status(), 503, "{header}");
    }
    let told = sink.timeouts();
    assert!(told.len() >= 2, "{told:?}");
    for timeout in told {
        let millis: u64 = timeout.strip_suffix('m').unwrap().parse().unwrap();
        assert!(millis <= 400, "{timeout}");
    }
    assert_eq!(cancelled(&tollgate.settled().await), [("deadline", 2)]);
    sink.answer(Answer::Ok);
    tollgate.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_stops_what_is_sent_for_it() {
    let (deaf, address) = Deaf::start().await;
    let tollgate = Tollgate::with(&direct(address)).start().await;
    let mut call = raw_call(tollgate.address("otlp/grpc"), None).await;
    eventually("the call at the destination", || async { (deaf.calls().len() == 1).then_some(()) }).await;
    call.stream.send_reset(Reason::CANCEL);
    deaf.all_reset(1).await;
    let gone = raw_call(tollgate.address("otlp/grpc"), None).await;
    eventually("the next call at the destination", || async { (deaf.calls().len() == 2).then_some(()) })
        .await;
    gone.connection.abort();
    deaf.all_reset(2).await;
    let metrics = tollgate.settled().await;
    assert_eq!(cancelled(&metrics), [("client", 2)]);
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "cancelled")]), 2.0);
    assert_eq!(metrics.sum("otelcol_exporter_in_flight_requests", &[]), 0.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn what_a_queue_owns_is_not_undone() {
    let sink = Sink::start().await;
    sink.answer(Answer::Silence);
    let config = gate(&sink)
        .replace("retry_on_failure:", "sending_queue: { wait_for_result: true }, retry_on_failure:");
    let tollgate = Tollgate::with(&config).start().await;
    let mut call = raw_call(tollgate.address("otlp/grpc"), None).await;
    eventually("the queue to own it", || async {
        (tollgate.metrics().await.sum("tollgate_queued_items", &[]) == 1.0).then_some(())
    })
    .await;
    call.stream.send_reset(Reason::CANCEL);
    eventually("the cancellation", || async {
        (cancelled(&tollgate.metrics().await) == [("client", 1)]).then_some(())
    })
    .await;
    sink.answer(Answer::Ok);
    sink.wait_for("traces", 1).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn waiting_for_room_ends_with_the_deadline_and_is_booked_so() {
    let sink = Sink::start().await;
    sink.answer(Answer::Unavailable);
    let queue = "sending_queue: { queue_size: 1, block_on_overflow: true }, retry_on_failure:";
    let tollgate = Tollgate::with(&gate(&sink).replace("retry_on_failure:", queue)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(one("x")).await.unwrap();
    for _ in 0..10 {
        let answer = raw_call(tollgate.address("otlp/grpc"), Some("30m")).await.status().await;
        assert_eq!(answer, "4", "DEADLINE_EXCEEDED");
    }
    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "deadline")]), 10.0);
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[]), 10.0);
    assert_eq!(cancelled(&metrics), [("deadline", 10)]);
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn who_waits_when_the_grace_ends_is_told_and_counted_as_drained() {
    let (deaf, address) = Deaf::start().await;
    let tollgate = Tollgate::with(&direct(address)).argument("--shutdown-grace=300ms").start().await;
    let call = raw_call(tollgate.address("otlp/grpc"), None).await;
    eventually("the call at the destination", || async { (deaf.calls().len() == 1).then_some(()) }).await;
    tollgate.signal("TERM");
    assert_eq!(call.status().await, "14", "UNAVAILABLE");
    let ended = tollgate.ended().await;
    let stopped = ended.log.iter().find(|line| line["event"] == "stopped").unwrap();
    assert_eq!((&stopped["refused"], &stopped["dropped"]), (&1.into(), &0.into()), "{stopped}");
    assert_eq!(stopped["cancelled"], "drain=1", "{stopped}");
}

#[tokio::test]
async fn who_waits_for_a_configuration_that_was_replaced_is_told_when_its_grace_ends() {
    let (deaf, address) = Deaf::start().await;
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&direct(address)).argument("--shutdown-grace=300ms").start().await;
    let call = raw_call(tollgate.address("otlp/grpc"), None).await;
    eventually("the call at the destination", || async { (deaf.calls().len() == 1).then_some(()) }).await;
    let next = gate(&sink).replace("{otlp}", &crate::life::at(&tollgate));
    std::fs::write(tollgate.dir.path().join("collector.yaml"), next).unwrap();
    tollgate.signal("HUP");
    assert_eq!(call.status().await, "14", "UNAVAILABLE");
    deaf.all_reset(1).await;
    let metrics = tollgate.settled().await;
    assert_eq!(cancelled(&metrics), [("reload", 1)]);
    tollgate.stop().await;
}

#[tokio::test]
async fn a_request_cut_with_its_connection_is_counted_as_forced() {
    let (deaf, address) = Deaf::start().await;
    let age = "server_parameters: { max_connection_age: 200ms, max_connection_age_grace: 200ms }";
    let otlp = format!(
        "receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: '127.0.0.1:0', keepalive: {{ {age} }} }} }} }} }}\n"
    );
    let tollgate = Tollgate::with(&direct(address).replace("{otlp}", &otlp)).start().await;
    let call = raw_call(tollgate.address("otlp/grpc"), None).await;
    assert!(call.response.await.is_err());
    deaf.all_reset(1).await;
    assert_eq!(cancelled(&tollgate.settled().await), [("forced", 1)]);
    tollgate.stop().await;
}

/// Scorecard, test 17.
#[tokio::test]
async fn a_thousand_cancels_leave_nothing_behind() {
    let (deaf, address) = Deaf::start().await;
    // Room for one round: what a cancelled request did not give back would be missed by the next.
    let policies = "version: 1
identity: { claims: [{ header: x-tenant-id }] }
tenants: { acme: { limits: { max_in_flight_bytes: 16KiB } } }
rules: []
";
    let tollgate = Tollgate::with(&direct(address)).policies(policies).start().await;
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", tollgate.pid())).unwrap().count();
    let mut begun = 0;
    let mut round = async || {
        let mut calls = Vec::new();
        for _ in 0..50 {
            calls.push(raw_call(tollgate.address("otlp/grpc"), None).await);
        }
        begun += calls.len();
        eventually("the calls at the destination", || async { (deaf.calls().len() == begun).then_some(()) })
            .await;
        for (number, mut call) in calls.into_iter().enumerate() {
            match number % 2 {
                0 => call.stream.send_reset(Reason::CANCEL),
                _ => call.connection.abort(),
            }
        }
    };
    let quiet = async || {
        let metrics = tollgate.metrics().await;
        let none = |name| metrics.sum(name, &[]) == 0.0;
        let idle = none("tollgate_receiver_connections")
            && none("tollgate_receiver_in_flight_requests")
            && none("otelcol_exporter_in_flight_requests")
            && none("tollgate_requests_held_bytes")
            && none("tollgate_queued_items");
        idle.then(|| (metrics.sum("tollgate_tasks_alive", &[]), descriptors(), metrics.clone()))
    };
    round().await;
    // What stays is what one round leaves: exporters keep their idle connections.
    let (tasks, open, _) = eventually("rest after the first round", &quiet).await;
    let rounds = scaled(20, 200);
    for _ in 1..rounds {
        round().await;
    }
    let metrics = eventually("tasks and descriptors as after the first round", || async {
        let (tasks_now, open_now, metrics) = quiet().await?;
        (tasks_now <= tasks && open_now <= open).then_some(metrics)
    })
    .await;
    assert_eq!(cancelled(&metrics), [("client", 50 * rounds as u64)]);
    deaf.all_reset(50 * rounds).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

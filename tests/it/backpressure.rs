//! Destinations that fail: nothing acknowledged is lost, what does not fit is refused with a time to come back.

use prost::Message;
use tonic::Code;

use crate::gate::gate;
use crate::harness::{Answer, Grpc, Http, Item, Sink, Tollgate, eventually, spans};

/// A gate whose queue holds `requests` requests.
fn gate_with_queue(sink: &Sink, queue: &str) -> String {
    gate(sink).replace("retry_on_failure:", &format!("sending_queue: {queue}, retry_on_failure:"))
}

/// One tenant may fill the queue.
const WHOLE_QUEUE: &str = "
version: 1
identity: { claims: [{ header: x-tenant-id }] }
defaults: { queue: { max_share: 1 } }
rules: []
";

#[derive(Clone, PartialEq, Message)]
pub struct Details {
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
}

#[tokio::test]
async fn a_full_queue_refuses_and_tells_when_to_retry_and_loses_nothing_it_accepted() {
    let sink = Sink::start().await;
    sink.answer(Answer::Unavailable);
    let config = gate_with_queue(&sink, "{ queue_size: 5, num_consumers: 1 }");
    let tollgate = Tollgate::with(&config).policies(WHOLE_QUEUE).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let mut accepted = 0;
    let refusal = loop {
        match grpc.spans(spans(&[], &[Item::named(format!("{accepted}"))])).await {
            Ok(_) => accepted += 1,
            Err(status) => break status,
        }
        assert!(accepted < 1000, "the queue has an end");
    };
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("sending queue is full"), "{refusal:?}");
    let details = Details::decode(refusal.details()).unwrap();
    assert!(details.details.iter().any(|any| any.type_url.ends_with("google.rpc.RetryInfo")), "{details:?}");

    let http = Http::new(tollgate.address("otlp/http")).tenant("acme");
    let answer = http.protobuf("/v1/traces", &spans(&[], &[Item::named("late")])).await;
    assert_eq!(answer.status(), 503);
    let retry_after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");

    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "queue_full")]), 2.0);
    assert_eq!(metrics.sum("otelcol_exporter_enqueue_failed_spans", &[]), 2.0);
    sink.answer(Answer::Ok);
    let mut names: Vec<_> =
        sink.wait_for("traces", accepted).await.into_iter().map(|item| item.name).collect();
    names.sort_by_key(|name| name.parse::<u32>().unwrap());
    assert_eq!(names, (0..accepted).map(|i| i.to_string()).collect::<Vec<_>>());
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn what_the_destination_refuses_for_good_is_dropped_and_counted() {
    let sink = Sink::start().await;
    sink.answer(Answer::Invalid);
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    let metrics = eventually("the drop", || async {
        let metrics = tollgate.settled().await;
        (metrics.sum("tollgate_dropped_items_total", &[("reason", "permanent")]) == 1.0).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("otelcol_exporter_send_failed_spans", &[]), 1.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn without_a_queue_the_sender_is_told_what_the_destination_said() {
    let sink = Sink::start().await;
    let config = gate(&sink).replace(
        "retry_on_failure: { initial_interval: 50ms, max_interval: 200ms }",
        "sending_queue: { enabled: false }, retry_on_failure: { enabled: false }",
    );
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let request = spans(&[], &[Item::named("x")]);
    sink.answer(Answer::Invalid);
    assert_eq!(grpc.spans(request.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    sink.answer(Answer::Unavailable);
    assert_eq!(grpc.spans(request.clone()).await.unwrap_err().code(), Code::Unavailable);
    sink.answer(Answer::Ok);
    grpc.spans(request).await.unwrap();
    assert_eq!(sink.items("traces").len(), 1, "OK means the destination has it");
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "destination")]), 2.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn memory_pressure_refuses_with_unavailable() {
    let sink = Sink::start().await;
    let config = gate(&sink)
        .replace("processors: { tenant: , ", "processors: { memory_limiter: { check_interval: 10ms, limit_mib: 1, spike_limit_mib: 0 }, tenant: , ")
        .replace("processors: [tenant, ", "processors: [memory_limiter, tenant, ");
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let status = eventually("the first check of memory", || async {
        grpc.spans(spans(&[], &[Item::named("x")])).await.err()
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("data refused due to high memory usage"), "{status:?}");
    let metrics = tollgate.settled().await;
    assert!(metrics.sum("tollgate_refused_items_total", &[("reason", "memory")]) >= 1.0);
    assert!(metrics.sum("otelcol_processor_memory_limiter_refused_spans", &[]) >= 1.0);
    assert!(tollgate.log().iter().any(|line| line.to_string().contains("above soft limit. Refusing data.")));
    tollgate.stop().await;
}

#[tokio::test]
async fn a_silent_destination_does_not_hold_the_client_beyond_its_deadline() {
    let sink = Sink::start().await;
    sink.answer(Answer::Silence);
    let config = gate_with_queue(&sink, "{ wait_for_result: true }");
    let tollgate = Tollgate::with(&config).start().await;
    // By HTTP, because tonic's client would not wait for the server's answer.
    let http = Http::new(tollgate.address("otlp/http")).tenant("acme").header("grpc-timeout", "300m");
    let answer = http.protobuf("/v1/traces", &spans(&[], &[Item::named("x")])).await;
    // The destination is silent still, so it is the deadline that answers: the request's, or that of the
    // last attempt to send, which ends with it.
    let body = String::from_utf8_lossy(answer.body());
    assert_eq!(answer.status(), 503, "{body}");
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
}

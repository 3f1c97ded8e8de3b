//! Nobody crowds out the others: a tenant at a hundred times the others' load is refused, they are not.

use std::time::{Duration, Instant};

use prost::Message;
use tonic::Code;

use crate::backpressure::Details;
use crate::gate::gate;
use crate::harness::{Answer, Grpc, Http, Item, Sink, Tollgate, eventually, figure, scaled, spans};

const MAX_BYTES: f64 = 64.0 * 1024.0;
/// What one request takes to the sink: more than the quiet tenants send in a round, a quarter of what all do.
const SENT_IN_A_ROUND: usize = 30;
const QUIET: usize = 20;
const NOISY: usize = 100;

/// One request of a quiet tenant, which has to be taken; how long that takes.
async fn timed(quiet: &Grpc) -> Duration {
    let begun = Instant::now();
    quiet.spans(spans(&[], &[Item::named("quiet")])).await.expect("quiet tenants are taken");
    begun.elapsed()
}

/// In seconds.
fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[(times.len() - 1) * 99 / 100].as_secs_f64()
}

/// Requests of one item each, to a backend that takes a quarter of what is offered.
fn slow_gate(sink: &Sink) -> String {
    sink.answer(Answer::Slow(Duration::from_millis(300)));
    let queue = format!(
        "sending_queue: {{ max_bytes: 64KiB, num_consumers: 1, queue_size: 100000, \
         batch: {{ min_size: {SENT_IN_A_ROUND}, max_size: {SENT_IN_A_ROUND}, flush_timeout: 20ms }} }}"
    );
    gate(sink).replace("retry_on_failure:", &format!("{queue}, retry_on_failure:"))
}

/// Scorecard, test 7.
#[tokio::test]
async fn twenty_quiet_tenants_are_taken_while_a_noisy_one_is_refused_with_a_time_to_come_back() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&slow_gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let quiet: Vec<Grpc> = (0..QUIET).map(|n| grpc.clone().tenant(&format!("quiet-{n}"))).collect();
    let noisy = grpc.clone().tenant("noisy");
    let mut alone = Vec::new();
    for sender in quiet.iter().cycle().take(2 * QUIET) {
        alone.push(timed(sender).await);
    }
    let (rounds, before) = (scaled(15, 200), alone.len());
    sink.wait_for("traces", before).await;
    let (mut accepted, mut refusals, mut beside) = (0, Vec::new(), Vec::new());
    for round in 0..rounds {
        let offered = (0..NOISY).map(|n| (n, noisy.spans(spans(&[], &[Item::named("noisy")]))));
        for (n, sending) in offered {
            match sending.await {
                Ok(_) => accepted += 1,
                Err(status) => refusals.push(status),
            }
            if n % (NOISY / QUIET) == 0 {
                beside.push(timed(&quiet[n / (NOISY / QUIET)]).await);
            }
        }
        let metrics = tollgate.metrics().await;
        let bytes = |labels: &[(&str, &str)]| metrics.sum("tollgate_tenant_queue_bytes", labels);
        assert!(metrics.sum("tollgate_exporter_queue_bytes", &[]) <= MAX_BYTES);
        assert!(bytes(&[]) <= MAX_BYTES && bytes(&[("tenant", "noisy")]) <= MAX_BYTES / 2.0);
        sink.wait_for("traces", before + SENT_IN_A_ROUND * round).await;
    }
    assert!(refusals.len() > NOISY, "{} of {} refused", refusals.len(), NOISY * rounds);
    for refusal in &refusals {
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        let details = Details::decode(refusal.details()).unwrap();
        assert!(details.details.iter().any(|any| any.type_url.ends_with("google.rpc.RetryInfo")));
    }
    figure("strain.noisy_tenant.quiet_p99_ratio", p99(beside) / p99(alone), 1.5);
    let all = accepted + QUIET * rounds + before;
    let arrived = sink.wait_for("traces", all).await;
    assert_eq!(arrived.iter().filter(|item| item.name == "quiet").count(), QUIET * rounds + before);
    let metrics = tollgate.settled().await;
    let refused = |labels: &[(&str, &str)]| metrics.sum("tollgate_refused_items_total", labels);
    assert_eq!(refused(&[]), refusals.len() as f64);
    assert_eq!(refused(&[("tenant", "noisy"), ("reason", "queue_share")]), refusals.len() as f64);
    assert_eq!(metrics.sum("tollgate_tenants", &[("class", "dynamic")]), QUIET as f64 + 1.0);
    assert_eq!(metrics.sum("tollgate_tenant_queue_bytes", &[]), 0.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn over_http_a_tenant_over_its_share_gets_429_with_retry_after() {
    let sink = Sink::start().await;
    let config = slow_gate(&sink);
    sink.answer(Answer::Silence);
    let tollgate = Tollgate::with(&config).start().await;
    let http = Http::new(tollgate.address("otlp/http"));
    let (noisy, quiet) = (http.clone().tenant("noisy"), http.tenant("quiet"));
    let items: Vec<Item> = (0..20).map(|n| Item::named(format!("{n}"))).collect();
    let refusal = eventually("the noisy tenant to be refused", || async {
        let answer = noisy.protobuf("/v1/traces", &spans(&[], &items)).await;
        (answer.status() != 200).then_some(answer)
    })
    .await;
    assert_eq!(refusal.status(), 429);
    let retry_after: u64 = refusal.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    assert_eq!(quiet.protobuf("/v1/traces", &spans(&[], &items)).await.status(), 200);
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn without_a_tenant_processor_the_whole_queue_is_used() {
    let sink = Sink::start().await;
    sink.answer(Answer::Silence);
    let queue = "sending_queue: { queue_size: 10, num_consumers: 1 }, retry_on_failure:";
    let config = gate(&sink).replace("retry_on_failure:", queue).replace("[tenant, sampling]", "[]");
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    for n in 0..10 {
        grpc.spans(spans(&[], &[Item::named(format!("{n}"))])).await.unwrap();
    }
    let refusal = grpc.spans(spans(&[], &[Item::named("one too many")])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    sink.answer(Answer::Ok);
    sink.wait_for("traces", 10).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn guarantees_above_half_of_the_smallest_queue_are_refused_at_start_and_at_reload() {
    let sink = Sink::start().await;
    let policies = |guaranteed: &str| {
        format!(
            "version: 1\nrules: []\nidentity: {{ claims: [{{ header: x-tenant-id }}] }}\n\
             tenants: {{ acme: {{ queue: {{ guaranteed_bytes: {guaranteed} }} }} }}\n"
        )
    };
    let tollgate = Tollgate::with(&slow_gate(&sink)).policies(&policies("32KiB")).start().await;
    std::fs::write(tollgate.policies_path(), policies("33KiB")).unwrap();
    let refused = eventually("the refusal", || async { tollgate.event("policies.refused") }).await;
    assert!(refused.to_string().contains("more than half of the smallest queue (65536 bytes)"), "{refused}");
    let config = tollgate.dir.path().join("collector.yaml");
    let validate = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("validate")
        .arg("--config")
        .arg(&config)
        .arg("--policies")
        .arg(tollgate.policies_path())
        .output()
        .unwrap();
    assert!(!validate.status.success());
    assert!(String::from_utf8_lossy(&validate.stderr).contains("policies.yaml:4:1"), "{validate:?}");
    tollgate.stop().await;
}

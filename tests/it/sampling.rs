//! Sampling rules on the wire, and rules that change while the program runs.

use crate::gate::gate;
use crate::harness::{Grpc, Item, Sink, Tollgate, eventually, logs, metrics, spans};

const HALF: &str = "
version: 1
revision: half
identity: { claims: [{ header: x-tenant-id }], anonymous: 'tenant:unattributed' }
defaults: { sampling: { rate: 50% } }
rules:
  - { name: drop-health, scope: span, match: { span.name: /healthz }, drop: true }
  - { name: keep-errors, scope: span, match: { status: error }, keep: true }
";

fn many(count: usize) -> Vec<Item> {
    (0..count).map(|i| Item::named(format!("span-{i}"))).collect()
}

#[tokio::test]
async fn rules_keep_drop_and_sample_consistently() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).policies(HALF).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let mut items = many(2_000);
    items.extend((0..100).map(|_| Item::named("failed").error()));
    items.extend((0..100).map(|_| Item::named("/healthz")));
    let request = spans(&[], &items);
    grpc.spans(request.clone()).await.unwrap();
    let metrics = tollgate.settled().await;
    let first = sink.items("traces");
    let named = |name: &str| first.iter().filter(|item| item.name == name).count();
    assert_eq!((named("failed"), named("/healthz")), (100, 0));
    let sampled = first.len() - 100;
    // Binomial(2000, 0.5): six standard deviations are 134.
    assert!((866..=1134).contains(&sampled), "{sampled}");
    for item in first.iter().filter(|item| item.name.starts_with("span-")) {
        assert_eq!(item.trace_state, "ot=th:8", "a kept span says its probability");
    }
    assert_eq!(
        metrics.sum("tollgate_sampled_out_items_total", &[("tenant", "acme")]),
        2100.0 - sampled as f64
    );
    let rule = |rule, decision| {
        metrics.sum("tollgate_sampling_items_total", &[("rule", rule), ("decision", decision)])
    };
    assert_eq!(rule("keep-errors", "kept"), 100.0);
    assert_eq!(rule("drop-health", "rule_drop"), 100.0);
    assert_eq!(rule("_default", "kept") + rule("_default", "sampled_out"), 2000.0);

    grpc.spans(request).await.unwrap();
    tollgate.settled().await;
    let mut again = sink.items("traces").split_off(first.len());
    let mut first = first;
    first.sort_by(|a, b| a.name.cmp(&b.name));
    again.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(first, again, "the same traces are decided alike");
    tollgate.stop().await;
}

#[tokio::test]
async fn rates_apply_to_spans_only_unless_a_rule_names_the_signal() {
    let sink = Sink::start().await;
    let policies = "
version: 1
identity: { anonymous: 'tenant:unattributed' }
defaults: { sampling: { rate: 0.0000001% } }
rules:
  - { name: no-noise, match: { signal: metrics, service: noisy }, drop: true }
";
    let tollgate = Tollgate::with(&gate(&sink)).policies(policies).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &many(50))).await.unwrap();
    grpc.logs(logs(&[], &many(50))).await.unwrap();
    grpc.metrics(metrics(&[("service.name", "quiet")], &many(50))).await.unwrap();
    grpc.metrics(metrics(&[("service.name", "noisy")], &many(50))).await.unwrap();
    tollgate.settled().await;
    assert_eq!(sink.items("traces").len(), 0);
    assert_eq!(sink.items("logs").len(), 50);
    assert_eq!(sink.items("metrics").len(), 50);
    tollgate.stop().await;
}

#[tokio::test]
async fn anonymous_data_is_refused_where_policies_say_so() {
    let sink = Sink::start().await;
    let policies = "{version: 1, identity: {claims: [{header: x-tenant-id}], anonymous: refuse}, rules: []}";
    let tollgate = Tollgate::with(&gate(&sink)).policies(policies).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let status = grpc.spans(spans(&[], &many(1))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let twice = grpc.clone().tenant("a").tenant("b");
    assert_eq!(twice.spans(spans(&[], &many(1))).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    grpc.tenant("acme").spans(spans(&[], &many(1))).await.unwrap();
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "tenant")]), 2.0);
    assert_eq!(metrics.sum("otelcol_receiver_refused_spans", &[]), 2.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn a_changed_policies_file_comes_into_force_and_a_bad_one_does_not() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).policies(HALF).start().await;
    let revision = || async {
        let (_, body) = tollgate.get("admin", "/v1/revisions").await;
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    assert_eq!(revision().await["in_force"]["revision"], "half");

    std::fs::write(tollgate.policies_path(), HALF.replace("half", "all").replace("50%", "100%")).unwrap();
    eventually("the new revision", || async {
        (revision().await["in_force"]["revision"] == "all").then_some(())
    })
    .await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &many(100))).await.unwrap();
    assert_eq!(sink.wait_for("traces", 100).await.len(), 100);

    std::fs::write(tollgate.policies_path(), HALF.replace("keep: true", "keeep: true")).unwrap();
    let refused = eventually("the refused revision", || async {
        let refused = revision().await["refused"].clone();
        (!refused.is_null()).then_some(refused)
    })
    .await;
    let problems = refused["problems"].to_string();
    assert!(problems.contains("rules[1].keeep") && problems.contains("did you mean"), "{problems}");
    assert_eq!(revision().await["in_force"]["revision"], "all");
    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_policies_last_reload_success", &[]), 0.0);
    assert_eq!(metrics.sum("tollgate_policies_info", &[("revision", "all")]), 1.0);
    assert!(tollgate.event("policies.refused").is_some());

    std::fs::remove_file(tollgate.policies_path()).unwrap();
    grpc.spans(spans(&[], &many(100))).await.unwrap();
    assert_eq!(sink.wait_for("traces", 200).await.len(), 200, "the last good revision stays in force");
    tollgate.settled().await;
    tollgate.stop().await;
}

/// Each revision stamps itself on what it keeps; a request must carry one stamp only.
#[tokio::test]
async fn reloads_under_load_refuse_nothing_lose_nothing_and_never_mix_revisions() {
    let sink = Sink::start().await;
    let policies = |revision: usize| {
        format!(
            "
version: 1
revision: r{revision}
identity: {{ claims: [{{ header: x-tenant-id }}], anonymous: 'tenant:unattributed' }}
enrichment: {{ stamp: [revision] }}
rules: []
"
        )
    };
    let tollgate = Tollgate::with(&gate(&sink)).policies(&policies(0)).start().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut senders = Vec::new();
    for sender in 0..4 {
        let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
        let stop = stop.clone();
        senders.push(tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let items: Vec<_> = (0..20).map(|_| Item::named(format!("{sender}-{sent}"))).collect();
                grpc.spans(spans(&[], &items)).await.expect("no request is refused");
                sent += 1;
            }
            sent
        }));
    }
    for revision in 1..=20 {
        std::fs::write(tollgate.policies_path(), policies(revision)).unwrap();
        let wanted = format!("r{revision}");
        eventually("the revision", || async {
            let metrics = tollgate.metrics().await;
            (metrics.sum("tollgate_policies_info", &[("revision", &wanted)]) == 1.0).then_some(())
        })
        .await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.unwrap();
    }
    tollgate.settled().await;
    let mut stamps: std::collections::HashMap<String, std::collections::HashSet<String>> = Default::default();
    let items = sink.items("traces");
    assert_eq!(items.len(), sent * 20, "nothing is lost, nothing doubled");
    for item in items {
        stamps.entry(item.name).or_default().insert(item.attributes["sampling.revision"].clone());
    }
    let mixed: Vec<_> = stamps.iter().filter(|(_, revisions)| revisions.len() > 1).collect();
    assert!(mixed.is_empty(), "{mixed:?}");
    tollgate.stop().await;
}

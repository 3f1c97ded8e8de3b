//! The stories of `examples/` do what their README says.

use std::path::{Path, PathBuf};

use prost::Message;

use crate::harness::{Answer, Authority, Grpc, Http, Item, Sink, Tollgate, logs, post_with, spans};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(example(path)).unwrap()
}

#[tokio::test]
async fn quickstart_prints_the_span_with_its_tags() {
    let tollgate = Tollgate::with(&text("quickstart/collector.yaml"))
        .argument("--set=receivers.otlp.protocols.grpc.endpoint=127.0.0.1:0")
        .argument("--set=receivers.otlp.protocols.http.endpoint=127.0.0.1:0")
        .argument("--set=extensions.health_check.endpoint=127.0.0.1:0")
        .start()
        .await;
    let http = Http::new(tollgate.address("otlp/http")).tenant("acme");
    let answer = http.post("/v1/traces", "application/json", text("quickstart/span.json")).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"{}"[..]));
    tollgate.settled().await;
    let ended = tollgate.stop().await;
    let log: Vec<String> = ended.log.iter().map(ToString::to_string).collect();
    let log = log.join("\n");
    for tag in ["tenant.id", "acme", "model.name", "ranker", "model.version", "7.1.0"] {
        assert!(log.contains(tag), "{tag} in {log}");
    }
}

#[tokio::test]
async fn a_collector_forwards_to_tollgate_and_tollgate_to_the_backend() {
    let backend = Sink::start().await;
    let gate = Tollgate::with(&text("behind-a-collector/tollgate.yaml"))
        .policies(&text("behind-a-collector/policies.yaml"))
        .environment("TOLLGATE_GRPC", "127.0.0.1:0")
        .environment("BACKEND", &backend.address().to_string())
        .start()
        .await;
    let collector = Tollgate::with(&text("behind-a-collector/collector.yaml"))
        .environment("COLLECTOR_GRPC", "127.0.0.1:0")
        .environment("COLLECTOR_HTTP", "127.0.0.1:0")
        .environment("TOLLGATE", gate.address("otlp/grpc"))
        .start()
        .await;
    let grpc = Grpc::connect(collector.address("otlp/grpc")).await;
    grpc.spans(spans(&[("tenant.id", "acme")], &[Item::named("x")])).await.unwrap();
    grpc.logs(logs(&[], &[Item::named("y")])).await.unwrap();
    let span = backend.wait_for("traces", 1).await.remove(0);
    assert_eq!(span.resource["tenant.id"], "acme");
    assert_eq!(span.resource["deployment.environment.name"], "production");
    let record = backend.wait_for("logs", 1).await.remove(0);
    assert_eq!(record.resource["tenant.id"], "unattributed");
    collector.settled().await;
    collector.stop().await;
    gate.settled().await;
    gate.stop().await;
}

#[tokio::test]
async fn two_tenants_are_sampled_at_their_own_rates() {
    let backend = Sink::start().await;
    let tollgate = Tollgate::with(&text("two-tenants/collector.yaml"))
        .policies(&text("two-tenants/policies.yaml"))
        .environment("OTLP_GRPC", "127.0.0.1:0")
        .environment("OTLP_HTTP", "127.0.0.1:0")
        .environment("BACKEND", &backend.address().to_string())
        .start()
        .await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let mut items: Vec<_> = (0..2_000).map(|_| Item::named("ok")).collect();
    items.extend((0..20).map(|_| Item::named("failed").error()));
    for tenant in ["gold", "bronze"] {
        grpc.clone().tenant(tenant).spans(spans(&[], &items)).await.unwrap();
    }
    let metrics = tollgate.settled().await;
    let sent = |tenant| metrics.sum("tollgate_sent_items_total", &[("tenant", tenant)]);
    assert_eq!(sent("gold"), 2_020.0);
    // Binomial(2000, 0.25): six standard deviations are 116.
    assert!((404.0..=636.0).contains(&sent("bronze")), "{}", sent("bronze"));
    let arrived = backend.items("traces");
    assert_eq!(arrived.iter().filter(|item| item.name == "failed").count(), 40);
    let counted =
        |item: &&crate::harness::Arrived| item.name == "ok" && item.resource["tenant.id"] == "bronze";
    assert!(arrived.iter().filter(counted).all(|item| item.trace_state == "ot=th:c"));
    tollgate.stop().await;
}

#[tokio::test]
async fn a_durable_gateway_keeps_what_it_answered_when_it_is_killed() {
    let (backend, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    backend.answer(Answer::Unavailable);
    let start = || {
        Tollgate::with(&text("durable-gateway/collector.yaml"))
            .policies(&text("durable-gateway/policies.yaml"))
            .environment("OTLP_GRPC", "127.0.0.1:0")
            .environment("OTLP_HTTP", "127.0.0.1:0")
            .environment("QUEUE", folder.path().join("queue").to_str().unwrap())
            .environment("BACKEND", &backend.address().to_string())
            .start()
    };
    let tollgate = start().await;
    let http = Http::new(tollgate.address("otlp/http")).tenant("acme");
    for name in ["one", "two", "three"] {
        let answer = http.protobuf("/v1/traces", &spans(&[], &[Item::named(name)])).await;
        assert_eq!(answer.status(), 200);
    }
    tollgate.kill();
    backend.refuse_what_is_under_way().await;
    backend.answer(Answer::Ok);
    let tollgate = start().await;
    assert_eq!(tollgate.event("queue.recovered").unwrap()["items"], 3);
    let mut names: Vec<_> = backend.wait_for("traces", 3).await.into_iter().map(|item| item.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "three", "two"]);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_certificate_of_the_mesh_says_whose_data_it_is() {
    let (backend, folder, authority) = (Sink::start().await, tempfile::tempdir().unwrap(), Authority::new());
    std::fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
    authority.sign("localhost").write(folder.path(), "server");
    let tollgate = Tollgate::with(&text("mtls-spiffe/collector.yaml"))
        .policies(&text("mtls-spiffe/policies.yaml"))
        .environment("OTLP_GRPC", "127.0.0.1:0")
        .environment("OTLP_HTTP", "127.0.0.1:0")
        .environment("CERTIFICATES", folder.path().to_str().unwrap())
        .environment("BACKEND", &backend.address().to_string())
        .start()
        .await;
    let acme = authority.sign_uri("spiffe://prod.example/ns/acme/sa/agent");
    let gateway = authority.sign_uri("spiffe://prod.example/ns/gateway/sa/otel");
    let ca = authority.pem();
    let send = async |own, name: &str| {
        let body = spans(&[], &[Item::named(name)]).encode_to_vec();
        let address = tollgate.address("otlp/http");
        post_with(address, (&ca, own), &[("x-tenant-id", "globex")], body).await
    };
    assert_eq!(send(Some(&acme), "acme").await, Some(200));
    assert_eq!(send(Some(&gateway), "globex").await, Some(200));
    let nameless = authority.sign("acme");
    assert_eq!(send(Some(&nameless), "nobody").await, Some(401));
    assert_eq!(send(None, "nobody").await, None);
    for item in backend.wait_for("traces", 2).await {
        assert_eq!(item.resource["tenant.id"], item.name);
    }
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn keys_and_tiers_make_a_gateway_for_many_tenants() {
    let (backend, gold) = (Sink::start().await, Sink::start().await);
    backend.answer(Answer::PerTenant);
    gold.answer(Answer::PerTenant);
    let keys = example("multi-tenant-gateway").join("api-keys");
    let tollgate = Tollgate::with(&text("multi-tenant-gateway/collector.yaml"))
        .policies(&text("multi-tenant-gateway/policies.yaml"))
        .environment("OTLP_GRPC", "127.0.0.1:0")
        .environment("OTLP_HTTP", "127.0.0.1:0")
        .environment("API_KEYS", keys.to_str().unwrap())
        .environment("BACKEND", &backend.url())
        .environment("GOLD_BACKEND", &gold.url())
        .start()
        .await;
    let http = Http::new(tollgate.address("otlp/http"));
    let send = async |key: &'static str, tenant: &str, items: &[Item]| {
        let http = http.clone().header("authorization", &format!("Bearer {key}")).tenant(tenant);
        http.protobuf("/v1/traces", &spans(&[], items)).await.status().as_u16()
    };
    let failed = [Item::named("failed").error()];
    let many: Vec<_> = (0..1_000).map(|_| Item::named("ok")).collect();
    assert_eq!(send("acme-key", "globex", &many).await, 200);
    assert_eq!(send("globex-key", "acme", &many).await, 200);
    assert_eq!(send("edge-key", "initech", &failed).await, 200);
    assert_eq!(send("reseller-key", "shop-b-7", &failed).await, 200);
    assert_eq!(send("reseller-key", "acme", &failed).await, 403);
    assert_eq!(send("nobodys-key", "acme", &failed).await, 401);
    let metrics = tollgate.settled().await;
    let sent = |tenant| metrics.sum("tollgate_sent_items_total", &[("tenant", tenant)]);
    assert_eq!((sent("acme"), sent("initech"), sent("shop-b-7")), (1_000.0, 1.0, 1.0));
    // Binomial(1000, 0.5): six standard deviations are 95.
    assert!((405.0..=595.0).contains(&sent("globex")), "{}", sent("globex"));
    let of_gold = gold.items("traces");
    assert!(of_gold.len() == 1_000 && of_gold.iter().all(|item| item.scope_org_id == "acme"));
    for item in backend.items("traces") {
        assert_eq!(item.scope_org_id, item.resource["tenant.id"]);
        assert_ne!(item.scope_org_id, "acme");
    }
    tollgate.stop().await;
}

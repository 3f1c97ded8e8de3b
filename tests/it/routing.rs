//! Every tenant's data goes where it belongs: under its own header, through its own pipelines.

use tonic::Code;

use crate::harness::{Answer, Arrived, Grpc, Http, Item, Sink, Tollgate, spans};

const POLICIES: &str = "
version: 1
rules: []
identity: { claims: [{ header: x-tenant-id }, { resource: tenant.id }] }
tiers: { gold: {}, standard: {} }
defaults: { tier: standard }
tenants: { acme: { tier: gold } }
";

fn of(tenant: &str, name: &str) -> opentelemetry_proto::tonic::trace::v1::ResourceSpans {
    spans(&[("tenant.id", tenant), ("team", name)], &[Item::named(name)]).resource_spans.remove(0)
}

/// One request with a span of each tenant.
fn mixed(tenants: &[&str]) -> opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
    let resource_spans = tenants.iter().map(|tenant| of(tenant, tenant)).collect();
    opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest { resource_spans }
}

fn names(arrived: &[Arrived]) -> Vec<&str> {
    let mut names: Vec<_> = arrived.iter().map(|item| item.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// One receiver; `{rest}` of the sections, `{pipelines}` of traces.
fn config(sections: &str, pipelines: &str) -> String {
    format!(
        "{{otlp}}\nprocessors: {{ tenant: , sampling: , resource: {{ attributes: [{{ key: seen, value: here, \
         action: upsert }}] }} }}\n{sections}\nextensions: {{ admin: }}\nservice:\n  extensions: [admin]\n  \
         pipelines:\n{pipelines}"
    )
}

#[tokio::test]
async fn under_load_no_item_of_a_tenant_ever_goes_out_under_the_header_of_another() {
    let sink = Sink::start().await;
    sink.answer(Answer::PerTenant);
    let (address, url) = (sink.address(), sink.url());
    let batch = "batch: { min_size: 50, flush_timeout: 20ms }";
    let exporters = format!(
        "exporters:\n  otlp_grpc: {{ endpoint: '{address}', tls: {{ insecure: true }}, tenant_headers: \
         [X-Scope-OrgID], sending_queue: {{ {batch} }} }}\n  otlp_http: {{ endpoint: '{url}', \
         tenant_headers: [x-scope-orgid], sending_queue: {{ {batch} }} }}"
    );
    let pipelines = "    traces: { receivers: [otlp], processors: [tenant, sampling], exporters: [otlp_grpc, otlp_http] }";
    let tollgate = Tollgate::with(&config(&exporters, pipelines)).policies(POLICIES).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let clients = ["a", "b", "c"].map(|tenant| grpc.clone().tenant(tenant));
    for _ in 0..100 {
        let [a, b, c] = clients.each_ref().map(|client| client.spans(spans(&[], &[Item::named("one")])));
        let many = mixed(&["a", "b", "d", "c", "b", "a"]);
        let (a, b, c, all) = tokio::join!(a, b, c, grpc.spans(many));
        for answer in [a, b, c, all] {
            answer.unwrap();
        }
    }
    let arrived = sink.wait_for("traces", 2 * 900).await;
    assert_eq!(arrived.len(), 2 * 900);
    for item in &arrived {
        assert_eq!(item.resource["tenant.id"], item.scope_org_id);
    }
    tollgate.settled().await;
    tollgate.stop().await;
}

const ROUTES: &str = "
exporters:
  otlp_grpc/acme: { endpoint: '{acme}', tls: { insecure: true }, sending_queue: { queue_size: {queue_size}, num_consumers: 1 } }
  otlp_grpc/shops: { endpoint: '{shops}', tls: { insecure: true } }
  otlp_grpc/rest: { endpoint: '{rest}', tls: { insecure: true } }
connectors:
  routing:
    default_pipelines: [traces/rest]
    table:
      - { tiers: [gold], pipelines: [traces/acme] }
      - { tenants: [\"shop-*\"], pipelines: [traces/shops, traces/rest] }
      - { condition: 'attributes[\"team\"] == \"red\"', pipelines: [traces/shops] }
      - { context: request, condition: 'request[\"x-lane\"] == \"fast\"', pipelines: [traces/shops] }
";
const ROUTED: &str = "
    traces: { receivers: [otlp], processors: [tenant], exporters: [routing] }
    traces/acme: { receivers: [routing], exporters: [otlp_grpc/acme] }
    traces/shops: { receivers: [routing], processors: [sampling, resource], exporters: [otlp_grpc/shops] }
    traces/rest: { receivers: [routing], exporters: [otlp_grpc/rest] }
";

struct Routed {
    tollgate: Tollgate,
    acme: Sink,
    shops: Sink,
    rest: Sink,
}

impl Routed {
    async fn start(queue_size: &str) -> Self {
        let (acme, shops, rest) = (Sink::start().await, Sink::start().await, Sink::start().await);
        let sections = ROUTES
            .replace("{queue_size}", queue_size)
            .replace("{acme}", &acme.address().to_string())
            .replace("{shops}", &shops.address().to_string())
            .replace("{rest}", &rest.address().to_string());
        let policies =
            POLICIES.replace("rules: []", "rules: [{ name: none, match: { service: noise }, drop: true }]");
        let tollgate = Tollgate::with(&config(&sections, ROUTED)).policies(&policies).start().await;
        Self { tollgate, acme, shops, rest }
    }
}

#[tokio::test]
async fn tenants_tiers_resources_and_headers_decide_where_data_goes() {
    let Routed { tollgate, acme, shops, rest } = Routed::start("1000").await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    // Each route alone, then all in one request.
    grpc.clone().tenant("acme").spans(spans(&[], &[Item::named("gold")])).await.unwrap();
    grpc.clone().tenant("shop-1").spans(spans(&[], &[Item::named("shop")])).await.unwrap();
    let lane = grpc.clone().tenant("other").header("x-lane", "fast");
    lane.spans(spans(&[], &[Item::named("lane")])).await.unwrap();
    let mut all = mixed(&["acme", "shop-2", "plain"]);
    all.resource_spans.extend([of("plain", "red"), of("plain", "blue"), of("acme", "red")]);
    grpc.spans(all).await.unwrap();
    let noise = spans(&[("tenant.id", "shop-3"), ("service.name", "noise")], &[Item::named("noise")]);
    grpc.spans(noise).await.unwrap();
    assert_eq!(names(&acme.wait_for("traces", 3).await), ["acme", "gold", "red"]);
    let of_shops = shops.wait_for("traces", 4).await;
    assert_eq!(names(&of_shops), ["lane", "red", "shop", "shop-2"]);
    assert!(of_shops.iter().all(|item| item.resource["seen"] == "here"), "processors behind the connector");
    let of_rest = rest.wait_for("traces", 5).await;
    assert_eq!(names(&of_rest), ["blue", "noise", "plain", "shop", "shop-2"]);
    assert!(of_rest.iter().all(|item| !item.resource.contains_key("seen")));
    let metrics = tollgate.settled().await;
    let sampled_out = metrics.sum("tollgate_sampled_out_items_total", &[("tenant", "shop-3")]);
    let copied = metrics.sum("tollgate_copied_items_total", &[]);
    assert_eq!((sampled_out, copied), (1.0, 3.0));
    assert_eq!(
        (acme.items("traces").len(), shops.items("traces").len(), rest.items("traces").len()),
        (3, 4, 5)
    );
    tollgate.stop().await;
}

#[tokio::test]
async fn a_dead_exporter_of_one_tenant_leaves_the_others_alone() {
    let Routed { tollgate, acme, shops, rest } = Routed::start("2").await;
    acme.answer(Answer::Silence);
    let http = Http::new(tollgate.address("otlp/http"));
    let send = async |tenant: &str| {
        let items = spans(&[], &[Item::named("one")]);
        http.clone().tenant(tenant).protobuf("/v1/traces", &items).await.status().as_u16()
    };
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(send("acme").await);
        assert_eq!((send("shop-1").await, send("plain").await), (200, 200));
    }
    // One tenant has at most its half of the queue.
    assert_eq!((&answers[..1], &answers[1..]), (&[200][..], &[429; 19][..]));
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    shops.wait_for("traces", 20).await;
    rest.wait_for("traces", 40).await;
    let refusal = grpc.spans(mixed(&["plain", "acme", "shop-1"])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted, "all of a request or nothing: {refusal:?}");
    acme.answer(Answer::Ok);
    acme.wait_for("traces", 1).await;
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[]), 19.0 + 3.0 + 1.0);
    assert_eq!((shops.items("traces").len(), rest.items("traces").len()), (20, 40));
    tollgate.stop().await;
}

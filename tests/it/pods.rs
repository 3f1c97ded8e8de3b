//! Who is at this address: pods of 127.0.0.x, told by an API server, and whose data theirs is.

use serde_json::{Value, json};

use crate::harness::api_server::{ApiServer, End, Fault};
use crate::harness::{Arrived, Http, Item, Metrics, Sink, Start, Tollgate, eventually, spans};

const CONFIG: &str = "
{otlp}
processors:
  k8s_attributes: { {attributes} }
  tenant:
exporters:
  otlp_grpc: { endpoint: '{sink}', tls: { insecure: true } }
extensions:
  admin:
  pods: { auth_type: kubeConfig, filter: { node_from_env_var: K8S_NODE_NAME }, {pods} }
service:
  extensions: [admin, pods]
  pipelines:
    traces: { receivers: [otlp], processors: [k8s_attributes, tenant], exporters: [otlp_grpc] }
";

/// Unknown addresses are strangers at once, so that tests need not wait.
const AT_ONCE: &str = "newcomer_grace: 0s";

const POLICIES: &str = "
version: 1
identity:
  authenticate: [{ pod: { tenant: [namespace_label.capsule.clastix.io/tenant, namespace] } }]
  claims: [{ header: x-tenant-id }, { resource: tenant.id }, { resource: k8s.namespace.name }]
  anonymous: tenant:unattributed
rules: []
";

/// A cluster, a collector on its node n1, and a destination.
struct Scene {
    server: ApiServer,
    sink: Sink,
    tollgate: Tollgate,
    _folder: tempfile::TempDir,
}

/// What to start.
struct Scenery<'a> {
    attributes: &'a str,
    pods: &'a str,
    policies: &'a str,
}

impl Default for Scenery<'_> {
    fn default() -> Self {
        Self { attributes: "", pods: AT_ONCE, policies: POLICIES }
    }
}

impl Scenery<'_> {
    fn at(&self, server: &ApiServer, sink: &Sink, folder: &tempfile::TempDir) -> Start {
        let config = CONFIG
            .replace("{attributes}", self.attributes)
            .replace("{pods}", self.pods)
            .replace("{sink}", &sink.address().to_string());
        let kubeconfig = server.kubeconfig(folder.path(), "default");
        Tollgate::with(&config)
            .policies(self.policies)
            .environment("K8S_NODE_NAME", "n1")
            .environment("KUBECONFIG", kubeconfig.to_str().unwrap())
    }

    async fn start(self, server: ApiServer) -> Scene {
        let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
        let tollgate = self.at(&server, &sink, &folder).start().await;
        Scene { server, sink, tollgate, _folder: folder }
    }
}

impl Scene {
    fn client(&self, source: &str) -> Http {
        Http::from_address(self.tollgate.address("otlp/http"), source)
    }

    /// Sends a span from an address, and gives what arrives.
    async fn send(&self, source: &str, resource: &[(&str, &str)], name: &str) -> Arrived {
        self.send_by(&self.client(source), resource, name).await
    }

    async fn send_by(&self, client: &Http, resource: &[(&str, &str)], name: &str) -> Arrived {
        let answer = client.protobuf("/v1/traces", &spans(resource, &[Item::named(name)])).await;
        assert_eq!(answer.status(), 200, "{name}");
        eventually(&format!("the span {name}"), || async {
            self.sink.items("traces").into_iter().find(|item| item.name == name)
        })
        .await
    }

    /// Sends spans from an address until one arrives with this value of an attribute.
    async fn until(&self, source: &str, key: &str, expected: Option<&str>) {
        let (client, mut number) = (self.client(source), 0);
        eventually(&format!("{key} {expected:?} from {source}"), || {
            number += 1;
            let (client, name) = (client.clone(), format!("{source} {key} {expected:?} {number}"));
            async move {
                let arrived = self.send_by(&client, &[], &name).await;
                (arrived.resource.get(key).map(String::as_str) == expected).then_some(())
            }
        })
        .await;
    }

    async fn lookups(&self, purpose: &str, outcome: &str) -> f64 {
        let labels = [("used_for", purpose), ("outcome", outcome)];
        self.tollgate.metrics().await.sum("tollgate_pod_lookups_total", &labels)
    }

    async fn stop(self) -> Metrics {
        let metrics = self.tollgate.settled().await;
        let asked = self.server.asked();
        assert!(asked.iter().all(|asked| !asked.path.contains("replicasets")), "{asked:?}");
        for asked in asked.iter().filter(|asked| asked.path.ends_with("/pods")) {
            assert_eq!(asked.parameter("fieldSelector"), Some("spec.nodeName=n1"));
        }
        self.tollgate.stop().await;
        metrics
    }
}

fn pod(server: &ApiServer, (namespace, name): (&str, &str), address: &str, extra: Value) {
    let mut object = json!({
        "metadata": { "uid": format!("uid-of-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "main", "image": "registry:5000/shop/web:1.2" }] },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "hostIP": "127.0.0.200", "startTime": "2026-01-01T00:00:10Z",
        },
    });
    merge(&mut object, extra);
    server.put(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), object);
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

fn namespace(server: &ApiServer, name: &str, labels: Value) {
    server.put(&format!("/api/v1/namespaces/{name}"), json!({ "metadata": { "labels": labels } }));
}

/// Two tenants: acme with a model at 127.0.0.11, globex with a Deployment at 127.0.0.12.
async fn two_tenants() -> ApiServer {
    let server = ApiServer::start().await;
    namespace(&server, "shop", json!({ "capsule.clastix.io/tenant": "acme" }));
    namespace(&server, "bank", json!({ "capsule.clastix.io/tenant": "globex" }));
    namespace(&server, "lab", json!({}));
    let model = json!({ "metadata": { "labels": {
        "serving.kserve.io/inferenceservice": "ranker", "app.kubernetes.io/version": "7.1",
    } } });
    pod(&server, ("shop", "ranker-0"), "127.0.0.11", model);
    let web = json!({ "metadata": {
        "labels": { "pod-template-hash": "6d4cf56db6" },
        "ownerReferences": [
            { "kind": "ReplicaSet", "name": "web-6d4cf56db6", "uid": "rs", "controller": true },
        ],
    } });
    pod(&server, ("bank", "web-6d4cf56db6-x7x9z"), "127.0.0.12", web);
    pod(&server, ("lab", "trial"), "127.0.0.13", json!({}));
    let host = json!({ "spec": { "hostNetwork": true } });
    pod(&server, ("shop", "on-the-host"), "127.0.0.200", host);
    let elsewhere = json!({ "spec": { "nodeName": "n2" } });
    pod(&server, ("shop", "elsewhere"), "127.0.0.14", elsewhere);
    server
}

fn text<'a>(arrived: &'a Arrived, key: &str) -> &'a str {
    arrived.resource.get(key).map_or("", String::as_str)
}

#[tokio::test]
async fn the_address_of_a_connection_tells_pod_tenant_and_model() {
    let scene = Scenery::default().start(two_tenants().await).await;
    let model = scene.send("127.0.0.11", &[], "model").await;
    let expected = [
        ("tenant.id", "acme"),
        ("model.name", "ranker"),
        ("model.version", "7.1"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "ranker-0"),
        ("k8s.pod.uid", "uid-of-ranker-0"),
        ("k8s.pod.start_time", "2026-01-01T00:00:10Z"),
        ("k8s.node.name", "n1"),
        ("container.image.name", "registry:5000/shop/web"),
        ("container.image.tag", "1.2"),
    ];
    let all = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(model.resource, all);
    let web = scene.send("127.0.0.12", &[], "web").await;
    assert_eq!((text(&web, "tenant.id"), text(&web, "k8s.deployment.name")), ("globex", "web"));
    let trial = scene.send("127.0.0.13", &[], "trial").await;
    assert_eq!(text(&trial, "tenant.id"), "lab", "a namespace without the label is its own tenant");
    let metrics = scene.stop().await;
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[("tenant", "acme")]), 1.0);
    let accepted = [("source", "pod"), ("outcome", "accepted")];
    assert_eq!(metrics.sum("tollgate_authentications_total", &accepted), 3.0);
}

#[tokio::test]
async fn nothing_a_pod_writes_makes_it_another() {
    let scene = Scenery::default().start(two_tenants().await).await;
    let client = scene.client("127.0.0.11").tenant("globex");
    let lies = [
        ("tenant.id", "globex"),
        ("k8s.namespace.name", "bank"),
        ("k8s.pod.name", "web-6d4cf56db6-x7x9z"),
        ("k8s.pod.uid", "uid-of-web-6d4cf56db6-x7x9z"),
        ("k8s.pod.ip", "127.0.0.12"),
        ("container.image.tag", "mine"),
    ];
    let arrived = scene.send_by(&client, &lies, "lies").await;
    for (key, expected) in [
        ("tenant.id", "acme"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "ranker-0"),
        ("k8s.pod.uid", "uid-of-ranker-0"),
        ("container.image.tag", "mine"),
    ] {
        assert_eq!(text(&arrived, key), expected, "{key}");
    }
    // Each lie alone.
    for lie in &lies[..5] {
        assert_eq!(text(&scene.send("127.0.0.11", &[*lie], lie.0).await, "tenant.id"), "acme", "{lie:?}");
    }
    let metrics = scene.stop().await;
    for key in ["k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip"] {
        let found = metrics.sum("tollgate_pod_mismatches_total", &[("attribute", key)]);
        assert_eq!(found, 2.0, "{key}");
    }
    assert_eq!(metrics.sum("tollgate_received_items_total", &[("tenant", "globex")]), 0.0);
}

#[tokio::test]
async fn who_is_no_pod_is_unattributed_whatever_it_claims() {
    let scene = Scenery::default().start(two_tenants().await).await;
    let lies = [("k8s.pod.uid", "uid-of-ranker-0"), ("k8s.pod.ip", "127.0.0.11"), ("tenant.id", "acme")];
    for (source, outcome) in
        [("127.0.0.200", "host_network"), ("127.0.0.99", "unknown"), ("127.0.0.14", "unknown")]
    {
        let before = scene.lookups("identity", outcome).await;
        let arrived = scene.send_by(&scene.client(source).tenant("acme"), &lies, source).await;
        assert_eq!(text(&arrived, "tenant.id"), "unattributed", "{source}");
        assert_eq!(text(&arrived, "k8s.pod.name"), "", "{source}");
        assert_eq!(scene.lookups("identity", outcome).await, before + 1.0, "{source}");
    }
    let metrics = scene.stop().await;
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[("tenant", "unattributed")]), 3.0);
}

#[tokio::test]
async fn who_is_no_pod_can_be_refused() {
    let policies = POLICIES.replace("tenant:unattributed", "refuse");
    let scene = Scenery { policies: &policies, ..Scenery::default() }.start(two_tenants().await).await;
    let request = spans(&[("tenant.id", "acme")], &[Item::named("x")]);
    let answer = scene.client("127.0.0.99").tenant("acme").protobuf("/v1/traces", &request).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(text(&scene.send("127.0.0.11", &[], "pod").await, "tenant.id"), "acme");
    scene.stop().await;
}

#[tokio::test]
async fn pods_come_and_go_and_their_addresses_with_them() {
    let scene = Scenery::default().start(two_tenants().await).await;
    scene.server.watched("pods").await;
    scene.until("127.0.0.21", "tenant.id", Some("unattributed")).await;
    pod(&scene.server, ("shop", "new"), "127.0.0.21", json!({}));
    scene.until("127.0.0.21", "k8s.pod.name", Some("new")).await;
    scene.until("127.0.0.21", "tenant.id", Some("acme")).await;
    // The address is given to a pod of somebody else.
    scene.server.delete("/api/v1/namespaces/shop/pods/new");
    scene.until("127.0.0.21", "tenant.id", Some("unattributed")).await;
    pod(&scene.server, ("bank", "heir"), "127.0.0.21", json!({}));
    scene.until("127.0.0.21", "tenant.id", Some("globex")).await;
    // It completes, and keeps the address in its status.
    pod(&scene.server, ("bank", "heir"), "127.0.0.21", json!({ "status": { "phase": "Succeeded" } }));
    scene.until("127.0.0.21", "tenant.id", Some("unattributed")).await;
    assert!(scene.lookups("identity", "ended").await >= 1.0);
    let last = scene.send("127.0.0.21", &[], "late").await;
    assert_eq!(
        text(&last, "k8s.pod.name"),
        "heir",
        "attributes of late data are those of the pod that ended"
    );
    // A namespace is given to another tenant.
    namespace(&scene.server, "lab", json!({ "capsule.clastix.io/tenant": "globex" }));
    scene.until("127.0.0.13", "tenant.id", Some("globex")).await;
    scene.stop().await;
}

#[tokio::test]
async fn while_the_api_server_is_away_data_flows_and_then_all_is_known_again() {
    let scene = Scenery::default().start(two_tenants().await).await;
    scene.server.watched("pods").await;
    scene.server.fault(Some(Fault::Away));
    scene.server.end_watches(End::Broken);
    pod(&scene.server, ("shop", "new"), "127.0.0.21", json!({}));
    scene.server.delete("/api/v1/namespaces/lab/pods/trial");
    eventually("the outage", || async { scene.tollgate.event("kubernetes.watch_failed") }).await;
    for (source, tenant) in [("127.0.0.11", "acme"), ("127.0.0.12", "globex"), ("127.0.0.13", "lab")] {
        assert_eq!(text(&scene.send(source, &[], source).await, "tenant.id"), tenant);
    }
    // What happened meanwhile is no longer in the server's history: everything is listed again.
    scene.server.expire(true);
    scene.server.fault(None);
    scene.until("127.0.0.21", "tenant.id", Some("acme")).await;
    scene.until("127.0.0.13", "tenant.id", Some("unattributed")).await;
    eventually("the end of the outage", || async { scene.tollgate.event("kubernetes.watch_restored") }).await;
    let metrics = scene.stop().await;
    let pods = [("resource", "pods")];
    assert!(metrics.sum("tollgate_kubernetes_watch_errors_total", &pods) >= 1.0);
    assert_eq!(metrics.sum("tollgate_kubernetes_lists_total", &pods), 2.0);
    assert_eq!(metrics.sum("tollgate_kubernetes_watch_up", &pods), 1.0);
}

#[tokio::test]
async fn lists_again_and_again_change_nothing_and_cost_no_data() {
    let scene = Scenery::default().start(two_tenants().await).await;
    for round in 0..2 {
        scene.server.watched("pods").await;
        let lists = scene.server.lists("pods");
        scene.server.expire(round == 0);
        scene.server.end_watches(End::Broken);
        let again = || async { (scene.server.lists("pods") > lists).then_some(()) };
        eventually("one more list", again).await;
        for (source, tenant) in [("127.0.0.11", "acme"), ("127.0.0.12", "globex")] {
            let arrived = scene.send(source, &[], &format!("{source} {round}")).await;
            assert_eq!(text(&arrived, "tenant.id"), tenant);
        }
    }
    let metrics = scene.stop().await;
    assert_eq!(metrics.sum("tollgate_kubernetes_objects", &[("resource", "pods")]), 4.0);
}

#[tokio::test]
async fn the_start_waits_so_long_for_the_first_list_and_says_what_it_does_then() {
    let (server, sink, folder) = (two_tenants().await, Sink::start().await, tempfile::tempdir().unwrap());
    server.fault(Some(Fault::Away));
    let patient = Scenery { pods: "newcomer_grace: 0s, first_list_timeout: 200ms", ..Scenery::default() };
    let tollgate = patient.at(&server, &sink, &folder).start().await;
    assert!(tollgate.event("pods.not_listed").is_some());
    let listed = tollgate.metrics().await.sum("tollgate_kubernetes_listed", &[("resource", "pods")]);
    assert_eq!(listed, 0.0);
    let scene = Scene { server, sink, tollgate, _folder: folder };
    let request = spans(&[], &[Item::named("early")]);
    let answer = scene.client("127.0.0.11").protobuf("/v1/traces", &request).await;
    assert_eq!(answer.status(), 503, "it is told to come back");
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(scene.lookups("identity", "not_listed").await, 1.0);
    scene.server.fault(None);
    eventually("the first list", || async { scene.tollgate.event("kubernetes.listed") }).await;
    let client = scene.client("127.0.0.11");
    let answered = || async {
        let answer = client.protobuf("/v1/traces", &spans(&[], &[Item::named("now")])).await;
        (answer.status() == 200).then_some(())
    };
    eventually("an answer", answered).await;
    assert_eq!(text(&scene.sink.wait_for("traces", 1).await[0], "tenant.id"), "acme");
    scene.stop().await;
}

#[tokio::test]
async fn before_the_first_list_senders_can_count_as_unknown() {
    let (server, sink, folder) = (two_tenants().await, Sink::start().await, tempfile::tempdir().unwrap());
    server.fault(Some(Fault::Away));
    let pods = "newcomer_grace: 0s, first_list_timeout: 0s, before_first_list: unknown";
    let tollgate = Scenery { pods, ..Scenery::default() }.at(&server, &sink, &folder).start().await;
    let scene = Scene { server, sink, tollgate, _folder: folder };
    assert_eq!(text(&scene.send("127.0.0.11", &[], "early").await, "tenant.id"), "unattributed");
    scene.server.fault(None);
    scene.until("127.0.0.11", "tenant.id", Some("acme")).await;
    scene.stop().await;
}

#[tokio::test]
async fn a_newcomer_is_told_to_come_back_until_its_address_is_known() {
    let policies = POLICIES.replace("tenant:unattributed", "refuse");
    let scenery = Scenery { pods: "newcomer_grace: 1m", policies: &policies, ..Scenery::default() };
    let scene = scenery.start(two_tenants().await).await;
    scene.server.watched("pods").await;
    let client = scene.client("127.0.0.21");
    let request = spans(&[], &[Item::named("first")]);
    assert_eq!(client.protobuf("/v1/traces", &request).await.status(), 503);
    assert_eq!(scene.lookups("identity", "newcomer").await, 1.0);
    pod(&scene.server, ("shop", "new"), "127.0.0.21", json!({}));
    eventually("the newcomer is let in", || async {
        (client.protobuf("/v1/traces", &request).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(text(&scene.sink.wait_for("traces", 1).await[0], "tenant.id"), "acme");
    scene.stop().await;
}

#[tokio::test]
async fn pods_beyond_the_bound_are_counted_and_their_data_flows() {
    let scene = Scenery { pods: "newcomer_grace: 0s, max_pods: 2", ..Scenery::default() };
    let scene = scene.start(two_tenants().await).await;
    for address in ["127.0.0.11", "127.0.0.12", "127.0.0.13"] {
        scene.send(address, &[], address).await;
    }
    let metrics = scene.stop().await;
    assert_eq!(metrics.sum("tollgate_kubernetes_objects", &[("resource", "pods")]), 2.0);
    assert_eq!(metrics.sum("tollgate_pods_left_out_total", &[]), 2.0);
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[]), 3.0);
}

#[tokio::test]
async fn policies_that_ask_for_more_are_served_after_one_more_list() {
    let server = two_tenants().await;
    namespace(&server, "shop", json!({ "capsule.clastix.io/tenant": "acme", "team": "blue" }));
    let scene = Scenery::default().start(server).await;
    assert_eq!(text(&scene.send("127.0.0.11", &[], "before").await, "tenant.id"), "acme");
    let changed = POLICIES.replace("capsule.clastix.io/tenant", "team");
    std::fs::write(scene.tollgate.policies_path(), changed).unwrap();
    let client = scene.client("127.0.0.11");
    // Never the next place of the list, which would be another tenant's: wait, then the right one.
    eventually("the other label", || async {
        let known = scene.sink.items("traces").len();
        let answer = client.protobuf("/v1/traces", &spans(&[], &[Item::named("x")])).await;
        if answer.status() != 200 {
            assert_eq!(answer.status(), 503);
            return None;
        }
        let arrived = scene.sink.wait_for("traces", known + 1).await;
        let tenant = text(&arrived[known], "tenant.id").to_owned();
        assert!(tenant == "acme" || tenant == "blue", "{tenant}");
        (tenant == "blue").then_some(())
    })
    .await;
    scene.stop().await;
}

//! Who is at this address: pods of 127.0.0.x, told by an API server.

mod attributes;
mod life;
mod tenants;

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::api_server::ApiServer;
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
        // No name twice in a test: what arrived earlier would be taken for the answer.
        static SENT: AtomicUsize = AtomicUsize::new(0);
        let client = self.client(source);
        eventually(&format!("{key} {expected:?} from {source}"), || {
            let number = SENT.fetch_add(1, Ordering::Relaxed);
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

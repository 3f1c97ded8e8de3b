//! The same through nothing but a kubeconfig: against the double, and against a real API server where
//! `TOLLGATE_TEST_KUBECONFIG` names the kubeconfig of one.
//!
//! Its user needs rights for ConfigMaps, pods and Events in the context's namespace, and to list namespaces. What
//! is made there is removed at the end, also after a failure.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::gate::gate;
use crate::harness::api_server::ApiServer;
use crate::harness::{Http, Item, Sink, Tollgate, eventually, spans};

/// A cluster of which only the kubeconfig is known.
struct Cluster {
    kubeconfig: PathBuf,
    client: Client,
    name: String,
    _double: Option<ApiServer>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn found(purpose: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (double, kubeconfig) = match std::env::var_os("TOLLGATE_TEST_KUBECONFIG") {
            Some(path) => (None, PathBuf::from(path)),
            None => {
                let double = ApiServer::start().await;
                let path = double.kubeconfig(folder.path(), "default");
                (Some(double), path)
            }
        };
        let (read, options) = (Kubeconfig::read_from(&kubeconfig).unwrap(), KubeConfigOptions::default());
        let config = Config::from_custom_kubeconfig(read, &options).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let name = format!("tollgate-test-{purpose}-{}", std::process::id());
        Self { kubeconfig, client, name, _double: double, _folder: folder }
    }

    fn path(&self) -> &str {
        self.kubeconfig.to_str().unwrap()
    }

    /// Runs what may fail, and removes what it made either way.
    async fn removing(&self, test: impl Future<Output = ()>) {
        let ended = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(test)).await;
        let (maps, pods) = (self.api::<ConfigMap>(), self.api::<Pod>());
        drop(maps.delete(&self.name, &DeleteParams::default()).await);
        drop(pods.delete(&self.name, &DeleteParams::default().grace_period(0)).await);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }
}

fn of<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn policies(revision: &str, rate: &str) -> String {
    format!(
        "version: 1\nrevision: {revision}\nidentity: {{ anonymous: tenant:unattributed }}\n\
         defaults: {{ sampling: {{ rate: {rate} }} }}\nrules: []\n"
    )
}

#[tokio::test]
async fn a_config_map_is_followed_and_events_are_written() {
    let (sink, cluster) = (Sink::start().await, Cluster::found("policies").await);
    let map = |text: &str| -> ConfigMap {
        of(json!({ "metadata": { "name": cluster.name }, "data": { "policies.yaml": text } }))
    };
    let maps = cluster.api::<ConfigMap>();
    let test = async {
        maps.create(&PostParams::default(), &map(&policies("one", "100%"))).await.unwrap();
        let keys = format!("policies: {{ config_map: {{ name: {}, auth_type: kubeConfig }} }}", cluster.name);
        let config = gate(&sink)
            .replace("extensions: { admin: ", &format!("extensions: {{ {keys}, admin: "))
            .replace("extensions: [admin", "extensions: [policies, admin");
        let tollgate = Tollgate::with(&config)
            .policies(&policies("mount", "100%"))
            .environment("KUBECONFIG", cluster.path())
            .start()
            .await;
        let until = async |key: &str, wanted: Value| {
            eventually(&format!("{key} {wanted}"), || async {
                let (_, body) = tollgate.get("admin", "/v1/revisions").await;
                let told: Value = serde_json::from_str(&body).unwrap();
                (told.pointer(key) == Some(&wanted)).then_some(())
            })
            .await;
        };
        until("/in_force/revision", json!("one")).await;
        maps.replace(&cluster.name, &PostParams::default(), &map(&policies("two", "50%"))).await.unwrap();
        until("/in_force/revision", json!("two")).await;
        maps.replace(&cluster.name, &PostParams::default(), &map(&policies("bad", "500%"))).await.unwrap();
        until("/last_reload_success", json!(false)).await;
        until("/in_force/revision", json!("two")).await;
        for (reason, note) in [("PoliciesTaken", "revision two"), ("PoliciesRefused", "500%")] {
            eventually(reason, || async {
                let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
                let told = |event: &Event| {
                    let about = event.regarding.as_ref().and_then(|object| object.name.as_ref());
                    about == Some(&cluster.name)
                        && event.reason.as_deref() == Some(reason)
                        && event.note.as_deref().is_some_and(|text| text.contains(note))
                };
                events.items.iter().any(told).then_some(())
            })
            .await;
        }
        maps.delete(&cluster.name, &DeleteParams::default()).await.unwrap();
        until("/last_reload_success", json!(false)).await;
        until("/in_force/revision", json!("two")).await;
        tollgate.stop().await;
    };
    cluster.removing(test).await;
}

/// Configuration of a collector on a node of this name.
fn on_node(sink: &Sink, node: &str) -> String {
    format!(
        "{{otlp}}
processors: {{ k8s_attributes: , tenant: }}
exporters: {{ otlp_grpc: {{ endpoint: '{}', tls: {{ insecure: true }} }} }}
extensions:
  admin:
  pods: {{ auth_type: kubeConfig, filter: {{ node: {node} }}, newcomer_grace: 0s }}
service:
  extensions: [admin, pods]
  pipelines:
    traces: {{ receivers: [otlp], processors: [k8s_attributes, tenant], exporters: [otlp_grpc] }}
",
        sink.address()
    )
}

async fn pod_name(tollgate: &Tollgate, sink: &Sink, wanted: Option<&str>) {
    let http = Http::from_address(tollgate.address("otlp/http"), "127.0.0.61");
    eventually(&format!("pod {wanted:?}"), || async {
        let known = sink.items("traces").len();
        http.protobuf("/v1/traces", &spans(&[], &[Item::named("x")])).await;
        let last = sink.wait_for("traces", known + 1).await.pop().unwrap();
        (last.resource.get("k8s.pod.name").map(String::as_str) == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_known_by_its_address_from_its_start_on() {
    let (sink, cluster) = (Sink::start().await, Cluster::found("pod").await);
    let pods = cluster.api::<Pod>();
    // A node nobody has: no kubelet changes the pod.
    let node = format!("{}-node", cluster.name);
    let test = async {
        let tollgate = Tollgate::with(&on_node(&sink, &node))
            .policies("version: 1\nidentity: { anonymous: 'tenant:unattributed' }\nrules: []\n")
            .environment("KUBECONFIG", cluster.path())
            .start()
            .await;
        pod_name(&tollgate, &sink, None).await;
        let spec = json!({ "nodeName": node, "containers": [{ "name": "main", "image": "none" }] });
        let pod: Pod = of(json!({ "metadata": { "name": cluster.name }, "spec": spec }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let addresses =
            json!({ "phase": "Running", "podIP": "127.0.0.61", "podIPs": [{ "ip": "127.0.0.61" }] });
        // As a kubelet does.
        let patch = Patch::Merge(json!({ "status": addresses }));
        pods.patch_status(&cluster.name, &PatchParams::default(), &patch).await.unwrap();
        pod_name(&tollgate, &sink, Some(&cluster.name)).await;
        tollgate.settled().await;
        tollgate.stop().await;
    };
    cluster.removing(test).await;
}

//! `k8s_attributes` as a Collector's file has it.

use serde_json::json;

use super::{CONFIG, Scenery, pod, text, two_tenants};
use crate::harness::{Http, Item, Sink, Tollgate, spans};

/// Nobody asks for tenants, and every sender counts.
const OPEN: &str = "{ version: 1, identity: { anonymous: 'tenant:unattributed' }, rules: [] }";

/// The preset of the Collector's chart, and labels and annotations besides.
const PRESET: &str = "
    passthrough: false
    auth_type: kubeConfig
    filter: { node_from_env_var: K8S_NODE_NAME }
    pod_association:
    - sources: [{ from: resource_attribute, name: k8s.pod.ip }]
    - sources: [{ from: resource_attribute, name: k8s.pod.uid }]
    - sources: [{ from: connection }]
    extract:
      metadata: [k8s.namespace.name, k8s.deployment.name, k8s.statefulset.name, k8s.daemonset.name,
        k8s.cronjob.name, k8s.job.name, k8s.node.name, k8s.pod.name, k8s.pod.uid, k8s.pod.start_time]
      labels:
      - { tag_name: app, key: app, from: pod }
      - { tag_name: l.$$1, key_regex: 'team/(.*)', from: pod }
      - { key: zone, from: namespace }
      annotations:
      - { key: note }
      - { tag_name: owner, key: owner, from: namespace }
      otel_annotations: true
";

/// Keys as they stand between braces.
fn flow(block: &str) -> String {
    let value: serde_json::Value = serde_saphyr::from_str(block).unwrap();
    let text = value.to_string();
    text[1..text.len() - 1].to_owned()
}

#[tokio::test]
async fn the_preset_of_the_collectors_chart_finds_pods_by_what_their_data_says() {
    let server = two_tenants().await;
    server.put(
        "/api/v1/namespaces/bank",
        json!({ "metadata": { "labels": { "zone": "eu" }, "annotations": { "owner": "ops", "other": "x" } } }),
    );
    let owners = json!([{ "kind": "Job", "name": "nightly-29384756", "uid": "j", "controller": true }]);
    let said = json!({ "metadata": {
        "labels": { "app": "batch", "team/a": "blue", "team/b": "red", "steam/c": "no" },
        "annotations": { "note": "hi", "resource.opentelemetry.io/service.version": "9" },
        "ownerReferences": owners,
    } });
    pod(&server, ("bank", "nightly-x"), "127.0.0.31", said);
    pod(&server, ("bank", "jaeger-agent-1"), "127.0.0.32", json!({}));
    let attributes = flow(PRESET);
    let scene = Scenery { attributes: &attributes, policies: OPEN, ..Scenery::default() }.start(server).await;
    let told = [
        ("k8s.pod.name", "nightly-x"),
        ("k8s.job.name", "nightly-29384756"),
        ("k8s.cronjob.name", "nightly"),
        ("k8s.deployment.name", ""),
        ("app", "batch"),
        ("l.a", "blue"),
        ("l.b", "red"),
        ("k8s.namespace.labels.zone", "eu"),
        ("k8s.pod.annotations.note", "hi"),
        ("owner", "ops"),
        ("service.version", "9"),
        ("container.image.name", ""),
    ];
    type Pairs = &'static [(&'static str, &'static str)];
    let ways: [(&str, &str, Pairs); 3] = [
        ("ip", "127.0.0.99", &[("k8s.pod.ip", "127.0.0.31")]),
        ("uid", "127.0.0.12", &[("k8s.pod.uid", "uid-of-nightly-x")]),
        ("connection", "127.0.0.31", &[]),
    ];
    for (name, source, resource) in ways {
        let arrived = scene.send(source, resource, name).await;
        for (key, expected) in told {
            assert_eq!(text(&arrived, key), expected, "{name} {key}");
        }
    }
    // The first rule whose attribute is there decides, although the connection would know a pod.
    let nobody = scene.send("127.0.0.31", &[("k8s.pod.ip", "127.0.0.77")], "nobody").await;
    assert_eq!(text(&nobody, "k8s.pod.name"), "");
    // What a sender wrote stays, where its own word is believed.
    let own =
        scene.send("127.0.0.99", &[("k8s.pod.uid", "uid-of-nightly-x"), ("k8s.pod.name", "mine")], "own");
    assert_eq!(text(&own.await, "k8s.pod.name"), "mine");
    let kept = scene.send("127.0.0.31", &[("service.version", "8")], "kept").await;
    assert_eq!(text(&kept, "service.version"), "8");
    let excluded = scene.send("127.0.0.32", &[], "excluded").await;
    assert_eq!(text(&excluded, "k8s.pod.name"), "");
    let metrics = scene.stop().await;
    assert_eq!(metrics.sum("tollgate_pod_mismatches_total", &[]), 0.0);
}

#[tokio::test]
async fn sources_of_a_rule_must_agree() {
    let attributes = "pod_association: [{ sources: [
        { from: connection }, { from: resource_attribute, name: k8s.pod.name } ] }]";
    let scenery = Scenery { attributes, policies: OPEN, ..Scenery::default() };
    let scene = scenery.start(two_tenants().await).await;
    for (claimed, expected) in [("ranker-0", "uid-of-ranker-0"), ("trial", ""), ("", "")] {
        let resource = [("k8s.pod.name", claimed)];
        let resource = if claimed.is_empty() { &[][..] } else { &resource[..] };
        let arrived = scene.send("127.0.0.11", resource, &format!("by {claimed:?}")).await;
        assert_eq!(text(&arrived, "k8s.pod.uid"), expected, "{claimed}");
    }
    scene.stop().await;
}

#[tokio::test]
async fn contradictions_are_counted_and_can_be_left_as_they_are() {
    let scenery = Scenery { attributes: "on_mismatch: keep", policies: OPEN, ..Scenery::default() };
    let scene = scenery.start(two_tenants().await).await;
    let arrived = scene.send("127.0.0.11", &[("k8s.pod.name", "another")], "x").await;
    assert_eq!(
        (text(&arrived, "k8s.pod.name"), text(&arrived, "k8s.pod.uid")),
        ("another", "uid-of-ranker-0")
    );
    let metrics = scene.stop().await;
    let named = [("attribute", "k8s.pod.name")];
    assert_eq!(metrics.sum("tollgate_pod_mismatches_total", &named), 1.0);
}

#[tokio::test]
async fn the_image_is_that_of_the_container_a_sender_names() {
    let server = two_tenants().await;
    let containers = json!([{ "name": "a", "image": "one:1" }, { "name": "b", "image": "two:2" }]);
    pod(&server, ("shop", "two"), "127.0.0.31", json!({ "spec": { "containers": containers } }));
    let scene = Scenery { policies: OPEN, ..Scenery::default() }.start(server).await;
    let named = scene.send("127.0.0.31", &[("k8s.container.name", "b")], "named").await;
    assert_eq!((text(&named, "container.image.name"), text(&named, "container.image.tag")), ("two", "2"));
    let unnamed = scene.send("127.0.0.31", &[], "unnamed").await;
    assert_eq!(text(&unnamed, "container.image.name"), "");
    scene.stop().await;
}

#[tokio::test]
async fn passing_through_writes_the_address_and_asks_nobody() {
    let (server, sink) = (two_tenants().await, Sink::start().await);
    let folder = tempfile::tempdir().unwrap();
    let config = CONFIG
        .replace("{attributes}", "passthrough: true")
        .replace("extensions: [admin, pods]", "extensions: [admin]")
        .replace("{pods}", "newcomer_grace: 0s")
        .replace("{sink}", &sink.address().to_string());
    let kubeconfig = server.kubeconfig(folder.path(), "default");
    let start = Tollgate::with(&config).policies(OPEN);
    let tollgate = start.environment("KUBECONFIG", kubeconfig.to_str().unwrap()).start().await;
    let http = Http::from_address(tollgate.address("otlp/http"), "127.0.0.11");
    let request = spans(&[], &[Item::named("x")]);
    assert_eq!(http.protobuf("/v1/traces", &request).await.status(), 200);
    assert_eq!(text(&sink.wait_for("traces", 1).await[0], "k8s.pod.ip"), "127.0.0.11");
    let metrics = tollgate.settled().await;
    assert!(!metrics.text.contains("tollgate_kubernetes"), "nothing is watched");
    tollgate.stop().await;
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_node_nobody_names_stops_the_start_with_a_way_out() {
    let (server, sink) = (two_tenants().await, Sink::start().await);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("collector.yaml");
    let text = CONFIG
        .replace("{otlp}", crate::harness::EPHEMERAL)
        .replace("{attributes}", "")
        .replace("{pods}", "")
        .replace("{sink}", &sink.address().to_string());
    std::fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("run").arg("--config").arg(&config).env_remove("K8S_NODE_NAME");
    command.env("KUBECONFIG", server.kubeconfig(folder.path(), "default"));
    let ended = command.output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success());
    let expected =
        "extensions.pods.filter.node_from_env_var: the environment variable K8S_NODE_NAME is not set";
    assert!(told.contains(expected), "{told}");
}

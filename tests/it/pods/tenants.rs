//! Whose data it is, told by the address it comes from; and what spoofers try.

use serde_json::{Value, json};

use super::{POLICIES, Scenery, pod, text, two_tenants};
use crate::harness::{Item, spans};

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
async fn tenant_and_model_are_what_platforms_and_model_servers_write() {
    let policies = POLICIES.replace(
        "namespace_label.capsule.clastix.io/tenant,",
        "namespace_label.capsule.clastix.io/tenant, namespace_label.field.cattle.io/projectId,
         namespace_label.toolkit.fluxcd.io/tenant, namespace_annotation.openshift.io/requester,",
    );
    let server = two_tenants().await;
    let labels = |pairs: Value| json!({ "metadata": { "labels": pairs } });
    let both = json!({ "capsule.clastix.io/tenant": "first", "field.cattle.io/projectId": "p-second" });
    let namespaces = [
        ("both", labels(both), "first"),
        ("rancher", labels(json!({ "field.cattle.io/projectId": "p-x7k2q" })), "p-x7k2q"),
        ("flux", labels(json!({ "toolkit.fluxcd.io/tenant": "dev-team" })), "dev-team"),
        ("noted", json!({ "metadata": { "annotations": { "openshift.io/requester": "ada" } } }), "ada"),
        ("plain", labels(json!({ "kubernetes.io/metadata.name": "plain" })), "plain"),
    ];
    let models = [
        ("serving.kserve.io/inferenceservice", "kserve"),
        ("seldon-deployment-id", "seldon"),
        ("llm-d.ai/model", "llm-d"),
        ("ray.io/cluster", "ray"),
    ];
    let mut expected = Vec::new();
    for (name, object, tenant) in namespaces {
        server.put(&format!("/api/v1/namespaces/{name}"), object);
        expected.push((name, labels(json!({})), tenant, "", ""));
    }
    for (label, model) in models {
        let pairs = labels(json!({ label: model, "app.kubernetes.io/version": "2026.3" }));
        expected.push(("plain", pairs, "plain", model, "2026.3"));
    }
    let first_wins = labels(json!({ "ray.io/cluster": "ray", "seldon-deployment-id": "seldon" }));
    expected.push(("plain", first_wins, "plain", "seldon", ""));
    for (number, (name, object, ..)) in expected.iter().enumerate() {
        pod(&server, (name, &format!("pod-{number}")), &format!("127.0.0.{}", 50 + number), object.clone());
    }
    let scene = Scenery { policies: &policies, ..Scenery::default() }.start(server).await;
    for (number, (name, _, tenant, model, version)) in expected.iter().enumerate() {
        let arrived = scene.send(&format!("127.0.0.{}", 50 + number), &[], &format!("{number}")).await;
        let told = ["tenant.id", "model.name", "model.version"].map(|key| text(&arrived, key));
        assert_eq!(told, [*tenant, *model, *version], "{name} {number}");
    }
    scene.stop().await;
}

//! Pods come and go, and so does the API server: data flows, and memory is bounded.

use serde_json::json;

use super::{POLICIES, Scene, Scenery, namespace, pod, text, two_tenants};
use crate::harness::api_server::{End, Fault};
use crate::harness::{Item, Sink, eventually, spans};

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
    assert!(metrics.sum("tollgate_kubernetes_watch_failures_total", &pods) >= 1.0);
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

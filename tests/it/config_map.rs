//! Policies from a ConfigMap, followed through an API server that changes, refuses and goes away.

use std::path::Path;

use serde_json::{Value, json};

use crate::gate::gate;
use crate::harness::api_server::{ApiServer, End, Fault};
use crate::harness::{Sink, Start, Tollgate, eventually};

const PATH: &str = "/api/v1/namespaces/telemetry/configmaps/rules";

fn policies(revision: &str) -> String {
    format!(
        "version: 1\nrevision: \"{revision}\"\nidentity: {{ anonymous: tenant:unattributed }}\nrules: []\n"
    )
}

fn config_map(text: &str) -> Value {
    json!({ "data": { "policies.yaml": text } })
}

/// A collector that starts with revision `mount` from its file and follows the ConfigMap `rules`.
fn following(sink: &Sink, server: &ApiServer, folder: &Path, more: &str) -> Start {
    let policies_keys = format!(
        "extensions: {{ policies: {{ poll_interval: 50ms, {more} \
         config_map: {{ name: rules, auth_type: kubeConfig }} }}, admin: "
    );
    let config = gate(sink)
        .replace("extensions: { admin: ", &policies_keys)
        .replace("extensions: [admin", "extensions: [policies, admin");
    let kubeconfig = server.kubeconfig(folder, "telemetry");
    Tollgate::with(&config)
        .policies(&policies("mount"))
        .environment("KUBECONFIG", kubeconfig.to_str().unwrap())
        .environment("OTEL_K8S_POD_NAME", "agent-7")
}

async fn revisions(tollgate: &Tollgate) -> Value {
    let (status, body) = tollgate.get("admin", "/v1/revisions").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn until(tollgate: &Tollgate, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        let revisions = revisions(tollgate).await;
        wanted(&revisions).then_some(revisions)
    })
    .await
}

async fn in_force(tollgate: &Tollgate, revision: &str) -> Value {
    until(tollgate, revision, |told| told["in_force"]["revision"] == revision).await
}

async fn event(server: &ApiServer, reason: &str, about: &str) -> Value {
    eventually(&format!("the Event {reason} about {about}"), || async {
        let mut events = server.objects("events").into_iter();
        events.find(|event| event["reason"] == reason && event["note"].as_str().unwrap().contains(about))
    })
    .await
}

#[tokio::test]
async fn a_change_at_the_api_server_is_in_force_and_told() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    server.put(PATH, config_map(&policies("one")));
    server.put("/api/v1/namespaces/telemetry/configmaps/other", config_map(&policies("other")));
    let tollgate = following(&sink, &server, folder.path(), "").start().await;
    in_force(&tollgate, "one").await;
    server.watched("configmaps").await;
    let version = server.put(PATH, config_map(&policies("two")));
    let told = in_force(&tollgate, "two").await;
    assert_eq!(told["origin"], "configmap telemetry/rules key policies.yaml");
    assert_eq!(told["resource_version"], version);
    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_policies_info", &[("revision", "two")]), 1.0);
    assert_eq!(metrics.sum("tollgate_kubernetes_watch_up", &[("resource", "configmaps")]), 1.0);

    let taken = event(&server, "PoliciesTaken", "revision two").await;
    assert_eq!(taken["type"], "Normal");
    assert_eq!(taken["reportingInstance"], "agent-7");
    let regarding = &taken["regarding"];
    assert_eq!((&regarding["kind"], &regarding["name"]), (&json!("ConfigMap"), &json!("rules")));
    assert_eq!(regarding["uid"], server.get(PATH).unwrap()["metadata"]["uid"]);

    // The same text again is no news.
    server.put(PATH, config_map(&policies("two")));
    server.put(PATH, config_map(&policies("three")));
    in_force(&tollgate, "three").await;
    let metrics = tollgate.metrics().await;
    // From the mount, then one, two, three.
    assert_eq!(metrics.sum("tollgate_policies_reloads_total", &[("outcome", "success")]), 4.0);
    let about_maps = server.asked().into_iter().filter(|asked| asked.path.ends_with("/configmaps"));
    for asked in about_maps {
        assert_eq!(asked.path, "/api/v1/namespaces/telemetry/configmaps");
        assert_eq!(asked.parameter("fieldSelector"), Some("metadata.name=rules"), "{asked:?}");
        assert_eq!(asked.authorization.as_deref(), Some("Bearer of-a-tester"));
    }
    assert_eq!(server.lists("configmaps"), 1);
    tollgate.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_told_and_the_last_good_stays() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    server.put(PATH, config_map(&policies("one")));
    let tollgate = following(&sink, &server, folder.path(), "").start().await;
    in_force(&tollgate, "one").await;
    server.watched("configmaps").await;
    let refused = async |problem: &str| {
        let told = until(&tollgate, problem, |told| told["refused"].to_string().contains(problem)).await;
        assert_eq!(told["in_force"]["revision"], "one");
        assert_eq!(told["last_reload_success"], false);
        let event = event(&server, "PoliciesRefused", problem).await;
        assert_eq!(event["type"], "Warning");
        assert!(event["note"].as_str().unwrap().starts_with("revision one stays in force: "), "{event}");
        let metrics = tollgate.metrics().await;
        assert_eq!(metrics.sum("tollgate_policies_last_reload_success", &[]), 0.0);
    };
    server.put(PATH, config_map("version: 1\nrulez: []\n"));
    refused("did you mean `rules`").await;
    server.put(PATH, json!({ "data": { "policy.yaml": policies("two") } }));
    refused("it has no key `policies.yaml`; it has: policy.yaml").await;
    server.delete(PATH);
    let mut immutable = config_map(&policies("one"));
    immutable["immutable"] = true.into();
    server.put(PATH, immutable);
    let told = until(&tollgate, "one again", |told| told["last_reload_success"] == true).await;
    assert_eq!((&told["in_force"]["revision"], &told["refused"]), (&json!("one"), &Value::Null));
    eventually("the warning", || async { tollgate.event("policies.immutable") }).await;
    server.delete(PATH);
    refused("the ConfigMap was deleted").await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_late_mount_does_not_take_back_what_the_api_server_gave() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    server.put(PATH, config_map(&policies("a")));
    let tollgate = following(&sink, &server, folder.path(), "").start().await;
    in_force(&tollgate, "a").await;
    server.watched("configmaps").await;
    for revision in ["b", "c"] {
        server.put(PATH, config_map(&policies(revision)));
        in_force(&tollgate, revision).await;
    }
    std::fs::write(tollgate.policies_path(), policies("b")).unwrap();
    // What was told before, told late by another way.
    server.put_at(PATH, config_map(&policies("b")), 3);
    server.fault(Some(Fault::Away));
    server.end_watches(End::Broken);
    let failures = [("resource", "configmaps")];
    eventually("a failure", || async {
        let metrics = tollgate.metrics().await;
        (metrics.sum("tollgate_kubernetes_watch_failures_total", &failures) >= 2.0).then_some(())
    })
    .await;
    server.fault(None);
    server.put(PATH, config_map(&policies("d")));
    in_force(&tollgate, "d").await;
    let metrics = tollgate.metrics().await;
    // From the mount, then a, b, c and d: b never again.
    assert_eq!(metrics.sum("tollgate_policies_reloads_total", &[("outcome", "success")]), 5.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn without_an_api_server_the_mount_serves_and_the_server_is_not_pressed() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    server.fault(Some(Fault::Refuse(429, Some(1))));
    let tollgate = following(&sink, &server, folder.path(), "").start().await;
    in_force(&tollgate, "mount").await;
    eventually("the warning", || async { tollgate.event("policies.api_lost") }).await;
    std::fs::write(tollgate.policies_path(), policies("mount-2")).unwrap();
    in_force(&tollgate, "mount-2").await;
    let begun = std::time::Instant::now();
    server.put(PATH, config_map(&policies("one")));
    eventually("a second list", || async { (server.lists("configmaps") >= 2).then_some(()) }).await;
    server.fault(None);
    in_force(&tollgate, "one").await;
    // One a second at most, two seconds apart at least.
    assert!(server.lists("configmaps") <= 3 + begun.elapsed().as_secs() as usize, "{:?}", server.asked());
    tollgate.stop().await;
}

#[tokio::test]
async fn the_api_server_s_last_word_survives_a_restart_without_mount_and_server() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    server.put(PATH, config_map(&policies("one")));
    let kept = format!("last_good: '{}',", folder.path().join("kept.yaml").display());
    let tollgate = following(&sink, &server, folder.path(), &kept).start().await;
    in_force(&tollgate, "one").await;
    tollgate.stop().await;
    server.fault(Some(Fault::Away));
    let missing = folder.path().join("nothing/policies.yaml");
    let start = following(&sink, &server, folder.path(), &kept);
    let tollgate = start.argument(&format!("--set=extensions.policies.path={}", missing.display()));
    let tollgate = tollgate.without_policies().start().await;
    let told = in_force(&tollgate, "one").await;
    assert_eq!(told["last_reload_success"], false);
    tollgate.stop().await;
}

#[tokio::test]
async fn an_unknown_config_map_leaves_the_mount_in_charge() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    let tollgate = following(&sink, &server, folder.path(), "").start().await;
    eventually("the warning", || async { tollgate.event("policies.no_config_map") }).await;
    std::fs::write(tollgate.policies_path(), policies("mount-2")).unwrap();
    in_force(&tollgate, "mount-2").await;
    server.put(PATH, config_map(&policies("one")));
    in_force(&tollgate, "one").await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_reload_of_the_configuration_ends_the_watch_it_no_longer_names() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    server.put(PATH, config_map(&policies("one")));
    let tollgate = following(&sink, &server, folder.path(), "").start().await;
    in_force(&tollgate, "one").await;
    server.watched("configmaps").await;
    let path = tollgate.dir.path().join("collector.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("config_map: { name: rules, auth_type: kubeConfig }", "")).unwrap();
    tollgate.signal("HUP");
    eventually("the reload", || async { tollgate.event("config.reloaded") }).await;
    eventually("no watch", || async { (server.open_watches("configmaps") == 0).then_some(()) }).await;
    tollgate.stop().await;
}

#[test]
fn what_is_wrong_with_the_keys_is_told_before_anything_is_asked() {
    let complaint = |extension: &str| {
        let config = format!(
            "yaml:{}\nexporters: {{ nop: }}\nextensions: {{ policies: {extension} }}\n\
             service: {{ extensions: [policies], pipelines: {{ traces: {{ receivers: [otlp], exporters: [nop] }} }} }}",
            crate::harness::EPHEMERAL
        );
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let output = command.args(["validate", "--config", &config]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (extension, told, at) in [
        ("{ config_map: { name: rules } }", "is needed beside `config_map`", "extensions.policies.path"),
        (
            "{ path: x, config_map: {} }",
            "`` is no name of a ConfigMap",
            "extensions.policies.config_map.name",
        ),
        (
            "{ path: x, config_map: { name: Rules } }",
            "`Rules` is no name of a ConfigMap: lower-case letters",
            "config_map.name",
        ),
        (
            "{ path: x, config_map: { name: r, namespace: a_b } }",
            "`a_b` is no name of a namespace",
            "config_map.namespace",
        ),
        ("{ path: x, config_map: { name: r, key: '' } }", "must not be empty", "config_map.key"),
        ("{ path: x, config_map: { name: r, auth_type: token } }", "serviceAccount", "config_map.auth_type"),
        (
            "{ path: x, config_map: { name: r, nmespace: x } }",
            "did you mean `namespace`?",
            "config_map.nmespace",
        ),
        ("{ path: x, poll_interval: 0s }", "must be above 0s", "extensions.policies.poll_interval"),
    ] {
        let text = complaint(extension);
        assert!(text.contains(told) && text.contains(at), "{told:?} and {at:?} in {text}");
    }
}

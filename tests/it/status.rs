//! `tollgate status`, of one process and of a fleet behind an API server.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::gate::gate;
use crate::harness::api_server::ApiServer;
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, spans};

/// Exit code and what was said.
async fn status(arguments: &[&str], kubeconfig: Option<&Path>) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("status").args(arguments).env_remove("KUBECONFIG");
    if let Some(path) = kubeconfig {
        command.env("KUBECONFIG", path);
    }
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn policies(revision: &str) -> String {
    format!(
        "version: 1\nrevision: \"{revision}\"\nidentity: {{ anonymous: tenant:unattributed }}\nrules: []\n"
    )
}

async fn collector(sink: &Sink, revision: &str) -> Tollgate {
    Tollgate::with(&gate(sink)).policies(&policies(revision)).start().await
}

#[tokio::test]
async fn one_process_tells_how_it_does() {
    let sink = Sink::start().await;
    let tollgate = collector(&sink, "seven").await;
    let url = format!("http://{}/", tollgate.address("admin"));
    sink.answer(Answer::Unavailable);
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("a"), Item::named("b")])).await.unwrap();

    let (code, text) = status(&["--url", &url], None).await;
    assert_eq!(code, 0, "{text}");
    for told in
        ["ready for ", "revision seven, sha256 ", "policies.yaml", "exporter   otlp_grpc ok: ", "2 received"]
    {
        assert!(text.contains(told), "{told:?} in {text}");
    }
    let (code, text) = status(&["--url", &url, "--json"], None).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &told["state"], &told["ready"]), (0, &json!("ready"), &json!(true)));
    assert_eq!(told["policies"]["in_force"]["revision"], "seven");
    assert_eq!((&told["items"]["received"], &told["items"]["queued"]), (&json!(2), &json!(2)));
    let exporter = &told["exporters"][0];
    assert_eq!((&exporter["id"], &exporter["state"]), (&json!("otlp_grpc"), &json!("ok")));
    assert!(exporter["queue_bytes"].as_u64().unwrap() > 0, "{exporter}");

    std::fs::write(tollgate.policies_path(), "version: 1\nrulez: []\n").unwrap();
    let text = eventually("a refusal", || async {
        let (code, text) = status(&["--url", &url], None).await;
        (code == 1).then_some(text)
    })
    .await;
    assert!(text.contains("REFUSED") && text.contains("did you mean `rules`"), "{text}");
    assert!(text.contains("revision seven"), "{text}");
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
    let (code, text) = status(&["--url", &url], None).await;
    assert_eq!(code, 1);
    assert!(text.contains("nobody listens; the extension `admin` does"), "{text}");
}

fn pod(node: &str, phase: &str) -> Value {
    json!({
        "metadata": { "labels": { "app.kubernetes.io/name": "tollgate" } },
        "spec": { "nodeName": node, "containers": [] },
        "status": { "phase": phase },
    })
}

#[tokio::test]
async fn a_fleet_is_asked_pod_by_pod_through_the_api_server() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    let kubeconfig = server.kubeconfig(folder.path(), "telemetry");
    let (new, old) = (collector(&sink, "two").await, collector(&sink, "one").await);
    let port = 55679;
    for (name, to) in [("agent-a", &new), ("agent-b", &old), ("agent-c", &new)] {
        server.put(&format!("/api/v1/namespaces/telemetry/pods/{name}"), pod("node-1", "Running"));
        server.forward(name, port, to.address("admin").parse().unwrap());
    }
    let ask = async |more: &[&str]| {
        let arguments = [&["--fleet"][..], more].concat();
        status(&arguments, Some(&kubeconfig)).await
    };
    let (code, text) = ask(&[]).await;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, 1, "one drifts: {text}");
    assert_eq!(lines[0][..6], ["POD", "NODE", "STATE", "REVISION", "SHA256", "DRIFT"]);
    assert_eq!(
        (lines[1][..4].to_vec(), lines[1][5]),
        (vec!["agent-a", "node-1", "ready", "two"], "-"),
        "{text}"
    );
    assert_eq!(
        (lines[2][..4].to_vec(), lines[2][5]),
        (vec!["agent-b", "node-1", "ready", "one"], "DRIFT"),
        "{text}"
    );
    assert!(text.contains("3 pods: 3 ready, 1 drift, 0 refuse, 0 not reached"), "{text}");
    let story = include_str!("../../examples/change-a-rate-with-a-configmap/README.md");
    let head = story.lines().find(|line| line.starts_with("POD ")).unwrap();
    assert_eq!(lines[0], head.split_whitespace().collect::<Vec<_>>());

    // Who cannot be reached is named, and why.
    server.put("/api/v1/namespaces/telemetry/pods/agent-b", pod("node-2", "Pending"));
    server.put("/api/v1/namespaces/telemetry/pods/agent-d", pod("node-2", "Running"));
    server.forward("agent-d", 1, new.address("admin").parse().unwrap());
    let (code, text) = ask(&[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("agent-b  node-2  not reached: the pod is Pending"), "{text}");
    let why = "agent-d  node-2  not reached: dial tcp4 127.0.0.1:55679: connect: connection refused";
    assert!(text.contains(why), "{text}");
    assert!(text.contains("4 pods: 2 ready, 0 drift, 0 refuse, 2 not reached"), "{text}");

    for name in ["agent-b", "agent-d"] {
        server.delete(&format!("/api/v1/namespaces/telemetry/pods/{name}"));
    }
    let (code, text) = ask(&["--json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &told["well"], told["pods"].as_array().unwrap().len()), (0, &json!(true), 2), "{text}");
    assert_eq!(told["pods"][1]["status"]["policies"]["in_force"]["revision"], "two");

    let (code, text) = ask(&["--namespace", "elsewhere"]).await;
    assert_eq!(code, 1);
    assert!(
        text.contains("namespace elsewhere has no pods with the labels app.kubernetes.io/name=tollgate"),
        "{text}"
    );
    let lists = server.asked().into_iter().filter(|asked| asked.path.ends_with("/pods"));
    for asked in lists {
        assert_eq!(asked.parameter("labelSelector"), Some("app.kubernetes.io/name=tollgate"));
    }
    new.stop().await;
    old.stop().await;
}

#[tokio::test]
async fn a_fleet_tells_what_waits_for_how_long_and_who_refuses_what_it_was_given() {
    let (sink, server, folder) =
        (Sink::start().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    let kubeconfig = server.kubeconfig(folder.path(), "telemetry");
    let start = Tollgate::with(&gate(&sink)).policies(&policies("one"));
    let tollgate = start.argument("--set=exporters.otlp_grpc.sending_queue.num_consumers=1").start().await;
    server.put("/api/v1/namespaces/telemetry/pods/agent-a", pod("node-1", "Running"));
    server.forward("agent-a", 55679, tollgate.address("admin").parse().unwrap());
    sink.answer(Answer::Unavailable);
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    // One is tried again and again, and behind it waits the other.
    for name in ["tried", "waits"] {
        grpc.spans(spans(&[], &[Item::named(name)])).await.unwrap();
    }
    std::fs::write(tollgate.policies_path(), "version: 1\nrulez: []\n").unwrap();
    let text = eventually("a refusal and a second of age", || async {
        let (code, text) = status(&["--fleet"], Some(&kubeconfig)).await;
        let line = text.lines().find(|line| line.starts_with("agent-a"))?;
        let (_, queued) = line.split_once("since ")?;
        (code == 1 && !queued.contains(" 0 B (") && !queued.ends_with(" 0s")).then(|| text.clone())
    })
    .await;
    assert!(text.contains("1 pods: 1 ready, 0 drift, 1 refuse, 0 not reached"), "{text}");
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn without_a_cluster_the_fleet_says_what_is_missing() {
    let (code, text) = status(&["--fleet"], Some(Path::new("/nowhere/kubeconfig"))).await;
    assert_eq!(code, 1);
    assert!(text.contains("the kubeconfig cannot be used") && text.contains("/nowhere/kubeconfig"), "{text}");
    let (code, text) = status(&["--namespace", "x"], None).await;
    assert_eq!(code, 2);
    assert!(text.contains("--fleet"), "{text}");
}

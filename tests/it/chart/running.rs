//! What the chart renders, run by the real program as far as no kubelet is needed.

use std::process::Command;

use serde_json::{Value, json};

use super::{all_rendered, chart, container, file, objects, of_kind, output, template, with};
use crate::harness::api_server::ApiServer;
use crate::harness::{Answer, Grpc, Http, Item, Sink, Tollgate, eventually, spans};

/// The rendered configuration, on ports of the system's choice and with its state in a folder.
pub(super) fn runnable(config: &str, state: &str) -> String {
    let mut config = config.replace("/var/lib/tollgate", state);
    for port in ["4317", "4318", "13133"] {
        config = config.replace(&format!(":{port}\""), ":0\"");
    }
    config
}

/// Agent to backend with nothing changed but ports; every listener on this address.
async fn an_agent_runs_on(pod_ip: &str) {
    let sink = Sink::start().await;
    let state = tempfile::tempdir().unwrap();
    let endpoint = format!("destination.endpoint={}", sink.address());
    let objects = objects(&with("daemonset", &[&endpoint, "destination.tls.insecure=true"]).unwrap());
    let config = runnable(&file(&objects, "-config").unwrap(), state.path().to_str().unwrap());
    let tollgate = Tollgate::with(&config)
        .policies(&file(&objects, "-policies").unwrap())
        .environment("MY_POD_IP", pod_ip)
        .start()
        .await;
    for name in ["otlp/grpc", "otlp/http", "health_check"] {
        let address: std::net::SocketAddr = tollgate.address(name).parse().unwrap();
        assert_eq!(address.ip().to_string(), pod_ip, "{name}");
    }
    let health = format!("--url=http://{}/", tollgate.address("health_check"));
    output(Command::new(env!("CARGO_BIN_EXE_tollgate")).args(["healthcheck", &health])).unwrap();
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[("tenant.id", "acme")], &[Item::named("x")])).await.unwrap();
    let span = sink.wait_for("traces", 1).await.remove(0);
    // The chart's own policies believe nobody.
    assert_eq!(span.resource["tenant.id"], "unattributed");
    assert!(state.path().join("policies.last-good.yaml").exists());
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn an_agent_runs_with_an_ipv4_address() {
    an_agent_runs_on("127.0.0.1").await;
}

#[tokio::test]
async fn an_agent_runs_with_an_ipv6_address() {
    match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => an_agent_runs_on("::1").await,
        Err(error) => eprintln!("this machine has no IPv6 loopback: {error}"),
    }
}

#[tokio::test]
async fn what_a_statefulset_with_a_volume_answered_survives_the_pod() {
    let (sink, volume) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    std::fs::create_dir(volume.path().join("queue")).unwrap();
    let endpoint = format!("destination.endpoint={}", sink.address());
    let set = [&endpoint, "destination.tls.insecure=true", "destination.persistence.enabled=true"];
    let objects = objects(&with("statefulset", &set).unwrap());
    let config = runnable(&file(&objects, "-config").unwrap(), volume.path().to_str().unwrap());
    let start = || {
        let tollgate = Tollgate::with(&config).policies(&file(&objects, "-policies").unwrap());
        tollgate.environment("MY_POD_IP", "127.0.0.1").start()
    };
    let tollgate = start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    tollgate.kill();
    sink.refuse_what_is_under_way().await;
    sink.answer(Answer::Ok);
    let tollgate = start().await;
    assert_eq!(sink.wait_for("traces", 1).await[0].name, "x");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[test]
fn containers_get_arguments_the_program_knows() {
    let help_of = |command: &str| {
        output(Command::new(env!("CARGO_BIN_EXE_tollgate")).args([command, "--help"])).unwrap()
    };
    let helps = ["run", "healthcheck"].map(|command| (command, help_of(command)));
    for rendered in all_rendered() {
        let objects = &rendered.objects;
        let tests = of_kind(objects, "Pod").into_iter().map(|pod| &pod["spec"]["containers"][0]);
        for container in tests.chain([container(objects)]) {
            assert!(container["command"].is_null(), "the image's entry point runs");
            let mut arguments = container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap());
            let command = arguments.next().unwrap();
            let (_, help) = helps.iter().find(|(known, _)| *known == command).unwrap();
            for argument in arguments {
                let flag = argument.split('=').next().unwrap();
                assert!(help.contains(flag), "{argument} in {}", rendered.name());
            }
        }
    }
}

#[test]
fn helm_test_asks_the_health_check_of_the_pods() {
    let objects = objects(&template(&chart().join("ci/agent.yaml")));
    let services = of_kind(&objects, "Service");
    let [service] = services[..] else { panic!("{services:?}") };
    assert_eq!(service["metadata"]["annotations"]["helm.sh/hook"], "test");
    let port = &service["spec"]["ports"][0];
    let health =
        container(&objects)["ports"].as_array().unwrap().iter().find(|port| port["name"] == "health");
    assert_eq!(port["port"], health.unwrap()["containerPort"]);
    let pod = of_kind(&objects, "Pod")[0];
    let url = format!("--url=http://{}:{}/", service["metadata"]["name"].as_str().unwrap(), port["port"]);
    assert!(pod["spec"]["containers"][0]["args"].as_array().unwrap().contains(&url.into()));
}

#[tokio::test]
async fn the_agents_of_the_story_know_the_pods_of_their_node() {
    let story = super::root().join("examples/kubernetes-daemonset");
    let objects = objects(&template(&story.join("values.yaml")));
    let (folder, server, sink) =
        (tempfile::tempdir().unwrap(), ApiServer::start().await, Sink::start().await);
    server.put(
        "/api/v1/namespaces/shop",
        json!({ "metadata": { "labels": { "capsule.clastix.io/tenant": "acme" } } }),
    );
    server.put(
        "/api/v1/namespaces/shop/pods/web",
        json!({
            "spec": { "nodeName": "n1" },
            "status": { "phase": "Running", "podIP": "127.0.0.41", "podIPs": [{ "ip": "127.0.0.41" }] },
        }),
    );
    let config = runnable(&file(&objects, "-config").unwrap(), folder.path().to_str().unwrap());
    // There is no pod whose service account it could use.
    let config = config
        .replace("\n  pods:\n", "\n  pods:\n    auth_type: kubeConfig\n")
        .replace("gateway-tollgate.telemetry.svc:0", &sink.address().to_string());
    let tollgate = Tollgate::with(&config)
        .policies(&std::fs::read_to_string(story.join("policies.yaml")).unwrap())
        .environment("MY_POD_IP", "127.0.0.1")
        .environment("K8S_NODE_NAME", "n1")
        .environment("KUBECONFIG", server.kubeconfig(folder.path(), "default").to_str().unwrap())
        .start()
        .await;
    let http = Http::from_address(tollgate.address("otlp/http"), "127.0.0.41");
    let request = spans(&[("tenant.id", "another")], &[Item::named("x")]);
    assert_eq!(http.protobuf("/v1/traces", &request).await.status(), 200);
    let span = sink.wait_for("traces", 1).await.remove(0);
    assert_eq!((&*span.resource["tenant.id"], &*span.resource["k8s.pod.name"]), ("acme", "web"));
    tollgate.settled().await;
    tollgate.stop().await;
}

/// The files of a folder, as a kubelet brings them: a directory of their own, one link swapped over it.
fn publish(mount: &std::path::Path, revision: &str, text: &str) {
    let (new, old) = (format!("..{revision}"), std::fs::read_link(mount.join("..data")));
    std::fs::create_dir(mount.join(&new)).unwrap();
    std::fs::write(mount.join(&new).join("policies.yaml"), text).unwrap();
    std::os::unix::fs::symlink(&new, mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    match old {
        Ok(old) => std::fs::remove_dir_all(mount.join(old)).unwrap(),
        Err(_) => std::os::unix::fs::symlink("..data/policies.yaml", mount.join("policies.yaml")).unwrap(),
    }
}

#[tokio::test]
async fn a_changed_configmap_changes_the_rate_in_the_same_process() {
    let story = super::root().join("examples/change-a-rate-with-a-configmap");
    let objects = objects(&template(&story.join("values.yaml")));
    let (mount, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = std::fs::read_to_string(story.join("policies.yaml")).unwrap();
    publish(mount.path(), "1", &first);
    let config = runnable(&file(&objects, "-config").unwrap(), state.path().to_str().unwrap());
    let tollgate = Tollgate::with(&config)
        .environment("MY_POD_IP", "127.0.0.1")
        .argument(&format!("--policies={}", mount.path().join("policies.yaml").display()))
        .start()
        .await;
    let in_force = async |revision: &str, success: bool| {
        eventually(&format!("revision {revision}, last reload {success}"), || async {
            let (_, text) = tollgate.get("admin", "/v1/revisions").await;
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            let as_wanted =
                answer["in_force"]["revision"] == revision && answer["last_reload_success"] == success;
            as_wanted.then_some(answer)
        })
        .await
    };
    in_force("1", true).await;
    let second = first.replace("rate: 10%", "rate: 50%").replace("revision: \"1\"", "revision: \"2\"");
    publish(mount.path(), "2", &second);
    in_force("2", true).await;
    publish(mount.path(), "3", &second.replace("rate: 50%", "rate: 500%"));
    let refused = in_force("2", false).await;
    assert!(refused["refused"]["problems"].to_string().contains("500%"), "{refused}");
    publish(mount.path(), "4", &second);
    in_force("2", true).await;
    let (_, effective) = tollgate.get("admin", "/v1/policies/effective?tenant=acme").await;
    assert!(effective.contains("0.5"), "{effective}");
    tollgate.stop().await;
}

#[tokio::test]
async fn a_changed_configmap_is_taken_from_the_api_server_and_told_by_events() {
    let story = super::root().join("examples/change-a-rate-with-a-configmap");
    let objects = objects(&template(&story.join("values-watch.yaml")));
    let (folder, server) = (tempfile::tempdir().unwrap(), ApiServer::start().await);
    let first = std::fs::read_to_string(story.join("policies.yaml")).unwrap();
    let path = "/api/v1/namespaces/telemetry/configmaps/tollgate-policies";
    let put = |text: &str| server.put(path, json!({ "data": { "policies.yaml": text } }));
    put(&first);
    let kubeconfig = server.kubeconfig(folder.path(), "telemetry");
    let config = runnable(&file(&objects, "-config").unwrap(), folder.path().to_str().unwrap());
    let tollgate = Tollgate::with(&config)
        .policies(&first)
        .environment("MY_POD_IP", "127.0.0.1")
        .environment("KUBECONFIG", kubeconfig.to_str().unwrap())
        .argument("--set=extensions.policies.config_map.auth_type=kubeConfig")
        .start()
        .await;
    server.watched("configmaps").await;
    let second = first.replace("rate: 10%", "rate: 50%").replace("revision: \"1\"", "revision: \"2\"");
    put(&second);
    put(&second.replace("rate: 50%", "rate: 500%"));
    for (reason, note) in [("PoliciesTaken", "revision 2 is in force"), ("PoliciesRefused", "500%")] {
        eventually(reason, || async {
            let told =
                |event: &Value| event["reason"] == reason && event["note"].as_str().unwrap().contains(note);
            server.objects("events").iter().any(told).then_some(())
        })
        .await;
    }
    let (_, effective) = tollgate.get("admin", "/v1/policies/effective?tenant=acme").await;
    assert!(effective.contains("0.5"), "{effective}");
    tollgate.stop().await;
}

#[test]
fn policies_of_the_stories_are_good() {
    for story in ["kubernetes-daemonset", "kubernetes-gateway", "change-a-rate-with-a-configmap"] {
        let story = super::root().join("examples").join(story);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("collector.yaml");
        let objects = objects(&template(&story.join("values.yaml")));
        std::fs::write(&config, file(&objects, "-config").unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .env("MY_POD_IP", "10.0.0.1")
            .env("BACKEND_TOKEN", "x")
            .args(["validate", "--strict", "--config"])
            .arg(config);
        output(command.arg("--policies").arg(story.join("policies.yaml"))).unwrap();
    }
}

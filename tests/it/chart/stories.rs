//! The stories of Kubernetes say what is so: their commands, what these print, and what data does.

use std::process::Command;

use super::running::runnable;
use super::{file, helm, objects, output, root, template};
use crate::harness::{Grpc, Item, Sink, Tollgate, spans};

const STORIES: [&str; 3] = ["kubernetes-daemonset", "kubernetes-gateway", "change-a-rate-with-a-configmap"];

fn readme(story: &str) -> String {
    std::fs::read_to_string(root().join("examples").join(story).join("README.md")).unwrap()
}

/// The commands of a README that begin like this, as words; a line that ends with a backslash goes on.
fn commands(text: &str, program: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().filter(|line| line.starts_with(program));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// What `helm template` gets in place of `helm upgrade`; what is reused is what the command before had.
fn as_template(command: &[String], before: &[String]) -> Vec<String> {
    const ONLY_FOR_A_CLUSTER: [&str; 3] = ["--install", "--create-namespace", "--reset-then-reuse-values"];
    let reuses = command.iter().any(|word| word == "--reset-then-reuse-values");
    let kept = command[2..].iter().filter(|word| !ONLY_FOR_A_CLUSTER.contains(&word.as_str()));
    let earlier = before.get(3..).filter(|_| reuses).unwrap_or_default();
    [&["template".to_owned()], &kept.cloned().collect::<Vec<_>>()[..], earlier].concat()
}

#[test]
fn every_helm_command_renders_and_what_is_asked_of_kubectl_is_there() {
    for story in STORIES {
        let text = readme(story);
        let (mut before, mut rendered) = (Vec::new(), String::new());
        for command in commands(&text, "helm upgrade") {
            before = as_template(&command, &before);
            let words: Vec<&str> = before.iter().map(String::as_str).collect();
            let manifests = helm(&words).unwrap_or_else(|problem| panic!("{story} {command:?}: {problem}"));
            rendered += &format!("\n---\n{manifests}");
        }
        let objects = objects(&rendered);
        for word in commands(&text, "kubectl").concat() {
            let Some((kind, name)) = word.split_once('/') else { continue };
            if !["daemonset", "deployment", "statefulset"].contains(&kind) {
                continue;
            }
            let is = |object: &serde_json::Value| {
                object["kind"].as_str().unwrap().to_lowercase() == kind && object["metadata"]["name"] == name
            };
            assert!(objects.iter().any(is), "{story}: {word}");
        }
    }
}

#[test]
fn the_changed_rate_is_validated_as_the_story_prints_it() {
    let (text, folder) = (readme(STORIES[2]), tempfile::tempdir().unwrap());
    let path = folder.path().join("policies.yaml");
    let first = root().join("examples").join(STORIES[2]).join("policies.yaml");
    let first = std::fs::read_to_string(first).unwrap();
    assert!(
        text.contains(r#"sed -i 's/rate: 10%/rate: 50%/; s/revision: "1"/revision: "2"/' policies.yaml"#)
    );
    let second = first.replace("rate: 10%", "rate: 50%").replace("revision: \"1\"", "revision: \"2\"");
    assert_ne!(first, second);
    std::fs::write(&path, second).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let printed = output(command.args(["validate", "--policies"]).arg(path)).unwrap();
    assert!(text.contains(&format!("```\n{printed}```\n")), "{printed}");
}

#[tokio::test]
async fn the_gateway_decides_by_the_tenant_that_agents_wrote() {
    let (sink, state) = (Sink::start().await, tempfile::tempdir().unwrap());
    let story = root().join("examples/kubernetes-gateway");
    let objects = objects(&template(&story.join("values.yaml")));
    let config = runnable(&file(&objects, "-config").unwrap(), state.path().to_str().unwrap());
    let backend = format!("{}\"\n    tls: {{ insecure: true }}", sink.address());
    let tollgate = Tollgate::with(&config.replace("backend.example.com:0\"", &backend))
        .policies(&std::fs::read_to_string(story.join("policies.yaml")).unwrap())
        .environment("MY_POD_IP", "127.0.0.1")
        .environment("BACKEND_TOKEN", "x")
        .start()
        .await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let mut items: Vec<_> = (0..1000).map(|_| Item::named("ok")).collect();
    items.extend((0..10).map(|_| Item::named("failed").error()));
    for tenant in ["acme", "globex"] {
        grpc.clone().tenant("no header counts").spans(spans(&[("tenant.id", tenant)], &items)).await.unwrap();
    }
    tollgate.settled().await;
    let arrived = sink.items("traces");
    let count = |tenant: &str, name: &str| {
        arrived.iter().filter(|item| item.resource["tenant.id"] == tenant && item.name == name).count()
    };
    assert_eq!((count("acme", "ok"), count("acme", "failed")), (1000, 10));
    assert_eq!(count("globex", "failed"), 10);
    // A quarter; one in a billion runs is outside.
    assert!((150..350).contains(&count("globex", "ok")), "{}", count("globex", "ok"));
    tollgate.stop().await;
}

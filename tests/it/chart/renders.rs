//! Every values file renders to what Kubernetes and Tollgate take, and to what was reviewed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{
    all_rendered, all_values, chart, container, file, helm, output, template, template_of, validated,
};

#[test]
fn lint_finds_nothing() {
    let values = all_values();
    assert!(values.len() >= 15, "{} values files", values.len());
    let chart = chart();
    for values in values {
        let linted =
            helm(&["lint", "--strict", chart.to_str().unwrap(), "--values", values.to_str().unwrap()]);
        linted.unwrap_or_else(|problem| panic!("{}: {problem}", values.display()));
    }
}

/// Manifests as files of a folder, named by where they come from.
fn written(folder: &Path, name: &str, manifests: &str) -> PathBuf {
    let path = folder.join(name.replace('/', "_"));
    std::fs::write(&path, manifests).unwrap();
    path
}

#[test]
fn every_values_file_renders_what_three_versions_of_kubernetes_take() {
    let folder = tempfile::tempdir().unwrap();
    let write = |rendered: &super::Rendered| written(folder.path(), rendered.name(), &rendered.manifests);
    let files: Vec<_> = all_rendered().iter().map(write).collect();
    let summary = validated(&files).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(summary.contains(" validations, 0 problems"), "{summary}");
}

/// A copy of the chart in which one text of one template is another.
fn mutated(template: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    output(Command::new("cp").arg("-r").arg(chart()).arg(folder.path())).unwrap();
    let path = folder.path().join("tollgate/templates").join(template);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {template}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    folder
}

/// Template, text in it, mistake in its place, values that render it.
const MISTAKES: [(&str, &str, &str, &str); 22] = [
    ("_pod.tpl", "enableServiceLinks:", "enableServiceLink:", "agent"),
    ("_pod.tpl", "hostNetwork: true", "hostNetwrk: true", "agent-host-network"),
    ("_pod.tpl", "containerPort: {{ $port.containerPort }}", "containerPort: \"4317\"", "agent"),
    ("_pod.tpl", "readOnly: true }", "readonly: true }", "gateway"),
    ("_pod.tpl", "\"ClusterFirst\"", "\"ClusterFrist\"", "gateway"),
    ("daemonset.yaml", "updateStrategy:", "strategy:", "agent"),
    ("deployment.yaml", "selector:", "selectors:", "gateway"),
    ("statefulset.yaml", "serviceName:", "service:", "statefulset"),
    ("service.yaml", "internalTrafficPolicy:", "internalTraffic:", "agent-restricted"),
    ("networkpolicy.yaml", "podSelector:", "selector:", "gateway-network-policy"),
    ("autoscaling.yaml", "averageUtilization:", "average:", "gateway-autoscaling"),
    ("autoscaling.yaml", "pollingInterval:", "interval:", "gateway-keda"),
    ("monitor.yaml", "podMetricsEndpoints:", "endpoints:", "agent-monitoring"),
    ("monitor.yaml", "jobLabel:", "job:", "agent-monitoring"),
    ("prometheusrule.yaml", "groups:", "rules:", "gateway-monitoring"),
    ("poddisruptionbudget.yaml", "minAvailable: {{", "minAvailble: {{", "gateway-disruption-budget"),
    ("role.yaml", "resourceNames:", "resourceName:", "agent-watch"),
    ("role.yaml", "roleRef:", "role:", "agent-watch"),
    ("role.yaml", "kind: ServiceAccount", "kynd: ServiceAccount", "agent-watch"),
    ("clusterrole.yaml", "verbs:", "verb:", "agent-pods"),
    ("clusterrole.yaml", "roleRef:", "role:", "gateway-pods"),
    ("tests/healthcheck.yaml", "restartPolicy: Never", "restartPolicy: Nevr", "gateway"),
];

#[test]
fn a_mistake_in_a_template_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let files = MISTAKES.iter().enumerate().map(|(number, (template, from, to, values))| {
        let copy = mutated(template, from, to);
        let values = chart().join(format!("ci/{values}.yaml"));
        let rendered = template_of(&copy.path().join("tollgate"), Some(&values), &[]).unwrap();
        written(folder.path(), &format!("mistake-{number}."), &rendered)
    });
    let files: Vec<_> = files.collect();
    let found = validated(&files).expect_err("mistakes are found");
    for (number, (template, from, to, _)) in MISTAKES.iter().enumerate() {
        let told: Vec<_> =
            found.lines().filter(|line| line.contains(&format!("mistake-{number}.:"))).collect();
        let named =
            [from, to].map(|text| text.split([':', '"']).find(|part| !part.is_empty()).unwrap().trim());
        let noticed = told.iter().any(|line| named.iter().any(|name| line.contains(name)));
        assert!(noticed, "{template}: {to:?} is not noticed: {told:?}");
    }
}

/// `tollgate validate --strict` of both files, with the addresses of a pod.
fn check_files(name: &str, pod_ip: &str, config: Option<String>, policies: Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(["validate", "--strict"])
        .env("MY_POD_IP", pod_ip)
        .env("TOKEN", "x")
        .env("BACKEND_TOKEN", "x");
    for (kind, text) in [("config", config), ("policies", policies)] {
        let Some(text) = text else { continue };
        let path = folder.path().join(format!("{kind}.yaml"));
        std::fs::write(&path, text).unwrap();
        command.arg(format!("--{kind}")).arg(path);
    }
    output(&mut command).unwrap_or_else(|problems| panic!("{name}, pod {pod_ip}: {problems}"));
}

/// What stands for the policies of a ConfigMap that is not the chart's: the file beside the values, else the
/// chart's own; none if the pods get none.
fn policies_beside(rendered: &super::Rendered) -> Option<String> {
    let arguments = container(&rendered.objects)["args"].to_string();
    let beside = rendered.values.with_file_name("policies.yaml");
    let path = if beside.exists() { beside } else { chart().join("files/policies.yaml") };
    arguments.contains("--policies=").then(|| std::fs::read_to_string(path).unwrap())
}

#[test]
fn tollgate_takes_both_files_of_every_render_in_ipv4_and_ipv6() {
    let mut checked = 0;
    for rendered in all_rendered() {
        let config = file(&rendered.objects, "-config");
        let policies = file(&rendered.objects, "-policies").or_else(|| policies_beside(rendered));
        checked += usize::from(config.is_some());
        for pod_ip in ["10.244.1.7", "fd00:10:244::1:7"] {
            check_files(rendered.name(), pod_ip, config.clone(), policies.clone());
        }
    }
    assert!(checked >= 15, "{checked}");
}

/// One text for each template.
fn by_template(manifests: &str) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for document in manifests.split("---\n# Source: tollgate/templates/").skip(1) {
        let (name, text) = document.split_once('\n').unwrap();
        let file = files.entry(name.replace('/', "-")).or_default();
        file.push_str("---\n");
        file.push_str(text.trim_end());
        file.push('\n');
    }
    files
}

#[test]
fn examples_render_to_what_is_committed() {
    let bless = std::env::var_os("TOLLGATE_BLESS").is_some();
    let mut seen = 0;
    for entry in std::fs::read_dir(chart().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        let now = by_template(&template(&folder.join("values.yaml")));
        let rendered = folder.join("rendered");
        if bless {
            let _absent = std::fs::remove_dir_all(&rendered);
            std::fs::create_dir_all(&rendered).unwrap();
            now.iter().for_each(|(name, text)| std::fs::write(rendered.join(name), text).unwrap());
        }
        let committed: BTreeMap<String, String> = super::yaml_files(&rendered)
            .into_iter()
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect();
        let folder = folder.display();
        assert_eq!(
            now.keys().collect::<Vec<_>>(),
            committed.keys().collect::<Vec<_>>(),
            "{folder}; TOLLGATE_BLESS=1 rewrites"
        );
        for (name, text) in &now {
            assert_eq!(text, &committed[name], "{folder}/rendered/{name}; TOLLGATE_BLESS=1 rewrites");
        }
        seen += 1;
    }
    assert!(seen >= 4, "{seen} examples");
}

//! Every values file renders to what Kubernetes and Tollgate take, and to what was reviewed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{all_values, chart, file, helm, objects, output, template, template_of, validated};

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

/// Renders into files of a folder, named by what they are made from.
fn rendered_into(folder: &Path, values: &[PathBuf]) -> Vec<PathBuf> {
    let write = |(number, values): (usize, &PathBuf)| {
        let name = values.strip_prefix(super::root()).unwrap().to_str().unwrap().replace('/', "_");
        let path = folder.join(format!("{number:02}_{name}"));
        std::fs::write(&path, template(values)).unwrap();
        path
    };
    values.iter().enumerate().map(write).collect()
}

#[test]
fn every_values_file_renders_what_three_versions_of_kubernetes_take() {
    let folder = tempfile::tempdir().unwrap();
    let rendered = rendered_into(folder.path(), &all_values());
    let summary = validated(&rendered).unwrap_or_else(|problems| panic!("{problems}"));
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

#[test]
fn a_mistake_in_a_template_is_found() {
    let check = |template: &str, from: &str, to: &str, values: &str| {
        let copy = mutated(template, from, to);
        let values = chart().join("ci").join(values);
        let rendered = template_of(&copy.path().join("tollgate"), Some(&values), &[]).unwrap();
        let path = copy.path().join("rendered.yaml");
        std::fs::write(&path, rendered).unwrap();
        let found = validated(&[path]).expect_err(&format!("{template}: {to:?} is not noticed"));
        let named = [from, to].map(|text| text.split(':').next().unwrap().trim());
        assert!(named.iter().any(|name| found.contains(name)), "{to}: {found}");
    };
    check("_pod.tpl", "enableServiceLinks:", "enableServiceLink:", "agent.yaml");
    check("_pod.tpl", "hostNetwork: true", "hostNetwrk: true", "agent-host-network.yaml");
    check("_pod.tpl", "containerPort: {{ $port.containerPort }}", "containerPort: \"4317\"", "agent.yaml");
    check("_pod.tpl", "readOnly: true }", "readonly: true }", "gateway.yaml");
    check("daemonset.yaml", "updateStrategy:", "strategy:", "agent.yaml");
    check("deployment.yaml", "selector:", "selectors:", "gateway.yaml");
    check("statefulset.yaml", "serviceName:", "service:", "statefulset.yaml");
    check("service.yaml", "internalTrafficPolicy:", "internalTraffic:", "agent-restricted.yaml");
    check("networkpolicy.yaml", "podSelector:", "selector:", "gateway-network-policy.yaml");
    check("autoscaling.yaml", "averageUtilization:", "average:", "gateway-autoscaling.yaml");
    check("autoscaling.yaml", "pollingInterval:", "interval:", "gateway-keda.yaml");
    check("monitor.yaml", "podMetricsEndpoints:", "endpoints:", "agent-monitoring.yaml");
    check("monitor.yaml", "jobLabel:", "job:", "agent-monitoring.yaml");
    check("prometheusrule.yaml", "groups:", "rules:", "gateway-monitoring.yaml");
    check(
        "poddisruptionbudget.yaml",
        "minAvailable: {{",
        "minAvailble: {{",
        "gateway-disruption-budget.yaml",
    );
    check("tests/healthcheck.yaml", "restartPolicy: Never", "restartPolicy: Nevr", "gateway.yaml");
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

#[test]
fn tollgate_takes_both_files_of_every_render_in_ipv4_and_ipv6() {
    let mut checked = 0;
    for values in all_values() {
        let objects = objects(&template(&values));
        let (config, policies) = (file(&objects, "-config"), file(&objects, "-policies"));
        checked += usize::from(config.is_some());
        for pod_ip in ["10.244.1.7", "fd00:10:244::1:7"] {
            check_files(&values.display().to_string(), pod_ip, config.clone(), policies.clone());
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

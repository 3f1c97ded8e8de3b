//! The chart, without a cluster: rendered by the real helm, checked against the schemas of Kubernetes, its
//! configuration by Tollgate itself.
//!
//! Not here, because it needs a kubelet: probes, host ports, roll-outs, NetworkPolicy, `helm test`.

mod documents;
mod promises;
mod refusals;
mod renders;
mod running;
mod security;
mod stories;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// The oldest version the chart installs on, the newest there are schemas of, and one between.
const KUBERNETES: &str = "1.30,1.34,1.37";

/// What every values file must say, because nothing is published yet.
const IMAGE: &str = "image.repository=registry.example.com/tollgate";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn chart() -> PathBuf {
    root().join("charts/tollgate")
}

/// `./test` installs these; nothing is skipped without them.
fn installed(path: &str) -> PathBuf {
    let path = root().join("target").join(path);
    assert!(path.exists(), "{} is missing: run ./test, which installs what the tests need", path.display());
    path
}

/// Output, or what was complained about.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stdout) + &text(&output.stderr)),
    }
}

/// A helm without settings of the user and without a cluster.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let nowhere = root().join("target/kubernetes/home");
    let mut command = Command::new(installed("kubernetes/helm"));
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(variable, &nowhere);
    }
    output(command.env("KUBECONFIG", nowhere.join("none")).args(arguments))
}

/// The manifests of a chart with a values file and settings.
fn template_of(chart: &Path, values: Option<&Path>, set: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["template", "gate", chart.to_str().unwrap(), "--namespace", "telemetry"];
    if let Some(values) = values {
        arguments.extend(["--values", values.to_str().unwrap()]);
    }
    for set in set {
        arguments.extend(["--set", set]);
    }
    helm(&arguments)
}

fn template(values: &Path) -> String {
    template_of(&chart(), Some(values), &[])
        .unwrap_or_else(|problem| panic!("{}: {problem}", values.display()))
}

/// The manifests of a mode with settings.
fn with(mode: &str, set: &[&str]) -> Result<String, String> {
    let mode = format!("mode={mode}");
    template_of(&chart(), None, &[&[&mode, IMAGE], set].concat())
}

/// A values file and what it renders to.
struct Rendered {
    values: PathBuf,
    manifests: String,
    objects: Vec<Value>,
}

impl Rendered {
    /// For messages: the values file below the project.
    fn name(&self) -> &str {
        self.values.strip_prefix(root()).unwrap().to_str().unwrap()
    }
}

/// All values files of [`all_values`], rendered once.
fn all_rendered() -> &'static [Rendered] {
    static RENDERED: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
        let render = |values: PathBuf| {
            let manifests = template(&values);
            Rendered { objects: objects(&manifests), values, manifests }
        };
        all_values().into_iter().map(render).collect()
    });
    &RENDERED
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files
}

/// Values files of the chart's `ci/`, of its examples and of the stories.
fn all_values() -> Vec<PathBuf> {
    let mut files = yaml_files(&chart().join("ci"));
    for folder in [chart().join("examples"), root().join("examples")] {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for folder in entries.filter(|path| path.is_dir()) {
            files.extend(
                yaml_files(&folder)
                    .into_iter()
                    .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("values")),
            );
        }
    }
    files
}

/// The objects of rendered manifests.
fn objects(manifests: &str) -> Vec<Value> {
    let documents = manifests.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    let parse = |document| -> Option<Value> {
        serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}:\n{document}"))
    };
    documents.filter_map(parse).filter(Value::is_object).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The DaemonSet, Deployment or StatefulSet.
fn workload(objects: &[Value]) -> &Value {
    let is =
        |object: &&Value| matches!(object["kind"].as_str(), Some("DaemonSet" | "Deployment" | "StatefulSet"));
    objects.iter().find(is).expect("a workload")
}

/// Tollgate's container in the workload.
fn container(objects: &[Value]) -> &Value {
    let containers = workload(objects)["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().find(|container| container["name"] == "tollgate").unwrap()
}

/// The text of a file in a ConfigMap whose name ends like this, if the chart wrote it.
fn file(objects: &[Value], name_ends: &str) -> Option<String> {
    let maps = of_kind(objects, "ConfigMap");
    let map = maps.iter().find(|map| map["metadata"]["name"].as_str().unwrap().ends_with(name_ends))?;
    let (_, text) = map["data"].as_object().unwrap().iter().next()?;
    Some(text.as_str().unwrap().to_owned())
}

/// Problems of manifests by the schemas of all versions.
fn validated(files: &[PathBuf]) -> Result<String, String> {
    output(
        Command::new(installed("python/bin/python"))
            .arg(root().join("tests/kubernetes/validate.py"))
            .arg("objects")
            .arg(installed("kubernetes/crds"))
            .arg(KUBERNETES)
            .args(files),
    )
}

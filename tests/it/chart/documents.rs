//! The chart's documents say what is so: values table, alerts, dashboard, stories.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{chart, installed, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A key of values.yaml with the comment above it.
struct Row {
    key: String,
    meaning: String,
    default: Option<String>,
}

/// Sections (`## title`) with their keys, in the order of the file.
fn rows(values: &str) -> Vec<(String, Vec<Row>)> {
    let mut sections: Vec<(String, Vec<Row>)> = Vec::new();
    let (mut path, mut comment): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut list_from = None;
    for line in values.lines() {
        let text = line.trim_start();
        let depth = (line.len() - text.len()) / 2;
        if let Some(title) = line.strip_prefix("## ") {
            sections.push((title.to_owned(), Vec::new()));
            comment.clear();
        } else if text.is_empty() {
            comment.clear();
        } else if let Some(words) = text.strip_prefix('#') {
            comment.push(words.trim());
        } else if text.starts_with("- ") {
            list_from = Some(depth);
        } else if list_from.is_none_or(|from| depth <= from) {
            list_from = None;
            let (key, default) = text.split_once(':').unwrap();
            path.truncate(depth);
            path.push(key);
            let default = Some(default.trim().to_owned()).filter(|default| !default.is_empty());
            let row = Row { key: path.join("."), meaning: comment.join(" "), default };
            sections.last_mut().expect("a section").1.push(row);
            comment.clear();
        }
    }
    sections
}

/// The table of values, as Markdown.
fn table(values: &str) -> String {
    let mut text = String::new();
    for (title, rows) in rows(values) {
        text += &format!("\n### {title}\n\n| key | default | meaning |\n| --- | --- | --- |\n");
        for row in rows.iter().filter(|row| !row.meaning.is_empty()) {
            let default = match &row.default {
                Some(default) => format!("`{default}`"),
                None => String::new(),
            };
            text += &format!("| `{}` | {default} | {} |\n", row.key, row.meaning.replace('|', "\\|"));
        }
    }
    text
}

const BEGIN: &str = "<!-- values: generated from values.yaml -->\n";
const END: &str = "\n<!-- end of values -->\n";

#[test]
fn the_readme_has_the_table_of_values() {
    let readme = read("charts/tollgate/README.md");
    let (head, rest) = readme.split_once(BEGIN).expect("the begin mark");
    let (now, tail) = rest.split_once(END).expect("the end mark");
    let table = table(&read("charts/tollgate/values.yaml"));
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        let text = format!("{head}{BEGIN}{table}{END}{tail}");
        std::fs::write(chart().join("README.md"), text).unwrap();
    } else {
        assert_eq!(now, table, "TOLLGATE_BLESS=1 rewrites");
    }
}

#[test]
fn every_value_has_a_comment() {
    for (title, rows) in rows(&read("charts/tollgate/values.yaml")) {
        for row in rows.iter().filter(|row| row.default.is_some()) {
            assert!(!row.meaning.is_empty(), "{title}: {} has no comment", row.key);
        }
    }
}

/// Expressions of the alerts and of the dashboard, with Grafana's variables filled in.
fn expressions() -> Vec<String> {
    let alerts: Value = serde_saphyr::from_str(&read("charts/tollgate/files/alerts.yaml")).unwrap();
    let rules =
        alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let mut found: Vec<_> = rules.map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect();
    let dashboard: Value =
        serde_json::from_str(&read("charts/tollgate/files/dashboards/tollgate.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["expr"].as_str().unwrap();
            found.push(text.replace("$__rate_interval", "5m").replace("$__range", "1h"));
        }
    }
    assert!(found.len() > 25, "{}", found.len());
    found
}

#[test]
fn alerts_and_dashboard_are_promql() {
    let mut child = Command::new(installed("python/bin/python"))
        .arg(root().join("tests/kubernetes/validate.py"))
        .arg("promql")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(expressions().join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Words of a text that can be names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Metric → labels, from the list of all metrics.
fn metrics() -> Vec<(String, Vec<String>)> {
    let list = read("docs/metrics.md");
    let rows = list.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').collect();
        (words(cells[1]).next().unwrap().to_owned(), words(cells[3]).map(str::to_owned).collect())
    };
    rows.map(row).collect()
}

#[test]
fn alerts_and_dashboard_use_metrics_and_labels_that_exist() {
    let metrics = metrics();
    // What Prometheus adds to every series of a pod.
    let added = ["job", "namespace", "pod", "instance"];
    for expression in expressions() {
        let named: Vec<_> = words(&expression)
            .filter(|word| word.starts_with("tollgate_") || word.starts_with("otelcol_"))
            .map(|name| metrics.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name}")))
            .collect();
        assert!(!named.is_empty(), "{expression}");
        for group in expression.split(" by (").skip(1) {
            for label in words(group.split(')').next().unwrap()) {
                let known = named.iter().any(|(_, labels)| labels.iter().any(|known| known == label));
                assert!(known || added.contains(&label), "{label} in {expression}");
            }
        }
    }
}

#[test]
fn alerts_and_dashboard_look_at_the_chosen_release_only() {
    for expression in expressions() {
        let names = ["tollgate_", "otelcol_"].map(|prefix| expression.match_indices(prefix).count());
        let selected = ["{job=\"tollgate\"", "{job=~\"$job\", namespace=~\"$namespace\""];
        let selected = selected.map(|selector| expression.match_indices(selector).count());
        assert_eq!(names[0] + names[1], selected[0] + selected[1], "{expression}");
    }
}

#[test]
fn alerts_speak_of_labels_their_expression_keeps() {
    let alerts: Value = serde_saphyr::from_str(&read("charts/tollgate/files/alerts.yaml")).unwrap();
    let all: Vec<_> = metrics().into_iter().flat_map(|(_, labels)| labels).collect();
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let expression = rule["expr"].as_str().unwrap();
        let kept: BTreeSet<&str> = match expression.split_once(" by (") {
            Some((_, rest)) => words(rest.split(')').next().unwrap()).collect(),
            None => all.iter().map(String::as_str).chain(["pod", "namespace", "job"]).collect(),
        };
        let text = rule["annotations"].to_string();
        for label in text.split("$labels.").skip(1).map(|rest| words(rest).next().unwrap()) {
            assert!(kept.contains(label), "{label} in {text}");
        }
        assert!(rule["annotations"]["description"].is_string(), "{}", rule["alert"]);
    }
}

#[test]
fn stories_name_files_that_are_there_and_say_what_was_not_run() {
    for story in ["kubernetes-daemonset", "kubernetes-gateway", "change-a-rate-with-a-configmap"] {
        let text = read(&format!("examples/{story}/README.md"));
        let in_one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(in_one_line.contains("not been run on a cluster"), "{story}");
        assert!(text.contains("helm upgrade --install"), "{story}");
        let named = words_of_paths(&text);
        assert!(named.len() >= 2, "{story} names its files: {named:?}");
        for path in named {
            assert!(root().join(&path).exists(), "{story} names {path}");
        }
    }
}

/// Paths below `examples/` and `charts/` that a text names.
fn words_of_paths(text: &str) -> BTreeSet<String> {
    text.split(|c: char| c.is_whitespace() || "`()=\"'".contains(c))
        .map(|word| word.trim_start_matches("./").trim_end_matches(['.', ',', ':', ';']))
        .filter(|word| word.starts_with("examples/") || word.starts_with("charts/"))
        .map(str::to_owned)
        .collect()
}

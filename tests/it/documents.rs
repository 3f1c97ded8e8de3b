//! The documents say what is so.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every configuration that is shipped, with the policies beside it.
fn shipped() -> Vec<(PathBuf, Option<PathBuf>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        let policies = Some(folder.join("policies.yaml")).filter(|path| path.exists());
        for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if matches!(name, "collector.yaml" | "tollgate.yaml") {
                found.push((
                    file.clone(),
                    policies
                        .clone()
                        .filter(|_| name != "collector.yaml" || !folder.join("tollgate.yaml").exists()),
                ));
            }
        }
    }
    found.push((root().join("config/collector.yaml"), Some(root().join("config/policies.yaml"))));
    found.push((root().join("config/default.yaml"), Some(root().join("config/policies-default.yaml"))));
    found.push((root().join("config/default.yaml"), Some(root().join("config/demo-policies.yaml"))));
    found
}

#[test]
fn every_shipped_configuration_is_valid_without_a_warning() {
    let shipped = shipped();
    assert!(shipped.len() >= 7, "{shipped:?}");
    for (config, policies) in shipped {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["validate", "--strict", "--config"]).arg(&config);
        if let Some(policies) = policies {
            command.arg("--policies").arg(policies);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", config.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn ci_calls_the_test_command_of_the_readme() {
    assert!(read("README.md").contains("\n./test "), "the README names the test command");
    assert!(read(".ci/run").trim_end().ends_with("exec ./test"));
}

/// All Rust sources and tests as one text.
fn sources(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            text.push_str(&sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&entry).unwrap());
        }
    }
    text
}

/// Every test that a section of a document names exists; how many it names.
fn tests_named_in(document: &str, section: &str) -> usize {
    let text = read(document);
    let all = sources(&root().join("src")) + &sources(&root().join("tests"));
    let table = text.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
    let mut named = 0;
    for name in table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
        let test = name.rsplit("::").next().unwrap();
        let known = match test {
            "tests" | "*" | "stop" => continue,
            test if test.ends_with('…') => {
                all.contains(&format!("fn {}", test.trim_end_matches(['…', '_'])))
            }
            test => all.contains(&format!("fn {test}()")),
        };
        assert!(known, "{document} names {name}");
        named += 1;
    }
    named
}

#[test]
fn the_architecture_is_short_and_names_tests_that_exist() {
    let text = read("ARCHITECTURE.md");
    assert!(text.lines().count() < 200, "{} lines", text.lines().count());
    assert!(tests_named_in("ARCHITECTURE.md", "## Invariants") >= 5, "the invariants name tests");
}

#[test]
fn every_test_of_the_scorecard_exists() {
    let text = read("CONTRIBUTING.md");
    let table = text.split("### Scorecard").nth(1).unwrap().split("\n## ").next().unwrap();
    for number in 1..=18 {
        assert!(table.contains(&format!("\n| {number} | ")), "no row {number}");
    }
    assert!(tests_named_in("CONTRIBUTING.md", "### Scorecard") >= 18);
}

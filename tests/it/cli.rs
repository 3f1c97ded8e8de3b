//! The command line from outside.

use std::process::Command;

fn tollgate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

const BAD: &str = "\
receivers:
  otlp:
    protocols:
      grpc: { endpiont: localhost:4317 }
exporters:
  otlp_grpc: { endpoint: localhost:4317, compression: gzpi }
service:
  pipelines:
    traces: { receivers: [otlp], processors: [tennant], exporters: [otlp_grpc] }
";

#[test]
fn validate_reports_every_problem_at_once_with_its_place_and_the_way_out() {
    let (_dir, path) = file("collector.yaml", BAD);
    let (code, _, errors) = tollgate(&["validate", "--config", &path]);
    assert_eq!(code, Some(1), "{errors}");
    for expected in [
        "collector.yaml:4:15",
        "receivers.otlp.protocols.grpc.endpiont",
        "did you mean `endpoint`?",
        "collector.yaml:6:",
        "gzip",
        "collector.yaml:9:",
        "tennant",
    ] {
        assert!(errors.contains(expected), "{expected:?} is missing:\n{errors}");
    }
}

#[test]
fn run_refuses_what_validate_refuses_in_the_same_words() {
    let (_dir, path) = file("collector.yaml", BAD);
    let (_, _, validate) = tollgate(&["validate", "--config", &path]);
    let (code, _, run) = tollgate(&["run", "--config", &path]);
    assert_eq!(code, Some(78));
    assert_eq!(run, validate);
}

#[test]
fn validate_runs_the_tests_inside_a_policies_file() {
    let policies = "
version: 1
defaults: { sampling: { rate: 10% } }
rules: []
tests:
  - { given: { tenant: acme }, expect: { rule: _default, probability: 20% } }
";
    let (_dir, path) = file("policies.yaml", policies);
    let (code, _, errors) = tollgate(&["validate", "--policies", &path]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("tests[0]") && errors.contains("10%"), "{errors}");
    let (_dir, path) = file("policies.yaml", &policies.replace("20%", "10%"));
    let (code, out, errors) = tollgate(&["validate", "--policies", &path]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(out.contains("1 test passed"), "{out}");
}

#[test]
fn keys_of_later_versions_are_refused_and_never_ignored() {
    let (_dir, path) =
        file("policies.yaml", "version: 1\ndefaults: { limits: { warm_up: 5s } }\nrules: []\n");
    let (code, _, errors) = tollgate(&["validate", "--policies", &path]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("defaults.limits") && errors.contains("not yet available"), "{errors}");
}

#[test]
fn the_schema_is_a_json_schema_and_the_components_are_listed() {
    let (code, out, _) = tollgate(&["schema"]);
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let (code, out, _) = tollgate(&["components"]);
    assert_eq!(code, Some(0));
    for component in
        ["otlp", "tenant", "sampling", "probabilistic_sampler", "otlp_grpc", "otlp_http", "health_check"]
    {
        assert!(out.contains(&format!("  - {component}\n")), "{component} in {out}");
    }
}

#[test]
fn the_demo_runs_without_a_terminal_drains_and_balances() {
    let (code, out, errors) = tollgate(&["demo", "--for", "3s"]);
    assert_eq!(code, Some(0), "{out}{errors}");
    for tenant in ["acme", "globex", "initech"] {
        assert!(out.contains(tenant), "{tenant} in {out}");
    }
    assert!(out.contains("policies.yaml"), "{out}");
    let sums = out.lines().last().unwrap();
    assert!(sums.starts_with("received ") && sums.ends_with("balanced"), "{out}");
}

#[test]
fn sampling_without_a_tenant_before_it_is_a_problem_with_a_way_out() {
    let config = "
receivers: { otlp: { protocols: { grpc: } } }
processors: { tenant: , sampling: }
exporters: { nop: }
service: { pipelines: { traces: { receivers: [otlp], processors: [sampling], exporters: [nop] } } }
";
    let (_dir, path) = file("collector.yaml", config);
    let (code, _, errors) = tollgate(&["validate", "--config", &path]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("service.pipelines.traces.processors") && errors.contains("tenant"), "{errors}");
    let (_dir, path) = file("collector.yaml", &config.replace("[sampling]", "[tenant, sampling]"));
    let (code, _, errors) = tollgate(&["validate", "--config", &path]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

/// `TOLLGATE_BLESS=1` rewrites the golden file.
#[test]
fn the_help_is_the_golden_one() {
    let mut text = String::new();
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["validate", "--help"],
        &["demo", "--help"],
        &["healthcheck", "--help"],
        &["queue", "inspect", "--help"],
    ] {
        let (code, out, _) = tollgate(command);
        assert_eq!(code, Some(0));
        text.push_str(&format!("$ tollgate {}\n{out}\n", command.join(" ")));
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/help.txt");
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(golden).unwrap(), text);
}

#[test]
fn help_names_every_command_and_variable() {
    let (code, out, _) = tollgate(&["--help"]);
    assert_eq!(code, Some(0));
    for command in ["run", "demo", "validate", "schema", "components", "healthcheck", "queue"] {
        assert!(out.contains(command), "{command}");
    }
    let (_, out, _) = tollgate(&["run", "--help"]);
    for variable in ["CONFIG", "SET", "POLICIES", "WORKERS", "LOG_FORMAT", "SHUTDOWN_GRACE"] {
        assert!(out.contains(&format!("TOLLGATE_{variable}")), "{variable}");
    }
}

#[test]
fn queue_inspect_shows_what_a_running_journal_holds() {
    use tollgate::identity::TenantId;
    use tollgate::journal::{Head, Journal, Options, Record};
    use tollgate::otlp::Signal;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (journal, _) = Journal::open(dir.path(), Options::for_size(1 << 20, 4096)).unwrap();
    let head = Head {
        tenant: TenantId::new("acme").unwrap(),
        principal: "".into(),
        revision: "r1".into(),
        signal: Signal::Traces,
        items: 5,
        flags: 0,
        received_unix_nanos: 1_700_000_000_000_000_000,
    };
    let record = Record { head, payload: vec![1; 700].into() };
    runtime.block_on(journal.append(vec![record.clone(), record])).unwrap();
    let (code, text, errors) = tollgate(&["queue", "inspect", path]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(text.contains("0000000000000001  open"), "{text}");
    assert!(text.contains("acme                             2          10          1400"), "{text}");
    let (_, json, _) = tollgate(&["queue", "inspect", "--json", path]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tenants"]["acme"]["records"], 2);
    assert_eq!(json["segments"][0]["state"], "open");
    let (code, _, errors) = tollgate(&["queue", "inspect", "/nowhere"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("/nowhere"), "{errors}");
}

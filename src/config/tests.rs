use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// With this variable set, the expected texts are written instead of compared.
const BLESS: &str = "TOLLGATE_BLESS";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "4317",
        "OTEL_ENDPOINT" => "backend:4317",
        "TOKEN" => "hunter2",
        "ZERO" => "0123",
        "MAP" => "{insecure: true}",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str, sets: &[&str]) -> Result<(Config, Problems), Problems> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::parse(&[Source::new("collector.yaml", text)], &sets, &env)
}

#[track_caller]
fn accepted(text: &str) -> Config {
    match parse(text, &[]) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems}"),
    }
}

#[track_caller]
fn compare(path: &Path, actual: &str) {
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    let name = path.strip_prefix(root()).unwrap_or(path).display();
    assert_eq!(actual, expected, "{name} differs; {BLESS}=1 cargo test config:: writes it anew");
}

#[test]
fn bad_configurations_get_the_messages_on_file() {
    let folder = root().join("tests/golden/config");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let shown = match Config::parse(&[Source::new(name, text)], &[], &env) {
            Ok((_, warnings)) => format!("accepted\n{warnings}\n"),
            Err(problems) => format!("{problems}\n"),
        };
        assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
        compare(&path.with_extension("txt"), &shown);
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} files in {}", folder.display());
}

const SMALL: &str = "
receivers: {otlp: {protocols: {grpc: , http: }}}
exporters: {debug: }
service: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}
";

#[test]
fn a_small_configuration_has_all_defaults() {
    let config = accepted(SMALL);
    let otlp = ComponentId::parse("otlp").unwrap();
    let Receiver::Otlp(receiver) = &config.receivers[&otlp];
    assert_eq!(receiver.protocols.grpc, Some(receiver::Grpc::default()));
    assert_eq!(receiver.protocols.http, Some(receiver::Http::default()));
    let traces = PipelineId::parse("traces").unwrap();
    assert_eq!(config.service.pipelines[&traces].receivers, [otlp]);
    assert_eq!(config.service.telemetry, service::Telemetry::default());
}

#[test]
fn a_collectors_generated_configuration_is_accepted() {
    let config = accepted(
        "
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: \"127.0.0.1:4317\"
exporters:
  otlp:
    endpoint: \"127.0.0.1:4318\"
    tls:
      insecure: true
    compression: \"none\"
    timeout: 0s
    retry_on_failure:
      enabled: true
    sending_queue:
      queue_size: 10
  otlphttp/second:
    endpoint: \"http://127.0.0.1:4319\"
    compression: \"zstd\"
processors:
connectors:
extensions:
  pprof:
    save_to_file: cpu.prof
service:
  telemetry:
    metrics:
      address: 127.0.0.1:8888
    logs:
      level: \"debug\"
  extensions: [pprof, ]
  pipelines:
    traces:
      receivers: [otlp]
      processors: []
      exporters: [otlp, otlphttp/second]
    metrics:
      receivers: [otlp]
      processors:
      exporters: [otlp]
",
    );
    let exporter = &config.exporters[&ComponentId::parse("otlp").unwrap()];
    assert!(matches!(exporter, Exporter::OtlpGrpc(_)));
    assert_eq!(config.service.extensions.len(), 1);
    accepted(&format!("{SMALL}\nextensions:\n").replace("service: {", "service: {extensions: , "));
}

#[test]
fn old_and_new_names_are_the_same_type() {
    for name in ["otlp", "otlp_grpc", "otlp_grpc/a"] {
        let text = SMALL.replace("debug: ", "E: {endpoint: 'a:1'}").replace("debug", "E").replace('E', name);
        let config = accepted(&text);
        assert!(matches!(config.exporters.values().next(), Some(Exporter::OtlpGrpc(_))), "{name}");
    }
}

#[test]
fn later_sources_and_sets_win() {
    let first = Source::new("a.yaml", SMALL);
    let second = Source::new("b.yaml", "exporters: {debug: {verbosity: detailed}}\n");
    let sets = ["receivers.otlp.protocols.grpc.endpoint=0.0.0.0:${PORT}".to_owned()];
    let (config, _) = Config::parse(&[first, second], &sets, &env).unwrap();
    let debug = config.exporters.values().next().unwrap();
    assert!(matches!(debug, Exporter::Debug(keys) if keys.verbosity == exporter::Verbosity::Detailed));
    let Receiver::Otlp(otlp) = config.receivers.values().next().unwrap();
    assert_eq!(otlp.protocols.grpc.as_ref().unwrap().endpoint, "0.0.0.0:4317");
}

#[test]
fn string_keys_take_the_text_of_a_reference() {
    let text = "
receivers: {otlp: {protocols: {grpc: }}}
processors:
  resource:
    attributes:
    - {key: \"${env:ZERO}\", value: \"${env:ZERO}\", action: upsert}
exporters: {debug: }
service: {pipelines: {logs: {receivers: [otlp], processors: [resource], exporters: [debug]}}}
";
    let config = accepted(text);
    let Some(Processor::Resource(resource)) = config.processors.values().next() else {
        panic!("{config:?}");
    };
    assert_eq!(resource.attributes[0].key, "0123");
    assert_eq!(resource.attributes[0].value, Some(processor::AttributeValue::Int(83)));
}

#[test]
fn a_header_with_a_variable_that_is_not_set_is_empty() {
    for headers in ["{x-key: '${env:NOT_SET}'}", "[{name: x-key, value: '${env:NOT_SET}'}]"] {
        let exporter = format!("E: {{endpoint: 'a:1', headers: {headers}}}");
        let text = SMALL
            .replace("debug: ", &exporter)
            .replace("debug", "E")
            .replace("[E]", "[otlp]")
            .replace("E: ", "otlp: ");
        let (config, warnings) = parse(&text, &[]).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(warnings.to_string().contains("`NOT_SET` is not set"), "{warnings}");
        let Some(Exporter::OtlpGrpc(exporter)) = config.exporters.values().next() else {
            panic!("{config:?}");
        };
        let headers: Vec<_> = exporter.headers.iter().map(|(name, value)| (name, value.reveal())).collect();
        assert_eq!(headers, [("x-key", "")]);
    }
}

#[test]
fn problems_point_into_the_file_that_has_them() {
    let first = Source::new("a.yaml", SMALL);
    let second = Source::new("b.yaml", "exporters:\n  debug:\n    verbosity: loud\n");
    let sets = ["exporters.debug.sampling_initial=many".to_owned()];
    let problems = Config::parse(&[first, second], &sets, &env).unwrap_err();
    assert_eq!(
        problems.lines(),
        [
            "--set:1:37: exporters.debug.sampling_initial: expected a whole number, found a string",
            "b.yaml:3:16: exporters.debug.verbosity: unknown value `loud`; allowed: `basic`, `normal`, `detailed`",
        ]
    );
}

#[test]
fn files_are_read_by_path_and_scheme() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    std::fs::write(&path, SMALL).unwrap();
    let path = path.to_str().unwrap();
    for uri in [path.to_owned(), format!("file:{path}")] {
        let yaml = "yaml:exporters::debug::verbosity: detailed".to_owned();
        assert!(Config::load(&[uri, yaml], &[], &env).is_ok());
    }
    let missing = Config::load(&["nope.yaml".to_owned()], &[], &env).unwrap_err();
    assert!(missing.to_string().contains("nope.yaml"), "{missing}");
}

#[test]
fn the_reference_file_is_the_generated_one_and_loads_without_a_problem() {
    let text = reference();
    let config = Config::parse(&[Source::new("collector.yaml", text.as_str())], &[], &|_| None);
    match config {
        Ok((_, warnings)) => assert!(warnings.is_empty(), "{warnings}"),
        Err(problems) => panic!("{problems}"),
    }
    compare(&root().join("config/collector.yaml"), &text);
}

#[test]
fn the_schema_on_file_is_the_generated_one() {
    let text = format!("{:#}\n", schema());
    compare(&root().join("config/collector.schema.json"), &text);
}

#[test]
fn the_reference_names_every_key_of_the_schema() {
    let text = reference();
    let schema = schema();
    let mut keys = Vec::new();
    for definition in schema["$defs"].as_object().unwrap().values() {
        keys.extend(definition.get("properties").and_then(|all| all.as_object()).into_iter().flatten());
    }
    assert!(keys.len() > 150, "{}", keys.len());
    for (key, _) in keys {
        let there = text.lines().any(|line| {
            let line = line.trim_start_matches([' ', '#', '-']);
            line.starts_with(&format!("{key}:"))
        });
        assert!(there, "`{key}` is not in the reference");
    }
}

#[test]
fn every_key_of_the_schema_has_a_description() {
    let schema = schema();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let properties = definition.get("properties").and_then(|all| all.as_object());
        for (key, property) in properties.into_iter().flatten() {
            assert!(property.get("description").is_some(), "{name}.{key}");
        }
    }
}

static REFERENCE: LazyLock<String> = LazyLock::new(reference);

proptest! {
    // Each case reads the whole reference file, so fewer than usual.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_to_a_configuration_makes_it_panic(
        cut in 0..1000_usize, length in 0..3_usize, at in 0..30_000_usize, put in "[ -~é]{0,3}|\\$\\{[a-z:}$]{0,9}",
    ) {
        let kept = REFERENCE.lines().enumerate().filter(|(n, _)| !(cut..cut + length).contains(n));
        let mut text: String = kept.map(|(_, line)| format!("{line}\n")).collect();
        let at = (at % text.len()..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(at, &put);
        let shown = match parse(&text, &[]) {
            Ok((_, warnings)) => warnings.to_string(),
            Err(problems) => problems.to_string(),
        };
        prop_assert!(shown.len() < 1_000_000);
    }
}

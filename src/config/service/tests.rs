//! The section as it is written in files.

use super::*;
use crate::yaml;

#[test]
fn a_resource_is_a_map_or_a_list() {
    let check = |json: &str, expected: Result<Vec<(&str, Option<&str>)>, BadResource>| {
        let resource: Resource = serde_json::from_str(json).unwrap();
        let expected = expected.map(|pairs| {
            let own = |(k, v): (&str, Option<&str>)| (k.to_owned(), v.map(str::to_owned));
            pairs.into_iter().map(own).collect::<Vec<_>>()
        });
        assert_eq!(resource.attributes(), expected, "{json}");
    };
    check("{}", Ok(vec![]));
    check(r#"{"service.name":"x","n":1}"#, Ok(vec![("n", Some("1")), ("service.name", Some("x"))]));
    check(r#"{"service.instance.id":null}"#, Ok(vec![("service.instance.id", None)]));
    check(
        r#"{"schema_url":"u","attributes":[{"name":"a","value":"b","type":"string"}]}"#,
        Ok(vec![("a", Some("b"))]),
    );
    check(r#"{"attributes":[{"value":"b"}]}"#, Err(BadResource::Entry(0)));
    check(r#"{"a":[1]}"#, Err(BadResource::Value("a".into())));
}

fn read(text: &str) -> (Option<Telemetry>, Vec<String>) {
    let node = yaml::parse(&yaml::Source::new("collector.yaml", text)).unwrap();
    let mut problems = Problems::new();
    let read: Option<Telemetry> = yaml::read(&node, &mut problems);
    if let Some(telemetry) = &read {
        telemetry.check(&node, "service.telemetry", &mut problems);
    }
    (read, problems.lines())
}

#[test]
fn a_collectors_telemetry_section_is_read() {
    let (read, problems) = read(
        "
logs: {level: warn, encoding: json, initial_fields: {pod: p}, sampling: {enabled: true, tick: 10s}}
metrics:
  level: detailed
  readers:
    - pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888, without_units: false}}}
    - pull: {exporter: {prometheus/development: {port: 8889}}}
    - periodic:
        interval: 1000
        exporter: {otlp: {protocol: grpc, endpoint: 'http://a:4317', headers: [{name: k, value: v}]}}
traces:
  processors:
    - batch: {exporter: {otlp: {protocol: grpc, endpoint: 'http://a:4317'}}}
resource: {service.name: gate, service.instance.id: null}
",
    );
    assert_eq!(problems, Vec::<String>::new());
    let read = read.unwrap();
    assert_eq!((read.logs.level, read.metrics.readers.len()), (LogLevel::Warn, 3));
    assert_eq!(read.metrics.readers[1].pull.as_ref().unwrap().exporter.prometheus.port, 8889);
    assert_eq!(read.metrics.readers[2].periodic.as_ref().map(|p| p.interval), Some(1000));
    let expected = [("service.instance.id".into(), None), ("service.name".into(), Some("gate".into()))];
    assert_eq!(read.resource.attributes(), Ok(expected.to_vec()));
}

#[test]
fn without_keys_metrics_are_on_loopback_8888() {
    let (read, problems) = read("{}");
    assert_eq!(problems, Vec::<String>::new());
    let read = read.unwrap();
    let prometheus = &read.metrics.active_readers()[0].pull.as_ref().unwrap().exporter.prometheus;
    assert_eq!((prometheus.host.as_str(), prometheus.port), ("localhost", 8888));
    assert_eq!(read.traces.processors, []);
}

#[test]
fn log_levels_may_be_written_in_capitals() {
    let (telemetry, problems) = read("logs: {level: DEBUG}");
    assert_eq!(telemetry.map(|t| t.logs.level), Some(LogLevel::Debug), "{problems:?}");
}

#[test]
fn what_cannot_work_is_reported_where_it_stands() {
    let check = |text: &str, expected: &str| {
        let (_, problems) = read(text);
        assert!(problems.len() == 1 && problems[0].contains(expected), "{text}: {problems:?}");
    };
    check("metrics: {readers: []}", "service.telemetry.metrics.readers: a level other than `none` needs");
    check("metrics: {readers: [{}]}", "metrics.readers[0]: a reader is either `pull` or `periodic`");
    check("metrics: {address: ':8888'}", "service.telemetry.metrics.address: is not used");
    check("resource: {a: [1]}", "service.telemetry.resource: resource attribute `a` must be");
    check("logs: {sampling: {tick: 0s}}", "service.telemetry.logs.sampling.tick: must be above 0");
    check("logs: {levle: info}", "level");
    check("logs: {level: loud}", "warn");
    check(
        "traces: {processors: [{batch: {max_queue_size: 1}}]}",
        "traces.processors[0].batch.max_export_batch_size: must not be above max_queue_size",
    );
}

#[test]
fn every_destination_that_cannot_be_meant_is_reported_with_its_place() {
    let (_, problems) = read(
        "
metrics:
  readers:
    - periodic: {exporter: {otlp: {endpoint: 'http://'}}}
    - periodic: {exporter: {otlp: {endpoint: 'ftp://a:1', headers: [{name: k, value: v}, {name: a b}, {name: k-bin}]}}}
traces:
  processors:
    - batch: {exporter: {otlp: {endpoint: 'a b', client_key: k.pem}}}
    - batch: {exporter: {otlp: {endpoint: 'localhost:4317', insecure: true}}}
    - batch: {exporter: {otlp: {endpoint: 'http://u:secret@localhost:4317'}}}
",
    );
    let what: Vec<_> = problems.iter().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(
        what,
        [
            "service.telemetry.metrics.readers[0].periodic.exporter.otlp.endpoint: not an endpoint such as http://localhost:4317",
            "service.telemetry.metrics.readers[1].periodic.exporter.otlp.endpoint: not an endpoint such as http://localhost:4317",
            "service.telemetry.metrics.readers[1].periodic.exporter.otlp.headers[1]: header `a b` has a name or value that cannot be sent",
            "service.telemetry.metrics.readers[1].periodic.exporter.otlp.headers[2]: header `k-bin` has a name or value that cannot be sent",
            "service.telemetry.traces.processors[0].batch.exporter.otlp.endpoint: not an endpoint such as http://localhost:4317",
            "service.telemetry.traces.processors[0].batch.exporter.otlp.client_key: `client_certificate` and `client_key` need each other",
            "service.telemetry.traces.processors[2].batch.exporter.otlp.endpoint: `user@` has no place in an endpoint; write credentials as `headers`",
        ]
    );
}

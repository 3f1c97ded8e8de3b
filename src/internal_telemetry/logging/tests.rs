//! Lines as they come out of the program.

use std::io;

use serde_json::{Value, json};

use super::*;
use crate::config::service;
use crate::internal_telemetry::OwnResource;
use crate::internal_telemetry::traces::request_span;
use crate::otlp::Signal;

/// A writer whose text the test reads.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged while `work` runs, which gets the switch of the level.
fn logged(config: &Logs, format: LogFormat, work: impl FnOnce(&Log)) -> Vec<String> {
    logged_beside(None, (config, format), work)
}

fn logged_beside(
    traces: Option<&Traces>,
    (config, format): (&Logs, LogFormat),
    work: impl FnOnce(&Log),
) -> Vec<String> {
    let buffer = Buffer::default();
    let outputs = Outputs { writers: vec![Box::new(buffer.clone())], all_terminals: false };
    let lines = Lines::new(config, format, outputs);
    let log = Log { level: LevelSwitch::new(config.level), suppressed: lines.suppressed.clone() };
    let dispatch = dispatch(lines, &log.level, traces);
    tracing::dispatcher::with_default(&dispatch, || work(&log));
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn a_json_line_carries_the_stable_name_and_the_fields() {
    let config = Logs { initial_fields: [("pod".to_owned(), json!("p"))].into(), ..Logs::default() };
    let lines = logged(&config, LogFormat::Json, |_| {
        tracing::info!(name: "queue.recovered", segments = 3, level = "mine", "queue recovered");
    });
    let mut line = parsed(&lines[0]);
    assert!(line["ts"].take().as_str().unwrap().ends_with('Z'));
    let expected = json!({
        "ts": null, "level": "info", "event": "queue.recovered", "msg": "queue recovered",
        "caller": module_path!(), "segments": 3, "field.level": "mine", "pod": "p",
    });
    assert_eq!(line, expected);
}

#[test]
fn hostile_text_stays_on_one_line() {
    let hostile = "a\nERROR forged \u{1b}[31m=\u{85}";
    for format in [LogFormat::Text, LogFormat::Json] {
        let lines = logged(&Logs::default(), format, |_| tracing::warn!(tenant = hostile, "{hostile}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let control = |c: char| c.is_control() && c != '\u{85}';
        assert!(!lines[0].contains(control), "{lines:?}");
    }
}

#[test]
fn text_quotes_only_what_needs_it() {
    let lines = logged(&Logs::default(), LogFormat::Text, |_| {
        tracing::info!(name: "a.b", bare = "x", spaced = "x y", n = 2, "ready");
    });
    let (_, rest) = lines[0].split_once(' ').unwrap();
    let expected = format!("INFO  ready bare=x spaced=\"x y\" n=2 event=a.b caller={}", module_path!());
    assert_eq!(rest, expected);
}

#[test]
fn the_level_can_be_changed_while_running() {
    let lines = logged(&Logs::default(), LogFormat::Text, |log| {
        let debug = |text: &str| tracing::debug!("{text}");
        debug("one");
        log.set_level(LogLevel::Debug);
        debug("two");
        log.set_level(LogLevel::Error);
        debug("three");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("two"));
}

#[test]
fn libraries_log_from_warn() {
    let config = Logs { level: LogLevel::Debug, ..Logs::default() };
    let lines = logged(&config, LogFormat::Text, |_| {
        tracing::info!(target: "h2::codec", "frame");
        tracing::warn!(target: "h2::codec", "odd frame");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_flood_is_cut_and_counted() {
    let mut suppressed = 0;
    let lines = logged(&Logs::default(), LogFormat::Json, |log| {
        (0..120).for_each(|i| tracing::warn!(i, "bad tenant"));
        suppressed = log.suppressed().get();
    });
    assert_eq!((lines.len(), suppressed), (11, 109));
    assert_eq!(parsed(&lines[10])["left_out"], 99);
}

#[test]
fn the_format_follows_flag_then_configuration_then_terminal() {
    let check = |format, encoding, terminal, expected_json: bool| {
        let config = Logs { encoding, ..Logs::default() };
        let outputs = Outputs { writers: vec![], all_terminals: terminal };
        let lines = Lines::new(&config, format, outputs);
        let row = (format, encoding, terminal);
        assert_eq!(matches!(lines.form, Form::Json { .. }), expected_json, "{row:?}");
    };
    check(LogFormat::Auto, None, true, false);
    check(LogFormat::Auto, None, false, true);
    check(LogFormat::Auto, Some(LogEncoding::Console), false, false);
    check(LogFormat::Auto, Some(LogEncoding::Json), true, true);
    check(LogFormat::Text, Some(LogEncoding::Json), false, false);
    check(LogFormat::Json, Some(LogEncoding::Console), true, true);
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let config = Logs { output_paths: vec!["/nowhere/at/all.log".into()], ..Logs::default() };
    let error = Outputs::open(&config).err().map(|error| error.to_string());
    let expected = "service.telemetry.logs.output_paths: cannot open /nowhere/at/all.log";
    assert_eq!(error.as_deref(), Some(expected));
}

#[tokio::test]
async fn spans_are_made_for_traces_only_and_never_logged() {
    let scope = crate::tasks::Scope::root("test");
    let processors = vec![service::SpanProcessor::default()];
    let sampler = service::Sampler { trace_id_ratio_based: service::TraceIdRatio { ratio: 0.0 } };
    let config = service::Traces { processors, sampler, ..Default::default() };
    let own = OwnResource::automatic();
    let traces = Traces::start(&scope, &config, &own).unwrap().unwrap();
    for (traces, made) in [(None, false), (Some(&traces), true)] {
        let lines = logged_beside(traces, (&Logs::default(), LogFormat::Text), |log| {
            log.set_level(LogLevel::Error);
            let span = request_span(Signal::Traces, "grpc", &http::HeaderMap::new());
            assert_eq!(!span.is_disabled(), made);
            span.in_scope(|| tracing::error!("inside"));
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    traces.close(tokio::time::Instant::now() + std::time::Duration::from_secs(20)).await;
}

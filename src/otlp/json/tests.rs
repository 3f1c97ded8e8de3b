//! Requests as people and SDKs write them, and what is refused.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};

use super::*;
use crate::otlp::Index;

const LIMITS: Limits =
    Limits { max_bytes: 1 << 20, decoded_budget: 16 << 20, index_budget: 12 << 20, max_depth: 96 };

fn read<T: prost::Message + Default>(signal: Signal, text: &str) -> T {
    let bytes =
        to_protobuf(signal, text.as_bytes(), &LIMITS).unwrap_or_else(|error| panic!("{error}\n{text}"));
    T::decode(bytes).unwrap()
}

fn write(signal: Signal, request: &impl prost::Message) -> String {
    let mut text = Vec::new();
    from_protobuf(signal, &request.encode_to_vec(), &mut text);
    String::from_utf8(text).unwrap()
}

fn error(signal: Signal, text: &str) -> JsonError {
    to_protobuf(signal, text.as_bytes(), &LIMITS).unwrap_err()
}

/// The value of a span attribute whose `value` is this JSON.
fn attribute_value(json: &str) -> Option<Value> {
    let text = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"attributes":[{{"value":{json}}}]}}]}}]}}]}}"#
    );
    let mut request: ExportTraceServiceRequest = read(Signal::Traces, &text);
    let mut span = request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0);
    span.attributes.remove(0).value.and_then(|value| value.value)
}

#[test]
fn a_span_is_read_with_everything_it_has() {
    let text = r#"
    {"resourceSpans": [{
        "resource": {
            "attributes": [{"key": "service.name", "value": {"stringValue": "checkout \u00e9\ud83d\ude00"}}],
            "droppedAttributesCount": 1,
            "entityRefs": [{"type": "service", "idKeys": ["service.name", ""]}]
        },
        "scopeSpans": [{
            "scope": {"name": "lib", "version": "1.2", "attributes": []},
            "spans": [{
                "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174",
                "parentSpanId": "", "traceState": "ot=th:8", "flags": 257,
                "name": "GET /cart", "kind": 2,
                "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": 1544712661000000000,
                "attributes": [{"key": "n", "value": {"intValue": "-7"}}, {"key": "none"}],
                "events": [{"timeUnixNano": "1", "name": "e"}],
                "links": [{"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "EEE19B7EC3C1B174", "flags": 1}],
                "status": {"code": 2, "message": "boom"}
            }],
            "schemaUrl": "https://example.com/1"
        }]
    }]}"#;
    let request: ExportTraceServiceRequest = read(Signal::Traces, text);
    let resource_spans = &request.resource_spans[0];
    let resource = resource_spans.resource.as_ref().unwrap();
    assert_eq!(
        resource.attributes[0].value.as_ref().unwrap().value,
        Some(Value::StringValue("checkout é😀".to_owned()))
    );
    assert_eq!(resource.dropped_attributes_count, 1);
    assert_eq!(resource.entity_refs[0].id_keys, ["service.name", ""]);
    let scope_spans = &resource_spans.scope_spans[0];
    assert_eq!(scope_spans.scope.as_ref().unwrap().version, "1.2");
    assert_eq!(scope_spans.schema_url, "https://example.com/1");
    let span = &scope_spans.spans[0];
    assert_eq!(span.trace_id, 0x5b8efff798038103d269b633813fc60c_u128.to_be_bytes());
    assert_eq!(span.span_id, 0xeee19b7ec3c1b174_u64.to_be_bytes());
    assert!(span.parent_span_id.is_empty());
    assert_eq!((span.trace_state.as_str(), span.flags), ("ot=th:8", 257));
    assert_eq!((span.name.as_str(), span.kind), ("GET /cart", 2));
    assert_eq!(span.start_time_unix_nano, 1_544_712_660_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_544_712_661_000_000_000);
    assert_eq!(span.attributes[0].value.as_ref().unwrap().value, Some(Value::IntValue(-7)));
    assert_eq!(span.attributes[1].value, None);
    assert_eq!((span.events[0].time_unix_nano, span.events[0].name.as_str()), (1, "e"));
    assert_eq!((&span.links[0].span_id, span.links[0].flags), (&span.span_id, 1));
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "boom"));
}

#[test]
fn every_kind_of_metric_is_read() {
    let text = r#"
    {"resourceMetrics": [{"scopeMetrics": [{"metrics": [
        {"name": "g", "unit": "By", "gauge": {"dataPoints": [{"asInt": "0", "timeUnixNano": "5"}, {"asDouble": 0}]}},
        {"name": "s", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
            {"asInt": 3, "exemplars": [{"asDouble": 1.5, "spanId": "EEE19B7EC3C1B174"}]}]}},
        {"name": "h", "histogram": {"aggregationTemporality": 1, "dataPoints": [
            {"count": "3", "sum": 0, "bucketCounts": ["1", 2, "0"], "explicitBounds": [0.1, "1e3"], "min": -1}]}},
        {"name": "e", "exponentialHistogram": {"dataPoints": [
            {"scale": -3, "zeroCount": "1", "zeroThreshold": 0.5,
             "positive": {"offset": -1, "bucketCounts": [300, "18446744073709551615"]}}]}},
        {"name": "q", "summary": {"dataPoints": [
            {"sum": "NaN", "quantileValues": [{"quantile": 0.99, "value": "Infinity"}]}]},
         "metadata": [{"key": "m", "value": {"boolValue": true}}]}
    ]}]}]}"#;
    let request: ExportMetricsServiceRequest = read(Signal::Metrics, text);
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let kinds: Vec<_> = metrics.iter().map(|metric| metric.data.as_ref().unwrap()).collect();
    let [
        metric::Data::Gauge(gauge),
        metric::Data::Sum(sum),
        metric::Data::Histogram(histogram),
        metric::Data::ExponentialHistogram(exponential),
        metric::Data::Summary(summary),
    ] = kinds[..]
    else {
        panic!("{kinds:?}")
    };
    assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsInt(0)));
    assert_eq!(gauge.data_points[1].value, Some(number_data_point::Value::AsDouble(0.0)));
    assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (2, true));
    assert_eq!(sum.data_points[0].exemplars[0].span_id.len(), 8);
    let point = &histogram.data_points[0];
    assert_eq!((point.count, point.sum, point.min, point.max), (3, Some(0.0), Some(-1.0), None));
    assert_eq!(point.bucket_counts, [1, 2, 0]);
    assert_eq!(point.explicit_bounds, [0.1, 1000.0]);
    let point = &exponential.data_points[0];
    assert_eq!((point.scale, point.zero_count, point.zero_threshold), (-3, 1, 0.5));
    let positive = point.positive.as_ref().unwrap();
    assert_eq!((positive.offset, &positive.bucket_counts[..]), (-1, &[300, u64::MAX][..]));
    assert!(summary.data_points[0].sum.is_nan());
    assert_eq!(summary.data_points[0].quantile_values[0].value, f64::INFINITY);
    assert_eq!(metrics[4].metadata.len(), 1);
}

#[test]
fn a_log_record_is_read_with_everything_it_has() {
    let text = r#"
    {"resourceLogs": [{"scopeLogs": [{"logRecords": [{
        "timeUnixNano": "1", "observedTimeUnixNano": "2", "severityNumber": 9, "severityText": "INFO",
        "body": {"kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {"values": [
            {"bytesValue": "AQI="}, {}, null]}}}]}},
        "flags": 1, "traceId": "", "spanId": "00000000000000ff", "eventName": "page.view"
    }]}]}]}"#;
    let request: ExportLogsServiceRequest = read(Signal::Logs, text);
    let record = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!((record.time_unix_nano, record.observed_time_unix_nano), (1, 2));
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, "INFO"));
    assert_eq!((record.flags, record.event_name.as_str()), (1, "page.view"));
    assert_eq!((&record.trace_id[..], record.span_id.last()), (&[][..], Some(&255)));
    let bytes = AnyValue { value: Some(Value::BytesValue(vec![1, 2])) };
    let array = ArrayValue { values: vec![bytes, AnyValue::default(), AnyValue::default()] };
    let value = AnyValue { value: Some(Value::ArrayValue(array)) };
    let values = vec![KeyValue { key: "a".to_owned(), value: Some(value), key_strindex: 0 }];
    let body = record.body.as_ref().unwrap();
    assert_eq!(body.value, Some(Value::KvlistValue(KeyValueList { values })));
}

#[test]
fn values_are_read_leniently() {
    let check = |json: &str, expected: Option<Value>| assert_eq!(attribute_value(json), expected, "{json}");
    let bytes = |bytes: &[u8]| Some(Value::BytesValue(bytes.to_vec()));
    check(r#"{"stringValue": ""}"#, Some(Value::StringValue(String::new())));
    check(r#"{"boolValue": false}"#, Some(Value::BoolValue(false)));
    check(r#"{"intValue": "-9223372036854775808"}"#, Some(Value::IntValue(i64::MIN)));
    check(r#"{"intValue": 9223372036854775807}"#, Some(Value::IntValue(i64::MAX)));
    check(r#"{"intValue": 1.2e2}"#, Some(Value::IntValue(120)));
    check(r#"{"intValue": "1e3"}"#, Some(Value::IntValue(1000)));
    check(r#"{"int_value": "5"}"#, Some(Value::IntValue(5)));
    check(r#"{"doubleValue": 18446744073709551616}"#, Some(Value::DoubleValue(18_446_744_073_709_551_616.0)));
    check(r#"{"doubleValue": "-2.5E-3"}"#, Some(Value::DoubleValue(-0.0025)));
    check(r#"{"doubleValue": "-Infinity"}"#, Some(Value::DoubleValue(f64::NEG_INFINITY)));
    check(r#"{"bytesValue": "+/8="}"#, bytes(&[0xfb, 0xff]));
    check(r#"{"bytesValue": "-_8"}"#, bytes(&[0xfb, 0xff]));
    check(r#"{"bytesValue": ""}"#, bytes(&[]));
    check(r#"{"stringValue": null, "intValue": 1, "boolValue": null}"#, Some(Value::IntValue(1)));
    check(r#"{"arrayValue": {}}"#, Some(Value::ArrayValue(ArrayValue::default())));
    check("{}", None);
    check("null", None);
}

#[test]
fn names_and_snake_case_are_read_as_the_go_collector_reads_them() {
    let text = r#"{"resource_spans":[{"scope_spans":[{"spans":[{"trace_id":"5b8efff798038103d269b633813fc60c",
        "start_time_unix_nano":1,"kind":"SPAN_KIND_PRODUCER","status":{"code":"STATUS_CODE_ERROR"}}]}]}]}"#;
    let request: ExportTraceServiceRequest = read(Signal::Traces, text);
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!((span.trace_id.len(), span.start_time_unix_nano, span.kind), (16, 1, 4));
    assert_eq!(span.status.as_ref().unwrap().code, 2);
}

#[test]
fn unknown_keys_are_ignored_whatever_is_in_them() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let text = format!(
        r#"{{"new":{deep},"resourceSpans":[{{"x":{{"resource":[1,"\"",{{}}]}},"resource":{{"later":null}},"":0}}]}}"#
    );
    let request: ExportTraceServiceRequest = read(Signal::Traces, &text);
    assert_eq!(request.resource_spans[0].resource, Some(Default::default()));
}

#[test]
fn an_empty_request_is_empty() {
    for signal in Signal::ALL {
        assert_eq!(to_protobuf(signal, b" {} \n", &LIMITS), Ok(Bytes::new()));
    }
    assert_eq!(to_protobuf(Signal::Logs, br#"{"resourceLogs":null}"#, &LIMITS), Ok(Bytes::new()));
    assert_eq!(to_protobuf(Signal::Logs, br#"{"resourceLogs":[]}"#, &LIMITS), Ok(Bytes::new()));
}

#[test]
fn faults_are_told_with_their_place() {
    let check =
        |text: &str, expected: &str| assert_eq!(error(Signal::Traces, text).to_string(), expected, "{text}");
    check("", "line 1, column 1: EOF while parsing a value");
    check("[]", "line 1, column 1: expected an object, found another value");
    check("\"secret\"", "line 1, column 8: expected an object, found another value");
    check("{} {}", "line 1, column 4: trailing characters");
    check("{\"resourceSpans\":\n  [{]}", "resourceSpans[0]: line 2, column 5: key must be a string");
    check(
        "{\"resourceSpans\":[{\"scopeSpans\":[{},",
        "resourceSpans[0].scopeSpans[1]: line 1, column 36: EOF while parsing a value",
    );
    check("{\"resourceSpans\":{}}", "resourceSpans: line 1, column 19: expected an array, found an object");
    check(
        "{\"resourceSpans\":[[]]}",
        "resourceSpans[0]: line 1, column 20: expected an object, found an array",
    );
    check(
        "{\"resourceSpans\":[7]}",
        "resourceSpans[0]: line 1, column 19: expected an object, found a number",
    );
    check(
        "{\"resourceSpans\":[],\"resource_spans\":[]}",
        "line 1, column 36: field `resourceSpans` occurs more than once",
    );

    let check = |field: &str, expected: &str| {
        let text = format!("{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{{}},{{\n{field}}}]}}]}}]}}");
        let expected = format!("resourceSpans[0].scopeSpans[0].spans[1]{expected}");
        assert_eq!(error(Signal::Traces, &text).to_string(), expected, "{field}");
    };
    check(r#""traceId":"abc""#, ".traceId: line 2, column 15: expected 32 hexadecimal digits");
    check(
        r#""traceId":"5b8efff798038103d269b633813fc60g""#,
        ".traceId: line 2, column 44: expected 32 hexadecimal digits",
    );
    check(r#""spanId":1"#, ".spanId: line 2, column 10: expected a hexadecimal string, found a number");
    check(r#""name":true"#, ".name: line 2, column 11: expected a string, found a boolean");
    check(r#""kind":"SERVER""#, ".kind: line 2, column 15: unknown name of an enum value; use its number");
    check(r#""kind":2147483648"#, ".kind: line 2, column 17: expected the number of an enum value in range");
    check(r#""flags":-1"#, ".flags: line 2, column 10: expected an unsigned 32-bit integer in range");
    check(r#""flags":1.5"#, ".flags: line 2, column 11: expected an unsigned 32-bit integer in range");
    check(
        r#""startTimeUnixNano":"18446744073709551616""#,
        ".startTimeUnixNano: line 2, column 42: expected an unsigned 64-bit integer in range",
    );
    check(
        r#""startTimeUnixNano":"""#,
        ".startTimeUnixNano: line 2, column 22: expected an unsigned 64-bit integer in range",
    );
    check(r#""status":3"#, ".status: line 2, column 10: expected an object, found a number");
    check(r#""name":"a","name":null"#, ": line 2, column 17: field `name` occurs more than once");
    check(
        r#""attributes":[{"value":{"intValue":1,"boolValue":true}}]"#,
        ".attributes[0].value.boolValue: line 2, column 53: field `boolValue` excludes one set before it",
    );
    check(
        r#""attributes":[{"value":{"bytesValue":"a$"}}]"#,
        ".attributes[0].value.bytesValue: line 2, column 41: expected base64",
    );
    for bad in ["inf", "nan", "1e999", "0x1", " 1", "", "1_0"] {
        check(
            &format!(r#""attributes":[{{"value":{{"doubleValue":{bad:?}}}}}]"#),
            &format!(
                ".attributes[0].value.doubleValue: line 2, column {}: expected a number in range",
                40 + bad.len()
            ),
        );
    }
}

#[test]
fn texts_that_are_not_json_are_refused() {
    for text in [
        &b"\xff"[..],
        b"{\"\xff\":1}",
        b"{\"resourceSpans\":[{\"schemaUrl\":\"\\ud800\"}]}",
        b"nul",
        b"{\"a\":01}",
    ] {
        let error = to_protobuf(Signal::Traces, text, &LIMITS).unwrap_err();
        assert!(matches!(error, JsonError::Malformed { fault: Fault::Syntax { .. }, .. }), "{error}");
    }
}

/// A log body of so many values inside each other.
fn nested_body(values: usize) -> String {
    let (open, close) = (r#"{"arrayValue":{"values":["#, "]}}");
    let body = format!("{}{{}}{}", open.repeat(values - 1), close.repeat(values - 1));
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{body}}}]}}]}}]}}"#)
}

#[test]
fn values_may_nest_to_the_limit_and_no_deeper() {
    // A body stands in a log record in its scope in its resource, and every level is two messages.
    let deepest = (LIMITS.max_depth - 4) / 2 + 1;
    let request: ExportLogsServiceRequest = read(Signal::Logs, &nested_body(deepest));
    let text = write(Signal::Logs, &request);
    assert_eq!(read::<ExportLogsServiceRequest>(Signal::Logs, &text), request);
    for values in [deepest + 1, 100_000] {
        let JsonError::Malformed { fault, .. } = error(Signal::Logs, &nested_body(values)) else { panic!() };
        assert_eq!(fault, Fault::Depth { limit: LIMITS.max_depth });
    }
}

#[test]
fn what_may_nest_in_json_may_nest_on_the_wire() {
    for max_depth in [16, 17, Limits::MAX_DEPTH] {
        let limits = Limits { max_depth, ..LIMITS };
        for values in 1..48 {
            let text = nested_body(values);
            let Ok(request) = to_protobuf(Signal::Logs, text.as_bytes(), &LIMITS) else { continue };
            let json = to_protobuf(Signal::Logs, text.as_bytes(), &limits);
            let wire = Index::new().read(Signal::Logs, &request, &limits);
            assert_eq!(json.is_ok(), wire.is_ok(), "{values} values, at most {max_depth} messages");
        }
    }
}

#[test]
fn requests_over_the_limits_are_too_large() {
    let check = |text: &str, limits: Limits, limit: usize| {
        let result = to_protobuf(Signal::Metrics, text.as_bytes(), &limits);
        assert_eq!(result, Err(JsonError::TooLarge { limit }));
    };
    let bounds = vec!["1"; 1000].join(",");
    let text = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{"explicitBounds":[{bounds}]}}]}}}}]}}]}}]}}"#
    );
    check(&text, Limits { max_bytes: 8000, ..LIMITS }, 8000);
    assert!(to_protobuf(Signal::Metrics, text.as_bytes(), &Limits { max_bytes: 8100, ..LIMITS }).is_ok());
    let many = format!(r#"{{"resourceMetrics":[{}]}}"#, vec!["{}"; 10_000].join(","));
    check(&many, Limits { decoded_budget: 100_000, ..LIMITS }, 100_000);
}

#[test]
fn writing_follows_the_specification() {
    let text = concat!(
        r#"{"resourceSpans":[{"resource":{"attributes":["#,
        r#"{"key":"i","value":{"intValue":"-1"}},{"key":"d","value":{"doubleValue":1.5}},"#,
        r#"{"key":"n","value":{"doubleValue":"NaN"}},{"key":"b","value":{"bytesValue":"+/8="}},"#,
        r#"{"key":"e","value":{"stringValue":""}},{"key":"q\"\n","value":{}}]},"#,
        r#""scopeSpans":[{"scope":{},"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","#,
        r#""spanId":"eee19b7ec3c1b174","flags":1,"name":"é","kind":2,"startTimeUnixNano":"18446744073709551615","#,
        r#""droppedAttributesCount":3,"status":{"code":2}}]}]}]}"#,
    );
    let request: ExportTraceServiceRequest = read(Signal::Traces, text);
    assert_eq!(write(Signal::Traces, &request), text);
    assert_eq!(write(Signal::Traces, &ExportTraceServiceRequest::default()), "{}");
}

/// The message inside others, each the field of this tag; lengths below 128 only.
fn inside(tags: &[u8], message: &[u8]) -> Vec<u8> {
    tags.iter().fold(message.to_vec(), |message, tag| [&[*tag, message.len() as u8], &message[..]].concat())
}

#[test]
fn writing_gathers_merges_and_takes_the_last_as_protobuf_does() {
    // Name a, event 1, kind 2, name b, event 2, an unknown field; the resource in two parts.
    let span = b"\x2a\x01a\x5a\x03\x12\x011\x30\x02\x2a\x01b\x5a\x03\x12\x012\xfa\x7f\x01x";
    let resource = b"\x0a\x02\x10\x05\x0a\x05\x0a\x03\x0a\x01k";
    let resource_spans = [resource, &inside(&[0x12, 0x12], span)[..]].concat();
    let mut text = b"> ".to_vec();
    from_protobuf(Signal::Traces, &inside(&[0x0a], &resource_spans), &mut text);
    let expected = concat!(
        r#"> {"resourceSpans":[{"resource":{"attributes":[{"key":"k"}],"droppedAttributesCount":5},"#,
        r#""scopeSpans":[{"spans":[{"name":"b","kind":2,"events":[{"name":"1"},{"name":"2"}]}]}]}]}"#,
    );
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

#[test]
fn of_a_oneof_only_the_field_set_last_is_written() {
    let check = |value: &[u8], expected: &str| {
        let mut text = Vec::new();
        from_protobuf(Signal::Logs, &inside(&[0x2a, 0x12, 0x12, 0x0a], value), &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(&format!(r#""body":{expected}}}"#)), "{text}");
    };
    check(b"\x10\x01\x18\x07", r#"{"intValue":"7"}"#);
    check(b"\x18\x07\x10\x01", r#"{"boolValue":true}"#);
    // Two arrays in a row are one; with another value between them, the first is gone.
    let (one, two) = (b"\x2a\x04\x0a\x02\x18\x01", b"\x2a\x04\x0a\x02\x18\x02");
    let both = r#"{"arrayValue":{"values":[{"intValue":"1"},{"intValue":"2"}]}}"#;
    check(&[&one[..], two].concat(), both);
    check(&[&one[..], b"\x10\x01", two].concat(), r#"{"arrayValue":{"values":[{"intValue":"2"}]}}"#);
}

#[test]
fn what_is_not_protobuf_is_left_out() {
    let check = |request: &[u8], expected: &str| {
        let mut text = Vec::new();
        from_protobuf(Signal::Logs, request, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    };
    check(b"\xff\xff", "{}");
    check(b"\x08\x01", "{}");
    check(
        &inside(&[0x0a], b"\x1a\x02\xc3\x28\x0a\x09"),
        "{\"resourceLogs\":[{\"schemaUrl\":\"\u{fffd}(\"}]}",
    );
}

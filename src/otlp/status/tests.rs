//! Answers in both encodings, those of other servers included.

use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn full() -> Status {
    Status {
        code: 14,
        message: "try \"later\"".to_owned(),
        retry_after: Some(Duration::from_millis(1500)),
        violations: vec![
            FieldViolation {
                field: "resourceSpans[0]".to_owned(),
                description: "expected an object".to_owned(),
            },
            FieldViolation::default(),
        ],
    }
}

#[test]
fn a_status_comes_back_from_both_encodings() {
    let check = |status: Status| {
        assert_eq!(Status::from_protobuf(&status.to_protobuf()), status);
        assert_eq!(Status::from_json(&status.to_json()), status);
    };
    check(full());
    check(Status::default());
    check(Status::new(3, "no"));
    check(Status { retry_after: Some(Duration::ZERO), ..Status::default() });
    check(Status { retry_after: Some(Duration::new(7, 1)), ..Status::default() });
}

#[test]
fn a_status_looks_as_google_rpc_has_it() {
    let expected = concat!(
        r#"{"code":14,"message":"try \"later\"","details":["#,
        r#"{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.500s"},"#,
        r#"{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":["#,
        r#"{"field":"resourceSpans[0]","description":"expected an object"},{"field":"","description":""}]}]}"#,
    );
    assert_eq!(full().to_json(), expected);

    let status = Status { retry_after: Some(Duration::from_millis(1500)), ..Status::new(8, "full") };
    let mut expected =
        b"\x08\x08\x12\x04full\x1a\x36\x0a\x28type.googleapis.com/google.rpc.RetryInfo".to_vec();
    expected.extend(b"\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01");
    assert_eq!(status.to_protobuf(), expected);
}

#[test]
fn a_broken_status_tells_what_can_be_read() {
    let whole = full().to_protobuf();
    let cut = Status::from_protobuf(&whole[..whole.len() - 1]);
    assert_eq!(cut, Status { violations: Vec::new(), ..full() });
    assert_eq!(Status::from_protobuf(b"\xff\xff"), Status::default());
    for text in ["", "<html>", "[]", "7", r#"{"code":"x","message":1,"details":{}}"#] {
        assert_eq!(Status::from_json(text.as_bytes()), Status::default(), "{text}");
    }
    let unreadable = r#"{"message":"m","details":[null,{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":5}]}"#;
    let expected = Status { retry_after: Some(Duration::ZERO), ..Status::new(0, "m") };
    assert_eq!(Status::from_json(unreadable.as_bytes()), expected);
}

#[test]
fn delays_are_read_within_their_range() {
    let check =
        |text: &str, expected: Option<Duration>| assert_eq!(duration::from_text(text), expected, "{text}");
    check("3s", Some(Duration::from_secs(3)));
    check("3.000000001s", Some(Duration::new(3, 1)));
    check("0.5s", Some(Duration::from_millis(500)));
    check("1.s", Some(Duration::from_secs(1)));
    check("0.1234567899s", Some(Duration::from_nanos(123_456_789)));
    check("-1.5s", Some(Duration::ZERO));
    check("9223372036854775807s", Some(Duration::from_secs(315_576_000_000)));
    check("99999999999999999999s", None);
    check("1.éés", None);
    check("1.+5s", None);
    check("1", None);
    check("s", None);

    let check = |(seconds, nanos), expected| assert_eq!(duration::from_parts(seconds, nanos), expected);
    check((2, 5), Duration::new(2, 5));
    check((-2, 0), Duration::ZERO);
    check((0, -5), Duration::ZERO);
    check((1, 1_000_000_000), Duration::from_secs(1));
    check((i64::MAX, 0), Duration::from_secs(315_576_000_000));
}

#[test]
fn a_response_is_what_prost_makes_of_it() {
    let check = |rejected: u64, message: &str, json: &str| {
        let response = ExportResponse { rejected, message: message.to_owned() };
        let partial_success = (json != "{}").then(|| otlp::ExportTracePartialSuccess {
            rejected_spans: rejected as i64,
            error_message: message.to_owned(),
        });
        let expected = otlp::ExportTraceServiceResponse { partial_success }.encode_to_vec();
        assert_eq!(response.to_protobuf(), expected);
        assert_eq!(response.to_json(Signal::Traces), json);
        assert_eq!(ExportResponse::from_protobuf(&expected).as_ref(), Ok(&response));
        assert_eq!(ExportResponse::from_json(Signal::Traces, json.as_bytes()).as_ref(), Ok(&response));
    };
    check(0, "", "{}");
    check(3, "", r#"{"partialSuccess":{"rejectedSpans":"3"}}"#);
    check(0, "hm", r#"{"partialSuccess":{"errorMessage":"hm"}}"#);
    check(7, "\"", r#"{"partialSuccess":{"rejectedSpans":"7","errorMessage":"\""}}"#);
}

#[test]
fn each_signal_names_its_items() {
    let response = ExportResponse { rejected: 1, message: String::new() };
    let check = |signal, json: &str| {
        assert_eq!(response.to_json(signal), json);
        assert_eq!(ExportResponse::from_json(signal, json.as_bytes()).as_ref(), Ok(&response));
    };
    check(Signal::Traces, r#"{"partialSuccess":{"rejectedSpans":"1"}}"#);
    check(Signal::Metrics, r#"{"partialSuccess":{"rejectedDataPoints":"1"}}"#);
    check(Signal::Logs, r#"{"partialSuccess":{"rejectedLogRecords":"1"}}"#);
}

#[test]
fn responses_of_other_servers_are_read() {
    let check = |bytes: &[u8], expected: Result<u64, Malformed>| {
        assert_eq!(ExportResponse::from_protobuf(bytes).map(|response| response.rejected), expected);
    };
    check(b"\x0a\x00", Ok(0));
    check(b"\x0a\x02\x08\x05\x7a\x01x", Ok(5));
    check(b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Ok(0));
    check(b"\x0a\x05", Err(Malformed::Truncated));
    check(b"\x08\x05", Err(Malformed::WireType));
    check(b"\x0a\x03\x12\x01\xff", Err(Malformed::Utf8));
    check(b"<html>", Err(Malformed::Tag));

    let check = |text: &str, expected: Option<u64>| {
        let response = ExportResponse::from_json(Signal::Logs, text.as_bytes());
        assert_eq!(response.ok().map(|response| response.rejected), expected, "{text}");
    };
    check("", Some(0));
    check(r#"{"partialSuccess":null,"other":1}"#, Some(0));
    check(r#"{"partialSuccess":{"rejectedLogRecords":2}}"#, Some(2));
    check("<html>", None);
    check(r#"{"partialSuccess":[]}"#, None);
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let check = |message: &str, max_bytes: usize, expected: &str| {
        let mut text = message.to_owned();
        shorten(&mut text, max_bytes);
        assert_eq!(text, expected);
    };
    check("abcdef", 6, "abcdef");
    check("abcdef", 5, "ab…");
    check("aéé€", 7, "aé…");
    check("éé", 3, "…");
    check("éé", 1, "");
    check("éé", 0, "");
}

proptest! {
    #[test]
    fn any_bytes_are_a_status(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let status = Status::from_protobuf(&bytes);
        prop_assert_eq!(Status::from_protobuf(&status.to_protobuf()), status);
        Status::from_json(&bytes);
        ExportResponse::from_protobuf(&bytes).ok();
        ExportResponse::from_json(Signal::Traces, &bytes).ok();
    }

    #[test]
    fn any_delay_comes_back(seconds in 0..315_576_000_000_u64, nanos in 0..1_000_000_000_u32) {
        let status = Status { retry_after: Some(Duration::new(seconds, nanos)), ..Status::default() };
        prop_assert_eq!(&Status::from_protobuf(&status.to_protobuf()), &status);
        prop_assert_eq!(&Status::from_json(&status.to_json()), &status);
    }
}

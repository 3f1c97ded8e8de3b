//! What drafts show and what they leave alone, on requests written byte by byte.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::otlp::{Draft, Edits, Index, ItemId, Limits, PartId, Signal, Value};
use crate::wire::{BYTES, key, put_varint};

/// A length-prefixed field.
pub(super) fn field(number: u32, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(key(number, BYTES)));
    put_varint(&mut out, parts.iter().map(|part| part.len()).sum::<usize>() as u64);
    out.extend(parts.concat());
    out
}

pub(super) fn text_attribute(number: u32, name: &str, text: &str) -> Vec<u8> {
    field(number, &[&field(1, &[name.as_bytes()]), &field(2, &[&field(1, &[text.as_bytes()])])])
}

pub(super) fn limits() -> Limits {
    Limits::for_message_size(4 << 20)
}

/// Reads a request and edits it; returns what was emitted for group 0 and the bytes it was read as.
pub(super) fn edited(
    signal: Signal,
    request: &[u8],
    edit: impl FnOnce(&mut Draft<'_>),
) -> (Option<Bytes>, Bytes) {
    let mut index = Index::new();
    let mut edits = Edits::new();
    let request = index.read(signal, &Bytes::copy_from_slice(request), &limits()).unwrap();
    let mut draft = Draft::new(&index, &request, &mut edits);
    edit(&mut draft);
    (draft.emit(0), request)
}

fn part() -> PartId {
    PartId(0)
}

const UNKNOWN: &[u8] = b"\xa3\x06\x08\x01\xa4\x06";

#[test]
fn a_request_nobody_edits_is_not_copied() {
    let request = field(1, &[&field(2, &[&field(2, &[b"\x30\x02"])])]);
    let (emitted, read) = edited(Signal::Traces, &request, |draft| {
        draft.delete_resource_attribute(part(), "absent");
        draft.delete_item_attribute(ItemId(0), "absent");
        draft.set_trace_state(ItemId(0), "");
        draft.assign(part(), 0);
    });
    assert_eq!(emitted.unwrap().as_ptr(), read.as_ptr());
}

#[test]
fn an_attribute_that_is_there_already_is_no_edit() {
    let resource = field(1, &[&text_attribute(1, "tenant.id", "acme")]);
    let span = field(2, &[&text_attribute(9, "a", "b"), &field(3, &[b"x=y"])]);
    let request = field(1, &[&resource, &field(2, &[&span])]);
    let (emitted, read) = edited(Signal::Traces, &request, |draft| {
        draft.set_resource_attribute(part(), "tenant.id", "acme");
        draft.set_item_attribute(ItemId(0), "a", "b");
        draft.set_trace_state(ItemId(0), "x=y");
    });
    assert_eq!(emitted.unwrap().as_ptr(), read.as_ptr());
}

#[test]
fn a_request_without_items_emits_nothing() {
    for request in [vec![], field(1, &[]), field(1, &[&field(2, &[])])] {
        for signal in Signal::ALL {
            assert_eq!(edited(signal, &request, |_| {}).0, None);
        }
    }
}

#[test]
fn unknown_fields_of_every_level_stay_where_they_are() {
    let resource = |attribute: &[u8]| field(1, &[UNKNOWN, attribute, UNKNOWN]);
    let span = field(2, &[UNKNOWN, b"\x30\x02", UNKNOWN]);
    let gone = field(2, &[b"\x30\x03"]);
    let request = |attribute: &[u8], gone: &[u8]| {
        let scope = field(2, &[UNKNOWN, gone, UNKNOWN, &span, UNKNOWN]);
        let resource_spans = field(1, &[UNKNOWN, &scope, UNKNOWN, &resource(attribute), UNKNOWN]);
        [UNKNOWN, &resource_spans, UNKNOWN].concat()
    };
    let old = [text_attribute(1, "k", "old"), text_attribute(1, "k", "older")].concat();
    let (emitted, _) = edited(Signal::Traces, &request(&old, &gone), |draft| {
        draft.set_resource_attribute(part(), "k", "new");
        draft.leave_out(ItemId(0));
    });
    let emitted = emitted.unwrap();
    // What stands between resources goes first.
    let expected = request(&text_attribute(1, "k", "new"), &[]);
    let (rest, kept) = expected.split_at(expected.len() - UNKNOWN.len());
    assert_eq!(emitted, [UNKNOWN, kept, &rest[UNKNOWN.len()..]].concat());
}

#[test]
fn unknown_fields_of_metrics_stay_when_a_point_goes() {
    let point = |value: u8| field(1, &[UNKNOWN, &[0x40, value]]);
    let metric = |points: &[u8]| {
        let gauge = field(5, &[UNKNOWN, points, UNKNOWN]);
        field(1, &[&field(2, &[&field(2, &[UNKNOWN, &field(1, &[b"name"]), &gauge, UNKNOWN])])])
    };
    let (emitted, _) = edited(Signal::Metrics, &metric(&[point(1), point(2)].concat()), |draft| {
        assert_eq!(draft.metric_name(ItemId(1)), "name");
        draft.leave_out(ItemId(0));
    });
    assert_eq!(emitted.unwrap(), metric(&point(2)));
}

#[test]
fn a_resource_is_made_where_there_is_none_and_never_twice() {
    let scope = field(2, &[&field(2, &[])]);
    let attribute = text_attribute(1, "tenant.id", "acme");
    let tag = |draft: &mut Draft<'_>| draft.set_resource_attribute(part(), "tenant.id", "acme");
    let (emitted, _) = edited(Signal::Logs, &field(1, &[&scope]), tag);
    assert_eq!(emitted.unwrap(), field(1, &[&field(1, &[&attribute]), &scope]));
    let (emitted, _) = edited(Signal::Logs, &field(1, &[&scope, &field(1, &[])]), tag);
    assert_eq!(emitted.unwrap(), field(1, &[&scope, &field(1, &[&attribute])]));
}

#[test]
fn a_repeated_resource_is_merged_as_decoders_do() {
    let resource = |name| field(1, &[&text_attribute(1, name, "x")]);
    let request = field(1, &[&resource("a"), &field(2, &[&field(2, &[])]), &resource("b")]);
    let mut index = Index::new();
    let read = index.read(Signal::Traces, &Bytes::from(request.clone()), &limits()).unwrap();
    assert_eq!(index.normalized(), 1);
    assert_eq!(ExportTraceServiceRequest::decode(read.clone()), ExportTraceServiceRequest::decode(&*request));
    let mut edits = Edits::new();
    let draft = Draft::new(&index, &read, &mut edits);
    let names: Vec<_> = draft.resource_attributes(part()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn what_cannot_be_read_by_ranges_is_normalized() {
    fn check(resource: &[&[u8]], expected: Value<'_>) {
        let request = field(1, &[&field(1, resource), &field(2, &[&field(2, &[])])]);
        let mut index = Index::new();
        let read = index.read(Signal::Logs, &Bytes::from(request), &limits()).unwrap();
        assert_eq!(index.normalized(), 1);
        let mut edits = Edits::new();
        let draft = Draft::new(&index, &read, &mut edits);
        assert_eq!(draft.resource_attribute(part(), "k"), Some(expected));
    }
    let (name, value) = (field(1, &[b"k"]), field(2, &[&field(1, &[b"v"])]));
    check(&[&field(1, &[&field(1, &[b"x"]), &value, &name])], Value::Str("v"));
    check(&[&field(1, &[&name, &value, &field(2, &[b"\x18\x07"])])], Value::Int(7));
    check(&[&field(1, &[&name, &field(2, &[b"\x18\x07\x10\x01"])])], Value::Bool(true));
}

#[test]
fn spans_show_their_fields() {
    let span = [
        field(5, &[b"first"]),
        field(1, &[&[7; 16]]),
        field(2, &[&[8; 8]]),
        field(3, &[b"ot=th:8"]),
        field(4, &[&[0; 8]]),
        field(5, &[b"name"]),
        b"\x30\x03\x39\x01\0\0\0\0\0\0\0\x41\x05\0\0\0\0\0\0\0\x85\x01\x01\x01\0\0".to_vec(),
        field(15, &[b"\x18\x02"]),
        field(15, &[&field(2, &[b"no code here"])]),
    ]
    .concat();
    let scope = field(1, &[&field(1, &[b"lib"]), &field(2, &[b"1.0"])]);
    let request = field(1, &[&field(2, &[&field(2, &[&span]), &scope])]);
    edited(Signal::Traces, &request, |draft| {
        let shown = draft.span(ItemId(0)).unwrap();
        assert_eq!((shown.trace_id(), shown.span_id()), (Some([7; 16]), Some([8; 8])));
        assert_eq!((shown.name(), shown.trace_state()), ("name", "ot=th:8"));
        assert_eq!((shown.kind(), shown.status(), shown.flags()), (3, 2, 0x101));
        assert_eq!((shown.start_unix_nano(), shown.duration_nano()), (1, 4));
        assert!(!shown.has_parent());
        assert_eq!(draft.scope_name(ItemId(0)), ("lib", "1.0"));
        assert_eq!(draft.item_bytes(ItemId(0)), span);
        assert!(draft.log(ItemId(0)).is_none());
    });
}

#[test]
fn log_records_show_their_fields() {
    let log = [
        b"\x09\x01\0\0\0\0\0\0\0\x10\x11\x45\x01\0\0\0\x59\x02\0\0\0\0\0\0\0".to_vec(),
        field(3, &[b"ERROR"]),
        field(5, &[&field(1, &[b"it broke"])]),
        field(9, &[&[7; 16]]),
        field(10, &[b"short"]),
        field(12, &[b"event"]),
    ]
    .concat();
    let request = field(1, &[&field(2, &[&field(2, &[&log])])]);
    edited(Signal::Logs, &request, |draft| {
        let shown = draft.log(ItemId(0)).unwrap();
        assert_eq!((shown.trace_id(), shown.span_id()), (Some([7; 16]), None));
        assert_eq!((shown.time_unix_nano(), shown.observed_time_unix_nano()), (1, 2));
        assert_eq!((shown.severity_number(), shown.severity_text()), (17, "ERROR"));
        assert_eq!((shown.body(), shown.event_name()), (Some(Value::Str("it broke")), "event"));
        assert_eq!(shown.flags(), 1);
        assert!(draft.span(ItemId(0)).is_none());
    });
}

#[test]
fn pieces_whose_copies_would_cost_too_much_stay_together() {
    // 100 KiB of resource for every one of 100 items would be 10 MiB; the request has a tenth of one.
    let resource = field(1, &[&text_attribute(1, "k", &"x".repeat(100 << 10))]);
    let spans = field(2, &[]).repeat(100);
    let request = field(1, &[&resource, &field(2, &[&spans])]);
    edited(Signal::Traces, &request, |draft| {
        let pieces = draft.split(part(), |_, item| item.0 as u16);
        let overflow = pieces.overflow.unwrap();
        assert_eq!(pieces.made.len(), 12);
        assert_eq!(draft.items(overflow).count(), 100 - 12);
        assert_eq!(draft.part_of(ItemId(50)), overflow);
        draft.parts().for_each(|part| draft.assign(part, part.0));
        let size: usize = draft.parts().map(|part| draft.emit(part.0).unwrap().len()).sum();
        assert!(size < 3 * request.len() + (1 << 20), "{size}");
    });
}

#[test]
fn visitors_may_leave_out_and_split_what_they_visit() {
    let request = field(1, &[&field(2, &[&field(2, &[]).repeat(10)])]);
    edited(Signal::Traces, &request, |draft| {
        let pieces = draft.split(part(), |_, item| u16::from(item.0 >= 5));
        let [(0, first), (1, second)] = pieces.made[..] else { panic!("{pieces:?}") };
        assert_eq!(first, part());
        let mut seen = Vec::new();
        draft.for_each_item(second, |draft, item| {
            seen.push(item.0);
            draft.leave_out(ItemId(item.0 | 1));
        });
        assert_eq!(seen, [5, 6, 8]);
        assert_eq!((draft.items_left(), draft.part_items_left(second)), (7, 2));
        assert_eq!(draft.group_items(0), 7);
    });
}

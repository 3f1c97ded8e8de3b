//! Requests that are small to send and dear to decode, too deep, or just very large.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::places::{field, limits, text_attribute};
use crate::otlp::{Draft, Edits, Index, Limits, Malformed, Signal};

fn read(signal: Signal, request: Vec<u8>) -> Result<(), Malformed> {
    let mut index = Index::new();
    let read = index.read(signal, &Bytes::from(request), &limits()).map(drop);
    // Arrays double, so they can be twice as large as what is in them.
    assert!(index.memory() <= 2 * (limits().index_budget + limits().max_bytes), "{}", index.memory());
    read
}

#[test]
fn four_mebibytes_of_empty_messages_are_refused() {
    let (budget, dense) =
        (Err(Malformed::Budget { limit: limits().decoded_budget }), Err(Malformed::TooDense));
    for signal in Signal::ALL {
        let empty = |number: u32| field(number, &[]).repeat(2_000_000);
        assert_eq!(read(signal, empty(1)), dense);
        assert_eq!(read(signal, field(1, &[&empty(2)])), dense);
        assert_eq!(read(signal, field(1, &[&field(2, &[&empty(2)])])), dense);
        assert_eq!(read(signal, field(1, &[&field(1, &[&empty(1)])])), budget);
        assert_eq!(read(signal, field(1, &[&field(1, &[&empty(3)])])), budget);
    }
    let item = |item: &[u8]| field(1, &[&field(2, &[&field(2, &[item])])]);
    let empty = |number: u32| field(number, &[]).repeat(2_000_000);
    for number in [9, 11, 13] {
        assert_eq!(read(Signal::Traces, item(&empty(number))), budget);
    }
    for number in [5, 7, 9, 10, 11] {
        let read = read(Signal::Metrics, item(&field(number, &[&empty(1)])));
        assert!(read == budget || read == dense, "{read:?}");
    }
    let values = field(6, &[&field(2, &[&field(5, &[&empty(1)])])]);
    assert_eq!(read(Signal::Logs, item(&values)), budget);
}

#[test]
fn what_is_too_dense_takes_no_memory() {
    let empty = |number: u32| field(number, &[]).repeat(1_000_000);
    for signal in Signal::ALL {
        for request in [empty(1), field(1, &[&empty(2)]), field(1, &[&field(2, &[&empty(2)])])] {
            let mut index = Index::new();
            let read = index.read(signal, &Bytes::from(request), &limits());
            assert_eq!(read, Err(Malformed::TooDense));
            // Of the messages around them there may be one each.
            assert!(index.memory() < 1024, "{}", index.memory());
        }
    }
}

#[test]
fn what_has_to_be_decoded_is_bounded_by_what_it_costs_decoded() {
    let limits = Limits::for_message_size(20 << 20);
    let check = |events: usize, expected: Result<(), Malformed>| {
        let span = field(2, &[&field(11, &[]).repeat(events)]);
        let request = Bytes::from(field(1, &[&field(1, &[]).repeat(2), &field(2, &[&span])]));
        let mut index = Index::new();
        assert_eq!(index.read(Signal::Traces, &request, &limits).map(drop), expected);
        assert_eq!(index.normalized(), u64::from(expected.is_ok()));
    };
    check(200_000, Ok(()));
    check(300_000, Err(Malformed::Budget { limit: 16 << 20 }));
}

#[test]
fn what_nests_too_deep_is_refused_and_what_decoders_take_is_not() {
    fn check(levels: usize, wrap: impl Fn(&[u8]) -> Vec<u8>, expected: Result<(), Malformed>) {
        let value = (0..levels).fold(Vec::new(), |inner, _| wrap(&inner));
        let request = field(1, &[&field(2, &[&field(2, &[&field(9, &[&field(2, &[&value])])])])]);
        assert_eq!(read(Signal::Traces, request.clone()), expected, "{levels}");
        if expected.is_ok() {
            ExportTraceServiceRequest::decode(&*request).unwrap();
        }
    }
    let array = |inner: &[u8]| field(5, &[&field(1, &[inner])]);
    let list = |inner: &[u8]| field(6, &[&field(1, &[&field(2, &[inner])])]);
    let group = |inner: &[u8]| [b"\xa3\x06", inner, b"\xa4\x06"].concat();
    check(45, array, Ok(()));
    check(46, array, Err(Malformed::Depth));
    check(30, list, Ok(()));
    check(31, list, Err(Malformed::Depth));
    check(91, group, Ok(()));
    check(92, group, Err(Malformed::Depth));
    // Length prefixes make deep messages long; groups do not.
    check(1500, array, Err(Malformed::Depth));
    check(1500, list, Err(Malformed::Depth));
    check(20_000, group, Err(Malformed::Depth));
}

#[test]
fn a_request_above_the_size_limit_is_refused_unread() {
    let limits = Limits { max_bytes: 10, ..limits() };
    let read = Index::new().read(Signal::Logs, &Bytes::from(vec![0xff; 11]), &limits);
    assert_eq!(read, Err(Malformed::Budget { limit: 10 }));
}

#[test]
fn every_item_of_a_refused_request_is_forgotten() {
    let mut index = Index::new();
    let request = Bytes::from([field(1, &[&field(2, &[&field(2, &[])])]), vec![0xff]].concat());
    assert_eq!(index.read(Signal::Traces, &request, &limits()), Err(Malformed::Truncated));
    let mut edits = Edits::new();
    let mut draft = Draft::new(&index, &request, &mut edits);
    assert_eq!((index.items(), draft.parts().count(), draft.emit(0)), (0, 0, None));
}

#[test]
fn seventy_thousand_spans_go_through_in_many_groups() {
    const SPANS: usize = 70_000;
    const RESOURCES: usize = 7_000;
    let attributes: Vec<u8> =
        (0..10).flat_map(|n| text_attribute(9, &format!("some.key.{n}"), &"x".repeat(40))).collect();
    let span = field(2, &[&field(1, &[&[7; 16]]), &field(5, &[b"GET /"]), &attributes]);
    let spans = span.repeat(SPANS / RESOURCES);
    let request = Bytes::from(field(1, &[&field(2, &[&spans])]).repeat(RESOURCES));
    assert!(request.len() > 40_000_000, "{}", request.len());
    let limits = Limits::for_message_size(64 << 20);
    let mut index = Index::new();
    let read = index.read(Signal::Traces, &request, &limits).unwrap();
    let mut edits = Edits::new();
    let mut draft = Draft::new(&index, &read, &mut edits);
    for part in draft.parts() {
        draft.set_resource_attribute(part, "tenant.id", "acme");
        draft.assign(part, part.0);
        draft.for_each_item(part, |draft, item| {
            if item.0 % 2 == 0 {
                draft.leave_out(item);
            }
        });
    }
    assert_eq!(draft.items_left(), SPANS as u64 / 2);
    let emitted: Vec<Bytes> = (0..RESOURCES as u32).map(|group| draft.emit(group).unwrap()).collect();
    let items: u64 = (0..RESOURCES as u32).map(|group| draft.group_items(group)).sum();
    assert_eq!(items, SPANS as u64 / 2);
    assert!(emitted.iter().all(|one| one == &emitted[0]));
    let one = ExportTraceServiceRequest::decode(&*emitted[0]).unwrap();
    assert_eq!(one.resource_spans[0].scope_spans[0].spans.len(), SPANS / RESOURCES / 2);
}

#[test]
fn seventy_thousand_spans_of_one_resource_split_in_many_pieces() {
    let spans = field(2, &[b"\x30\x02"]).repeat(70_000);
    let request = Bytes::from(field(1, &[&field(2, &[&spans])]));
    let mut index = Index::new();
    let read = index.read(Signal::Traces, &request, &limits()).unwrap();
    let mut edits = Edits::new();
    let mut draft = Draft::new(&index, &read, &mut edits);
    let part = draft.parts().next().unwrap();
    let pieces = draft.split(part, |_, item| (item.0 % 20_000) as u16);
    assert_eq!((pieces.made.len(), pieces.overflow), (20_000, None));
    let parts: Vec<_> = draft.parts().collect();
    parts.iter().for_each(|part| draft.assign(*part, part.0));
    let items: u64 = parts.iter().map(|part| draft.items(*part).count() as u64).sum();
    assert_eq!(items, 70_000);
    let bytes: usize = parts.iter().map(|part| draft.emit(part.0).unwrap().len()).sum();
    assert_eq!(bytes, 70_000 * 4 + 20_000 * 4);
}

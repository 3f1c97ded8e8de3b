//! The model: the same edits on decoded structs, compared with the draft after every step.
//!
//! Uses the public interface only, so that the fuzz target includes this file as it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Decoded;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::otlp::{Draft, Edits, Index, ItemId, Limits, Malformed, PartId, Signal, Value};

/// Keys scripts and generated requests use: few, so that they meet.
pub(super) const KEYS: [&str; 5] = ["tenant.id", "a", "", "é", "http.route"];
/// Texts scripts and generated requests use.
pub(super) const TEXTS: [&str; 5] = ["acme", "", "x", "ünï", "a text of more than sixteen bytes, to be sure"];
/// Groups scripts assign to.
pub(super) const GROUPS: u32 = 3;

/// One step of a script; numbers select among what there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) what: u8,
    pub(super) whom: u16,
    pub(super) key: u8,
    pub(super) value: u8,
}

/// A decoded request of one signal.
pub(super) trait Model: Message + Default + Clone + PartialEq + std::fmt::Debug {
    const SIGNAL: Signal;
    fn resources(&mut self) -> Vec<&mut Option<Resource>>;
    /// A request of one of the resources.
    fn only(&self, resource: usize) -> Self;
    fn append(&mut self, other: Self);
    /// Shows all items of all resources, in order: attributes and, of spans, the trace state.
    fn visit(&mut self, see: &mut dyn FnMut(&mut Vec<KeyValue>, Option<&mut String>));
    /// Asks for every item whether it stays, and removes what lost all its items (`strict`: what has none).
    fn retain(&mut self, strict: bool, stays: &mut dyn FnMut() -> bool);
}

/// How many items there were and are.
type Count = (usize, usize);

/// Keeps what has items left, and what never had any unless `strict`.
fn prune<T>(list: &mut Vec<T>, strict: bool, mut count: impl FnMut(&mut T) -> Count) -> Count {
    let (mut before, mut after) = (0, 0);
    list.retain_mut(|element| {
        let (had, has) = count(element);
        before += had;
        after += has;
        has > 0 || (had == 0 && !strict)
    });
    (before, after)
}

macro_rules! model {
    ($request:ty, $signal:expr, $resources:ident, $scopes:ident, $items:ident, $trace_state:expr) => {
        impl Model for $request {
            const SIGNAL: Signal = $signal;
            fn resources(&mut self) -> Vec<&mut Option<Resource>> {
                self.$resources.iter_mut().map(|resource| &mut resource.resource).collect()
            }
            fn only(&self, resource: usize) -> Self {
                Self { $resources: vec![self.$resources[resource].clone()] }
            }
            fn append(&mut self, other: Self) {
                self.$resources.extend(other.$resources);
            }
            fn visit(&mut self, see: &mut dyn FnMut(&mut Vec<KeyValue>, Option<&mut String>)) {
                let scopes = self.$resources.iter_mut().flat_map(|resource| &mut resource.$scopes);
                for item in scopes.flat_map(|scope| &mut scope.$items) {
                    let trace_state = $trace_state;
                    trace_state(item, see);
                }
            }
            fn retain(&mut self, strict: bool, stays: &mut dyn FnMut() -> bool) {
                prune(&mut self.$resources, strict, |resource| {
                    prune(&mut resource.$scopes, strict, |scope| {
                        prune(&mut scope.$items, strict, |_| (1, usize::from(stays())))
                    })
                });
            }
        }
    };
}

type See<'a> = &'a mut dyn FnMut(&mut Vec<KeyValue>, Option<&mut String>);
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

model!(
    ExportTraceServiceRequest,
    Signal::Traces,
    resource_spans,
    scope_spans,
    spans,
    |item: &mut Span, see: See<'_>| see(&mut item.attributes, Some(&mut item.trace_state))
);
model!(
    ExportLogsServiceRequest,
    Signal::Logs,
    resource_logs,
    scope_logs,
    log_records,
    |item: &mut LogRecord, see: See<'_>| see(&mut item.attributes, None)
);

impl Model for ExportMetricsServiceRequest {
    const SIGNAL: Signal = Signal::Metrics;
    fn resources(&mut self) -> Vec<&mut Option<Resource>> {
        self.resource_metrics.iter_mut().map(|resource| &mut resource.resource).collect()
    }
    fn only(&self, resource: usize) -> Self {
        Self { resource_metrics: vec![self.resource_metrics[resource].clone()] }
    }
    fn append(&mut self, other: Self) {
        self.resource_metrics.extend(other.resource_metrics);
    }
    fn visit(&mut self, see: &mut dyn FnMut(&mut Vec<KeyValue>, Option<&mut String>)) {
        let scopes = self.resource_metrics.iter_mut().flat_map(|resource| &mut resource.scope_metrics);
        for metric in scopes.flat_map(|scope| &mut scope.metrics) {
            match metric.data.as_mut() {
                Some(Data::Gauge(data)) => {
                    data.data_points.iter_mut().for_each(|p| see(&mut p.attributes, None))
                }
                Some(Data::Sum(data)) => {
                    data.data_points.iter_mut().for_each(|p| see(&mut p.attributes, None))
                }
                Some(Data::Histogram(data)) => {
                    data.data_points.iter_mut().for_each(|p| see(&mut p.attributes, None))
                }
                Some(Data::ExponentialHistogram(data)) => {
                    data.data_points.iter_mut().for_each(|p| see(&mut p.attributes, None))
                }
                Some(Data::Summary(data)) => {
                    data.data_points.iter_mut().for_each(|p| see(&mut p.attributes, None))
                }
                None => {}
            }
        }
    }
    fn retain(&mut self, strict: bool, stays: &mut dyn FnMut() -> bool) {
        prune(&mut self.resource_metrics, strict, |resource| {
            prune(&mut resource.scope_metrics, strict, |scope| {
                prune(&mut scope.metrics, strict, |metric| match metric.data.as_mut() {
                    Some(Data::Gauge(data)) => {
                        prune(&mut data.data_points, strict, |_| (1, usize::from(stays())))
                    }
                    Some(Data::Sum(data)) => {
                        prune(&mut data.data_points, strict, |_| (1, usize::from(stays())))
                    }
                    Some(Data::Histogram(data)) => {
                        prune(&mut data.data_points, strict, |_| (1, usize::from(stays())))
                    }
                    Some(Data::ExponentialHistogram(data)) => {
                        prune(&mut data.data_points, strict, |_| (1, usize::from(stays())))
                    }
                    Some(Data::Summary(data)) => {
                        prune(&mut data.data_points, strict, |_| (1, usize::from(stays())))
                    }
                    None => (0, 0),
                })
            })
        });
    }
}

/// How many items a decoded request has, and how many each resource has.
fn counts<M: Model>(request: &mut M) -> Vec<usize> {
    (0..request.resources().len())
        .map(|resource| {
            let mut count = 0;
            request.only(resource).visit(&mut |_, _| count += 1);
            count
        })
        .collect()
}

fn set(attributes: &mut Vec<KeyValue>, key: &str, value: Decoded) {
    let new =
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() };
    match attributes.iter().position(|attribute| attribute.key == key) {
        Some(first) => {
            let mut at = 0;
            attributes.retain(|attribute| {
                at += 1;
                attribute.key != key || at == first + 1
            });
            attributes[first] = new;
        }
        None => attributes.push(new),
    }
}

fn get<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a KeyValue> {
    attributes.iter().find(|attribute| attribute.key == key)
}

/// Whether a value read from the wire is the decoded one.
fn is_same(read: Option<Value<'_>>, decoded: Option<&KeyValue>) -> bool {
    let decoded = decoded.map(|attribute| attribute.value.as_ref().and_then(|value| value.value.as_ref()));
    match (read, decoded) {
        (None, None) | (Some(Value::Empty), Some(None | Some(Decoded::StringValueStrindex(_)))) => true,
        (Some(read), Some(Some(decoded))) => match (read, decoded) {
            (Value::Str(a), Decoded::StringValue(b)) => a == b,
            (Value::Bool(a), Decoded::BoolValue(b)) => a == *b,
            (Value::Int(a), Decoded::IntValue(b)) => a == *b,
            (Value::Double(a), Decoded::DoubleValue(b)) => a.to_bits() == b.to_bits(),
            (Value::Bytes(a), Decoded::BytesValue(b)) => a == b,
            (Value::Array(a), Decoded::ArrayValue(b)) => same(&ArrayValue::decode(a).unwrap(), b),
            (Value::KvList(a), Decoded::KvlistValue(b)) => same(&KeyValueList::decode(a).unwrap(), b),
            _ => false,
        },
        _ => false,
    }
}

/// Equality by the encoded form, in which a number that is none equals itself.
pub(super) fn same<M: Message>(a: &M, b: &M) -> bool {
    a.encode_to_vec() == b.encode_to_vec()
}

/// The value a step sets, encoded for the draft and decoded for the model.
fn value(number: u8) -> (Value<'static>, Decoded) {
    let text = TEXTS[number as usize % TEXTS.len()];
    match number / 16 % 6 {
        0 | 1 => (Value::Str(text), Decoded::StringValue(text.into())),
        2 => (Value::Bool(number & 1 == 1), Decoded::BoolValue(number & 1 == 1)),
        3 => (Value::Int(-i64::from(number)), Decoded::IntValue(-i64::from(number))),
        4 => (Value::Double(f64::from(number) / 3.0), Decoded::DoubleValue(f64::from(number) / 3.0)),
        _ => (Value::Bytes(text.as_bytes()), Decoded::BytesValue(text.into())),
    }
}

struct ModelPart {
    resource: usize,
    attributes: Vec<KeyValue>,
    items: Vec<usize>,
    group: u32,
    is_piece: bool,
}

/// Draft and model side by side.
struct Pair<'a, 'd, M> {
    draft: &'a mut Draft<'d>,
    decoded: M,
    /// In the order of the draft's parts.
    parts: Vec<ModelPart>,
    items: Vec<ItemId>,
    left_out: Vec<bool>,
    touched: Vec<bool>,
}

impl<M: Model> Pair<'_, '_, M> {
    fn attributes(&mut self, item: usize) -> (Vec<KeyValue>, Option<String>) {
        let (mut at, mut found) = (0, None);
        self.decoded.visit(&mut |attributes, trace_state| {
            if at == item {
                found = Some((attributes.clone(), trace_state.cloned()));
            }
            at += 1;
        });
        found.unwrap()
    }

    fn edit(&mut self, item: usize, edit: impl Fn(&mut Vec<KeyValue>, Option<&mut String>)) {
        let mut at = 0;
        self.decoded.visit(&mut |attributes, trace_state| {
            if at == item {
                edit(attributes, trace_state);
            }
            at += 1;
        });
    }

    fn step(&mut self, step: Step) {
        let key = KEYS[step.key as usize % KEYS.len()];
        let part = step.whom as usize % self.parts.len();
        let id = nth_part(self.draft, part);
        match step.what % 8 {
            0 => {
                let (value, decoded) = value(step.value);
                self.draft.set_resource_attribute(id, key, value);
                set(&mut self.parts[part].attributes, key, decoded);
            }
            1 => {
                self.draft.delete_resource_attribute(id, key);
                self.parts[part].attributes.retain(|attribute| attribute.key != key);
            }
            2 => {
                let group = u32::from(step.value) % GROUPS;
                self.draft.assign(id, group);
                self.parts[part].group = group;
            }
            3 if step.value.is_multiple_of(3) => self.split(part, step.value),
            what => {
                if !self.items.is_empty() {
                    self.item_step(what, step.whom as usize % self.items.len(), key, step.value);
                }
            }
        }
        let read = self.draft.resource_attribute(id, key);
        assert!(is_same(read, get(&self.parts[part].attributes, key)), "{step:?} {read:?}");
        let names = self.draft.resource_attributes(id);
        let expected = &self.parts[part].attributes;
        assert!(names.iter().map(|(name, _)| *name).eq(expected.iter().map(|a| a.key.as_str())), "{names:?}");
    }

    fn item_step(&mut self, what: u8, item: usize, key: &str, number: u8) {
        let id = self.items[item];
        if what == 3 || what == 4 {
            self.draft.leave_out(id);
            self.left_out[item] = true;
            return;
        }
        let stays = !self.left_out[item];
        let (value, decoded) = value(number);
        match what {
            5 => {
                self.draft.set_item_attribute(id, key, value);
                self.edit(item, |attributes, _| {
                    if stays {
                        set(attributes, key, decoded.clone())
                    }
                });
            }
            6 => {
                self.draft.delete_item_attribute(id, key);
                self.edit(item, |attributes, _| {
                    if stays {
                        attributes.retain(|a| a.key != key)
                    }
                });
            }
            _ => {
                let text = TEXTS[number as usize % TEXTS.len()];
                self.draft.set_trace_state(id, text);
                self.edit(item, |_, trace_state| {
                    if let Some(trace_state) = trace_state.filter(|_| stays) {
                        *trace_state = text.into();
                    }
                });
            }
        }
        self.touched[item] = true;
        let (attributes, trace_state) = self.attributes(item);
        assert!(is_same(self.draft.item_attribute(id, key), get(&attributes, key)), "{key}");
        assert_eq!(self.draft.span(id).map(|span| span.trace_state()), trace_state.as_deref());
        let names = self.draft.item_attributes(id);
        assert!(names.iter().map(|(name, _)| *name).eq(attributes.iter().map(|a| a.key.as_str())));
    }

    fn split(&mut self, part: usize, seed: u8) {
        let piece = |item: usize| (item * 7 + usize::from(seed)) / 3 % 4;
        let numbers: BTreeMap<ItemId, usize> =
            self.items.iter().enumerate().map(|(at, id)| (*id, piece(at))).collect();
        let id = nth_part(self.draft, part);
        let pieces = self.draft.split(id, |_, item| numbers[&item] as u16);
        assert_eq!(pieces.overflow, None);
        let mut cut: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for item in &self.parts[part].items {
            if !self.left_out[*item] {
                cut.entry(piece(*item)).or_default().push(*item);
            }
        }
        if cut.len() < 2 {
            return;
        }
        assert!(pieces.made.iter().map(|(number, _)| usize::from(*number)).eq(cut.keys().copied()));
        for (at, items) in cut.into_values().enumerate() {
            let like = &self.parts[part];
            let attributes = like.attributes.clone();
            let (resource, group) = (like.resource, like.group);
            let piece = ModelPart { resource, attributes, items, group, is_piece: true };
            if at == 0 {
                self.parts[part] = piece;
            } else {
                self.parts.push(piece);
            }
        }
    }

    /// The decoded request of a group, and its items in order.
    fn expected(&mut self, group: u32) -> (M, Vec<usize>) {
        let mut expected = M::default();
        let mut order = Vec::new();
        let first_items: Vec<usize> = counts(&mut self.decoded)
            .iter()
            .scan(0, |sum, count| {
                *sum += count;
                Some(*sum - count)
            })
            .collect();
        for part in self.parts.iter().filter(|part| part.group == group) {
            let mut only = self.decoded.only(part.resource);
            let mut at = first_items[part.resource];
            let resource = &mut *only.resources().swap_remove(0);
            if resource.is_some() || !part.attributes.is_empty() {
                resource.get_or_insert_default().attributes = part.attributes.clone();
            }
            only.retain(part.is_piece, &mut || {
                let stays = part.items.contains(&at) && !self.left_out[at];
                if stays {
                    order.push(at);
                }
                at += 1;
                stays
            });
            expected.append(only);
        }
        (expected, order)
    }

    fn compare(&mut self, limits: &Limits) {
        let mut left = 0;
        for group in 0..GROUPS {
            let (expected, order) = self.expected(group);
            assert_eq!(self.draft.group_items(group), order.len() as u64);
            left += order.len() as u64;
            let emitted = self.draft.emit(group);
            assert_eq!(emitted.is_none(), order.is_empty());
            let Some(emitted) = emitted else { continue };
            let decoded = M::decode(emitted.clone()).unwrap();
            assert!(same(&decoded, &expected), "{decoded:#?}\n{expected:#?}");
            let mut index = Index::new();
            let mut edits = Edits::new();
            let emitted = index.read(M::SIGNAL, &emitted, limits).unwrap();
            assert_eq!(index.normalized(), 0);
            let again = Draft::new(&index, &emitted, &mut edits);
            let items: Vec<ItemId> = again.parts().flat_map(|part| again.items(part)).collect();
            assert_eq!(items.len(), order.len());
            for (new, old) in items.into_iter().zip(order) {
                if !self.touched[old] {
                    assert_eq!(again.item_bytes(new), self.draft.item_bytes(self.items[old]));
                }
            }
        }
        assert_eq!(left, self.draft.items_left());
    }
}

fn nth_part(draft: &Draft<'_>, number: usize) -> PartId {
    draft.parts().nth(number).unwrap()
}

/// What is reused between requests.
#[derive(Default)]
pub(super) struct Reused {
    index: Index,
    edits: Edits,
}

/// Reads a request and applies the script to it and to the model of it.
///
/// # Panics
/// If they differ, or if one takes the request and the other does not, limits aside.
pub(super) fn check<M: Model>(request: &[u8], script: &[Step], reused: &mut Reused) -> Result<(), Malformed> {
    let limits = Limits::for_message_size(64 << 20);
    let decoded = M::decode(request);
    let Reused { index, edits } = reused;
    let read = index.read(M::SIGNAL, &Bytes::copy_from_slice(request), &limits);
    let request = match (read, &decoded) {
        (Ok(request), Ok(_)) => request,
        (Err(error @ (Malformed::Depth | Malformed::Budget { .. } | Malformed::TooDense)), _)
        | (Err(error), Err(_)) => {
            return Err(error);
        }
        (Ok(_), Err(error)) => panic!("taken, but it does not decode: {error}"),
        (Err(error), Ok(_)) => panic!("refused, but it decodes: {error}"),
    };
    let mut decoded = decoded.unwrap_or_default();
    let mut draft = Draft::new(index, &request, edits);
    let counts = counts(&mut decoded);
    let resources: Vec<Option<Resource>> = decoded.resources().into_iter().map(|r| r.clone()).collect();
    let mut first = 0;
    let parts = resources.into_iter().zip(counts).enumerate().map(|(resource, (attributes, count))| {
        let attributes = attributes.unwrap_or_default().attributes;
        first += count;
        let items = (first - count..first).collect();
        ModelPart { resource, attributes, items, group: 0, is_piece: false }
    });
    let parts: Vec<ModelPart> = parts.collect();
    assert_eq!(draft.items_total(), first as u64);
    let items: Vec<ItemId> = draft.parts().flat_map(|part| draft.items(part).collect::<Vec<_>>()).collect();
    let (left_out, touched) = (vec![false; first], vec![false; first]);
    let mut pair = Pair { draft: &mut draft, decoded, parts, items, left_out, touched };
    if !pair.parts.is_empty() {
        script.iter().for_each(|step| pair.step(*step));
    }
    pair.compare(&limits);
    Ok(())
}

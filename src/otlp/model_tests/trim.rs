//! Items cut down on the wire, against the same done to decoded messages.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use proptest::prelude::*;

use super::generate;
use super::model::Model;
use super::mutate::odd;
use crate::otlp::{Cut, Draft, Edits, Index, Limits, Most};

/// The limits at work on decoded messages.
struct Knife {
    most: Most,
    cut: Cut,
}

impl Knife {
    fn value(&mut self, value: &mut AnyValue) {
        match &mut value.value {
            Some(Value::StringValue(text)) => {
                let most = self.most.value_bytes.map_or(usize::MAX, |most| most as usize);
                let fits =
                    text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= most);
                let end = fits.last().unwrap_or(0);
                self.cut.values += u64::from(end < text.len());
                text.truncate(end);
            }
            Some(Value::ArrayValue(list)) => list.values.iter_mut().for_each(|value| self.value(value)),
            Some(Value::KvlistValue(list)) => self.values(&mut list.values),
            _ => {}
        }
    }

    fn values(&mut self, attributes: &mut [KeyValue]) {
        attributes.iter_mut().filter_map(|kv| kv.value.as_mut()).for_each(|value| self.value(value));
    }

    fn attributes(&mut self, attributes: &mut Vec<KeyValue>, dropped: &mut u32) {
        let removed = shorten(attributes, self.most.attributes, dropped);
        self.cut.attributes += removed;
        self.values(attributes);
    }
}

fn shorten<T>(list: &mut Vec<T>, most: Option<u64>, dropped: &mut u32) -> u64 {
    let before = list.len();
    list.truncate(most.map_or(usize::MAX, |most| most as usize));
    let removed = before - list.len();
    *dropped = dropped.saturating_add(removed as u32);
    removed as u64
}

trait Trim: Model {
    fn trim(&mut self, knife: &mut Knife);
}

impl Trim for ExportTraceServiceRequest {
    fn trim(&mut self, knife: &mut Knife) {
        let scopes = self.resource_spans.iter_mut().flat_map(|of| &mut of.scope_spans);
        for span in scopes.flat_map(|scope| &mut scope.spans) {
            knife.attributes(&mut span.attributes, &mut span.dropped_attributes_count);
            knife.cut.events += shorten(&mut span.events, knife.most.events, &mut span.dropped_events_count);
            knife.cut.links += shorten(&mut span.links, knife.most.links, &mut span.dropped_links_count);
            span.events.iter_mut().for_each(|event| knife.values(&mut event.attributes));
            span.links.iter_mut().for_each(|link| knife.values(&mut link.attributes));
        }
    }
}

impl Trim for ExportLogsServiceRequest {
    fn trim(&mut self, knife: &mut Knife) {
        let scopes = self.resource_logs.iter_mut().flat_map(|of| &mut of.scope_logs);
        for record in scopes.flat_map(|scope| &mut scope.log_records) {
            knife.attributes(&mut record.attributes, &mut record.dropped_attributes_count);
        }
    }
}

impl Trim for ExportMetricsServiceRequest {
    fn trim(&mut self, knife: &mut Knife) {
        let scopes = self.resource_metrics.iter_mut().flat_map(|of| &mut of.scope_metrics);
        for metric in scopes.flat_map(|scope| &mut scope.metrics) {
            let mut of = |attributes: &mut Vec<KeyValue>| knife.attributes(attributes, &mut 0);
            match &mut metric.data {
                Some(Data::Gauge(d)) => d.data_points.iter_mut().for_each(|p| of(&mut p.attributes)),
                Some(Data::Sum(d)) => d.data_points.iter_mut().for_each(|p| of(&mut p.attributes)),
                Some(Data::Histogram(d)) => d.data_points.iter_mut().for_each(|p| of(&mut p.attributes)),
                Some(Data::ExponentialHistogram(d)) => {
                    d.data_points.iter_mut().for_each(|p| of(&mut p.attributes));
                }
                Some(Data::Summary(d)) => d.data_points.iter_mut().for_each(|p| of(&mut p.attributes)),
                None => {}
            }
        }
    }
}

fn trimmed<M: Model>(request: &[u8], most: &Most) -> Option<(Option<Bytes>, Cut)> {
    let (mut index, mut edits) = (Index::new(), Edits::new());
    let request = Bytes::copy_from_slice(request);
    let request = index.read(M::SIGNAL, &request, &Limits::for_message_size(1 << 20)).ok()?;
    Some(Draft::new(&index, &request, &mut edits).emit_within(0, most))
}

fn check<M: Trim>(request: &M, most: Most, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let plain = request.encode_to_vec();
    for request in [plain.clone(), odd(&plain, super::shape::<M>(), &mut random)] {
        let mut knife = Knife { most, cut: Cut::default() };
        let mut expected = M::decode(&request[..]).unwrap();
        expected.trim(&mut knife);
        let Some((emitted, cut)) = trimmed::<M>(&request, &most) else { continue };
        let Some(emitted) = emitted else { continue };
        // Compared encoded: numbers may be no numbers.
        assert_eq!(M::decode(&emitted[..]).unwrap().encode_to_vec(), expected.encode_to_vec());
        assert_eq!(cut, knife.cut);
        if cut == Cut::default() && request == plain {
            assert_eq!(emitted, plain, "what is within its limits leaves byte-identical");
        }
    }
}

fn most() -> impl Strategy<Value = Most> {
    let few = || proptest::option::of(0_u64..4);
    (proptest::option::of(0_u64..20), few(), few(), few())
        .prop_map(|(value_bytes, attributes, events, links)| Most { value_bytes, attributes, events, links })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spans_are_cut_as_the_decoded_model_is(request in generate::traces(), most in most(), seed: u64) {
        check::<ExportTraceServiceRequest>(&request, most, seed);
    }

    #[test]
    fn data_points_are_cut_as_the_decoded_model_is(request in generate::metrics(), most in most(), seed: u64) {
        check::<ExportMetricsServiceRequest>(&request, most, seed);
    }

    #[test]
    fn log_records_are_cut_as_the_decoded_model_is(request in generate::logs(), most in most(), seed: u64) {
        check::<ExportLogsServiceRequest>(&request, most, seed);
    }
}

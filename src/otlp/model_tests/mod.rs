//! Every rewrite against a model that decodes, changes and encodes; every verdict against a decoder's.

mod bombs;
mod generate;
mod model;
mod mutate;
mod places;
mod trim;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;

use super::Signal;
use crate::otlp;
use crate::wire::put_varint;
use model::{Model, Reused, Step, check};
use mutate::{Shape, damage, odd, paths};
use places::field;

fn shape<M: Model>() -> Shape {
    match M::SIGNAL {
        Signal::Traces => Shape::Traces,
        Signal::Metrics => Shape::Metrics,
        Signal::Logs => Shape::Logs,
    }
}

/// The request as it is, in three other encodings, and damaged.
fn check_all<M: Model>(request: &M, script: &[Step], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reused = Reused::default();
    let plain = request.encode_to_vec();
    assert_eq!(check::<M>(&plain, script, &mut reused), Ok(()));
    for _ in 0..3 {
        let odd = odd(&plain, shape::<M>(), &mut random);
        assert_eq!(check::<M>(&odd, script, &mut reused), Ok(()));
    }
    for start in [&plain, &odd(&plain, shape::<M>(), &mut random)] {
        for _ in 0..15 {
            let mut damaged = start.clone();
            damage(&mut damaged, &mut random);
            let _taken_or_not = check::<M>(&damaged, script, &mut reused);
        }
    }
}

/// Every field number of every message, with every wire type, alone in its message.
fn check_fields<M: Model>() {
    let mut reused = Reused::default();
    let paths = paths(shape::<M>());
    assert!(paths.len() > 20);
    for path in paths {
        for tag in 0..(18 << 3) {
            for payload in PAYLOADS {
                let mut key = Vec::new();
                put_varint(&mut key, tag);
                let alone = [&key, *payload].concat();
                let request = path.iter().rev().fold(alone, |inner, number| field(*number, &[&inner]));
                let _taken_or_not = check::<M>(&request, &[], &mut reused);
            }
        }
    }
}

/// A small and a large number, eight bytes, four, texts, packed numbers, the ends of groups.
const PAYLOADS: &[&[u8]] = &[
    b"",
    b"\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x00\x00\x00\x00",
    b"\x00",
    b"\x01a",
    b"\x01\xff",
    b"\x02\x80\x01",
    b"\x08\x08\x08\x08\x08\x08\x08\x08\x08",
    b"\x14",
];

#[test]
fn every_field_is_taken_and_refused_as_decoders_do() {
    check_fields::<ExportTraceServiceRequest>();
    check_fields::<ExportMetricsServiceRequest>();
    check_fields::<ExportLogsServiceRequest>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edited_traces_equal_the_decoded_model(request in generate::traces(), script in generate::script(), seed: u64) {
        check_all::<ExportTraceServiceRequest>(&request, &script, seed);
    }

    #[test]
    fn edited_metrics_equal_the_decoded_model(request in generate::metrics(), script in generate::script(), seed: u64) {
        check_all::<ExportMetricsServiceRequest>(&request, &script, seed);
    }

    #[test]
    fn edited_logs_equal_the_decoded_model(request in generate::logs(), script in generate::script(), seed: u64) {
        check_all::<ExportLogsServiceRequest>(&request, &script, seed);
    }
}

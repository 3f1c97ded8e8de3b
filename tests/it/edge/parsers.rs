//! Every parser against damaged inputs: the fuzz targets' checks on mutations of known texts, by a fixed seed.
//!
//! The short form needs no nightly toolchain. A failure prints the seed; `TOLLGATE_SEED` begins elsewhere.

#[path = "../../parsers/mod.rs"]
mod checks;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use self::checks::{config, journal_segment, otlp_json, otlp_protobuf, policies};
use super::{count, figure};
use crate::harness::{Item, logs, metrics, spans};

/// Texts of a folder of this repository and below it.
fn texts(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = open.pop() {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            match path.is_dir() {
                true => open.push(path),
                false if path.to_str().unwrap().ends_with(ending) => found.push(std::fs::read(path).unwrap()),
                false => {}
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

/// One to eight changes: bytes flipped, taken away, put in, repeated, or taken from another known input.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], tokens: &[&[u8]], random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..9) {
        let at = random.usize(0..=input.len());
        let end = (at + random.usize(0..64)).min(input.len());
        match random.u8(0..8) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            5 => {
                let other = &others[random.usize(0..others.len())];
                let from = random.usize(0..=other.len());
                let until = (from + random.usize(0..200)).min(other.len());
                input.splice(at..end, other[from..until].iter().copied());
            }
            _ => {
                let token = tokens[random.usize(0..tokens.len())];
                input.splice(at..at, token.iter().copied());
            }
        }
    }
}

/// Checks the known inputs as they are, then `inputs` mutations of them.
fn attack(name: &str, known: &[Vec<u8>], tokens: &[&[u8]], (inputs, check): (usize, fn(&[u8]) -> bool)) {
    let seed = std::env::var("TOLLGATE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    assert!(known.iter().any(|input| check(input)), "{name}: some known input is good");
    let (mut taken, mut longest) = (0, Duration::ZERO);
    for number in 0..inputs {
        let mut input = known[random.usize(0..known.len())].clone();
        mutate(&mut input, known, tokens, &mut random);
        let begin = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(is_taken) => taken += usize::from(is_taken),
            Err(_) => panic!("{name}: seed {seed}, input {number}: {:?}", String::from_utf8_lossy(&input)),
        }
        longest = longest.max(begin.elapsed());
    }
    println!("{name}: seed {seed}, {inputs} inputs, {taken} taken");
    figure(&format!("parser_{name}.longest_ms"), longest.as_secs_f64() * 1000.0, 1000.0);
    assert!(taken > 0 && taken < inputs, "{name}: mutations are both good and bad");
}

const YAML: &[&[u8]] = &[
    b": ",
    b"\n",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b"\"",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"|\n",
    b"\t",
    b"${env:X}",
    b"${",
    b"!!binary ",
    b"null",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b"\xff",
    b"\0",
    "\u{feff}é".as_bytes(),
    b"tenant: { ",
    b"rate: 10%\n",
    b"5s",
    b"1MiB",
    b"version: 1\n",
    b"tls: { ",
];

#[test]
fn damaged_configurations_are_refused_without_a_panic() {
    let mut known = texts("examples", "collector.yaml");
    known.push(std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default.yaml")).unwrap());
    known.push(crate::gate::GATE.replace("{otlp}", crate::harness::EPHEMERAL).into_bytes());
    attack("config", &known, YAML, (count(5_000, 1_000_000), config::check));
}

#[test]
fn damaged_policies_are_refused_without_a_panic() {
    let mut known = texts("examples", "policies.yaml");
    known.extend(texts("config", "policies.yaml"));
    attack("policies", &known, YAML, (count(5_000, 1_000_000), policies::check));
}

#[test]
fn damaged_json_is_refused_without_a_panic() {
    let tokens: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"null",
        b"-0",
        b"1e400",
        b"\\ud800",
        b"\xff",
        b"true",
        b"{\"stringValue\":\"x\"}",
        b"\"NaN\"",
        b"18446744073709551616",
    ];
    let known = texts("tests/parsers/corpus", ".json");
    attack("otlp_json", &known, tokens, (count(20_000, 1_000_000), otlp_json::check));
}

#[test]
fn damaged_requests_are_refused_without_a_panic() {
    let resource = &[("service.name", "inference"), ("tenant.id", "acme")];
    let items =
        [Item::named("one").attribute("k", "v").error(), Item::named("two").attribute("key", "value")];
    // Signal, three steps of a script, the request.
    let script = |signal: u8| [&[signal, 3][..], &[1, 0, 0, 2, 3, 4, 1, 0, 0, 1, 7, 0, 0, 1, 1]].concat();
    let known = [
        [script(0), spans(resource, &items).encode_to_vec()].concat(),
        [script(1), metrics(resource, &items).encode_to_vec()].concat(),
        [script(2), logs(resource, &items).encode_to_vec()].concat(),
        [script(0), ExportTraceServiceRequest::default().encode_to_vec()].concat(),
    ];
    let tokens: &[&[u8]] = &[
        b"\x0a\x00",
        b"\x12\x00",
        b"\x0a\x80\x00",
        b"\x0b",
        b"\x0c",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x1a\x02",
    ];
    attack("otlp_protobuf", &known, tokens, (count(20_000, 1_000_000), otlp_protobuf::check));
}

#[test]
fn damaged_segments_are_read_as_far_as_they_are_intact_without_a_panic() {
    let tokens: &[&[u8]] = &[
        b"TOLLSEG\n",
        b"TOLLEND\n",
        b"\0\0\0\0\0\0\0\0",
        &[0; 64],
        &[0xff; 64],
        b"\x80\0\0\0",
        b"\xff\xff\xff\x7f",
        b"\x01\0\0\0\0\0\0\0",
    ];
    let known = texts("tests/golden/journal", ".seg");
    attack("journal_segment", &known, tokens, (count(20_000, 1_000_000), journal_segment::check));
}

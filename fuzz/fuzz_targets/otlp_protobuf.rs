//! `tests/parsers/otlp_protobuf.rs` says what holds.
#![no_main]

#[path = "../../tests/parsers/otlp_protobuf.rs"]
mod otlp_protobuf;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _taken_or_not = otlp_protobuf::check(input);
});

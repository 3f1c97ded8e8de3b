//! `tests/parsers/otlp_json.rs` says what holds.
#![no_main]

#[path = "../../tests/parsers/otlp_json.rs"]
mod otlp_json;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _taken_or_not = otlp_json::check(input);
});

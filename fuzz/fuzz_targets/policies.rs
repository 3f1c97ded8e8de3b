//! `tests/parsers/policies.rs` says what holds.
#![no_main]

#[path = "../../tests/parsers/policies.rs"]
mod policies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _taken_or_not = policies::check(input);
});

//! `tests/parsers/config.rs` says what holds.
#![no_main]

#[path = "../../tests/parsers/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _taken_or_not = config::check(input);
});

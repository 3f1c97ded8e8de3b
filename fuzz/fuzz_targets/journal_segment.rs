//! `tests/parsers/journal_segment.rs` says what holds.
#![no_main]

#[path = "../../tests/parsers/journal_segment.rs"]
mod journal_segment;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _taken_or_not = journal_segment::check(input);
});

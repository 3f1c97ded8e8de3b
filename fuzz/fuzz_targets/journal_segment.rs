//! Any bytes: no segment, or records whose checksums hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::journal::read_segment;

fuzz_target!(|bytes: &[u8]| {
    for (waits, payload) in read_segment(bytes).unwrap_or_default() {
        assert_eq!(waits.bytes, payload.len() as u64);
    }
});

//! Any bytes as a segment of a queue on disk: no segment, or records whose checksums hold, no more of them than fit.

use tollgate::journal::read_segment;

/// Checks one input; true if it is a segment with a record that is intact.
pub fn check(input: &[u8]) -> bool {
    let Some(records) = read_segment(input) else { return false };
    let mut bytes = 0;
    for (waits, payload) in &records {
        assert_eq!(waits.bytes, payload.len() as u64);
        assert_eq!(waits.place.payload_bytes(), waits.bytes);
        assert!(!payload.is_empty() && !waits.head.tenant.as_str().is_empty());
        bytes += payload.len();
    }
    assert!(bytes <= input.len(), "{} records have more bytes than the segment", records.len());
    !records.is_empty()
}

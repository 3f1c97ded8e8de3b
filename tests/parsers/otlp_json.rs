//! Any text as OTLP/JSON: refused, or read as protobuf that comes back from JSON unchanged.

use tollgate::otlp::{Limits, Signal, json};

/// Checks one input as every signal; true if one of them takes it.
pub fn check(text: &[u8]) -> bool {
    let limits = Limits::for_message_size(1 << 20);
    let mut taken = false;
    for signal in Signal::ALL {
        let Ok(request) = json::to_protobuf(signal, text, &limits) else { continue };
        let mut written = Vec::new();
        json::from_protobuf(signal, &request, &mut written);
        let read = json::to_protobuf(signal, &written, &limits);
        let mut again = Vec::new();
        json::from_protobuf(signal, &read.expect("our own JSON is read"), &mut again);
        assert_eq!(again, written);
        taken = true;
    }
    taken
}

//! Any text: refused, or read as protobuf that comes back from JSON unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::otlp::{Limits, Signal, json};

fuzz_target!(|text: &[u8]| {
    let limits = Limits::for_message_size(1 << 20);
    for signal in Signal::ALL {
        let Ok(request) = json::to_protobuf(signal, text, &limits) else { continue };
        let mut written = Vec::new();
        json::from_protobuf(signal, &request, &mut written);
        let read = json::to_protobuf(signal, &written, &limits);
        let mut again = Vec::new();
        json::from_protobuf(signal, &read.expect("our own JSON is read"), &mut again);
        assert_eq!(again, written);
    }
});

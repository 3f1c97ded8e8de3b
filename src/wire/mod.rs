//! Protobuf on the wire: reading fields out of bytes and splicing new messages from ranges of old ones.
//!
//! Knows no OTLP and decodes no message. Invariants: reading never panics and never reads outside the
//! slice it was given; what it refuses, every protobuf decoder refuses; nothing here recurses without
//! bound.
//!
//! ```text
//! message := field*          field := key payload          key := varint(number << 3 | wire type)
//! payload := varint | 8 bytes | length bytes | field* end-group-key | 4 bytes
//! ```

mod reader;
mod splice;
mod utf8;
mod varint;

pub use reader::Reader;
pub use splice::Splice;
pub use utf8::is_utf8;
pub use varint::{put_varint, varint_len};

/// Wire type of varints.
pub const VARINT: u32 = 0;
/// Wire type of eight little-endian bytes.
pub const FIXED64: u32 = 1;
/// Wire type of length-prefixed bytes: strings, messages, packed numbers.
pub const BYTES: u32 = 2;
/// Wire type that opens a group.
pub const START_GROUP: u32 = 3;
/// Wire type that closes a group.
pub const END_GROUP: u32 = 4;
/// Wire type of four little-endian bytes.
pub const FIXED32: u32 = 5;

/// The key of a field: its number and wire type as they stand on the wire.
pub const fn key(number: u32, wire_type: u32) -> u32 {
    number << 3 | wire_type
}

/// What is wrong with bytes that should be protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A field reaches past the end of what encloses it.
    #[error("a field reaches past the end of its message")]
    Truncated,
    /// A varint of more than ten bytes or 64 bits.
    #[error("a varint does not fit 64 bits")]
    Varint,
    /// Field number 0, a key above 32 bits, an unknown wire type, or a group without its start or end.
    #[error("a field tag is not valid")]
    Tag,
    /// A known field of another wire type than its definition.
    #[error("a field has the wrong wire type")]
    WireType,
    /// A string field that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// Nested deeper than the caller allows.
    #[error("nested deeper than the limit")]
    Depth,
    /// Decoded, it would cost more memory than the caller allows.
    #[error("decoded, it would be larger than the limit")]
    Budget,
}

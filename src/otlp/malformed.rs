//! Why a request is not one.

use crate::wire::Flaw;

/// What is wrong with the bytes of a request; nothing of it is kept.
///
/// The caller answers INVALID_ARGUMENT / 400, and RESOURCE_EXHAUSTED / 413 for [`Malformed::Budget`]
/// and [`Malformed::TooDense`]: in no case may the client send the same bytes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length or a value reaches past the end of what encloses it.
    #[error("truncated: a field reaches past the end of its message")]
    Truncated,
    /// A varint of more than ten bytes or 64 bits.
    #[error("a varint does not fit 64 bits")]
    Varint,
    /// Field number 0, above 2^29-1, or an end-group tag without its start.
    #[error("a field tag is not valid")]
    Tag,
    /// A known field of another wire type than its definition.
    #[error("a field has the wrong wire type")]
    WireType,
    /// A string field that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// Values or unknown groups nested deeper than the limit.
    #[error("nested deeper than the limit")]
    Depth,
    /// Decoded, the request would cost more memory than allowed.
    #[error("the request would decode to more than {limit} bytes")]
    Budget {
        /// The limit, in bytes of estimated decoded size.
        limit: usize,
    },
    /// Very many very small messages: finding them again would cost more memory than they have.
    #[error("the request has too many messages for its size")]
    TooDense,
}

impl From<Flaw> for Malformed {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Truncated => Malformed::Truncated,
            Flaw::Varint => Malformed::Varint,
            Flaw::Tag => Malformed::Tag,
            Flaw::WireType => Malformed::WireType,
            Flaw::Utf8 => Malformed::Utf8,
            Flaw::Depth => Malformed::Depth,
            // Who walks says how much was allowed.
            Flaw::Budget => Malformed::Budget { limit: 0 },
        }
    }
}

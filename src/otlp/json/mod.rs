//! OTLP/JSON: text to protobuf and back, driven by the tables of [`schema`](super::schema), without
//! building a tree of either.
//!
//! Reading follows the specification and is as lenient as the Go collector: keys in lowerCamelCase or
//! snake_case, enums as numbers or names, 64-bit integers as strings or numbers, `null` as absent,
//! unknown keys ignored. A key that occurs twice is an error, and so are two fields of one `oneof`:
//! which of two resources is meant decides whose data it is. Writing is strict.
//!
//! Invariant: what [`to_protobuf`] returns is protobuf that decodes to what the text says.

mod error;
#[cfg(test)]
mod properties;
mod read;
mod scalar;
#[cfg(test)]
mod tests;
mod write;

use bytes::Bytes;

pub use error::{Fault, JsonError};

use super::schema::Message;
use super::{Limits, Signal};

/// Reads an OTLP/JSON request as an encoded `Export…ServiceRequest`.
///
/// # Errors
/// [`JsonError`]; the caller answers 400, or 413 for [`JsonError::TooLarge`].
pub fn to_protobuf(signal: Signal, text: &[u8], limits: &Limits) -> Result<Bytes, JsonError> {
    read::message(Message::request(signal), text, limits).map(Bytes::from)
}

/// Appends a request as OTLP/JSON on one line, without a newline.
///
/// The request has been checked; of one that has not, what cannot be read is left out. Text that is
/// not UTF-8 comes with replacement characters, what is nested deeper than [`Limits::MAX_DEPTH`] not at
/// all.
pub fn from_protobuf(signal: Signal, request: &[u8], out: &mut Vec<u8>) {
    write::message(Message::request(signal), request, out);
}

/// Reads an answer to a request of `signal` as an encoded `Export…ServiceResponse`.
pub(super) fn response_to_protobuf(signal: Signal, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    // Answers hold no repeated field, so they only shrink; their reader has limited the text.
    let limits = Limits { decoded_budget: usize::MAX, ..Limits::for_message_size(usize::MAX) };
    read::message(Message::response(signal), text, &limits)
}

/// Appends an encoded `Export…ServiceResponse` as JSON on one line.
pub(super) fn response_from_protobuf(signal: Signal, response: &[u8], out: &mut Vec<u8>) {
    write::message(Message::response(signal), response, out);
}

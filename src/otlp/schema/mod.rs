//! What OTLP messages are made of: one static table per message, as in opentelemetry-proto 1.x.
//!
//! The tables serve what is driven by field names (JSON); the hot path has its own, fixed walk. Not
//! here: how a field is encoded. Invariant: a table lists every field of its message, so what a table
//! does not know is unknown to OTLP.

mod messages;
#[cfg(test)]
mod tests;

use super::Signal;

/// A message: its name and its fields.
#[derive(Debug)]
pub struct Message {
    /// The name without its package, such as `Span`.
    pub name: &'static str,
    /// At most 31, in the order of the `.proto` file.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// The name in lowerCamelCase.
    pub name: &'static str,
    /// The field number.
    pub number: u32,
    /// What a value is.
    pub kind: Kind,
    /// How many values there are, and whether zero counts as absent.
    pub presence: Presence,
}

/// How many values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// One; a zero or empty scalar is the same as none. For messages: one or none.
    Implicit,
    /// One or none; zero differs from none.
    Explicit,
    /// At most one of all `OneOf` fields of this message. No OTLP message has two such groups.
    OneOf,
    /// Any number; numbers are packed.
    Repeated,
}

/// What a value is in protobuf and in JSON.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// UTF-8 text.
    String,
    /// Varint 0 or 1; `true` or `false`.
    Bool,
    /// Varint; a JSON number.
    Int32,
    /// Varint; a decimal string in JSON.
    Int64,
    /// Varint; a JSON number.
    Uint32,
    /// Varint; a decimal string in JSON.
    Uint64,
    /// Zigzag varint; a JSON number.
    Sint32,
    /// Four bytes; a JSON number.
    Fixed32,
    /// Eight bytes; a decimal string in JSON.
    Fixed64,
    /// Eight bytes, signed; a decimal string in JSON.
    Sfixed64,
    /// Eight bytes; a JSON number, or `"NaN"`, `"Infinity"`, `"-Infinity"`.
    Double,
    /// Any bytes; base64 in JSON.
    Bytes,
    /// A trace or span id of so many bytes, or none; hexadecimal in JSON.
    Id(usize),
    /// Varint; its number in JSON. The names of the values go with it.
    Enum(&'static [(&'static str, i32)]),
    /// A message of its own.
    Message(&'static Message),
}

impl Message {
    /// What clients of `signal` send: `Export…ServiceRequest`.
    pub fn request(signal: Signal) -> &'static Message {
        match signal {
            Signal::Traces => &messages::TRACES_REQUEST,
            Signal::Metrics => &messages::METRICS_REQUEST,
            Signal::Logs => &messages::LOGS_REQUEST,
        }
    }

    /// What servers of `signal` answer: `Export…ServiceResponse`.
    pub fn response(signal: Signal) -> &'static Message {
        match signal {
            Signal::Traces => &messages::TRACES_RESPONSE,
            Signal::Metrics => &messages::METRICS_RESPONSE,
            Signal::Logs => &messages::LOGS_RESPONSE,
        }
    }

    /// The place in [`Message::fields`] of the field that JSON calls `key`: lowerCamelCase, or
    /// snake_case as the `.proto` file has it.
    pub fn position_of_key(&self, key: &str) -> Option<usize> {
        let exact = self.fields.iter().position(|field| field.name == key);
        if exact.is_some() || !key.contains('_') {
            return exact;
        }
        self.fields.iter().position(|field| is_snake_case_of(key, field.name))
    }

    /// The place in [`Message::fields`] of the field with this number.
    pub fn position_of_number(&self, number: u32) -> Option<usize> {
        self.fields.iter().position(|field| field.number == number)
    }
}

fn is_snake_case_of(key: &str, camel: &str) -> bool {
    let mut rest = key.bytes();
    let same = camel.bytes().all(|byte| {
        let capital = byte.is_ascii_uppercase();
        (!capital || rest.next() == Some(b'_')) && rest.next() == Some(byte.to_ascii_lowercase())
    });
    same && rest.next().is_none()
}

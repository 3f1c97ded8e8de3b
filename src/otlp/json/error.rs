//! Why a text is not an OTLP/JSON request.

use std::fmt;

/// Nothing of the request is kept; sending the same text again is useless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not the JSON of this request: answer INVALID_ARGUMENT / 400.
    #[error("{}line {line}, column {column}: {fault}", Prefix(path))]
    Malformed {
        /// Where in the text, from 1.
        line: usize,
        /// Where in the line, in bytes from 1: the end of the offending scalar, the start of another value.
        column: usize,
        /// The keys and indices that lead there, such as `resourceSpans[0].resource`; empty at the top.
        path: String,
        /// What is wrong.
        fault: Fault,
    },
    /// As protobuf the request would be too large: answer RESOURCE_EXHAUSTED / 413.
    #[error("the request takes more than {limit} bytes")]
    TooLarge {
        /// The limit that was passed, in bytes.
        limit: usize,
    },
}

/// What is wrong with a value. Never says the value itself: it may be confidential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is not JSON.
    #[error("{detail}")]
    Syntax {
        /// What the parser expected.
        detail: String,
    },
    /// Another type than the field's.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The field's type.
        expected: &'static str,
        /// The value's type.
        found: &'static str,
    },
    /// A number that is not one, has a fraction where none may be, or does not fit.
    #[error("expected {expected} in range")]
    Number {
        /// The field's type.
        expected: &'static str,
    },
    /// Not hexadecimal, or of the wrong length.
    #[error("expected {digits} hexadecimal digits")]
    Hex {
        /// How many digits an id of this field has.
        digits: usize,
    },
    /// Not base64, neither standard nor url-safe.
    #[error("expected base64")]
    Base64,
    /// A name the enum does not have.
    #[error("unknown name of an enum value; use its number")]
    EnumName,
    /// A field occurs twice, in one spelling or in both.
    #[error("field `{field}` occurs more than once")]
    DuplicateField {
        /// The field.
        field: &'static str,
    },
    /// A second field of a group of which only one may be set.
    #[error("field `{field}` excludes one set before it")]
    SecondChoice {
        /// The second field.
        field: &'static str,
    },
    /// Attribute values nested too deep.
    #[error("nested deeper than {limit} messages")]
    Depth {
        /// The limit, in messages that enclose another.
        limit: usize,
    },
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

//! Attribute values: read from the wire without copying, written to it, and shown as text.
//!
//! Lists stay bytes: nobody compares them, they are only carried on or shown.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::keys;
use crate::wire::{Reader, put_varint, varint_len};

/// The value of an attribute, borrowed from a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// No value, or one only profiles have.
    Empty,
    /// A string.
    Str(&'a str),
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Double(f64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list of values, as an encoded `ArrayValue`.
    Array(&'a [u8]),
    /// A list of keys and values, as an encoded `KeyValueList`.
    KvList(&'a [u8]),
}

/// The value of an attribute, owned.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum AttributeValue {
    /// No value.
    #[default]
    Empty,
    /// A string.
    Str(String),
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Double(f64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An encoded `ArrayValue`.
    Array(Vec<u8>),
    /// An encoded `KeyValueList`.
    KvList(Vec<u8>),
}

impl AttributeValue {
    /// The same, borrowed.
    pub fn as_value(&self) -> Value<'_> {
        match self {
            AttributeValue::Empty => Value::Empty,
            AttributeValue::Str(text) => Value::Str(text),
            AttributeValue::Bool(value) => Value::Bool(*value),
            AttributeValue::Int(value) => Value::Int(*value),
            AttributeValue::Double(value) => Value::Double(*value),
            AttributeValue::Bytes(bytes) => Value::Bytes(bytes),
            AttributeValue::Array(list) => Value::Array(list),
            AttributeValue::KvList(list) => Value::KvList(list),
        }
    }
}

impl<'a> From<&'a AttributeValue> for Value<'a> {
    fn from(value: &'a AttributeValue) -> Self {
        value.as_value()
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Str(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Value::Str(text)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Value::Double(value)
    }
}

impl<'a> Value<'a> {
    /// Reads an encoded `AnyValue`; what is not one reads as [`Value::Empty`].
    pub(super) fn read(message: &'a [u8]) -> Self {
        let mut value = Value::Empty;
        let mut reader = Reader::new(message);
        while let Ok(Some(field)) = reader.key() {
            let read = match field {
                keys::value::STRING => reader.bytes().map(|text| Value::Str(as_str(text))),
                keys::value::BOOL => reader.varint().map(|value| Value::Bool(value != 0)),
                keys::value::INT => reader.varint().map(|value| Value::Int(value as i64)),
                keys::value::DOUBLE => reader.fixed64().map(|bits| Value::Double(f64::from_bits(bits))),
                keys::value::ARRAY => reader.bytes().map(Value::Array),
                keys::value::KVLIST => reader.bytes().map(Value::KvList),
                keys::value::BLOB => reader.bytes().map(Value::Bytes),
                _ => reader.skip(field, super::Limits::MAX_DEPTH).map(|()| value),
            };
            match read {
                Ok(read) => value = read,
                Err(_) => return Value::Empty,
            }
        }
        value
    }

    /// The string, if it is one.
    pub fn as_str(self) -> Option<&'a str> {
        if let Value::Str(text) = self { Some(text) } else { None }
    }

    /// The elements of an array; nothing else has any.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        let list = if let Value::Array(list) = self { list } else { &[] };
        let mut reader = Reader::new(list);
        std::iter::from_fn(move || {
            while let Ok(Some(field)) = reader.key() {
                if field == keys::array::VALUES {
                    return reader.bytes().ok().map(Value::read);
                }
                reader.skip(field, super::Limits::MAX_DEPTH).ok()?;
            }
            None
        })
    }

    /// The same, owned.
    pub fn to_owned(self) -> AttributeValue {
        match self {
            Value::Empty => AttributeValue::Empty,
            Value::Str(text) => AttributeValue::Str(text.to_owned()),
            Value::Bool(value) => AttributeValue::Bool(value),
            Value::Int(value) => AttributeValue::Int(value),
            Value::Double(value) => AttributeValue::Double(value),
            Value::Bytes(bytes) => AttributeValue::Bytes(bytes.to_vec()),
            Value::Array(list) => AttributeValue::Array(list.to_vec()),
            Value::KvList(list) => AttributeValue::KvList(list.to_vec()),
        }
    }

    /// As text: strings as they are, bytes in base64, lists as JSON, nothing as the empty string.
    pub fn to_text(self) -> Cow<'a, str> {
        match self {
            Value::Empty => Cow::Borrowed(""),
            Value::Str(text) => Cow::Borrowed(text),
            Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
            other => {
                let mut out = String::new();
                other.write_json(&mut out);
                out.into()
            }
        }
    }

    /// Whether both are the same value; unlike `==`, a number that is none equals itself.
    pub(super) fn is_same(self, other: Value<'_>) -> bool {
        match (self, other) {
            (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
            (a, b) => a == b,
        }
    }

    fn write_json(self, out: &mut String) {
        // Writing to a string cannot fail.
        let _infallible = match self {
            Value::Empty => out.write_str("null"),
            Value::Str(text) => out.write_str(&serde_json::Value::from(text).to_string()),
            Value::Bool(value) => write!(out, "{value}"),
            Value::Int(value) => write!(out, "{value}"),
            Value::Double(value) => write_double(value, out),
            Value::Bytes(bytes) => write!(out, "\"{}\"", STANDARD.encode(bytes)),
            Value::Array(list) => {
                write_list(list, ('[', ']'), out, |element, out| Value::read(element).write_json(out));
                Ok(())
            }
            Value::KvList(list) => {
                write_list(list, ('{', '}'), out, |element, out| {
                    let (name, value) = read_attribute(element);
                    Value::Str(name).write_json(out);
                    out.push(':');
                    value.write_json(out);
                });
                Ok(())
            }
        };
    }

    /// Length of the encoded `AnyValue`.
    pub(super) fn encoded_len(self) -> usize {
        match self {
            Value::Empty => 0,
            Value::Bool(_) => 2,
            Value::Int(value) => 1 + varint_len(value as u64),
            Value::Double(_) => 9,
            Value::Str(text) => 1 + varint_len(text.len() as u64) + text.len(),
            Value::Bytes(bytes) | Value::Array(bytes) | Value::KvList(bytes) => {
                1 + varint_len(bytes.len() as u64) + bytes.len()
            }
        }
    }

    /// Appends the encoded `AnyValue`.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Value::Empty => {}
            Value::Str(text) => put_bytes(out, keys::value::STRING, text.as_bytes()),
            Value::Bool(value) => out.extend([keys::value::BOOL as u8, u8::from(value)]),
            Value::Int(value) => {
                out.push(keys::value::INT as u8);
                put_varint(out, value as u64);
            }
            Value::Double(value) => {
                out.push(keys::value::DOUBLE as u8);
                out.extend(value.to_bits().to_le_bytes());
            }
            Value::Array(list) => put_bytes(out, keys::value::ARRAY, list),
            Value::KvList(list) => put_bytes(out, keys::value::KVLIST, list),
            Value::Bytes(bytes) => put_bytes(out, keys::value::BLOB, bytes),
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The text in bytes that are known to be UTF-8.
pub(super) fn as_str(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Key and encoded value of an encoded `KeyValue`.
#[inline]
pub(super) fn split_attribute(message: &[u8]) -> (&[u8], &[u8]) {
    // Key then value, both shorter than 128 bytes: what every SDK writes.
    if let [0x0a, key_length @ 0..0x80, rest @ ..] = message
        && let Some((name, rest)) = rest.split_at_checked(usize::from(*key_length))
        && let [0x12, length @ 0..0x80, value @ ..] = rest
        && usize::from(*length) == value.len()
    {
        return (name, value);
    }
    split_attribute_slow(message)
}

#[inline(never)]
fn split_attribute_slow(message: &[u8]) -> (&[u8], &[u8]) {
    let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader::new(message);
    while let Ok(Some(field)) = reader.key() {
        let read = match field {
            keys::attribute::KEY => reader.bytes().map(|bytes| name = bytes),
            keys::attribute::VALUE => reader.bytes().map(|bytes| value = bytes),
            _ => reader.skip(field, super::Limits::MAX_DEPTH),
        };
        if read.is_err() {
            break;
        }
    }
    (name, value)
}

/// Key and value of an encoded `KeyValue`.
pub(super) fn read_attribute(message: &[u8]) -> (&str, Value<'_>) {
    let (name, value) = split_attribute(message);
    (as_str(name), Value::read(value))
}

/// Writes the elements of an encoded list. Nesting is bounded by the walk that checked it.
fn write_list(
    list: &[u8],
    (open, close): (char, char),
    out: &mut String,
    write: impl Fn(&[u8], &mut String),
) {
    out.push(open);
    let mut first = true;
    let mut reader = Reader::new(list);
    while let Ok(Some(field)) = reader.key() {
        if field != keys::FIRST {
            if reader.skip(field, super::Limits::MAX_DEPTH).is_err() {
                break;
            }
            continue;
        }
        let Ok(element) = reader.bytes() else { break };
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        write(element, out);
    }
    out.push(close);
}

/// As JSON libraries write numbers: plain up to 21 digits, with an exponent beyond.
fn write_double(value: f64, out: &mut String) -> std::fmt::Result {
    let magnitude = value.abs();
    if !value.is_finite() {
        let name = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        };
        out.write_str(name)
    } else if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        out.write_str(&if text.contains("e-") { text } else { text.replace('e', "e+") })
    } else {
        write!(out, "{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: Value<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out.len(), value.encoded_len());
        out
    }

    fn list_of(elements: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        elements.iter().for_each(|element| put_bytes(&mut out, keys::FIRST, element));
        out
    }

    #[test]
    fn what_is_written_reads_back_and_has_a_text() {
        fn check(value: Value<'_>, text: &str) {
            assert!(Value::read(&encoded(value)).is_same(value), "{value:?}");
            assert!(value.to_owned().as_value().is_same(value), "{value:?}");
            assert_eq!(value.to_text(), text);
        }
        check(Value::Empty, "");
        check(Value::Str(""), "");
        check(Value::Str("été"), "été");
        check(Value::Bool(true), "true");
        check(Value::Int(-1), "-1");
        check(Value::Double(0.5), "0.5");
        check(Value::Double(3.0), "3");
        check(Value::Double(-0.0), "-0");
        check(Value::Double(1e21), "1e+21");
        check(Value::Double(1.5e-7), "1.5e-7");
        check(Value::Double(f64::NAN), "NaN");
        check(Value::Double(f64::NEG_INFINITY), "-Inf");
        check(Value::Bytes(b"\xff\x00"), "/wA=");
        let list = list_of(&[encoded(Value::Int(1)), encoded(Value::Str("a\"b")), vec![]]);
        check(Value::Array(&list), r#"[1,"a\"b",null]"#);
        let mut pair = Vec::new();
        put_bytes(&mut pair, keys::attribute::KEY, b"k");
        put_bytes(&mut pair, keys::attribute::VALUE, &encoded(Value::Array(&list)));
        let pairs = list_of(&[pair.clone(), pair]);
        check(Value::KvList(&pairs), r#"{"k":[1,"a\"b",null],"k":[1,"a\"b",null]}"#);
    }
}

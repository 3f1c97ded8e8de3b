//! Protobuf to JSON text, in one line.
//!
//! A message's fields are noted in wire order, sorted into table order, and written; what protobuf says
//! about repeated singular fields (the last scalar, all messages merged) is applied there.

use std::borrow::Cow;

use serde::Serialize;

use super::scalar::{write_base64, write_hex};
use crate::otlp::Limits;
use crate::otlp::protobuf::{Fields, Raw};
use crate::otlp::schema::{Field, Kind, Message, Presence};
use crate::wire::Reader;

/// Appends `bytes`, a message of this type, as a JSON object.
pub(super) fn message(message: &'static Message, bytes: &[u8], out: &mut Vec<u8>) {
    write_message(message, bytes, 0, out);
}

/// A field of the table that is there, and one of its values.
type Occurrence<'a> = (usize, Raw<'a>);

fn write_message(message: &'static Message, bytes: &[u8], depth: usize, out: &mut Vec<u8>) {
    let occurrences = occurrences(message, bytes);
    let mut separator = b'{';
    for group in occurrences.chunk_by(|a, b| a.0 == b.0) {
        let field = &message.fields[group[0].0];
        let start = out.len();
        out.push(separator);
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        if write_field(field, group, depth, out) {
            separator = b',';
        } else {
            out.truncate(start);
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

/// The known fields, stably sorted into the table's order; of a `oneof` only the field set last.
fn occurrences<'a>(message: &Message, bytes: &'a [u8]) -> Vec<Occurrence<'a>> {
    let mut found: Vec<Occurrence<'a>> = Vec::new();
    let is_choice = |position: usize| message.fields[position].presence == Presence::OneOf;
    // The field of the `oneof` set last, and where in `found` its last uninterrupted run begins.
    let (mut choice, mut choice_since) = (None, 0);
    for (number, raw) in Fields::of(bytes).map_while(Result::ok) {
        let Some(position) = message.position_of_number(number) else { continue };
        if !readable(&message.fields[position], raw) {
            continue;
        }
        if is_choice(position) && choice != Some(position) {
            (choice, choice_since) = (Some(position), found.len());
        }
        found.push((position, raw));
    }
    let mut index = 0..;
    found.retain(|(position, _)| index.next() >= Some(choice_since) || !is_choice(*position));
    found.sort_by_key(|(position, _)| *position);
    found
}

/// Whether the wire type is the field's; of repeated numbers also the packed form.
fn readable(field: &Field, raw: Raw<'_>) -> bool {
    let packed = field.presence == Presence::Repeated && matches!(raw, Raw::Delimited(_));
    match field.kind {
        Kind::String | Kind::Bytes | Kind::Id(_) | Kind::Message(_) => matches!(raw, Raw::Delimited(_)),
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => packed || matches!(raw, Raw::Fixed64(_)),
        Kind::Fixed32 => packed || matches!(raw, Raw::Fixed32(_)),
        _ => packed || matches!(raw, Raw::Varint(_)),
    }
}

/// Writes the field's value or values; false if there is nothing to say.
fn write_field(field: &Field, group: &[Occurrence<'_>], depth: usize, out: &mut Vec<u8>) -> bool {
    if field.presence == Presence::Repeated {
        return write_array(field, group, depth, out);
    }
    let Some((_, last)) = group.last() else { return false };
    match (field.kind, last) {
        (Kind::Message(_), _) if depth == Limits::MAX_DEPTH => false,
        (Kind::Message(inner), _) => {
            write_message(inner, &merged(group), depth + 1, out);
            true
        }
        (_, Raw::Varint(0) | Raw::Fixed64(0) | Raw::Fixed32(0) | Raw::Delimited([]))
            if field.presence == Presence::Implicit =>
        {
            false
        }
        (kind, raw) => {
            write_scalar(kind, *raw, out);
            true
        }
    }
}

/// Messages written one behind the other are one message.
fn merged<'a>(group: &[Occurrence<'a>]) -> Cow<'a, [u8]> {
    let parts = group.iter().filter_map(|(_, raw)| match raw {
        Raw::Delimited(part) => Some(*part),
        _ => None,
    });
    match group {
        [(_, Raw::Delimited(only))] => Cow::Borrowed(only),
        _ => Cow::Owned(parts.collect::<Vec<_>>().concat()),
    }
}

fn write_array(field: &Field, group: &[Occurrence<'_>], depth: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut element = |write: &mut dyn FnMut(&mut Vec<u8>)| {
        out.push(if out.len() == start { b'[' } else { b',' });
        write(out);
    };
    for (_, raw) in group {
        match (field.kind, *raw) {
            (Kind::Message(_), _) if depth == Limits::MAX_DEPTH => {}
            (Kind::Message(inner), Raw::Delimited(bytes)) => {
                element(&mut |out| write_message(inner, bytes, depth + 1, out));
            }
            (kind @ (Kind::String | Kind::Bytes | Kind::Id(_)), raw) => {
                element(&mut |out| write_scalar(kind, raw, out));
            }
            (kind, Raw::Delimited(packed)) => {
                for raw in unpacked(kind, packed) {
                    element(&mut |out| write_scalar(kind, raw, out));
                }
            }
            (kind, raw) => element(&mut |out| write_scalar(kind, raw, out)),
        }
    }
    let any = out.len() > start;
    if any {
        out.push(b']');
    }
    any
}

fn unpacked<'a>(kind: Kind, packed: &'a [u8]) -> impl Iterator<Item = Raw<'static>> + use<'a> {
    let mut values = Reader::new(packed);
    std::iter::from_fn(move || match kind {
        _ if values.is_at_end() => None,
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => values.fixed64().ok().map(Raw::Fixed64),
        Kind::Fixed32 => values.fixed32().ok().map(Raw::Fixed32),
        _ => values.varint().ok().map(Raw::Varint),
    })
}

fn write_scalar(kind: Kind, raw: Raw<'_>, out: &mut Vec<u8>) {
    match (kind, raw) {
        (Kind::String, Raw::Delimited(bytes)) => put(out, &String::from_utf8_lossy(bytes)),
        (Kind::Bytes, Raw::Delimited(bytes)) => quoted(out, |out| write_base64(bytes, out)),
        (Kind::Id(_), Raw::Delimited(bytes)) => quoted(out, |out| write_hex(bytes, out)),
        (Kind::Bool, Raw::Varint(value)) => put(out, &(value != 0)),
        (Kind::Int32 | Kind::Enum(_), Raw::Varint(value)) => put(out, &(value as i32)),
        (Kind::Uint32, Raw::Varint(value)) => put(out, &(value as u32)),
        (Kind::Sint32, Raw::Varint(value)) => put(out, &unzigzag(value as u32)),
        (Kind::Int64, Raw::Varint(value)) => quoted(out, |out| put(out, &(value as i64))),
        (Kind::Uint64, Raw::Varint(value)) => quoted(out, |out| put(out, &value)),
        (Kind::Fixed32, Raw::Fixed32(value)) => put(out, &value),
        (Kind::Fixed64, Raw::Fixed64(value)) => quoted(out, |out| put(out, &value)),
        (Kind::Sfixed64, Raw::Fixed64(value)) => quoted(out, |out| put(out, &(value as i64))),
        (Kind::Double, Raw::Fixed64(bits)) => write_double(f64::from_bits(bits), out),
        // Other pairs are not `readable`.
        _ => out.extend_from_slice(b"null"),
    }
}

fn write_double(value: f64, out: &mut Vec<u8>) {
    match value {
        f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        value if value.is_nan() => out.extend_from_slice(b"\"NaN\""),
        value => put(out, &value),
    }
}

fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Text and numbers can always be written into memory.
    serde_json::to_writer(out, value).unwrap_or_default();
}

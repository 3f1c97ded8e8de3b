//! Single values between JSON and protobuf.
//!
//! Not here: fields, presence, order.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::error::Fault;
use crate::otlp::schema::Kind;

/// A JSON value that is neither an array nor an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl Scalar<'_> {
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Scalar::Bool(_) => "a boolean",
            Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Float(_) => "a number",
            Scalar::Text(_) => "a string",
        }
    }
}

/// What a field of this kind expects, for messages.
pub(super) fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::String => "a string",
        Kind::Bool => "a boolean",
        Kind::Int32 | Kind::Sint32 => "a 32-bit integer",
        Kind::Uint32 | Kind::Fixed32 => "an unsigned 32-bit integer",
        Kind::Int64 | Kind::Sfixed64 => "a 64-bit integer",
        Kind::Uint64 | Kind::Fixed64 => "an unsigned 64-bit integer",
        Kind::Double => "a number",
        Kind::Bytes => "a base64 string",
        Kind::Id(_) => "a hexadecimal string",
        Kind::Enum(_) => "the number of an enum value",
        Kind::Message(_) => "an object",
    }
}

fn wrong_type(kind: Kind, scalar: Scalar<'_>) -> Fault {
    Fault::WrongType { expected: expected(kind), found: scalar.type_name() }
}

pub(super) fn boolean(kind: Kind, scalar: Scalar<'_>) -> Result<bool, Fault> {
    match scalar {
        Scalar::Bool(value) => Ok(value),
        _ => Err(wrong_type(kind, scalar)),
    }
}

pub(super) fn text<'a>(kind: Kind, scalar: Scalar<'a>) -> Result<&'a str, Fault> {
    match scalar {
        Scalar::Text(text) => Ok(text),
        _ => Err(wrong_type(kind, scalar)),
    }
}

/// An integer of the wanted type from a number without fraction, or from a string with one.
pub(super) fn integer<T: TryFrom<i128>>(kind: Kind, scalar: Scalar<'_>) -> Result<T, Fault> {
    let value = match scalar {
        Scalar::Bool(_) => return Err(wrong_type(kind, scalar)),
        Scalar::Unsigned(value) => Some(i128::from(value)),
        Scalar::Signed(value) => Some(i128::from(value)),
        Scalar::Float(value) => whole(value),
        Scalar::Text(text) => text.parse().ok().or_else(|| decimal(text).and_then(whole)),
    };
    let in_range = value.and_then(|value| T::try_from(value).ok());
    in_range.ok_or(Fault::Number { expected: expected(kind) })
}

fn whole(value: f64) -> Option<i128> {
    // Past 2^64 no field has room.
    let fits = value.fract() == 0.0 && value.abs() <= 18_446_744_073_709_551_616.0;
    fits.then_some(value as i128)
}

pub(super) fn double(kind: Kind, scalar: Scalar<'_>) -> Result<f64, Fault> {
    let value = match scalar {
        Scalar::Bool(_) => return Err(wrong_type(kind, scalar)),
        Scalar::Unsigned(value) => Some(value as f64),
        Scalar::Signed(value) => Some(value as f64),
        Scalar::Float(value) => Some(value),
        Scalar::Text("NaN") => Some(f64::NAN),
        Scalar::Text("Infinity") => Some(f64::INFINITY),
        Scalar::Text("-Infinity") => Some(f64::NEG_INFINITY),
        Scalar::Text(text) => decimal(text),
    };
    value.ok_or(Fault::Number { expected: expected(kind) })
}

/// A finite number; the names of infinities that Rust knows are not JSON's.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let value: f64 = plain.then(|| text.parse().ok()).flatten()?;
    value.is_finite().then_some(value)
}

pub(super) fn enumeration(kind: Kind, names: &[(&str, i32)], scalar: Scalar<'_>) -> Result<i32, Fault> {
    let Scalar::Text(text) = scalar else { return integer(kind, scalar) };
    let named = names.iter().find(|(name, _)| *name == text);
    named.map(|(_, number)| *number).ok_or(Fault::EnumName)
}

/// Appends the bytes of an id of `size` bytes; of an empty text nothing.
pub(super) fn hex(text: &str, size: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
    let fault = Fault::Hex { digits: 2 * size };
    if text.is_empty() {
        return Ok(());
    }
    if text.len() != 2 * size {
        return Err(fault);
    }
    for pair in text.as_bytes().chunks_exact(2) {
        let [Some(high), Some(low)] = [digit(pair[0]), digit(pair[1])] else { return Err(fault) };
        into.push(high << 4 | low);
    }
    Ok(())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|value| value as u8)
}

/// Appends bytes as lower-case hexadecimal digits.
pub(super) fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Protobuf's JSON mapping accepts base64 with and without padding, and so do we.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Appends the bytes of a base64 text in either alphabet.
pub(super) fn base64(text: &str, into: &mut Vec<u8>) -> Result<(), Fault> {
    let url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if url_safe { &BASE64_URL_SAFE } else { &BASE64 };
    engine.decode_vec(text, into).map_err(|_| Fault::Base64)
}

/// Appends bytes as padded standard base64.
pub(super) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The room is exact, so this cannot fail.
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

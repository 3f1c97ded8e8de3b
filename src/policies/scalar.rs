//! One value of an attribute, as tests look at it.

use std::fmt::Write;

/// A value borrowed from an item; an array is looked at element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// Text.
    Str(&'a str),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// Bytes, maps and empty values: present, but like nothing.
    Opaque,
}

impl Scalar<'_> {
    /// The value as a number, if it is one.
    pub(super) fn number(self) -> Option<f64> {
        match self {
            Scalar::Int(value) => Some(value as f64),
            Scalar::Double(value) => Some(value),
            _ => None,
        }
    }

    /// Shows the text form of a text, whole number or truth value to `look`. Other numbers have no
    /// single text form.
    pub fn with_text<T>(self, look: impl FnOnce(&str) -> T) -> Option<T> {
        match self {
            Scalar::Str(text) => Some(look(text)),
            Scalar::Bool(true) => Some(look("true")),
            Scalar::Bool(false) => Some(look("false")),
            Scalar::Int(value) => {
                let mut digits = Digits::default();
                write!(digits, "{value}").ok()?;
                std::str::from_utf8(&digits.bytes[..digits.len]).ok().map(look)
            }
            Scalar::Double(_) | Scalar::Opaque => None,
        }
    }
}

/// Room for the longest `i64`.
#[derive(Default)]
struct Digits {
    bytes: [u8; 20],
    len: usize,
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

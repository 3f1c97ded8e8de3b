//! One value of an attribute, as tests look at it.

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

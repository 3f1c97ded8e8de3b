//! Protobuf fields, read one by one and written in order, for what is not the hot path: JSON and
//! statuses.
//!
//! Knows no OTLP message. Invariant: what [`Builder`] writes is minimal protobuf, in time linear in
//! its size however deep messages nest.

use super::Malformed;
use crate::wire::{BYTES, FIXED32, FIXED64, Flaw, Reader, VARINT, key, put_varint, varint_len};

/// A field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Delimited(&'a [u8]),
}

/// The fields of a message, in wire order; groups are skipped.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    reader: Reader<'a>,
}

/// The deepest nesting of groups that is skipped; nobody sends any.
const MAX_GROUP_DEPTH: usize = 32;

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { reader: Reader::new(message) }
    }

    fn field(&mut self) -> Result<Option<(u32, Raw<'a>)>, Flaw> {
        while let Some(key) = self.reader.key()? {
            let value = match key & 7 {
                VARINT => Raw::Varint(self.reader.varint()?),
                FIXED64 => Raw::Fixed64(self.reader.fixed64()?),
                FIXED32 => Raw::Fixed32(self.reader.fixed32()?),
                BYTES => Raw::Delimited(self.reader.bytes()?),
                _ => {
                    self.reader.skip(key, MAX_GROUP_DEPTH)?;
                    continue;
                }
            };
            return Ok(Some((key >> 3, value)));
        }
        Ok(None)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.field();
        if field.is_err() {
            self.reader = Reader::new(&[]);
        }
        field.map_err(Malformed::from).transpose()
    }
}

/// Writes a message whose inner lengths are not known beforehand.
///
/// Fields are appended without the lengths of open messages; [`Builder::finish`] puts all lengths in,
/// back to front, so that every byte moves at most once.
#[derive(Debug, Default)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    nested: Vec<Nested>,
    /// Bytes that the lengths of closed messages are going to take.
    lengths: usize,
}

#[derive(Debug)]
struct Nested {
    start: usize,
    length: usize,
}

/// An inner message being written.
#[derive(Debug)]
#[must_use = "the message must be closed"]
pub(super) struct Open {
    tag_at: usize,
    nested_at: usize,
    lengths_before: usize,
}

impl Builder {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// The size of the message so far, in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.lengths
    }

    /// The memory in use, in bytes.
    pub(super) fn cost(&self) -> usize {
        self.size() + self.nested.len() * size_of::<Nested>()
    }

    pub(super) fn varint(&mut self, value: u64) {
        put_varint(&mut self.bytes, value);
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        self.varint(u64::from(key(number, wire_type)));
    }

    /// Appends a field, or with number `None` its bare value, as packed fields have it.
    pub(super) fn put(&mut self, number: Option<u32>, value: Raw<'_>) {
        let wire_type = match value {
            Raw::Varint(_) => VARINT,
            Raw::Fixed64(_) => FIXED64,
            Raw::Fixed32(_) => FIXED32,
            Raw::Delimited(_) => BYTES,
        };
        if let Some(number) = number {
            self.tag(number, wire_type);
        }
        match value {
            Raw::Varint(value) => self.varint(value),
            Raw::Fixed64(value) => self.bytes.extend_from_slice(&value.to_le_bytes()),
            Raw::Fixed32(value) => self.bytes.extend_from_slice(&value.to_le_bytes()),
            Raw::Delimited(value) => {
                self.varint(value.len() as u64);
                self.bytes.extend_from_slice(value);
            }
        }
    }

    /// Begins an inner message or a packed field; what is put until it is closed belongs to it.
    pub(super) fn open(&mut self, number: u32) -> Open {
        let open =
            Open { tag_at: self.bytes.len(), nested_at: self.nested.len(), lengths_before: self.lengths };
        self.tag(number, BYTES);
        self.nested.push(Nested { start: self.bytes.len(), length: 0 });
        open
    }

    /// Ends the innermost open message.
    pub(super) fn close(&mut self, open: Open) {
        let nested = &mut self.nested[open.nested_at];
        nested.length = self.bytes.len() - nested.start + (self.lengths - open.lengths_before);
        self.lengths += varint_len(nested.length as u64);
    }

    /// Ends the innermost open message; if nothing was put into it, it never was.
    pub(super) fn close_or_forget(&mut self, open: Open) {
        if self.nested[open.nested_at].start == self.bytes.len() {
            self.nested.truncate(open.nested_at);
            self.bytes.truncate(open.tag_at);
        } else {
            self.close(open);
        }
    }

    /// The message, with all lengths in place.
    pub(super) fn finish(self) -> Vec<u8> {
        let Self { mut bytes, nested, lengths } = self;
        let mut unmoved_end = bytes.len();
        let mut free_end = unmoved_end + lengths;
        bytes.resize(free_end, 0);
        for Nested { start, length } in nested.into_iter().rev() {
            free_end -= unmoved_end - start;
            bytes.copy_within(start..unmoved_end, free_end);
            unmoved_end = start;
            free_end -= varint_len(length as u64);
            write_varint(&mut bytes[free_end..], length as u64);
        }
        bytes
    }
}

fn write_varint(into: &mut [u8], mut value: u64) {
    for byte in into {
        let last = value < 0x80;
        *byte = value as u8 & 0x7f | if last { 0 } else { 0x80 };
        if last {
            return;
        }
        value >>= 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_size_are_put_in_place() {
        for inner in [0, 1, 126, 127, 128, 16_383, 16_384, 2_097_152] {
            let text = vec![7; inner];
            let mut builder = Builder::default();
            let outer = builder.open(1);
            builder.put(Some(2), Raw::Varint(300));
            for number in [3, 4] {
                let middle = builder.open(number);
                builder.put(Some(5), Raw::Delimited(&text));
                builder.close(middle);
            }
            let nothing = builder.open(6);
            builder.close_or_forget(nothing);
            builder.close(outer);
            builder.put(Some(7), Raw::Fixed32(1));
            let size = builder.size();
            let bytes = builder.finish();
            assert_eq!(bytes.len(), size);

            let fields: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
            let [(1, Raw::Delimited(outer)), (7, Raw::Fixed32(1))] = fields[..] else { panic!("{fields:?}") };
            let fields: Vec<_> = Fields::of(outer).map(Result::unwrap).collect();
            let [(2, Raw::Varint(300)), (3, Raw::Delimited(a)), (4, Raw::Delimited(b))] = fields[..] else {
                panic!("{fields:?}")
            };
            for middle in [a, b] {
                let fields: Vec<_> = Fields::of(middle).map(Result::unwrap).collect();
                assert_eq!(fields, [(5, Raw::Delimited(&text[..]))]);
            }
        }
    }

    #[test]
    fn malformed_fields_are_told_once() {
        let check = |bytes: &[u8], expected: Malformed| {
            let errors: Vec<_> = Fields::of(bytes).filter_map(Result::err).collect();
            assert_eq!(errors, [expected], "{bytes:x?}");
        };
        check(&[0x08], Malformed::Truncated);
        check(&[0x0a, 0x02, 0x00], Malformed::Truncated);
        check(&[0x09, 0, 0, 0], Malformed::Truncated);
        check(&[0x00, 0x00], Malformed::Tag);
        check(&[0x0c], Malformed::Tag);
        check(&[0x0f], Malformed::Tag);
        check(&[0x0b, 0x14], Malformed::Tag);
        check(&[0x0b], Malformed::Truncated);
        check(&[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02], Malformed::Varint);
        check(&[0x0b; 40], Malformed::Depth);
    }

    #[test]
    fn groups_are_skipped() {
        let bytes = [0x0b, 0x13, 0x08, 0x01, 0x14, 0x0c, 0x18, 0x05];
        let fields: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
        assert_eq!(fields, [(3, Raw::Varint(5))]);
    }
}

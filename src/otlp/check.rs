//! Checks messages nobody looks into during the walk: attributes, values, and the tables of `shapes.rs`.
//!
//! Takes a message if and only if a decoder would, except that nesting and decoded size have limits of
//! their own. Not here: where things are (`walk.rs`).

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

use super::keys::{self, attribute, value};
use super::shapes::{Kind, Shape};
use crate::wire::{self, BYTES, FIXED64, Flaw, Reader, VARINT, is_utf8};

/// What a check has come to, besides its verdict.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Estimated bytes of the messages decoded.
    pub(super) cost: usize,
    /// The most of them. Held against `cost` where messages are unlike those of SDKs, and by the walk after each item.
    pub(super) budget: usize,
    /// Met a legal shape that cannot be read or edited by ranges.
    pub(super) odd: bool,
    /// The keys of all attributes met.
    pub(super) keys: KeySet,
}

/// Which keys there may be among many: by length, and by their last byte.
///
/// One request has some dozens of keys. Of those it has not, most are told by the one, the rest by the other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeySet {
    lengths: u64,
    ends: u64,
}

impl KeySet {
    #[inline(always)]
    fn bits(key: &[u8]) -> Self {
        let end = key.last().copied().unwrap_or_default();
        Self { lengths: 1 << (key.len() % 64), ends: 1 << (end % 64) }
    }

    #[inline(always)]
    fn note(&mut self, key: &[u8]) {
        let Self { lengths, ends } = Self::bits(key);
        self.lengths |= lengths;
        self.ends |= ends;
    }

    /// False only if this key was not noted.
    #[inline]
    pub(super) fn may_have(self, key: &[u8]) -> bool {
        let Self { lengths, ends } = Self::bits(key);
        self.lengths & lengths != 0 && self.ends & ends != 0
    }
}

/// A set of field numbers below 32.
pub(super) const fn numbers(list: &[u32]) -> u32 {
    let mut set = 0;
    let mut at = 0;
    while at < list.len() {
        set |= 1 << list[at];
        at += 1;
    }
    set
}

/// Passes over a field that matched no expected key: an unknown number, or a known one of wrong type.
#[inline(never)]
pub(super) fn skip_unknown(reader: &mut Reader<'_>, key: u32, known: u32, depth: usize) -> Result<(), Flaw> {
    let number = key >> 3;
    if number < 32 && known >> number & 1 == 1 {
        return Err(Flaw::WireType);
    }
    reader.skip(key, depth)
}

impl Tally {
    #[inline(always)]
    pub(super) fn check_budget(&self) -> Result<(), Flaw> {
        if self.cost > self.budget { Err(Flaw::Budget) } else { Ok(()) }
    }

    /// Checks a `KeyValue`; `depth` is how many more levels of messages may nest below it.
    #[inline(always)]
    pub(super) fn attribute(&mut self, message: &[u8], depth: usize) -> Result<(), Flaw> {
        self.cost += size_of::<KeyValue>();
        // Key then value, both shorter than 128 bytes: what every SDK writes.
        if let [0x0a, key_length @ 0..0x80, rest @ ..] = message
            && let Some((name, rest)) = rest.split_at_checked(usize::from(*key_length))
            && let [0x12, length @ 0..0x80, value @ ..] = rest
            && usize::from(*length) == value.len()
            && depth > 0
        {
            if !is_utf8(name) {
                return Err(Flaw::Utf8);
            }
            self.keys.note(name);
            return self.value(value, depth - 1);
        }
        self.attribute_slow(message, depth)
    }

    #[inline(never)]
    fn attribute_slow(&mut self, message: &[u8], depth: usize) -> Result<(), Flaw> {
        self.check_budget()?;
        let mut reader = Reader::new(message);
        let (mut keys, mut values) = (0, 0);
        while let Some(key) = reader.key()? {
            match key {
                attribute::KEY => {
                    self.keys.note(reader.text()?);
                    keys += 1;
                }
                attribute::VALUE => {
                    let inside = depth.checked_sub(1).ok_or(Flaw::Depth)?;
                    self.value(reader.bytes()?, inside)?;
                    values += 1;
                }
                attribute::KEY_INDEX => drop(reader.varint()?),
                _ => skip_unknown(&mut reader, key, numbers(&[1, 2, 3]), depth)?,
            }
        }
        if keys == 0 {
            self.keys.note(&[]);
        }
        self.odd |= keys > 1 || values > 1;
        Ok(())
    }

    /// Checks an `AnyValue`; `depth` is how many more levels of messages may nest below it.
    #[inline(always)]
    pub(super) fn value(&mut self, message: &[u8], depth: usize) -> Result<(), Flaw> {
        match message {
            [0x0a, length @ 0..0x80, text @ ..] if usize::from(*length) == text.len() => {
                if is_utf8(text) {
                    Ok(())
                } else {
                    Err(Flaw::Utf8)
                }
            }
            [0x10 | 0x18, 0..0x80] | [0x18, 0x80..=0xff, 0..0x80] => Ok(()),
            [0x21, value @ ..] if value.len() == 8 => Ok(()),
            _ => self.value_slow(message, depth),
        }
    }

    #[inline(never)]
    fn value_slow(&mut self, message: &[u8], depth: usize) -> Result<(), Flaw> {
        self.check_budget()?;
        let mut reader = Reader::new(message);
        let mut values = 0;
        while let Some(key) = reader.key()? {
            values += 1;
            match key {
                value::STRING => drop(reader.text()?),
                value::BOOL | value::INT | value::STRING_INDEX => drop(reader.varint()?),
                value::DOUBLE => drop(reader.fixed64()?),
                value::BLOB => drop(reader.bytes()?),
                value::ARRAY | value::KVLIST => {
                    let inside = depth.checked_sub(1).ok_or(Flaw::Depth)?;
                    self.list(reader.bytes()?, key, inside)?;
                }
                _ => {
                    skip_unknown(&mut reader, key, numbers(&[1, 2, 3, 4, 5, 6, 7, 8]), depth)?;
                    values -= 1;
                }
            }
        }
        self.odd |= values > 1;
        Ok(())
    }

    /// Checks an `ArrayValue` or a `KeyValueList`.
    fn list(&mut self, message: &[u8], kind: u32, depth: usize) -> Result<(), Flaw> {
        let mut reader = Reader::new(message);
        while let Some(key) = reader.key()? {
            if key != keys::FIRST {
                skip_unknown(&mut reader, key, numbers(&[1]), depth)?;
                continue;
            }
            let element = reader.bytes()?;
            let inside = depth.checked_sub(1).ok_or(Flaw::Depth)?;
            if kind == value::KVLIST {
                self.attribute(element, inside)?;
            } else {
                self.cost += size_of::<AnyValue>();
                if !element.is_empty() {
                    self.value(element, inside)?;
                }
            }
        }
        Ok(())
    }

    /// Checks a message by its table; `depth` is how many more levels may nest below it.
    pub(super) fn message(&mut self, message: &[u8], shape: &Shape, depth: usize) -> Result<(), Flaw> {
        self.cost += shape.cost;
        self.check_budget()?;
        let mut reader = Reader::new(message);
        while let Some(key) = reader.key()? {
            let kind = shape.fields.get((key >> 3) as usize).copied().unwrap_or(Kind::Unknown);
            self.field(&mut reader, key, kind, depth)?;
        }
        Ok(())
    }

    /// Checks the payload of a field that should hold a `kind`.
    #[inline]
    pub(super) fn field(
        &mut self,
        reader: &mut Reader<'_>,
        key: u32,
        kind: Kind,
        depth: usize,
    ) -> Result<(), Flaw> {
        match (kind, key & 7) {
            (Kind::Unknown, _) => reader.skip(key, depth),
            (Kind::Varint, wire::VARINT) => reader.varint().map(drop),
            (Kind::Fixed64, wire::FIXED64) => reader.fixed64().map(drop),
            (Kind::Fixed32, wire::FIXED32) => reader.fixed32().map(drop),
            (Kind::Text, wire::BYTES) => reader.text().map(drop),
            (Kind::Blob, wire::BYTES) => reader.bytes().map(drop),
            (Kind::Attribute, wire::BYTES) => {
                let inside = depth.checked_sub(1).ok_or(Flaw::Depth)?;
                self.attribute(reader.bytes()?, inside)
            }
            (Kind::Message(shape), wire::BYTES) => {
                let inside = depth.checked_sub(1).ok_or(Flaw::Depth)?;
                self.message(reader.bytes()?, shape, inside)
            }
            (Kind::Texts, wire::BYTES) => {
                self.cost += size_of::<String>();
                reader.text().map(drop)
            }
            (Kind::Varints | Kind::Fixed64s, _) => self.numbers(reader, key, kind),
            _ => Err(Flaw::WireType),
        }
    }

    /// Checks repeated numbers, packed or not. Every one is eight bytes decoded.
    fn numbers(&mut self, reader: &mut Reader<'_>, key: u32, kind: Kind) -> Result<(), Flaw> {
        match (kind, key & 7) {
            (Kind::Varints, BYTES) => {
                let mut packed = Reader::new(reader.bytes()?);
                while !packed.is_at_end() {
                    packed.varint()?;
                    self.cost += size_of::<u64>();
                }
                Ok(())
            }
            (Kind::Fixed64s, BYTES) => {
                if reader.bytes()?.len().is_multiple_of(8) {
                    Ok(())
                } else {
                    Err(Flaw::Truncated)
                }
            }
            (Kind::Varints, VARINT) => {
                self.cost += size_of::<u64>();
                reader.varint().map(drop)
            }
            (Kind::Fixed64s, FIXED64) => reader.fixed64().map(drop),
            _ => Err(Flaw::WireType),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_noted_may_be_there_and_most_others_are_not() {
        let keys =
            ["", "k", "ab", "http.route", "server.address", "user_agent.original", "gen_ai.usage.tokens"];
        let mut set = KeySet::default();
        keys.iter().for_each(|key| set.note(key.as_bytes()));
        assert!(keys.iter().all(|key| set.may_have(key.as_bytes())));
        let others =
            (0..1000).map(|n| format!("some.{}.{}", "x".repeat(n % 30), char::from(b'a' + (n % 26) as u8)));
        let mistaken = others.filter(|other| set.may_have(other.as_bytes())).count();
        assert!(mistaken < 200, "{mistaken} of 1000");
        assert!(!KeySet::default().may_have(b""));
    }
}

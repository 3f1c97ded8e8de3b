//! Other encodings of the same kind of request: legal oddities, and damage.

use crate::wire::{BYTES, FIXED64, Reader, key, put_varint};

/// Messages, as far as fields can be found in them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Traces,
    Metrics,
    Logs,
    Container(Item),
    Scopes(Item),
    Resource,
    Scope,
    Item(Item),
    Points(u32),
    Point(u32),
    Event,
    Link,
    Exemplar,
    Attribute,
    Value,
    Array,
    KvList,
    Leaf,
}

/// What a scope holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    Span,
    Metric,
    Log,
}

impl Shape {
    /// What the length-prefixed field of this number holds, if it is a message.
    fn field(self, number: u32) -> Option<Shape> {
        Some(match (self, number) {
            (Shape::Traces, 1) => Shape::Container(Item::Span),
            (Shape::Metrics, 1) => Shape::Container(Item::Metric),
            (Shape::Logs, 1) => Shape::Container(Item::Log),
            (Shape::Container(_), 1) => Shape::Resource,
            (Shape::Container(item), 2) => Shape::Scopes(item),
            (Shape::Scopes(_), 1) => Shape::Scope,
            (Shape::Scopes(item), 2) => Shape::Item(item),
            (Shape::Resource, 1) | (Shape::Scope, 3) => Shape::Attribute,
            (Shape::Item(Item::Span), 9) | (Shape::Item(Item::Log), 6) => Shape::Attribute,
            (Shape::Item(Item::Metric), 12) => Shape::Attribute,
            (Shape::Item(Item::Span), 11) => Shape::Event,
            (Shape::Item(Item::Span), 13) => Shape::Link,
            (Shape::Item(Item::Span), 15) => Shape::Leaf,
            (Shape::Item(Item::Log), 5) => Shape::Value,
            (Shape::Item(Item::Metric), 5 | 7 | 9 | 10 | 11) => Shape::Points(number),
            (Shape::Points(kind), 1) => Shape::Point(kind),
            (Shape::Point(5 | 7 | 11), 7) | (Shape::Point(9), 9) | (Shape::Point(10), 1) => Shape::Attribute,
            (Shape::Point(5 | 7), 5) | (Shape::Point(9), 8) | (Shape::Point(10), 11) => Shape::Exemplar,
            (Shape::Point(10), 8 | 9) | (Shape::Point(11), 6) => Shape::Leaf,
            (Shape::Event, 3) | (Shape::Link, 4) | (Shape::Exemplar, 7) => Shape::Attribute,
            (Shape::Attribute, 2) | (Shape::Array, 1) => Shape::Value,
            (Shape::Value, 5) => Shape::Array,
            (Shape::Value, 6) => Shape::KvList,
            (Shape::KvList, 1) => Shape::Attribute,
            _ => return None,
        })
    }

    /// Whether the field of this number is a list of eight bytes each.
    fn is_packed(self, number: u32) -> bool {
        matches!((self, number), (Shape::Point(9), 6 | 7))
    }
}

/// A varint with up to two bytes more than it needs.
fn put_long_varint(out: &mut Vec<u8>, value: u64, random: &mut fastrand::Rng) {
    put_varint(out, value);
    for _ in 0..random.usize(0..3) {
        if let Some(last) = out.last_mut() {
            *last |= 0x80;
        }
        out.push(0);
    }
}

/// The message with its fields shuffled, repeated, lengthened, unpacked and mixed with unknown ones.
pub(super) fn odd(message: &[u8], shape: Shape, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut reader = Reader::new(message);
    loop {
        let start = reader.at();
        let Some(field) = reader.key().unwrap() else { break };
        if field & 7 != BYTES {
            reader.skip(field, 9).unwrap();
            fields.push(message[start..reader.at()].to_vec());
            continue;
        }
        let payload = reader.bytes().unwrap();
        if shape.is_packed(field >> 3) && random.bool() {
            for number in payload.chunks(8) {
                fields.push([&[key(field >> 3, FIXED64) as u8], number].concat());
            }
            continue;
        }
        let payload = match shape.field(field >> 3) {
            Some(inner) => odd(payload, inner, random),
            None => payload.to_vec(),
        };
        let mut out = Vec::new();
        put_long_varint(&mut out, u64::from(field), random);
        put_long_varint(&mut out, payload.len() as u64, random);
        out.extend(payload);
        if random.usize(0..100) == 0 {
            fields.push(out.clone());
        }
        fields.push(out);
    }
    if random.usize(0..8) == 0 {
        fields.push(unknown(random));
    }
    if random.usize(0..4) == 0 {
        random.shuffle(&mut fields);
    }
    fields.concat()
}

fn unknown(random: &mut fastrand::Rng) -> Vec<u8> {
    let number = random.u32(17..3000);
    let mut out = Vec::new();
    let wire_type = random.u32(0..4);
    put_varint(&mut out, u64::from(number << 3 | wire_type));
    match wire_type {
        0 => put_varint(&mut out, random.u64(..)),
        1 => out.extend(random.u64(..).to_le_bytes()),
        2 => out.extend(b"\x03\xff\x00\x80"),
        _ => {
            if random.bool() {
                out.extend(unknown(random));
            }
            put_varint(&mut out, u64::from(number << 3 | 4));
        }
    }
    out
}

/// The message with a few bytes changed, taken away or put in.
pub(super) fn damage(message: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        if message.is_empty() {
            return;
        }
        let at = random.usize(0..message.len());
        match random.u8(0..8) {
            0 => message.truncate(at),
            1 => drop(message.remove(at)),
            2 => message.insert(at, random.u8(..)),
            3 => message[at] = random.u8(..),
            4 => message[at] = [0, 0x7f, 0x80, 0xff, 0x0a, 0x12, 0x0b, 0x0c][random.usize(0..8)],
            5 => {
                let end = (at + random.usize(0..40)).min(message.len());
                let copy = message[at..end].to_vec();
                message.splice(at..at, copy);
            }
            _ => message[at] ^= 1 << random.u8(0..8),
        }
    }
}

/// The field numbers that lead from the outermost message of `shape` to every message inside it.
pub(super) fn paths(shape: Shape) -> Vec<Vec<u32>> {
    /// Deep enough for the value of an attribute of an exemplar.
    const DEEPEST: usize = 8;
    let mut found = vec![];
    let mut open = vec![(shape, vec![])];
    while let Some((shape, path)) = open.pop() {
        if path.len() < DEEPEST {
            let inner = (1..20).filter_map(|number| Some((number, shape.field(number)?)));
            open.extend(inner.map(|(number, inner)| (inner, [path.as_slice(), &[number]].concat())));
        }
        found.push(path);
    }
    found
}

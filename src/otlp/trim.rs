//! Cuts items down to what their tenant may send: shorter strings, fewer attributes, events, links.
//!
//! Part of emitting, so that no reader sees half of it: an item above a limit gets a new body, all others
//! stay as they are. Attributes that a processor set are not cut. Invariant: what is removed is added to
//! the item's own counts of dropped things, where it has them.

use super::Signal;
use super::draft::{Draft, ItemId};
use super::edits::Edit;
use super::keys::{array, attribute, event, link, log, span, value};
use super::value::{as_str, split_attribute};
use crate::wire::{Flaw, Reader, put_varint, varint_len};
use bytes::Bytes;

/// The most an item may carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// Bytes of a string in attributes of the item, its events and links; more is cut at a character.
    pub value_bytes: Option<u64>,
    /// Attributes; the first stay.
    pub attributes: Option<u64>,
    /// Events of a span; the first stay.
    pub events: Option<u64>,
    /// Links of a span; the first stay.
    pub links: Option<u64>,
}

/// How much was cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Strings.
    pub values: u64,
    /// Attributes.
    pub attributes: u64,
    /// Events.
    pub events: u64,
    /// Links.
    pub links: u64,
}

/// The fields of an item that limits speak of; 0 is no field.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    attribute: u32,
    dropped_attributes: u32,
    event: u32,
    dropped_events: u32,
    link: u32,
    dropped_links: u32,
}

/// Messages a long string can hide in.
#[derive(Debug, Clone, Copy)]
enum Shape {
    KeyValue,
    Value,
    Array,
    KvList,
    Event,
    Link,
}

impl Shape {
    /// What a field of it holds, if a string can hide there.
    fn field(self, key: u32) -> Option<Shape> {
        match (self, key) {
            (Shape::KeyValue, attribute::VALUE) | (Shape::Array, array::VALUES) => Some(Shape::Value),
            (Shape::Value, value::ARRAY) => Some(Shape::Array),
            (Shape::Value, value::KVLIST) => Some(Shape::KvList),
            (Shape::KvList, array::VALUES) | (Shape::Event, event::ATTRIBUTE) => Some(Shape::KeyValue),
            (Shape::Link, link::ATTRIBUTE) => Some(Shape::KeyValue),
            _ => None,
        }
    }
}

impl Draft<'_> {
    /// As [`Draft::emit`], with each item of the group cut down to `most`.
    pub fn emit_within(&mut self, group: u32, most: &Most) -> (Option<Bytes>, Cut) {
        let mut cut = Cut::default();
        for part in self.parts() {
            if self.group(part) == group {
                self.for_each_item(part, |draft, item| {
                    let of_item = draft.trim(item, most);
                    cut.values += of_item.values;
                    cut.attributes += of_item.attributes;
                    cut.events += of_item.events;
                    cut.links += of_item.links;
                });
            }
        }
        (self.emit(group), cut)
    }

    fn trim(&mut self, item: ItemId, most: &Most) -> Cut {
        let fields = self.fields(item);
        let Ok(Some(surplus)) = self.surplus(item, &fields, most) else { return Cut::default() };
        let mut body = Vec::new();
        let Ok(values) = self.write_trimmed(item, (&fields, most, &surplus), &mut body) else {
            return Cut::default();
        };
        let cut = Cut { values, ..surplus };
        if cut != Cut::default() {
            let edit: Edit = self.edits.encode_body(&body);
            self.push_to_item(item, edit);
        }
        cut
    }

    fn fields(&self, item: ItemId) -> Fields {
        match self.signal() {
            Signal::Traces => Fields {
                attribute: span::ATTRIBUTE,
                dropped_attributes: span::DROPPED_ATTRIBUTES,
                event: span::EVENT,
                dropped_events: span::DROPPED_EVENTS,
                link: span::LINK,
                dropped_links: span::DROPPED_LINKS,
            },
            Signal::Logs => {
                Fields { attribute: log::ATTRIBUTE, dropped_attributes: log::DROPPED, ..Fields::default() }
            }
            Signal::Metrics => {
                let at = self.index.items.get(item.0 as usize);
                let attribute = at.map_or(0, |at| self.index.attributes_key(at));
                Fields { attribute, ..Fields::default() }
            }
        }
    }

    /// How many attributes, events and links are too many; `None` if nothing at all is to be cut.
    fn surplus(&self, item: ItemId, fields: &Fields, most: &Most) -> Result<Option<Cut>, Flaw> {
        let (mut attributes, mut events, mut links) = (0, 0, 0);
        let mut cut = Cut::default();
        let mut is_long = false;
        let long = |field: &[u8]| most.value_bytes.is_some_and(|most| field.len() as u64 > most);
        let mut reader = Reader::new(self.item_bytes(item));
        while let Some(key) = reader.key()? {
            if key == fields.attribute {
                let field = reader.bytes()?;
                is_long |= long(field);
                attributes += 1;
                let is_surplus = most.attributes.is_some_and(|most| attributes > most);
                cut.attributes += u64::from(is_surplus && !self.is_set(item, field));
            } else if key == fields.event {
                is_long |= long(reader.bytes()?);
                events += 1;
            } else if key == fields.link {
                is_long |= long(reader.bytes()?);
                links += 1;
            } else {
                reader.skip(key, super::Limits::MAX_DEPTH)?;
            }
        }
        cut.events = most.events.map_or(0, |most| u64::saturating_sub(events, most));
        cut.links = most.links.map_or(0, |most| u64::saturating_sub(links, most));
        Ok((is_long || cut != Cut::default()).then_some(cut))
    }

    /// Whether a processor set or deletes the attribute.
    fn is_set(&self, item: ItemId, field: &[u8]) -> bool {
        self.edits.find(self.item_edits(item), split_attribute(field).0).is_some()
    }

    /// Writes the body of an item without its surplus; how many strings were cut.
    fn write_trimmed(
        &self,
        item: ItemId,
        (fields, most, surplus): (&Fields, &Most, &Cut),
        out: &mut Vec<u8>,
    ) -> Result<u64, Flaw> {
        let body = self.item_bytes(item);
        let (mut attributes, mut events, mut links, mut values) = (0, 0, 0, 0);
        let raise = |field: u32, more: u64| Dropped { field, more, before: 0 };
        let mut dropped = [
            raise(fields.dropped_attributes, surplus.attributes),
            raise(fields.dropped_events, surplus.events),
            raise(fields.dropped_links, surplus.links),
        ];
        let value_bytes = most.value_bytes.unwrap_or(u64::MAX);
        let fits = |count: &mut u64, most: Option<u64>| {
            *count += 1;
            most.is_none_or(|most| *count <= most)
        };
        let mut reader = Reader::new(body);
        loop {
            let start = reader.at();
            let Some(key) = reader.key()? else { break };
            if key == fields.attribute {
                let field = reader.bytes()?;
                if self.is_set(item, field) {
                    attributes += 1;
                    out.extend_from_slice(&body[start..reader.at()]);
                } else if fits(&mut attributes, most.attributes) {
                    values += nested(out, (key, field), Shape::KeyValue, value_bytes)?;
                }
            } else if key == fields.event {
                let field = reader.bytes()?;
                if fits(&mut events, most.events) {
                    values += nested(out, (key, field), Shape::Event, value_bytes)?;
                }
            } else if key == fields.link {
                let field = reader.bytes()?;
                if fits(&mut links, most.links) {
                    values += nested(out, (key, field), Shape::Link, value_bytes)?;
                }
            } else if let Some(raised) = dropped.iter_mut().find(|of| of.field == key && of.more > 0) {
                // Of several the last counts.
                raised.before = u64::from(reader.varint()? as u32);
            } else {
                reader.skip(key, super::Limits::MAX_DEPTH)?;
                out.extend_from_slice(&body[start..reader.at()]);
            }
        }
        for Dropped { field, more, before } in dropped {
            if field != 0 && more > 0 {
                put_varint(out, u64::from(field));
                put_varint(out, (before + more).min(u64::from(u32::MAX)));
            }
        }
        Ok(values)
    }
}

/// A count of dropped things that is raised.
struct Dropped {
    field: u32,
    more: u64,
    before: u64,
}

/// Writes a length-prefixed message with its strings cut; how many were.
fn nested(out: &mut Vec<u8>, (key, message): (u32, &[u8]), shape: Shape, most: u64) -> Result<u64, Flaw> {
    put_varint(out, u64::from(key));
    if message.len() as u64 <= most {
        put_varint(out, message.len() as u64);
        out.extend_from_slice(message);
        return Ok(0);
    }
    let start = out.len();
    let values = fields(out, message, shape, most)?;
    // The length is known only now, and stands in front.
    let length = out.len() - start;
    let mut prefix = Vec::with_capacity(varint_len(length as u64));
    put_varint(&mut prefix, length as u64);
    out.splice(start..start, prefix);
    Ok(values)
}

/// Nesting is bounded by the walk that checked the request.
fn fields(out: &mut Vec<u8>, message: &[u8], shape: Shape, most: u64) -> Result<u64, Flaw> {
    let mut values = 0;
    let mut reader = Reader::new(message);
    loop {
        let start = reader.at();
        let Some(key) = reader.key()? else { return Ok(values) };
        if let Some(inner) = shape.field(key) {
            values += nested(out, (key, reader.bytes()?), inner, most)?;
        } else if matches!(shape, Shape::Value) && key == value::STRING {
            let text = as_str(reader.bytes()?);
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(text.len());
            let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            values += u64::from(end < text.len());
            put_varint(out, u64::from(key));
            put_varint(out, end as u64);
            out.extend_from_slice(&text.as_bytes()[..end]);
        } else {
            reader.skip(key, super::Limits::MAX_DEPTH)?;
            out.extend_from_slice(&message[start..reader.at()]);
        }
    }
}

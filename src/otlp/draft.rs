//! A request with edits noted on it: what processors read and write.
//!
//! Copies nothing of the request. Invariant: reads see every edit made before; an item that is left out
//! stays left out, and edits of it do nothing.

use super::check::KeySet;
use super::edits::{EDITED, Edit, Edits, LEFT_OUT, Mode, NONE};
use super::fields::{LogFields, SpanFields, slice};
use super::index::{Extent, Framed, Index, ItemAt, ScopeAt};
use super::value::{Value, as_str, split_attribute};
use super::{Limits, Signal};
use crate::wire::{BYTES, Reader, key};
use bytes::Bytes;

/// A resource of a draft, or a piece of one after [`Draft::split`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartId(pub(super) u32);

/// A span, data point or log record of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(pub(super) u32);

/// A checked request, where things are in it, and the edits made so far.
#[derive(Debug)]
pub struct Draft<'a> {
    pub(super) index: &'a Index,
    pub(super) request: &'a Bytes,
    pub(super) edits: &'a mut Edits,
}

/// Whose attributes an edit means.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Part(PartId),
    Item(ItemId),
}

/// Where the attributes of an owner are.
struct Place<'a> {
    message: &'a [u8],
    /// The first byte an attribute can start at.
    from: usize,
    /// The keys there may be.
    keys: KeySet,
    /// The key of attribute fields.
    field: u32,
    /// The first edit.
    edits: u32,
}

impl<'a> Draft<'a> {
    /// A draft of `request`, which must be what [`Index::read`] returned last. Clears `edits`.
    pub fn new(index: &'a Index, request: &'a Bytes, edits: &'a mut Edits) -> Self {
        edits.reset(index);
        Self { index, request, edits }
    }

    /// What the items are.
    pub fn signal(&self) -> Signal {
        self.index.signal.unwrap_or(Signal::Traces)
    }

    /// All parts; splitting adds to their end. The draft stays free for editing meanwhile.
    pub fn parts(&self) -> impl Iterator<Item = PartId> + use<> {
        (0..self.edits.parts.len() as u32).map(PartId)
    }

    /// The items of a part that are not left out, in their order.
    pub fn items(&self, part: PartId) -> impl Iterator<Item = ItemId> + '_ {
        let (range, list) = self.members(part);
        let states = &self.edits.states;
        let is_left_out = move |item: &u32| states.get(*item as usize) == Some(&LEFT_OUT);
        range.chain(list.iter().copied()).filter(move |item| !is_left_out(item)).map(ItemId)
    }

    /// Shows every item of a part to `visit`, which may edit it and leave it out.
    pub fn for_each_item(&mut self, part: PartId, mut visit: impl FnMut(&mut Self, ItemId)) {
        let (range, list) = self.members(part);
        let (range, list_len) = (range, list.len());
        for item in range {
            if !self.is_left_out(ItemId(item)) {
                visit(self, ItemId(item));
            }
        }
        // Looked up each time: the visitor may split other parts.
        for at in 0..list_len {
            let item = self.members(part).1.get(at).copied().map(ItemId);
            if let Some(item) = item.filter(|item| !self.is_left_out(*item)) {
                visit(self, item);
            }
        }
    }

    /// The items of a part: a range of the index, or a list.
    pub(super) fn members(&self, part: PartId) -> (std::ops::Range<u32>, &[u32]) {
        let Some(part) = self.edits.parts.get(part.0 as usize) else { return (0..0, &[]) };
        match &part.list {
            Some(list) => (0..0, self.edits.lists.get(list.clone()).unwrap_or_default()),
            None => {
                let resource = self.index.resources.get(part.resource as usize);
                (resource.map_or(0..0, |at| at.items.clone()), &[])
            }
        }
    }

    /// How many items the request has.
    pub fn items_total(&self) -> u64 {
        self.index.items.len() as u64
    }

    /// How many of them are not left out.
    pub fn items_left(&self) -> u64 {
        self.edits.items_left
    }

    /// How many items of a part are not left out.
    pub fn part_items_left(&self, part: PartId) -> u64 {
        self.edits.parts.get(part.0 as usize).map_or(0, |part| u64::from(part.left))
    }

    /// The part an item belongs to.
    pub fn part_of(&self, item: ItemId) -> PartId {
        let owner = self.edits.owners.get(item.0 as usize).copied();
        PartId(owner.unwrap_or_else(|| self.item_at(item).map_or(NONE, |at| at.resource)))
    }

    /// Whether an item was left out.
    pub fn is_left_out(&self, item: ItemId) -> bool {
        self.edits.states.get(item.0 as usize).is_none_or(|state| *state == LEFT_OUT)
    }

    fn item_at(&self, item: ItemId) -> Option<&'a ItemAt> {
        self.index.items.get(item.0 as usize)
    }

    fn scope_at(&self, item: ItemId) -> Option<&'a ScopeAt> {
        let parent = self.item_at(item)?.parent;
        let scope = match self.signal() {
            Signal::Metrics => self.index.metrics.get(parent as usize)?.scope,
            Signal::Traces | Signal::Logs => parent,
        };
        self.index.scopes.get(scope as usize)
    }

    /// A resource attribute; the first of duplicates.
    pub fn resource_attribute(&self, part: PartId, name: &str) -> Option<Value<'_>> {
        self.attribute(Owner::Part(part), name)
    }

    /// An attribute of an item; the first of duplicates.
    pub fn item_attribute(&self, item: ItemId, name: &str) -> Option<Value<'_>> {
        self.attribute(Owner::Item(item), name)
    }

    /// Whether any item may have an attribute of this name: false only if none has.
    pub fn may_have_item_attribute(&self, name: &str) -> bool {
        !self.edits.item_edits.is_empty() || self.index.item_keys.may_have(name.as_bytes())
    }

    /// The attributes of the resource with their keys, duplicates included, in the order they will have.
    pub fn resource_attributes(&self, part: PartId) -> Vec<(&str, Value<'_>)> {
        self.attributes(Owner::Part(part))
    }

    /// The attributes of an item with their keys, duplicates included, in the order they will have.
    pub fn item_attributes(&self, item: ItemId) -> Vec<(&str, Value<'_>)> {
        self.attributes(Owner::Item(item))
    }

    /// The fields of a span; `None` if the items are not spans.
    pub fn span(&self, item: ItemId) -> Option<SpanFields<'_>> {
        let at = self.index.spans.get(item.0 as usize)?;
        let edit = self.edits.find_trace_state(self.item_edits(item));
        let trace_state = edit.map(|(_, edit)| self.edits.bytes(&edit.value));
        Some(SpanFields { at, request: self.request, trace_state })
    }

    /// The fields of a log record; `None` if the items are not log records.
    pub fn log(&self, item: ItemId) -> Option<LogFields<'_>> {
        let at = self.index.logs.get(item.0 as usize)?;
        Some(LogFields { at, request: self.request })
    }

    /// Name and version of the instrumentation scope of an item.
    pub fn scope_name(&self, item: ItemId) -> (&str, &str) {
        self.scope_at(item).map_or(("", ""), |at| (self.text(at.name), self.text(at.version)))
    }

    /// The name of the metric a data point belongs to; empty for other items.
    pub fn metric_name(&self, item: ItemId) -> &str {
        let metric = self.item_at(item).and_then(|at| self.index.metrics.get(at.parent as usize));
        metric.map_or("", |at| self.text(at.name))
    }

    /// An item as it came: the encoded span, data point or log record.
    pub fn item_bytes(&self, item: ItemId) -> &[u8] {
        self.item_at(item).map_or(&[], |at| self.body(at.frame))
    }

    /// Leaves an item out of the result.
    pub fn leave_out(&mut self, item: ItemId) {
        if self.is_left_out(item) {
            return;
        }
        let part = self.part_of(item);
        if let Some(state) = self.edits.states.get_mut(item.0 as usize) {
            *state = LEFT_OUT;
        }
        if let Some(part) = self.edits.parts.get_mut(part.0 as usize) {
            part.left -= 1;
            part.items_touched = true;
        }
        self.edits.items_left -= 1;
        self.edits.is_touched = true;
    }

    /// Sets an attribute of a resource in place of all of that key. No edit if that is how it is.
    pub fn set_resource_attribute<'v>(&mut self, part: PartId, name: &str, value: impl Into<Value<'v>>) {
        self.set(Owner::Part(part), name, value.into());
    }

    /// Removes all attributes of that key from a resource.
    pub fn delete_resource_attribute(&mut self, part: PartId, name: &str) {
        self.delete(Owner::Part(part), name);
    }

    /// Sets an attribute of an item in place of all of that key. No edit if that is how it is.
    pub fn set_item_attribute<'v>(&mut self, item: ItemId, name: &str, value: impl Into<Value<'v>>) {
        self.set(Owner::Item(item), name, value.into());
    }

    /// Removes all attributes of that key from an item.
    pub fn delete_item_attribute(&mut self, item: ItemId, name: &str) {
        self.delete(Owner::Item(item), name);
    }

    /// Sets the W3C tracestate of a span; does nothing to other items.
    pub fn set_trace_state(&mut self, item: ItemId, text: &str) {
        let Some(span) = self.span(item) else { return };
        if self.is_left_out(item) || span.trace_state_bytes() == text.as_bytes() {
            return;
        }
        let edit = self.edits.encode_trace_state(text);
        match self.edits.find_trace_state(self.item_edits(item)).map(|(at, _)| at) {
            Some(at) => self.edits.replace(at, edit),
            None => self.push(Owner::Item(item), edit),
        }
    }

    /// Gives all items of a part to a group; every part starts in group 0.
    ///
    /// Assign all parts before emitting: after a change the next emit sorts the parts again.
    pub fn assign(&mut self, part: PartId, group: u32) {
        if let Some(part) = self.edits.parts.get_mut(part.0 as usize)
            && part.group != group
        {
            part.group = group;
            self.edits.disarrange();
        }
    }

    /// The group a part is given to.
    pub fn group(&self, part: PartId) -> u32 {
        self.edits.parts.get(part.0 as usize).map_or(0, |part| part.group)
    }

    /// How many items of a group are left.
    pub fn group_items(&mut self, group: u32) -> u64 {
        self.edits.items_of(group)
    }

    /// The bytes of a frame's payload.
    fn body(&self, frame: Framed) -> &'a [u8] {
        slice(self.request, Extent { start: frame.body, end: frame.end })
    }

    fn text(&self, extent: Extent) -> &'a str {
        as_str(slice(self.request, extent))
    }

    fn item_edits(&self, item: ItemId) -> u32 {
        self.edits.item_edits.get(item.0 as usize).copied().unwrap_or(NONE)
    }

    #[inline]
    fn place(&self, owner: Owner) -> Option<Place<'a>> {
        match owner {
            Owner::Part(id) => {
                let part = self.edits.parts.get(id.0 as usize)?;
                let at = self.index.resources.get(part.resource as usize)?;
                let message = at.resource.map(|frame| self.body(frame)).unwrap_or_default();
                Some(Place { message, from: 0, keys: at.keys, field: key(1, BYTES), edits: part.edits })
            }
            Owner::Item(id) => {
                let at = self.item_at(id)?;
                Some(Place {
                    message: self.body(at.frame),
                    from: at.attributes as usize,
                    keys: self.index.item_keys,
                    field: self.index.attributes_key(at),
                    edits: self.item_edits(id),
                })
            }
        }
    }

    fn attribute(&self, owner: Owner, name: &str) -> Option<Value<'_>> {
        let place = self.place(owner)?;
        if place.edits != NONE
            && let Some((_, edit)) = self.edits.find(place.edits, name.as_bytes())
        {
            return (edit.mode != Mode::Delete).then(|| self.edits.value(edit));
        }
        place.named(name).next().map(Value::read)
    }

    fn attributes(&self, owner: Owner) -> Vec<(&str, Value<'_>)> {
        let mut found = Vec::new();
        let Some(place) = self.place(owner) else { return found };
        let mut replaced = Vec::new();
        for (name, value) in place.attributes() {
            match self.edits.find(place.edits, name) {
                None => found.push((as_str(name), Value::read(value))),
                Some((at, edit)) if edit.mode == Mode::Replace && !replaced.contains(&at) => {
                    replaced.push(at);
                    found.push((self.edits.key(edit), self.edits.value(edit)));
                }
                Some(_) => {}
            }
        }
        let appended = self.edits.list(place.edits).filter(|(_, edit)| edit.mode == Mode::Append);
        found.extend(appended.map(|(_, edit)| (self.edits.key(edit), self.edits.value(edit))));
        found
    }

    fn set(&mut self, owner: Owner, name: &str, value: Value<'_>) {
        let Some(place) = self.place(owner) else { return };
        if matches!(owner, Owner::Item(item) if self.is_left_out(item)) {
            return;
        }
        let earlier = self.edits.find(place.edits, name.as_bytes()).map(|(at, edit)| (at, edit.mode));
        let mode = match earlier {
            Some((_, Mode::Replace)) => Mode::Replace,
            Some(_) => Mode::Append,
            None => {
                let mut same = place.named(name);
                match (same.next(), same.next()) {
                    (Some(old), None) if Value::read(old).is_same(value) => return,
                    (Some(_), _) => Mode::Replace,
                    (None, _) => Mode::Append,
                }
            }
        };
        let edit = Edit { mode, ..self.edits.encode_attribute(place.field, name, value) };
        match earlier {
            Some((at, Mode::Delete)) => {
                // It comes after everything appended since.
                self.edits.kill(at);
                self.push(owner, edit);
            }
            Some((at, _)) => self.edits.replace(at, edit),
            None => self.push(owner, edit),
        }
    }

    fn delete(&mut self, owner: Owner, name: &str) {
        let Some(place) = self.place(owner) else { return };
        if matches!(owner, Owner::Item(item) if self.is_left_out(item)) {
            return;
        }
        let earlier = self.edits.find(place.edits, name.as_bytes()).map(|(at, edit)| (at, edit.mode));
        match earlier {
            Some((_, Mode::Delete)) => {}
            Some((at, _)) => {
                let edit = self.edits.encode_delete(name);
                self.edits.replace(at, edit);
            }
            None if place.named(name).next().is_some() => {
                let edit = self.edits.encode_delete(name);
                self.push(owner, edit);
            }
            None => {}
        }
    }

    fn push(&mut self, owner: Owner, edit: Edit) {
        self.edits.is_touched = true;
        match owner {
            Owner::Part(id) => {
                let Some(head) = self.edits.parts.get(id.0 as usize).map(|part| part.edits) else { return };
                let head = self.edits.push(head, edit);
                if let Some(part) = self.edits.parts.get_mut(id.0 as usize) {
                    part.edits = head;
                }
            }
            Owner::Item(id) => {
                self.edits.item_edits.resize(self.index.items.len(), NONE);
                let head = self.edits.push(self.item_edits(id), edit);
                let (item, part) = (id.0 as usize, self.part_of(id).0 as usize);
                if let Some(first) = self.edits.item_edits.get_mut(item) {
                    *first = head;
                }
                if let Some(state) = self.edits.states.get_mut(item) {
                    *state = EDITED;
                }
                if let Some(part) = self.edits.parts.get_mut(part) {
                    part.items_touched = true;
                }
            }
        }
    }
}

impl<'a> Place<'a> {
    /// The encoded values of one key as they came.
    fn named<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let from = if self.keys.may_have(name.as_bytes()) { self.from } else { self.message.len() };
        let attributes = Place { from, ..*self }.attributes();
        attributes.filter(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// Keys and encoded values as they came.
    fn attributes(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut reader = Reader::starting_at(self.message, self.from);
        let wanted = self.field;
        std::iter::from_fn(move || {
            while let Ok(Some(field)) = reader.key() {
                if field == wanted {
                    return reader.bytes().ok().map(split_attribute);
                }
                reader.skip(field, Limits::MAX_DEPTH).ok()?;
            }
            None
        })
    }
}

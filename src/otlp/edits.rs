//! What processors noted: items left out, attributes set or deleted, resources cut and given to groups.
//!
//! Holds no byte of the request. Attribute edits of one owner (a part or an item) are a linked list in
//! the order they were first made; a key has at most one live edit.

use std::ops::Range;

use super::index::{Index, recycle};
use super::value::{Value, as_str};
use crate::wire::{BYTES, Splice, key, put_varint, varint_len};

/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// Bytes of new attributes kept allocated between requests: plenty for ordinary enrichment.
const KEPT_ARENA: usize = 1 << 20;

/// Item state: nothing happened.
pub(super) const UNTOUCHED: u8 = 0;
/// Item state: some attribute or the trace state is edited.
pub(super) const EDITED: u8 = 1;
/// Item state: it is not part of the result.
pub(super) const LEFT_OUT: u8 = 2;

/// What an edit does to attributes of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The first becomes the new one, the others go.
    Replace,
    /// All go, the new one comes last.
    Append,
    /// All go.
    Delete,
    /// Nothing: a later edit stands for it.
    Dead,
    /// Not an attribute: the new `trace_state`.
    TraceState,
    /// Not an attribute: the body all other edits are applied to.
    Body,
}

/// One edit; its bytes are in [`Edits::arena`].
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) mode: Mode,
    pub(super) key: Range<usize>,
    /// The encoded `AnyValue`, or the text of the trace state.
    pub(super) value: Range<usize>,
    /// The whole field as it will be written.
    pub(super) field: Range<usize>,
    pub(super) next: u32,
}

/// A resource, or a piece of one.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) resource: u32,
    pub(super) group: u32,
    /// Items not left out.
    pub(super) left: u32,
    /// First attribute edit of the resource.
    pub(super) edits: u32,
    /// For a piece, its items in [`Edits::lists`].
    pub(super) list: Option<Range<usize>>,
    /// Whether any item is edited or left out.
    pub(super) items_touched: bool,
}

/// The notes on one request; the arrays are reused from request to request.
#[derive(Debug, Default)]
pub struct Edits {
    pub(super) parts: Vec<Part>,
    pub(super) states: Vec<u8>,
    pub(super) items_left: u64,
    /// First edit of each item; empty while no item is edited.
    pub(super) item_edits: Vec<u32>,
    /// The part of each item; empty while no part is cut.
    pub(super) owners: Vec<u32>,
    /// Items of pieces, ascending within each.
    pub(super) lists: Vec<u32>,
    pub(super) arena: Vec<u8>,
    pub(super) splice: Splice,
    /// Whether the result differs from the request, groups aside.
    pub(super) is_touched: bool,
    /// No part before this one has items left.
    pub(super) first_left: usize,
    edits: Vec<Edit>,
    /// Parts by group, valid while `is_arranged`.
    order: Vec<u32>,
    is_arranged: bool,
}

impl Edits {
    /// No edits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything and makes one part of each resource.
    pub(super) fn reset(&mut self, index: &Index) {
        recycle(&mut self.parts);
        self.parts.extend(index.resources.iter().enumerate().map(|(resource, at)| Part {
            resource: resource as u32,
            group: 0,
            left: at.items.end - at.items.start,
            edits: NONE,
            list: None,
            items_touched: false,
        }));
        recycle(&mut self.states);
        self.states.resize(index.items.len(), UNTOUCHED);
        self.items_left = index.items.len() as u64;
        recycle(&mut self.item_edits);
        recycle(&mut self.owners);
        recycle(&mut self.lists);
        self.arena.clear();
        self.arena.shrink_to(KEPT_ARENA);
        recycle(&mut self.edits);
        self.is_touched = false;
        self.first_left = 0;
        self.is_arranged = false;
    }

    /// The edits of a list, in order.
    pub(super) fn list(&self, head: u32) -> impl Iterator<Item = (u32, &Edit)> {
        let mut at = head;
        std::iter::from_fn(move || {
            let edit = self.edits.get(at as usize)?;
            let found = (at, edit);
            at = edit.next;
            Some(found)
        })
    }

    /// The live attribute edit of a key.
    #[inline]
    pub(super) fn find(&self, head: u32, name: &[u8]) -> Option<(u32, &Edit)> {
        self.list(head).find(|(_, edit)| {
            matches!(edit.mode, Mode::Replace | Mode::Append | Mode::Delete) && self.bytes(&edit.key) == name
        })
    }

    /// The edit of the trace state.
    pub(super) fn find_trace_state(&self, head: u32) -> Option<(u32, &Edit)> {
        self.list(head).find(|(_, edit)| edit.mode == Mode::TraceState)
    }

    /// The edit that replaces the body.
    pub(super) fn find_body(&self, head: u32) -> Option<&Edit> {
        self.list(head).find(|(_, edit)| edit.mode == Mode::Body).map(|(_, edit)| edit)
    }

    /// An edit that replaces the body of an item.
    pub(super) fn encode_body(&mut self, body: &[u8]) -> Edit {
        let start = self.arena.len();
        self.arena.extend_from_slice(body);
        let end = self.arena.len();
        Edit { mode: Mode::Body, key: end..end, value: start..end, field: end..end, next: NONE }
    }

    /// The value an edit sets.
    pub(super) fn value(&self, edit: &Edit) -> Value<'_> {
        Value::read(self.bytes(&edit.value))
    }

    /// The key of an edit.
    pub(super) fn key(&self, edit: &Edit) -> &str {
        as_str(self.bytes(&edit.key))
    }

    /// Bytes of the arena.
    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.arena.get(range.clone()).unwrap_or_default()
    }

    /// Encodes an attribute as a field with key `field_key`.
    pub(super) fn encode_attribute(&mut self, field_key: u32, name: &str, value: Value<'_>) -> Edit {
        let value_len = value.encoded_len();
        let name_len = name.len();
        let len = 2 + varint_len(name_len as u64) + name_len + varint_len(value_len as u64) + value_len;
        let out = &mut self.arena;
        let start = out.len();
        put_varint(out, u64::from(field_key));
        put_varint(out, len as u64);
        out.push(key(1, BYTES) as u8);
        put_varint(out, name_len as u64);
        out.extend_from_slice(name.as_bytes());
        let key_end = out.len();
        out.push(key(2, BYTES) as u8);
        put_varint(out, value_len as u64);
        let value_start = out.len();
        value.encode(out);
        Edit {
            mode: Mode::Append,
            key: key_end - name_len..key_end,
            value: value_start..out.len(),
            field: start..out.len(),
            next: NONE,
        }
    }

    /// An edit that removes a key.
    pub(super) fn encode_delete(&mut self, name: &str) -> Edit {
        let start = self.arena.len();
        self.arena.extend_from_slice(name.as_bytes());
        let end = self.arena.len();
        Edit { mode: Mode::Delete, key: start..end, value: end..end, field: end..end, next: NONE }
    }

    /// An edit of the trace state; empty text removes the field.
    pub(super) fn encode_trace_state(&mut self, text: &str) -> Edit {
        let start = self.arena.len();
        if !text.is_empty() {
            self.arena.push(key(3, BYTES) as u8);
            put_varint(&mut self.arena, text.len() as u64);
            self.arena.extend_from_slice(text.as_bytes());
        }
        let end = self.arena.len();
        Edit {
            mode: Mode::TraceState,
            key: end..end,
            value: end - text.len()..end,
            field: start..end,
            next: NONE,
        }
    }

    /// Puts a new edit at the end of a list and returns the list's head.
    pub(super) fn push(&mut self, head: u32, edit: Edit) -> u32 {
        let new = self.edits.len() as u32;
        let last = self.list(head).last().map(|(at, _)| at);
        self.edits.push(edit);
        match last.and_then(|last| self.edits.get_mut(last as usize)) {
            Some(last) => {
                last.next = new;
                head
            }
            None => new,
        }
    }

    /// Puts `edit` in the place of another, which keeps its position.
    pub(super) fn replace(&mut self, at: u32, edit: Edit) {
        if let Some(old) = self.edits.get_mut(at as usize) {
            *old = Edit { next: old.next, ..edit };
        }
    }

    /// Makes an edit do nothing.
    pub(super) fn kill(&mut self, at: u32) {
        if let Some(edit) = self.edits.get_mut(at as usize) {
            edit.mode = Mode::Dead;
        }
    }

    /// A copy of a list, for another piece of the same resource.
    pub(super) fn copy_list(&mut self, head: u32) -> u32 {
        let copies: Vec<Edit> = self.list(head).map(|(_, edit)| edit.clone()).collect();
        copies.into_iter().fold(NONE, |head, edit| self.push(head, Edit { next: NONE, ..edit }))
    }

    /// Parts or their groups changed.
    pub(super) fn disarrange(&mut self) {
        self.is_arranged = false;
    }

    /// The items of a group that are left.
    pub(super) fn items_of(&mut self, group: u32) -> u64 {
        self.arrange();
        let left = |part: &u32| self.parts.get(*part as usize).map_or(0, |part| u64::from(part.left));
        self.members(group).iter().map(left).sum()
    }

    /// Finds the first part that has items left. Parts never get items back, so this only goes forward.
    pub(super) fn find_first_left(&mut self) {
        while self.parts.get(self.first_left).is_some_and(|part| part.left == 0) {
            self.first_left += 1;
        }
    }

    /// Puts the parts in the order of their groups, so that asking for every group stays linear.
    pub(super) fn arrange(&mut self) {
        if !self.is_arranged {
            self.order.clear();
            self.order.extend(0..self.parts.len() as u32);
            let parts = &self.parts;
            self.order.sort_by_key(|part| parts.get(*part as usize).map(|part| part.group));
            self.is_arranged = true;
        }
    }

    /// The parts of a group, in the order of their numbers; call [`Edits::arrange`] before.
    pub(super) fn members(&self, group: u32) -> &[u32] {
        let group_of = |part: &u32| self.parts.get(*part as usize).map(|part| part.group);
        let start = self.order.partition_point(|part| group_of(part) < Some(group));
        let end = self.order.partition_point(|part| group_of(part) <= Some(group));
        self.order.get(start..end).unwrap_or_default()
    }
}

//! Writes the edited request: one pass that lists what stays, one that copies it into a buffer of the
//! exact size.
//!
//! What nothing happened to is one range, whatever it contains. A metric, scope or resource that had
//! items and has none left vanishes; one that was empty from the start stays where its parent stays,
//! except that pieces of a split resource take only what their items need.

use std::ops::Range;

use bytes::Bytes;

use super::draft::Draft;
use super::edits::{EDITED, Edits, LEFT_OUT, Mode, NONE, Part, UNTOUCHED};
use super::fields::slice;
use super::index::{Extent, Framed, Index};
use super::keys::{FIRST, SECOND, span};
use super::value::split_attribute;
use super::{Limits, Signal};
use crate::wire::{Reader, Splice};

impl Draft<'_> {
    /// Writes the items of a group that are left; `None` if there are none.
    ///
    /// The buffer has the exact size. The request itself is returned, without a copy, if nothing is
    /// edited and all parts are in this group.
    pub fn emit(&mut self, group: u32) -> Option<Bytes> {
        if self.group_items(group) == 0 {
            return None;
        }
        let members = self.edits.members(group).len();
        if !self.edits.is_touched && members == self.edits.parts.len() {
            return Some(self.request.clone());
        }
        self.edits.find_first_left();
        let mut splice = std::mem::take(&mut self.edits.splice);
        splice.clear();
        let mut emitter = Emitter { index: self.index, edits: self.edits, request: self.request, splice };
        emitter.request(group);
        let splice = emitter.splice;
        let written = splice.write(self.request, &self.edits.arena);
        self.edits.splice = splice;
        Some(written.into())
    }
}

struct Emitter<'a> {
    index: &'a Index,
    edits: &'a Edits,
    request: &'a [u8],
    splice: Splice,
}

/// Items of a container: all of them, or an ascending list.
#[derive(Clone)]
enum Items<'a> {
    All(Range<u32>),
    Some(&'a [u32]),
}

/// Where the attributes (and perhaps the trace state) of a message are rewritten.
struct Rewrite {
    body: Framed,
    attributes_key: u32,
    edits: u32,
}

impl<'a> Emitter<'a> {
    fn request(&mut self, group: u32) {
        // What is not a resource belongs to nobody; it goes along with the first part that goes anywhere.
        let first = self.edits.parts.get(self.edits.first_left);
        if first.is_some_and(|part| part.group == group) {
            let mut rests = self.index.request_rests.as_slice();
            self.keep_rests(&mut rests, u32::MAX);
        }
        let edits = self.edits;
        for part in edits.members(group).iter().filter_map(|part| edits.parts.get(*part as usize)) {
            self.part(part);
        }
    }

    fn part(&mut self, part: &Part) {
        let Some(at) = self.index.resources.get(part.resource as usize) else { return };
        if part.edits == NONE && !part.items_touched && part.list.is_none() {
            self.keep(at.frame.extent());
            return;
        }
        if part.left == 0 && !at.items.is_empty() {
            return;
        }
        let mark = self.splice.open(FIRST);
        if at.resource.is_none() && self.edits.list(part.edits).any(|(_, edit)| edit.mode == Mode::Append) {
            self.resource(Framed::default(), part.edits);
        }
        let mut rests = rests_of(&self.index.resource_rests, &at.rests);
        let edited = at.resource.filter(|_| part.edits != NONE);
        match part.list.clone().and_then(|list| self.edits.lists.get(list)) {
            None => {
                for scope in at.scopes.clone() {
                    let items = self.index.scopes.get(scope as usize).map_or(0..0, |at| at.items.clone());
                    self.resource_rests(&mut rests, scope, edited, part);
                    self.scope(scope, Items::All(items));
                }
            }
            Some(mut list) => {
                while let Some(scope) = list.first().and_then(|item| self.scope_of(*item)) {
                    let end = self.index.scopes.get(scope as usize).map_or(0, |at| at.items.end);
                    let (here, later) = list.split_at(list.partition_point(|item| *item < end));
                    if here.is_empty() {
                        break;
                    }
                    self.resource_rests(&mut rests, scope, edited, part);
                    self.scope(scope, Items::Some(here));
                    list = later;
                }
            }
        }
        self.resource_rests(&mut rests, NONE, edited, part);
        self.splice.close(mark);
    }

    /// Writes what stands before a scope (at the end: `NONE`), with the `Resource` rewritten if edited.
    fn resource_rests(&mut self, rests: &mut &[Extent], scope: u32, edited: Option<Framed>, part: &Part) {
        let before = self.index.scopes.get(scope as usize).map_or(u32::MAX, |at| at.frame.outer);
        if let Some(resource) = edited
            && rests.first().is_some_and(|rest| rest.start <= resource.outer)
            && resource.outer < before
        {
            self.keep_rests(rests, resource.outer);
            self.resource(resource, part.edits);
            *rests = rests.get(1..).unwrap_or_default();
        }
        self.keep_rests(rests, before);
    }

    fn resource(&mut self, body: Framed, edits: u32) {
        let mark = self.splice.open(FIRST);
        self.rewrite(&Rewrite { body, attributes_key: FIRST, edits });
        self.splice.close(mark);
    }

    fn scope_of(&self, item: u32) -> Option<u32> {
        let parent = self.index.items.get(item as usize)?.parent;
        match self.index.signal {
            Some(Signal::Metrics) => self.index.metrics.get(parent as usize).map(|metric| metric.scope),
            _ => Some(parent),
        }
    }

    fn scope(&mut self, scope: u32, items: Items<'_>) {
        let Some(at) = self.index.scopes.get(scope as usize) else { return };
        // A piece takes no metric without points, so it looks at each.
        let is_piece_of_metrics = matches!(items, Items::Some(_)) && !at.metrics.is_empty();
        if !is_piece_of_metrics && self.is_whole(&items, &at.items) {
            return self.keep(at.frame.extent());
        }
        let mark = self.splice.open(SECOND);
        let mut rests = rests_of(&self.index.scope_rests, &at.rests);
        let is_empty = match (self.index.signal, items) {
            (Some(Signal::Metrics), Items::All(_)) => {
                let mut is_empty = true;
                for metric in at.metrics.clone() {
                    let items = self.index.metrics.get(metric as usize).map_or(0..0, |at| at.items.clone());
                    is_empty &= self.metric(metric, &Items::All(items), &mut rests);
                }
                is_empty
            }
            (Some(Signal::Metrics), Items::Some(list)) => self.listed_metrics(list, &mut rests),
            (_, items) => self.items(&items, SECOND, &mut rests),
        };
        if is_empty {
            return self.splice.forget(mark);
        }
        self.keep_rests(&mut rests, u32::MAX);
        self.splice.close(mark);
    }

    fn listed_metrics(&mut self, mut list: &[u32], rests: &mut &[Extent]) -> bool {
        let mut is_empty = true;
        while let Some(at) = list.first().and_then(|item| self.index.items.get(*item as usize)) {
            let end = self.index.metrics.get(at.parent as usize).map_or(0, |at| at.items.end);
            let (here, later) = list.split_at(list.partition_point(|item| *item < end));
            if here.is_empty() {
                break;
            }
            is_empty &= self.metric(at.parent, &Items::Some(here), rests);
            list = later;
        }
        is_empty
    }

    /// Writes a metric and what stands before it; returns whether no item of it is left.
    fn metric(&mut self, metric: u32, items: &Items<'_>, before: &mut &[Extent]) -> bool {
        let Some(at) = self.index.metrics.get(metric as usize) else { return true };
        self.keep_rests(before, at.frame.outer);
        if self.is_whole(items, &at.items) {
            self.keep(at.frame.extent());
            return at.items.is_empty();
        }
        let mark = self.splice.open(SECOND);
        let mut rests = rests_of(&self.index.metric_rests, &at.rests);
        self.keep_rests(&mut rests, at.points.outer);
        let points = self.splice.open(at.points_key);
        let mut points_rests = rests_of(&self.index.points_rests, &at.points_rests);
        if self.items(items, FIRST, &mut points_rests) {
            self.splice.forget(mark);
            return true;
        }
        self.keep_rests(&mut points_rests, u32::MAX);
        self.splice.close(points);
        self.keep_rests(&mut rests, u32::MAX);
        self.splice.close(mark);
        false
    }

    /// Writes the items that are left and what stands between them; returns whether there are none.
    fn items(&mut self, items: &Items<'_>, field: u32, rests: &mut &[Extent]) -> bool {
        let (range, list) = match items {
            Items::All(range) => (range.clone(), [].as_slice()),
            Items::Some(list) => (0..0, *list),
        };
        let mut is_empty = true;
        for item in range.chain(list.iter().copied()) {
            let Some(at) = self.index.items.get(item as usize) else { break };
            let state = self.edits.states.get(item as usize).copied().unwrap_or(LEFT_OUT);
            if state == LEFT_OUT {
                continue;
            }
            is_empty = false;
            self.keep_rests(rests, at.frame.outer);
            if state == EDITED {
                let attributes_key = self.index.attributes_key(at);
                let edits = self.edits.item_edits.get(item as usize).copied().unwrap_or(NONE);
                let mark = self.splice.open(field);
                self.rewrite(&Rewrite { body: at.frame, attributes_key, edits });
                self.splice.close(mark);
            } else {
                self.keep(at.frame.extent());
            }
        }
        is_empty
    }

    /// Whether `items` are all a container has, and nothing happened to them.
    fn is_whole(&self, items: &Items<'_>, of: &Range<u32>) -> bool {
        let len = match items {
            Items::All(range) => range.len(),
            Items::Some(list) => list.len(),
        };
        let states = self.edits.states.get(of.start as usize..of.end as usize).unwrap_or_default();
        len == of.len() && states.iter().all(|state| *state == UNTOUCHED)
    }

    /// Writes the fields of a message with its edits applied.
    fn rewrite(&mut self, at: &Rewrite) {
        let edits = self.edits;
        let new_body = edits.find_body(at.edits).map(|edit| edit.value.clone());
        let message = match &new_body {
            Some(range) => edits.bytes(range),
            None => slice(self.request, Extent { start: at.body.body, end: at.body.end }),
        };
        let trace_state = edits.find_trace_state(at.edits);
        let mut written: Vec<u32> = Vec::new();
        let mut reader = Reader::new(message);
        loop {
            let start = reader.at();
            let Ok(Some(field)) = reader.key() else { break };
            let edit = if field == at.attributes_key {
                let Ok(attribute) = reader.bytes() else { break };
                edits.find(at.edits, split_attribute(attribute).0)
            } else {
                if reader.skip(field, Limits::MAX_DEPTH).is_err() {
                    break;
                }
                trace_state.filter(|_| field == span::TRACE_STATE)
            };
            match edit {
                None => match &new_body {
                    Some(range) => self.splice.insert(range.start + start, range.start + reader.at()),
                    None => {
                        let base = at.body.body as usize;
                        self.splice.keep(base + start, base + reader.at());
                    }
                },
                Some((id, edit)) => {
                    let stays = matches!(edit.mode, Mode::Replace | Mode::TraceState);
                    if stays && !written.contains(&id) {
                        self.splice.insert(edit.field.start, edit.field.end);
                        written.push(id);
                    }
                }
            }
        }
        let appended = |id: &u32, mode| match mode {
            Mode::Append => true,
            Mode::TraceState => !written.contains(id),
            Mode::Replace | Mode::Delete | Mode::Dead | Mode::Body => false,
        };
        for (_, edit) in edits.list(at.edits).filter(|(id, edit)| appended(id, edit.mode)) {
            self.splice.insert(edit.field.start, edit.field.end);
        }
    }

    fn keep_rests(&mut self, rests: &mut &[Extent], before: u32) {
        while let Some((rest, later)) = rests.split_first()
            && rest.start < before
        {
            self.keep(*rest);
            *rests = later;
        }
    }

    #[inline]
    fn keep(&mut self, extent: Extent) {
        self.splice.keep(extent.start as usize, extent.end as usize);
    }
}

fn rests_of<'a>(rests: &'a [Extent], range: &Range<u32>) -> &'a [Extent] {
    rests.get(range.start as usize..range.end as usize).unwrap_or_default()
}

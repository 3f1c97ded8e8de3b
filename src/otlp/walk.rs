//! The one walk over a request: checks every byte of it and notes where things are.
//!
//! Checking and locating are fused because the bytes are then touched once; a separate check costs
//! more than the rest together. What nobody looks into goes to `check.rs`. No recursion here: the
//! levels down to the items are fixed.

use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::check::{KeySet, Tally, numbers, skip_unknown};
use super::index::{Extent, Framed, Index, ItemAt, LogAt, MetricAt, ResourceAt, ScopeAt, SpanAt};
use super::keys::{self, FIRST, SCHEMA_URL, SECOND};
use super::shapes::{self, Points, points_of};
use super::{Limits, Malformed, Signal};
use crate::wire::{Flaw, Reader};

/// From this length on the elements of a message are counted before they are noted: its arrays are then made in
/// their size, not by doubling, and one that is too dense is refused before it takes memory. Below, whatever it
/// holds fits the least budget of an index.
const COUNTED: usize = 128 << 10;

/// A walk under way.
pub(super) struct Walk<'i, 'b> {
    index: &'i mut Index,
    bytes: &'b [u8],
    tally: Tally,
    /// Bytes of the index so far.
    noted: usize,
    index_budget: usize,
    depth: usize,
}

impl<'i, 'b> Walk<'i, 'b> {
    /// A walk over `bytes`, shorter than 4 GiB, that fills the empty `index`.
    pub(super) fn new(index: &'i mut Index, bytes: &'b [u8], limits: &Limits) -> Self {
        let depth = limits.max_depth.clamp(16, Limits::MAX_DEPTH);
        // Strings and numbers together are never longer than the request.
        let budget = limits.decoded_budget.min(Limits::decoded_budget_of(bytes.len()));
        let tally = Tally { cost: bytes.len(), budget, ..Tally::default() };
        Self {
            index,
            bytes,
            tally,
            noted: 0,
            index_budget: limits.index_budget.min(Limits::index_budget_of(bytes.len())),
            depth,
        }
    }

    /// Walks all of it.
    ///
    /// # Errors
    /// [`Malformed`], with the index left half filled.
    pub(super) fn request(self, signal: Signal) -> Result<Tally, Malformed> {
        let limit = self.tally.budget;
        self.resources(signal).map_err(|malformed| match malformed {
            Malformed::Budget { .. } => Malformed::Budget { limit },
            other => other,
        })
    }

    fn resources(mut self, signal: Signal) -> Result<Tally, Malformed> {
        let resources = self.foresee::<ResourceAt>(self.bytes, FIRST, self.bytes.len())?;
        make_room(&mut self.index.resources, resources);
        let mut reader = Reader::new(self.bytes);
        loop {
            let outer = reader.at();
            match reader.key()? {
                None => break,
                Some(FIRST) => {
                    let frame = frame(0, outer, &mut reader)?;
                    self.resource(signal, frame)?;
                }
                Some(key) => {
                    skip_unknown(&mut reader, key, numbers(&[1]), self.depth)?;
                    self.noted += add_rest(&mut self.index.request_rests, 0, extent(outer, reader.at()));
                }
            }
        }
        self.check_budget(self.bytes.len())?;
        Ok(self.tally)
    }

    /// `read` is how far the walk has come.
    #[inline(always)]
    fn check_budget(&self, read: usize) -> Result<(), Malformed> {
        self.tally.check_budget()?;
        if self.noted > self.index_budget + read { Err(Malformed::TooDense) } else { Ok(()) }
    }

    /// How many fields of a large message have this key, each to be noted as a `T`; 0 if the message is small. `end` is
    /// where it ends. What is wrong with it the walk will find.
    #[inline]
    fn foresee<T>(&self, message: &[u8], key: u32, end: usize) -> Result<usize, Malformed> {
        if message.len() < COUNTED {
            return Ok(0);
        }
        let most = self.index_budget.saturating_add(end).saturating_sub(self.noted) / size_of::<T>();
        let count = count(message, key, most);
        if count > most { Err(Malformed::TooDense) } else { Ok(count) }
    }

    /// Makes room for what a large scope or its like holds.
    #[inline]
    fn make_room_in(&mut self, signal: Signal, at: Framed) -> Result<(), Malformed> {
        let (message, end) = (self.body(at), at.end as usize);
        match signal {
            Signal::Traces => {
                let spans = self.foresee::<(ItemAt, SpanAt)>(message, SECOND, end)?;
                make_room(&mut self.index.items, spans);
                make_room(&mut self.index.spans, spans);
            }
            Signal::Metrics => {
                let metrics = self.foresee::<MetricAt>(message, SECOND, end)?;
                make_room(&mut self.index.metrics, metrics);
            }
            Signal::Logs => {
                let logs = self.foresee::<(ItemAt, LogAt)>(message, SECOND, end)?;
                make_room(&mut self.index.items, logs);
                make_room(&mut self.index.logs, logs);
            }
        }
        Ok(())
    }

    fn body(&self, frame: Framed) -> &'b [u8] {
        self.bytes.get(frame.body as usize..frame.end as usize).unwrap_or_default()
    }

    fn resource(&mut self, signal: Signal, at: Framed) -> Result<(), Malformed> {
        let cost_before = self.tally.cost;
        self.tally.cost += match signal {
            Signal::Traces => size_of::<ResourceSpans>(),
            Signal::Metrics => size_of::<ResourceMetrics>(),
            Signal::Logs => size_of::<ResourceLogs>(),
        };
        self.check_budget(at.body as usize)?;
        let foreseen = self.foresee::<ScopeAt>(self.body(at), SECOND, at.end as usize)?;
        make_room(&mut self.index.scopes, foreseen);
        let (scopes, items) = (self.index.scopes.len(), self.index.items.len());
        let rests = self.index.resource_rests.len();
        // The first that may still grow: nothing merges with the `Resource`.
        let mut mergeable = rests;
        let (mut resource, mut keys) = (None, KeySet::default());
        let mut reader = Reader::new(self.body(at));
        loop {
            let outer = reader.at();
            match reader.key()? {
                None => break,
                Some(SECOND) => {
                    let frame = frame(at.body, outer, &mut reader)?;
                    self.scope(signal, frame)?;
                    continue;
                }
                Some(FIRST) => {
                    let message = frame(at.body, outer, &mut reader)?;
                    let keys_of_items = std::mem::take(&mut self.tally.keys);
                    self.tally.message(self.body(message), &shapes::RESOURCE, self.depth - 2)?;
                    keys = std::mem::replace(&mut self.tally.keys, keys_of_items);
                    self.tally.odd |= resource.replace(message).is_some();
                    self.index.resource_rests.push(message.extent());
                    self.noted += size_of::<Extent>();
                    self.check_budget(message.end as usize)?;
                    mergeable = self.index.resource_rests.len();
                    continue;
                }
                Some(SCHEMA_URL) => drop(reader.text()?),
                Some(key) => skip_unknown(&mut reader, key, numbers(&[1, 2, 3]), self.depth - 1)?,
            }
            let range = extent(at.body as usize + outer, at.body as usize + reader.at());
            self.noted += add_rest(&mut self.index.resource_rests, mergeable, range);
        }
        self.noted += size_of::<ResourceAt>();
        self.index.resources.push(ResourceAt {
            frame: at,
            resource,
            keys,
            scopes: range(scopes, self.index.scopes.len()),
            items: range(items, self.index.items.len()),
            rests: range(rests, self.index.resource_rests.len()),
            cost: self.tally.cost - cost_before + (at.end - at.outer) as usize,
        });
        Ok(())
    }

    fn scope(&mut self, signal: Signal, at: Framed) -> Result<(), Malformed> {
        self.tally.cost += match signal {
            Signal::Traces => size_of::<ScopeSpans>(),
            Signal::Metrics => size_of::<ScopeMetrics>(),
            Signal::Logs => size_of::<ScopeLogs>(),
        };
        self.check_budget(at.body as usize)?;
        self.make_room_in(signal, at)?;
        let (metrics, items) = (self.index.metrics.len(), self.index.items.len());
        let rests = self.index.scope_rests.len();
        let mut scope = ScopeAt { frame: at, ..ScopeAt::default() };
        let mut scopes_seen = 0;
        let mut reader = Reader::new(self.body(at));
        loop {
            let outer = reader.at();
            match reader.key()? {
                None => break,
                Some(SECOND) => {
                    let frame = frame(at.body, outer, &mut reader)?;
                    match signal {
                        Signal::Traces => self.span(frame)?,
                        Signal::Metrics => self.metric(frame)?,
                        Signal::Logs => self.log(frame)?,
                    }
                    self.check_budget(frame.end as usize)?;
                    continue;
                }
                Some(FIRST) => {
                    scopes_seen += 1;
                    let message = frame(at.body, outer, &mut reader)?;
                    let keys_of_items = self.tally.keys;
                    self.instrumentation_scope(message, &mut scope)?;
                    self.tally.keys = keys_of_items;
                }
                Some(SCHEMA_URL) => drop(reader.text()?),
                Some(key) => skip_unknown(&mut reader, key, numbers(&[1, 2, 3]), self.depth - 2)?,
            }
            let range = extent(at.body as usize + outer, at.body as usize + reader.at());
            self.noted += add_rest(&mut self.index.scope_rests, rests, range);
        }
        self.tally.odd |= scopes_seen > 1;
        scope.metrics = range(metrics, self.index.metrics.len());
        scope.items = range(items, self.index.items.len());
        scope.rests = range(rests, self.index.scope_rests.len());
        self.index.scopes.push(scope);
        self.noted += size_of::<ScopeAt>();
        Ok(())
    }

    fn instrumentation_scope(&mut self, at: Framed, scope: &mut ScopeAt) -> Result<(), Flaw> {
        let mut reader = Reader::new(self.body(at));
        while let Some(field) = reader.key()? {
            match field {
                keys::scope::NAME => scope.name = text(at.body, &mut reader)?,
                keys::scope::VERSION => scope.version = text(at.body, &mut reader)?,
                keys::scope::ATTRIBUTE => self.tally.attribute(reader.bytes()?, self.depth - 4)?,
                keys::scope::DROPPED => drop(reader.varint()?),
                _ => skip_unknown(&mut reader, field, numbers(&[1, 2, 3, 4]), self.depth - 3)?,
            }
        }
        Ok(())
    }

    fn item(&mut self, frame: Framed, parent: usize, attributes: usize) {
        // The resource and, for spans and logs, the scope are pushed after their items.
        let resource = self.index.resources.len() as u32;
        self.index.items.push(ItemAt {
            frame,
            resource,
            parent: parent as u32,
            attributes: attributes as u32,
        });
        self.noted += size_of::<ItemAt>();
    }

    fn span(&mut self, at: Framed) -> Result<(), Flaw> {
        const KNOWN: u32 = (1 << 17) - 2; // 1 to 16
        let mut span = SpanAt::default();
        let mut reader = Reader::new(self.body(at));
        let mut attributes = None;
        loop {
            let field = reader.at();
            match reader.key()? {
                None => break,
                Some(keys::span::ATTRIBUTE) => {
                    attributes.get_or_insert(field);
                    self.tally.attribute(reader.bytes()?, self.depth - 4)?;
                }
                Some(keys::span::TRACE_ID) => span.trace_id = id::<16>(at.body, &mut reader)?,
                Some(keys::span::SPAN_ID) => span.span_id = id::<8>(at.body, &mut reader)?,
                Some(keys::span::TRACE_STATE) => span.trace_state = text(at.body, &mut reader)?,
                Some(keys::span::PARENT_SPAN_ID) => span.has_parent = is_id(reader.bytes()?),
                Some(keys::span::NAME) => span.name = text(at.body, &mut reader)?,
                Some(keys::span::KIND) => span.kind = reader.varint()? as i32,
                Some(keys::span::START) => span.start_unix_nano = reader.fixed64()?,
                Some(keys::span::END) => span.end_unix_nano = reader.fixed64()?,
                Some(keys::span::EVENT) => {
                    self.tally.message(reader.bytes()?, &shapes::EVENT, self.depth - 4)?;
                }
                Some(keys::span::LINK) => {
                    self.tally.message(reader.bytes()?, &shapes::LINK, self.depth - 4)?;
                }
                Some(keys::span::STATUS) => self.status(reader.bytes()?, &mut span.status)?,
                Some(keys::span::FLAGS) => span.flags = reader.fixed32()?,
                Some(
                    keys::span::DROPPED_ATTRIBUTES | keys::span::DROPPED_EVENTS | keys::span::DROPPED_LINKS,
                ) => drop(reader.varint()?),
                Some(key) => skip_unknown(&mut reader, key, KNOWN, self.depth - 3)?,
            }
        }
        self.tally.cost += size_of::<Span>();
        self.item(at, self.index.scopes.len(), attributes.unwrap_or(reader.at()));
        self.index.spans.push(span);
        self.noted += size_of::<SpanAt>();
        Ok(())
    }

    /// A repeated status merges: the last code there is counts.
    fn status(&mut self, message: &[u8], code: &mut i32) -> Result<(), Flaw> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.key()? {
            match field {
                keys::status::MESSAGE => drop(reader.text()?),
                keys::status::CODE => *code = reader.varint()? as i32,
                _ => skip_unknown(&mut reader, field, numbers(&[2, 3]), self.depth - 4)?,
            }
        }
        Ok(())
    }

    fn log(&mut self, at: Framed) -> Result<(), Flaw> {
        const KNOWN: u32 = numbers(&[1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
        let mut log = LogAt::default();
        let mut reader = Reader::new(self.body(at));
        let mut attributes = None;
        loop {
            let field = reader.at();
            match reader.key()? {
                None => break,
                Some(keys::log::ATTRIBUTE) => {
                    attributes.get_or_insert(field);
                    self.tally.attribute(reader.bytes()?, self.depth - 4)?;
                }
                Some(keys::log::TIME) => log.time_unix_nano = reader.fixed64()?,
                Some(keys::log::SEVERITY_NUMBER) => log.severity_number = reader.varint()? as i32,
                Some(keys::log::SEVERITY_TEXT) => log.severity_text = text(at.body, &mut reader)?,
                Some(keys::log::BODY) => {
                    let body = frame(at.body, field, &mut reader)?;
                    self.tally.value(self.body(body), self.depth - 4)?;
                    let body = Extent { start: body.body, end: body.end };
                    self.tally.odd |= log.body.start > 0;
                    log.body = body;
                }
                Some(keys::log::DROPPED) => drop(reader.varint()?),
                Some(keys::log::FLAGS) => log.flags = reader.fixed32()?,
                Some(keys::log::TRACE_ID) => log.trace_id = id::<16>(at.body, &mut reader)?,
                Some(keys::log::SPAN_ID) => log.span_id = id::<8>(at.body, &mut reader)?,
                Some(keys::log::OBSERVED_TIME) => log.observed_time_unix_nano = reader.fixed64()?,
                Some(keys::log::EVENT_NAME) => log.event_name = text(at.body, &mut reader)?,
                Some(key) => skip_unknown(&mut reader, key, KNOWN, self.depth - 3)?,
            }
        }
        self.tally.cost += size_of::<LogRecord>();
        self.item(at, self.index.scopes.len(), attributes.unwrap_or(reader.at()));
        self.index.logs.push(log);
        self.noted += size_of::<LogAt>();
        Ok(())
    }

    fn metric(&mut self, at: Framed) -> Result<(), Malformed> {
        self.tally.cost += size_of::<Metric>();
        let (items, rests) = (self.index.items.len(), self.index.metric_rests.len());
        let points_rests = self.index.points_rests.len();
        let scope = self.index.scopes.len() as u32;
        let mut metric = MetricAt { frame: at, scope, ..MetricAt::default() };
        let mut reader = Reader::new(self.body(at));
        loop {
            let outer = reader.at();
            match reader.key()? {
                None => break,
                Some(field) if let Some(points) = points_of(field) => {
                    self.tally.odd |= metric.points_key != 0;
                    metric.points = frame(at.body, outer, &mut reader)?;
                    metric.points_key = field;
                    self.points(metric.points, points)?;
                    continue;
                }
                Some(keys::metric::NAME) => metric.name = text(at.body, &mut reader)?,
                Some(keys::metric::DESCRIPTION | keys::metric::UNIT) => drop(reader.text()?),
                Some(keys::metric::METADATA) => self.tally.attribute(reader.bytes()?, self.depth - 4)?,
                Some(key) => {
                    const KNOWN: u32 = numbers(&[1, 2, 3, 5, 7, 9, 10, 11, 12]);
                    skip_unknown(&mut reader, key, KNOWN, self.depth - 3)?;
                }
            }
            let range = extent(at.body as usize + outer, at.body as usize + reader.at());
            self.noted += add_rest(&mut self.index.metric_rests, rests, range);
        }
        metric.items = range(items, self.index.items.len());
        metric.rests = range(rests, self.index.metric_rests.len());
        metric.points_rests = range(points_rests, self.index.points_rests.len());
        self.index.metrics.push(metric);
        self.noted += size_of::<MetricAt>();
        Ok(())
    }

    /// Walks a gauge, sum, histogram, exponential histogram or summary.
    fn points(&mut self, at: Framed, points: &Points) -> Result<(), Malformed> {
        let foreseen = self.foresee::<ItemAt>(self.body(at), FIRST, at.end as usize)?;
        make_room(&mut self.index.items, foreseen);
        let rests = self.index.points_rests.len();
        let mut reader = Reader::new(self.body(at));
        loop {
            let outer = reader.at();
            match reader.key()? {
                None => return Ok(()),
                Some(FIRST) => {
                    let point = frame(at.body, outer, &mut reader)?;
                    self.tally.message(self.body(point), points.shape, self.depth - 5)?;
                    self.item(point, self.index.metrics.len(), 0);
                    self.check_budget(point.end as usize)?;
                    continue;
                }
                // aggregation_temporality, is_monotonic
                Some(field @ (keys::metric::TEMPORALITY | keys::metric::IS_MONOTONIC))
                    if points.known >> (field >> 3) & 1 == 1 =>
                {
                    reader.varint()?;
                }
                Some(key) => skip_unknown(&mut reader, key, points.known, self.depth - 4)?,
            }
            let range = extent(at.body as usize + outer, at.body as usize + reader.at());
            self.noted += add_rest(&mut self.index.points_rests, rests, range);
        }
    }
}

/// How many fields with this key a message has, up to where it is malformed or there are more than `most`.
fn count(message: &[u8], wanted: u32, most: usize) -> usize {
    let (mut reader, mut count) = (Reader::new(message), 0);
    while let Ok(Some(key)) = reader.key()
        && count <= most
    {
        let passed = match key == wanted {
            true => reader.bytes().map(drop),
            // Groups are seldom and told by the walk.
            false => reader.skip(key, 0),
        };
        if passed.is_err() {
            break;
        }
        count += usize::from(key == wanted);
    }
    count
}

/// Room for so many more: exactly, but for arrays that have elements already, which doubling keeps from being copied
/// again and again.
fn make_room<T>(list: &mut Vec<T>, more: usize) {
    if list.is_empty() { list.reserve_exact(more) } else { list.reserve(more) }
}

/// Whether these bytes name something: not empty, not all zero.
fn is_id(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| *byte != 0)
}

// Requests are shorter than 4 GiB (`Limits::MAX_BYTES`), so places fit 32 bits.

fn extent(start: usize, end: usize) -> Extent {
    Extent { start: start as u32, end: end as u32 }
}

fn range(start: usize, end: usize) -> std::ops::Range<u32> {
    start as u32..end as u32
}

/// Reads a length-prefixed field whose key stood at `outer` of a message whose body starts at `base`.
#[inline(always)]
fn frame(base: u32, outer: usize, reader: &mut Reader<'_>) -> Result<Framed, Flaw> {
    let length = reader.bytes()?.len() as u32;
    let end = base + reader.at() as u32;
    Ok(Framed { outer: base + outer as u32, body: end - length, end })
}

/// Reads an id of `N` bytes in a message whose body starts at `base`; where it begins, 0 if it has another length.
#[inline(always)]
fn id<const N: usize>(base: u32, reader: &mut Reader<'_>) -> Result<u32, Flaw> {
    let length = reader.bytes()?.len();
    Ok(if length == N { base + (reader.at() - N) as u32 } else { 0 })
}

/// Reads a string field of a message whose body starts at `base`.
#[inline(always)]
fn text(base: u32, reader: &mut Reader<'_>) -> Result<Extent, Flaw> {
    let length = reader.text()?.len() as u32;
    let end = base + reader.at() as u32;
    Ok(Extent { start: end - length, end })
}

/// Notes a range; how many bytes of index that takes. It goes together with the one before it if they touch and that is at `mergeable` or later.
fn add_rest(rests: &mut Vec<Extent>, mergeable: usize, rest: Extent) -> usize {
    if rests.len() > mergeable
        && let Some(last) = rests.last_mut()
        && last.end == rest.start
    {
        last.end = rest.end;
        0
    } else {
        rests.push(rest);
        size_of::<Extent>()
    }
}

//! Where things are in a request: what the walk (`walk.rs`) writes and drafts read.
//!
//! Invariant: all places lie inside the request that was read, and contain what the walk checked.
//!
//! ```text
//! resources ──► scopes ──► items                    (traces, logs)
//! resources ──► scopes ──► metrics ──► items        (metrics: items are data points)
//! each level also lists its *rests*: the ranges that are neither, such as schema_url
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::check::{KeySet, Tally};
use super::normalize::normalize;
use super::shapes::points_of;
use super::walk::Walk;
use super::{Limits, Malformed, Signal, keys};

/// A range of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// A length-prefixed field: its key at `outer`, its payload from `body` to `end`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Framed {
    pub(super) outer: u32,
    pub(super) body: u32,
    pub(super) end: u32,
}

impl Framed {
    /// The whole field.
    pub(super) fn extent(self) -> Extent {
        Extent { start: self.outer, end: self.end }
    }
}

/// A `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`.
#[derive(Debug, Clone, Default)]
pub(super) struct ResourceAt {
    pub(super) frame: Framed,
    /// The `Resource`, if there is one; its whole field is also one of the rests.
    pub(super) resource: Option<Framed>,
    /// Of its attributes.
    pub(super) keys: KeySet,
    pub(super) scopes: Range<u32>,
    pub(super) items: Range<u32>,
    /// In [`Index::resource_rests`].
    pub(super) rests: Range<u32>,
    /// Estimated bytes it takes decoded.
    pub(super) cost: usize,
}

/// A `ScopeSpans`, `ScopeMetrics` or `ScopeLogs`.
#[derive(Debug, Clone, Default)]
pub(super) struct ScopeAt {
    pub(super) frame: Framed,
    pub(super) name: Extent,
    pub(super) version: Extent,
    pub(super) metrics: Range<u32>,
    pub(super) items: Range<u32>,
    /// In [`Index::scope_rests`].
    pub(super) rests: Range<u32>,
}

/// A `Metric`.
#[derive(Debug, Clone, Default)]
pub(super) struct MetricAt {
    pub(super) frame: Framed,
    pub(super) scope: u32,
    pub(super) name: Extent,
    /// The gauge, sum, histogram, …
    pub(super) points: Framed,
    /// The key of that field; 0 if the metric has none.
    pub(super) points_key: u32,
    pub(super) items: Range<u32>,
    /// In [`Index::metric_rests`]: fields of the metric that are not its points.
    pub(super) rests: Range<u32>,
    /// In [`Index::points_rests`]: fields beside the data points.
    pub(super) points_rests: Range<u32>,
}

/// A span, data point or log record.
#[derive(Debug, Clone, Copy)]
pub(super) struct ItemAt {
    pub(super) frame: Framed,
    pub(super) resource: u32,
    /// The scope; for data points the metric.
    pub(super) parent: u32,
    /// From where in the body attributes may stand; the length of the body if there are none.
    pub(super) attributes: u32,
}

/// What the walk noted of a span. Ids are places, for the sake of size: a request may have very many spans.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SpanAt {
    /// Where its 16 bytes begin; 0 if there are not 16.
    pub(super) trace_id: u32,
    /// Where its 8 bytes begin; 0 if there are not 8.
    pub(super) span_id: u32,
    pub(super) has_parent: bool,
    pub(super) start_unix_nano: u64,
    pub(super) end_unix_nano: u64,
    pub(super) name: Extent,
    pub(super) trace_state: Extent,
    pub(super) flags: u32,
    pub(super) kind: i32,
    pub(super) status: i32,
}

/// What the walk noted of a log record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogAt {
    /// As of a span.
    pub(super) trace_id: u32,
    pub(super) span_id: u32,
    pub(super) time_unix_nano: u64,
    pub(super) observed_time_unix_nano: u64,
    pub(super) severity_text: Extent,
    pub(super) event_name: Extent,
    /// Starts at 0 if there is none: a body has a key before it.
    pub(super) body: Extent,
    pub(super) severity_number: i32,
    pub(super) flags: u32,
}

/// Where everything is in the request read last; the arrays are reused from request to request.
#[derive(Debug, Default)]
pub struct Index {
    pub(super) signal: Option<Signal>,
    pub(super) resources: Vec<ResourceAt>,
    pub(super) scopes: Vec<ScopeAt>,
    pub(super) metrics: Vec<MetricAt>,
    pub(super) items: Vec<ItemAt>,
    pub(super) spans: Vec<SpanAt>,
    pub(super) logs: Vec<LogAt>,
    pub(super) request_rests: Vec<Extent>,
    pub(super) resource_rests: Vec<Extent>,
    pub(super) scope_rests: Vec<Extent>,
    pub(super) metric_rests: Vec<Extent>,
    pub(super) points_rests: Vec<Extent>,
    /// Of all items, their parts included.
    pub(super) item_keys: KeySet,
    cost: usize,
    normalized: u64,
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks all of `request` and notes where things are, in one walk.
    ///
    /// Returns the request to go on with: the same bytes, or, for the rare legal shapes that ranges
    /// cannot express (a repeated `resource`, two values in one attribute), the same decoded and
    /// encoded once. After an error the index is empty.
    ///
    /// # Errors
    /// [`Malformed`]: nobody could decode it, or only at a cost above `limits`.
    pub fn read(&mut self, signal: Signal, request: &Bytes, limits: &Limits) -> Result<Bytes, Malformed> {
        let max_bytes = limits.max_bytes.min(Limits::MAX_BYTES);
        if request.len() > max_bytes {
            self.clear();
            return Err(Malformed::Budget { limit: max_bytes });
        }
        let Tally { odd, cost, .. } = self.walk(signal, request, limits)?;
        if !odd {
            return Ok(request.clone());
        }
        if cost > Limits::ODD_BUDGET {
            self.clear();
            return Err(Malformed::Budget { limit: Limits::ODD_BUDGET });
        }
        self.normalized += 1;
        let normal = normalize(signal, request);
        let normal = normal.inspect_err(|_| self.clear())?;
        // Encoded by us it has none of the odd shapes. It can be a little longer, so limits count again.
        self.walk(signal, &normal, limits)?;
        Ok(normal)
    }

    /// How many requests had to be decoded and encoded before they could be indexed.
    pub fn normalized(&self) -> u64 {
        self.normalized
    }

    /// Estimated bytes the request read last would take decoded.
    pub fn decoded_cost(&self) -> usize {
        self.cost
    }

    /// How many spans, data points or log records the request read last has.
    pub fn items(&self) -> u64 {
        self.items.len() as u64
    }

    /// The key of the attributes of an item.
    pub(super) fn attributes_key(&self, item: &ItemAt) -> u32 {
        match self.signal {
            Some(Signal::Logs) => keys::log::ATTRIBUTE,
            Some(Signal::Metrics) => {
                let metric = self.metrics.get(item.parent as usize);
                points_of(metric.map_or(0, |metric| metric.points_key)).map_or(0, |points| points.attribute)
            }
            _ => keys::span::ATTRIBUTE,
        }
    }

    fn walk(&mut self, signal: Signal, request: &[u8], limits: &Limits) -> Result<Tally, Malformed> {
        self.clear();
        self.signal = Some(signal);
        let walked = Walk::new(self, request, limits).request(signal);
        match &walked {
            Ok(tally) => (self.cost, self.item_keys) = (tally.cost, tally.keys),
            Err(_) => self.clear(),
        }
        walked
    }

    fn clear(&mut self) {
        self.signal = None;
        (self.cost, self.item_keys) = (0, KeySet::default());
        recycle(&mut self.resources);
        recycle(&mut self.scopes);
        recycle(&mut self.metrics);
        recycle(&mut self.items);
        recycle(&mut self.spans);
        recycle(&mut self.logs);
        recycle(&mut self.request_rests);
        recycle(&mut self.resource_rests);
        recycle(&mut self.scope_rests);
        recycle(&mut self.metric_rests);
        recycle(&mut self.points_rests);
    }

    /// Bytes held by the arrays.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        fn of<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        let rests = [
            &self.request_rests,
            &self.resource_rests,
            &self.scope_rests,
            &self.metric_rests,
            &self.points_rests,
        ];
        let items = of(&self.items) + of(&self.spans) + of(&self.logs);
        let above = of(&self.resources) + of(&self.scopes) + of(&self.metrics);
        items + above + rests.into_iter().map(of).sum::<usize>()
    }
}

/// Empties an array for the next request; what one giant request took is given back.
pub(super) fn recycle<T>(list: &mut Vec<T>) {
    /// As many as a request of some megabytes needs.
    const KEPT: usize = 16 << 10;
    list.clear();
    list.shrink_to(KEPT);
}

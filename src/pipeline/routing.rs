//! The connector `routing`: which pipelines a tenant's data goes to.
//!
//! Routes that go by tenant, tier or header take batches as they are; only where a condition on resources
//! decides is a batch read, and cut where its resources go different ways. Invariant: every item goes to
//! exactly one route, or to the default.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use super::Pipeline;
use super::onward::{Passage, Portion};
use crate::config::connector::{Comparison, Context, Route};
use crate::otlp::{Draft, Limits, PartId, Value};
use crate::policies::glob::Glob;
use crate::tenant::Tenant;

/// A connector of this type, for one signal.
pub(crate) struct Router {
    rows: Vec<Row>,
    default: Vec<Arc<Pipeline>>,
}

struct Row {
    tenants: Vec<Glob>,
    tiers: Vec<String>,
    comparison: Option<Comparison>,
    to: Vec<Arc<Pipeline>>,
}

/// Where portions go, and with which of them.
type Routed = Vec<(Arc<Pipeline>, Vec<Portion>)>;

impl Router {
    pub(super) fn new(default: Vec<Arc<Pipeline>>) -> Self {
        Self { rows: Vec::new(), default }
    }

    /// Adds a route behind those there are. The configuration was checked: what cannot be read matches
    /// nothing.
    pub(super) fn add(&mut self, route: &Route, to: Vec<Arc<Pipeline>>) {
        let tenants: Vec<Glob> = route.tenants.iter().filter_map(|text| Glob::new(text).ok()).collect();
        let Ok(comparison) = route.comparison() else { return };
        if tenants.len() == route.tenants.len() {
            self.rows.push(Row { tenants, tiers: route.tiers.clone(), comparison, to });
        }
    }

    /// Gives every portion to the pipelines of its route.
    pub(super) fn route(&self, portions: Vec<Portion>, passage: &mut Passage<'_>) -> Routed {
        let mut routed: Routed = Vec::new();
        for portion in portions {
            let open: Vec<&Row> = self.open_to(&portion.tenant, &passage.request.headers);
            match open.first() {
                None => give(&mut routed, &self.default, portion),
                Some(row) if !row.goes_by_resource() => give(&mut routed, &row.to, portion),
                Some(_) => {
                    for (row, portion) in cut(portion, &open, passage) {
                        let to = open.get(row).map_or(&self.default, |row| &row.to);
                        give(&mut routed, to, portion);
                    }
                }
            }
        }
        routed
    }

    /// The routes that are open to a tenant, as far as the first that takes everything.
    fn open_to(&self, tenant: &Tenant, headers: &HeaderMap) -> Vec<&Row> {
        let mut open: Vec<&Row> = Vec::new();
        for row in self.rows.iter().filter(|row| row.takes(tenant, headers)) {
            open.push(row);
            if !row.goes_by_resource() {
                break;
            }
        }
        open
    }
}

impl Row {
    fn takes(&self, tenant: &Tenant, headers: &HeaderMap) -> bool {
        let id = tenant.id.as_str();
        let by_tenant = self.tenants.is_empty() || self.tenants.iter().any(|glob| glob.matches(id));
        let tier = tenant.block.tier.as_deref();
        let by_tier = self.tiers.is_empty() || self.tiers.iter().any(|one| Some(one.as_str()) == tier);
        let by_header = match &self.comparison {
            Some(comparison) if comparison.context == Context::Request => {
                let value = headers.get(&comparison.key).map(http::HeaderValue::as_bytes);
                (value == Some(comparison.value.as_bytes())) == comparison.equal
            }
            _ => true,
        };
        by_tenant && by_tier && by_header
    }

    fn goes_by_resource(&self) -> bool {
        self.comparison.as_ref().is_some_and(|comparison| comparison.context == Context::Resource)
    }

    fn takes_part(&self, draft: &Draft<'_>, part: PartId) -> bool {
        match &self.comparison {
            Some(comparison) if comparison.context == Context::Resource => {
                let value = draft.resource_attribute(part, &comparison.key);
                let is_equal = matches!(value, Some(Value::Str(text)) if text == comparison.value);
                is_equal == comparison.equal
            }
            _ => true,
        }
    }
}

/// Cuts a portion by the number of the first row that takes each resource; one past the last row: none.
fn cut(portion: Portion, rows: &[&Row], passage: &mut Passage<'_>) -> Vec<(usize, Portion)> {
    let Portion { tenant, batch } = portion;
    let Ok(body) = passage.index.read(batch.signal(), &batch.encoded(), &Limits::CHECKED) else {
        // It was written from a request that was checked; if it cannot be read, nothing matches.
        return vec![(rows.len(), Portion { tenant, batch })];
    };
    let mut draft = Draft::new(passage.index, &body, passage.edits);
    let mut numbers = BTreeMap::new();
    for part in draft.parts() {
        let number = rows.iter().position(|row| row.takes_part(&draft, part)).unwrap_or(rows.len());
        draft.assign(part, number as u32);
        numbers.insert(number, ());
    }
    if let (Some((number, ())), 0..=1) = (numbers.first_key_value(), numbers.len()) {
        return vec![(*number, Portion { tenant, batch })];
    }
    let mut ways = Vec::new();
    let mut pieces = Vec::new();
    for number in numbers.into_keys() {
        let items = draft.group_items(number as u32);
        if let Some(bytes) = draft.emit(number as u32) {
            ways.push(number);
            pieces.push((items, bytes));
        }
    }
    let batches = batch.cut(pieces).into_iter();
    ways.into_iter()
        .zip(batches)
        .map(|(way, batch)| (way, Portion { tenant: tenant.clone(), batch }))
        .collect()
}

/// Every pipeline gets the portion; the second and later ones a copy.
fn give(routed: &mut Routed, to: &[Arc<Pipeline>], portion: Portion) {
    let mut add = |pipeline: &Arc<Pipeline>, portion: Portion| match routed
        .iter_mut()
        .find(|(known, _)| Arc::ptr_eq(known, pipeline))
    {
        Some((_, portions)) => portions.push(portion),
        None => routed.push((pipeline.clone(), vec![portion])),
    };
    let Some((first, others)) = to.split_first() else { return };
    others.iter().for_each(|pipeline| add(pipeline, portion.copy()));
    add(first, portion);
}

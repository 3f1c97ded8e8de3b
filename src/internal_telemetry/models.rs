//! Items by model and version, in a bounded number of series.
//!
//! Labels only: what is exported always names the real version. Past a tenant's `max_model_versions`
//! further versions share `_other`, further names too; past [`ModelMetrics::MAX_SERIES`] tenants do.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::catalog;
use super::families::Families;
use super::metrics::Counter;
use crate::identity::TenantId;

/// The label of what is not told apart.
const OTHER: &str = "_other";
/// The longest label: more would cost every reader of the metrics.
const MAX_LABEL: usize = 128;

/// All counters of models.
#[derive(Debug, Default)]
pub struct ModelMetrics {
    tenants: RwLock<HashMap<TenantId, Arc<TenantModels>>>,
    series: AtomicUsize,
}

/// The counters of one tenant, by model and version.
#[derive(Debug, Default)]
pub struct TenantModels(RwLock<Vec<Version>>);

#[derive(Debug)]
struct Version {
    model: Box<str>,
    version: Box<str>,
    items: Counter,
}

impl ModelMetrics {
    /// The most series of all tenants together.
    pub const MAX_SERIES: usize = 10_000;

    /// The counters of a tenant's label; the same for the same label.
    pub fn of(&self, tenant: &TenantId) -> Arc<TenantModels> {
        if let Some(found) = self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return found.clone();
        }
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.series.load(Ordering::Relaxed) >= Self::MAX_SERIES;
        let key =
            if is_full && !tenants.contains_key(tenant) { TenantId::overflow() } else { tenant.clone() };
        tenants.entry(key).or_default().clone()
    }

    /// Counts items of a model; `most` is how many versions of this tenant are told apart.
    pub fn count(&self, tenant: &TenantModels, (name, version): (&str, &str), most: u64, items: u64) {
        let (name, version) = (label(name), label(version));
        if !tenant.add(name, version, items) {
            self.open(tenant, (name, version), most).add(items);
        }
    }

    /// The counter of a model met for the first time.
    fn open(&self, tenant: &TenantModels, (name, version): (&str, &str), most: u64) -> Counter {
        let mut versions = tenant.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = versions.iter().filter(|known| &*known.version != OTHER).count() as u64;
        let is_full = known >= most || self.series.load(Ordering::Relaxed) >= Self::MAX_SERIES;
        let (model, version) = match is_full {
            false => (name, version),
            true if versions.iter().any(|known| &*known.model == name) => (name, OTHER),
            true => (OTHER, OTHER),
        };
        let place = place(&versions, model, version).unwrap_or_else(|place| {
            self.series.fetch_add(1, Ordering::Relaxed);
            let (model, version) = (model.into(), version.into());
            versions.insert(place, Version { model, version, items: Counter::default() });
            place
        });
        versions[place].items.clone()
    }

    pub(super) fn read(&self, families: &mut Families) {
        let tenants: BTreeMap<TenantId, Arc<TenantModels>> = {
            let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
            tenants.iter().map(|(id, tenant)| (id.clone(), tenant.clone())).collect()
        };
        for (id, tenant) in tenants {
            for known in tenant.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
                let labels = [id.as_str(), &known.model, &known.version];
                families.add(&catalog::MODEL_ITEMS, &labels, known.items.get());
            }
        }
    }
}

impl TenantModels {
    /// Counts items of a model met before.
    fn add(&self, model: &str, version: &str, items: u64) -> bool {
        let versions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        place(&versions, model, version).is_ok_and(|place| {
            versions[place].items.add(items);
            true
        })
    }
}

/// Where a version stands, or would, among all in order.
fn place(versions: &[Version], model: &str, version: &str) -> Result<usize, usize> {
    versions.binary_search_by(|known| (&*known.model, &*known.version).cmp(&(model, version)))
}

fn label(text: &str) -> &str {
    if text.len() > MAX_LABEL { OTHER } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_past_a_tenants_bound_share_a_label() {
        let models = ModelMetrics::default();
        let tenant = models.of(&TenantId::unattributed());
        for version in 0..30 {
            models.count(&tenant, ("ranker", &format!("v{version}")), 20, 1);
        }
        models.count(&tenant, ("ranker", "v3"), 20, 1);
        models.count(&tenant, ("embedder", "v1"), 20, 1);
        models.count(&tenant, ("embedder", &"x".repeat(200)), 20, 1);
        let mut families = Families::default();
        models.read(&mut families);
        let sum = |labels: &[(&str, &str)]| families.sum("tollgate_model_items_total", labels);
        assert_eq!(sum(&[("model", "ranker"), ("model_version", "v3")]), 2.0);
        assert_eq!(sum(&[("model", "ranker"), ("model_version", "_other")]), 10.0);
        assert_eq!(sum(&[("model", "_other"), ("model_version", "_other")]), 2.0);
        assert_eq!(families.points("tollgate_model_items_total").len(), 22);
    }
}

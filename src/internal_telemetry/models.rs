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
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    series: AtomicUsize,
}

/// The versions of each model of one tenant.
#[derive(Debug, Default)]
struct Tenant(RwLock<HashMap<Box<str>, Versions>>);

type Versions = HashMap<Box<str>, Counter>;

impl ModelMetrics {
    /// The most series of all tenants together.
    pub const MAX_SERIES: usize = 10_000;

    /// Counts items of a model; `most` is how many versions of this tenant are told apart.
    pub fn count(&self, tenant: &TenantId, (name, version): (&str, &str), most: u64, items: u64) {
        let of_tenant = self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned();
        let of_tenant = of_tenant.unwrap_or_else(|| self.tenant(tenant));
        let (name, version) = (label(name), label(version));
        if !of_tenant.add(name, version, items) {
            self.open(&of_tenant, (name, version), most).add(items);
        }
    }

    fn tenant(&self, tenant: &TenantId) -> Arc<Tenant> {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.series.load(Ordering::Relaxed) >= Self::MAX_SERIES;
        let key =
            if is_full && !tenants.contains_key(tenant) { TenantId::overflow() } else { tenant.clone() };
        tenants.entry(key).or_default().clone()
    }

    /// The counter of a model met for the first time.
    fn open(&self, tenant: &Tenant, (name, version): (&str, &str), most: u64) -> Counter {
        let mut models = tenant.0.write().unwrap_or_else(PoisonError::into_inner);
        let told_apart =
            |versions: &Versions| versions.keys().filter(|version| &***version != OTHER).count() as u64;
        let known: u64 = models.values().map(told_apart).sum();
        let is_full = known >= most || self.series.load(Ordering::Relaxed) >= Self::MAX_SERIES;
        let (name, version) = match is_full {
            false => (name, version),
            true if models.contains_key(name) => (name, OTHER),
            true => (OTHER, OTHER),
        };
        let versions = models.entry(name.into()).or_default();
        let counter = versions.entry(version.into()).or_insert_with(|| {
            self.series.fetch_add(1, Ordering::Relaxed);
            Counter::default()
        });
        counter.clone()
    }

    pub(super) fn read(&self, families: &mut Families) {
        let tenants: BTreeMap<TenantId, Arc<Tenant>> = {
            let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
            tenants.iter().map(|(id, tenant)| (id.clone(), tenant.clone())).collect()
        };
        for (id, tenant) in tenants {
            let models = tenant.0.read().unwrap_or_else(PoisonError::into_inner);
            let sorted: BTreeMap<_, _> = models.iter().collect();
            for (name, versions) in sorted {
                let versions: BTreeMap<_, _> = versions.iter().collect();
                for (version, counter) in versions {
                    families.add(&catalog::MODEL_ITEMS, &[id.as_str(), name, version], counter.get());
                }
            }
        }
    }
}

impl Tenant {
    /// Counts items of a model met before.
    fn add(&self, name: &str, version: &str, items: u64) -> bool {
        let models = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let counter = models.get(name).and_then(|versions| versions.get(version));
        counter.is_some_and(|counter| {
            counter.add(items);
            true
        })
    }
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
        let tenant = TenantId::unattributed();
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

//! `tenant`: whose is it, which model made it, and do the tenant's limits let it in.

use std::sync::Arc;

use super::{Stop, Work};
use crate::internal_telemetry::ModelMetrics;
use crate::tenant::{Sender, attribute};

/// The processor `tenant`.
#[derive(Debug, Clone)]
pub struct Tenancy {
    models: Arc<ModelMetrics>,
}

impl Tenancy {
    /// A processor that counts items by model.
    pub fn new(models: Arc<ModelMetrics>) -> Self {
        Self { models }
    }

    /// Gives each resource to its tenant, and charges the tenant.
    pub(super) fn run(&self, work: &mut Work<'_>) -> Result<(), Stop> {
        let Work { directory, caller, claims, .. } = *work;
        let (pod, foretold) = (work.pod.as_ref(), work.admission.pass().foretold());
        let sender = Sender { directory, caller, claims: claims.headers(), foretold, pod };
        attribute(&sender, work.headers, &mut work.draft, &mut work.owners)?;
        self.count_models(work);
        work.admission.charge(work.directory, &mut work.draft, &mut work.owners)?;
        Ok(())
    }

    fn count_models(&self, work: &Work<'_>) {
        let enrichment = &work.directory.plan().enrichment;
        for part in work.draft.parts() {
            let text = |key: &str| work.draft.resource_attribute(part, key).and_then(|value| value.as_str());
            let Some(name) = text(&enrichment.model_name.attribute) else { continue };
            let version = text(&enrichment.model_version.attribute).unwrap_or_default();
            let owner = work.owners.owner(work.draft.group(part));
            let most = owner.block.limits.max_model_versions;
            let items = work.draft.part_items_left(part);
            let models = owner.models.get_or_init(|| self.models.of(owner.account.label()));
            self.models.count(models, (name, version), most, items);
        }
    }
}

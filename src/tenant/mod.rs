//! Whose data is it, and which model made it.
//!
//! A sender, proven or not, names tenants by claims (headers, resource attributes); the policies say which
//! it may name and what becomes of the rest. Not here: how much of a tenant's data may pass (`sampling`).
//! Invariant: every item of a request belongs to exactly one tenant, and its resource says so.

mod admission;
mod busiest;
mod claims;
mod directory;
mod enrichment;
pub mod limits;
mod meters;
mod owners;
mod table;
#[cfg(test)]
mod tests;

pub use admission::{Admission, LimitRefused, Pass};
pub use claims::{ClaimHeaders, Sender};
pub use directory::{Directory, Stored, Tenant};
pub use meters::{Metered, Meters};
pub use owners::Owners;
pub use table::{Class, Seat, Tenants};

use http::HeaderMap;

use crate::otlp::Draft;

/// Why a request's tenant cannot be told; nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    /// Nobody is proven, no tenant is named, and the policies refuse anonymous data.
    #[error("no tenant is named and policies refuse anonymous data")]
    Anonymous,
    /// The sender is known, but has no tenant and names none it may name.
    #[error("the sender may not send for this tenant")]
    NotAllowed,
    /// The header occurs twice: whichever is believed, somebody else might believe the other.
    #[error("header `{header}` occurs more than once")]
    Duplicate {
        /// The header's name.
        header: String,
    },
}

/// Gives each part of the request to its tenant and writes tenant and model to its resource.
///
/// # Errors
/// [`ClaimRefused`]: the whole request is refused.
pub fn attribute(
    sender: &Sender<'_>,
    headers: &HeaderMap,
    draft: &mut Draft<'_>,
    owners: &mut Owners,
) -> Result<(), ClaimRefused> {
    let enrichment = sender.directory.enrichment();
    let request = enrichment::About { headers, pod: sender.pod };
    let named = sender.named()?;
    for part in draft.parts() {
        let tenant = sender.tenant_of(&named, draft, part)?;
        tenant.sent_by(sender.caller);
        draft.assign(part, owners.group_of(&tenant));
        draft.set_resource_attribute(part, &enrichment.tenant_attribute, tenant.id.as_str());
        enrichment::write_model(enrichment, request, draft, part);
    }
    Ok(())
}

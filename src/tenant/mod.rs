//! Whose data is it, and which model made it.
//!
//! A request names its tenant by claims (headers, resource attributes); the policies say which claims
//! are believed and what becomes of the rest. Not here: how much of a tenant's data may pass (`sampling`).
//! Invariant: every item of a request belongs to exactly one tenant, and its resource says so.

mod busiest;
mod directory;
mod enrichment;
mod owners;
mod table;
#[cfg(test)]
mod tests;

pub use directory::{Directory, Tenant};
pub use owners::Owners;
pub use table::{Class, Seat, Tenants};

use std::sync::Arc;

use http::HeaderMap;

use crate::identity::TenantId;
use crate::otlp::{Draft, PartId};
use crate::policies::{Anonymous, Claim};

/// Why a request's tenant cannot be told; nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    /// No valid claim, and the policies refuse anonymous data.
    #[error("no tenant is named and policies refuse anonymous data")]
    Anonymous,
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
    directory: &Directory,
    headers: &HeaderMap,
    draft: &mut Draft<'_>,
    owners: &mut Owners,
) -> Result<(), ClaimRefused> {
    let claims = HeaderClaims::read(directory, headers)?;
    let enrichment = directory.enrichment();
    for part in draft.parts() {
        let tenant = claims.tenant_of(directory, draft, part)?;
        draft.assign(part, owners.group_of(&tenant));
        draft.set_resource_attribute(part, &enrichment.tenant_attribute, tenant.id.as_str());
        enrichment::write_model(enrichment, headers, draft, part);
    }
    Ok(())
}

/// What the headers of a request claim, in the order of the policies.
struct HeaderClaims(Vec<Option<Arc<Tenant>>>);

impl HeaderClaims {
    fn read(directory: &Directory, headers: &HeaderMap) -> Result<Self, ClaimRefused> {
        let mut found = Vec::with_capacity(directory.claims().len());
        for claim in directory.claims() {
            found.push(match claim {
                Claim::Header(name) => match header(headers, name)? {
                    Some(id) => directory.claimed(id),
                    None => None,
                },
                Claim::Resource(_) => None,
            });
        }
        Ok(Self(found))
    }

    /// The first claim that names a valid tenant, else what the policies say of anonymous data.
    fn tenant_of(
        &self,
        directory: &Directory,
        draft: &Draft<'_>,
        part: PartId,
    ) -> Result<Arc<Tenant>, ClaimRefused> {
        for (claim, header) in directory.claims().iter().zip(&self.0) {
            let claimed = match claim {
                Claim::Header(_) => header.clone(),
                Claim::Resource(key) => {
                    let value = draft.resource_attribute(part, key);
                    value.and_then(|value| value.as_str()).and_then(|id| directory.claimed(id))
                }
            };
            if let Some(tenant) = claimed {
                return Ok(tenant);
            }
        }
        match directory.anonymous() {
            Anonymous::Refuse => Err(ClaimRefused::Anonymous),
            Anonymous::Overflow => Ok(directory.tenant(&TenantId::overflow())),
            Anonymous::Tenant(id) => Ok(directory.tenant(id)),
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Result<Option<&'a str>, ClaimRefused> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        Some(_) => Err(ClaimRefused::Duplicate { header: name.as_str().to_owned() }),
        None => Ok(first.and_then(|value| value.to_str().ok())),
    }
}

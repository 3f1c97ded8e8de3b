//! Claims: the tenants a request names, and which of them its sender may name.
//!
//! A claim proves nothing. The first one that is there decides: it is honoured within what the caller may
//! assert, and handled by `on_mismatch` otherwise; what is no tenant id at all cannot be asserted by
//! anybody. Only where nothing authenticates is such a claim passed over, as if it were not there.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::{ClaimRefused, Directory, Tenant};
use crate::authentication::Caller;
use crate::identity::TenantId;
use crate::kubernetes::pods::Found;
use crate::otlp::{Draft, PartId};
use crate::policies::{Claim, OnMismatch};

/// The longest claim that is shown in a log line.
const SHOWN: usize = 150;

/// The headers in which tenants are named, taken out of a request: nothing but the decision about the
/// tenant sees them.
#[derive(Debug, Default)]
pub struct ClaimHeaders(HeaderMap);

impl ClaimHeaders {
    /// Takes the headers the policies name out of a request's headers.
    pub fn take(directory: &Directory, headers: &mut HeaderMap) -> Self {
        let mut taken = HeaderMap::new();
        for claim in directory.claims() {
            if let Claim::Header(name) = claim
                && let http::header::Entry::Occupied(entry) = headers.entry(name)
            {
                for value in entry.remove_entry_mult().1 {
                    taken.append(name, value);
                }
            }
        }
        Self(taken)
    }

    /// What was taken.
    pub fn headers(&self) -> &HeaderMap {
        &self.0
    }
}

/// Who sends a request, and what its headers claim.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The revision of the policies.
    pub directory: &'a Directory,
    /// Who sends, under that revision.
    pub caller: &'a Caller,
    /// The headers that may name tenants.
    pub claims: &'a HeaderMap,
    /// The tenant that was found by the headers before the body was read: it is looked up, and its request
    /// counted, once.
    pub foretold: Option<&'a Arc<Tenant>>,
    /// The pod at its address, for the model; never for the tenant.
    pub pod: Option<&'a Found>,
}

/// What one claim says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named<'a> {
    Nothing,
    Tenant(&'a str),
    /// Something that is no tenant id, or one of Tollgate's own.
    Nonsense,
}

/// What a claim comes to.
enum Judged {
    /// It says nothing, or nothing that counts.
    PassedOver,
    Honoured(Arc<Tenant>),
    /// It names what the caller may not name.
    Foreign,
}

impl<'a> Named<'a> {
    fn new(text: Option<&'a str>) -> Self {
        match text {
            Some("") => Named::Nothing,
            Some(text) if TenantId::check(text).is_ok() => Named::Tenant(text),
            _ => Named::Nonsense,
        }
    }
}

impl<'s> Sender<'s> {
    /// What the headers claim, in the order of the policies; claims of resources stand as nothing.
    pub(super) fn named(&self) -> Result<Vec<Named<'s>>, ClaimRefused> {
        let of_claim = |claim: &Claim| match claim {
            Claim::Header(name) => self.in_header(name),
            Claim::Resource(_) => Ok(Named::Nothing),
        };
        self.directory.claims().iter().map(of_claim).collect()
    }

    fn in_header(&self, name: &HeaderName) -> Result<Named<'s>, ClaimRefused> {
        let mut values = self.claims.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(Named::Nothing),
            (Some(value), None) => Ok(Named::new(value.to_str().ok())),
            _ => Err(ClaimRefused::Duplicate { header: name.as_str().to_owned() }),
        }
    }

    /// The tenant of a part.
    pub(super) fn tenant_of(
        &self,
        named: &[Named<'_>],
        draft: &Draft<'_>,
        part: PartId,
    ) -> Result<Arc<Tenant>, ClaimRefused> {
        for (claim, header) in self.directory.claims().iter().zip(named) {
            let named = match claim {
                Claim::Header(_) => *header,
                Claim::Resource(key) => {
                    let value = draft.resource_attribute(part, key);
                    value.map_or(Named::Nothing, |value| Named::new(value.as_str()))
                }
            };
            match self.judge(named) {
                Judged::PassedOver => {}
                Judged::Honoured(tenant) => return Ok(tenant),
                Judged::Foreign => {
                    self.note(claim, draft, part);
                    return self.mismatch();
                }
            }
        }
        self.own(ClaimRefused::Anonymous)
    }

    /// The tenant of every part, if the headers alone tell.
    ///
    /// # Errors
    /// [`ClaimRefused`]: the request will be refused whatever its body says.
    pub(super) fn foretold(&self) -> Result<Option<Arc<Tenant>>, ClaimRefused> {
        for (claim, named) in self.directory.claims().iter().zip(self.named()?) {
            match (claim, self.judge(named)) {
                (Claim::Resource(_), _) => return Ok(None),
                (_, Judged::PassedOver) => {}
                (_, Judged::Honoured(tenant)) => return Ok(Some(tenant)),
                (_, Judged::Foreign) => return self.mismatch().map(Some),
            }
        }
        self.own(ClaimRefused::Anonymous).map(Some)
    }

    fn judge(&self, named: Named<'_>) -> Judged {
        match named {
            Named::Nothing => Judged::PassedOver,
            Named::Tenant(id) if self.caller.may_assert(id) => {
                let own = self.caller.own.as_ref().is_some_and(|own| own.as_str() == id);
                let proven = own || self.caller.is_taken_at_its_word();
                let known = self.known(id, proven).or_else(|| self.directory.named(id, proven));
                known.map_or(Judged::PassedOver, Judged::Honoured)
            }
            Named::Nonsense if self.caller.is_believed() => Judged::PassedOver,
            Named::Tenant(_) | Named::Nonsense => Judged::Foreign,
        }
    }

    fn known(&self, id: &str, proven: bool) -> Option<Arc<Tenant>> {
        self.foretold.filter(|tenant| tenant.serves(id, proven)).cloned()
    }

    /// What becomes of a claim that the caller may not make.
    fn mismatch(&self) -> Result<Arc<Tenant>, ClaimRefused> {
        match self.directory.on_mismatch() {
            OnMismatch::Overwrite => self.own(ClaimRefused::NotAllowed),
            OnMismatch::Refuse => Err(ClaimRefused::NotAllowed),
            OnMismatch::Overflow => Ok(self.directory.tenant(&TenantId::overflow(), false)),
        }
    }

    /// The caller's own tenant, else what the policies say of data without one.
    fn own(&self, otherwise: ClaimRefused) -> Result<Arc<Tenant>, ClaimRefused> {
        let anonymous = self.directory.callers().anonymous();
        let own = match (&self.caller.own, &otherwise) {
            (Some(own), _) => Some(own),
            // A known sender without a tenant may fall back on nothing after it named a wrong one.
            (None, ClaimRefused::NotAllowed) => None,
            (None, _) => anonymous.own.as_ref(),
        };
        match own {
            // Proven, or set by the policies: no sender can invent it.
            Some(own) => {
                Ok(self.known(own.as_str(), true).unwrap_or_else(|| self.directory.tenant(own, true)))
            }
            None if self.caller.source.is_some() => Err(ClaimRefused::NotAllowed),
            None => Err(otherwise),
        }
    }

    /// For whoever looks for the sender of a foreign name; never above `debug`, for the text is the sender's.
    fn note(&self, claim: &Claim, draft: &Draft<'_>, part: PartId) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let claimed = match claim {
            Claim::Header(name) => {
                self.claims.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            }
            Claim::Resource(key) => {
                draft.resource_attribute(part, key).map(|value| value.to_text().into_owned())
            }
        };
        let claimed: String = claimed.unwrap_or_default().chars().take(SHOWN).collect();
        let (principal, source) = (&*self.caller.principal, self.caller.source.map(|source| source.as_str()));
        tracing::debug!(
            name: "tenant.mismatch",
            principal, source, "tenant.id.claimed" = ?claimed, "a sender names a tenant it may not name"
        );
    }
}

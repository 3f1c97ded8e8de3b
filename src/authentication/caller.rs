//! Who sends, and whose data it may send.

use std::sync::Arc;

use crate::identity::TenantId;
use crate::policies::glob::Glob;
use crate::policies::{Anonymous, Plan, SourceKind, Who};

/// A sender under one revision of the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What proved it; none: nothing was presented.
    pub source: Option<SourceKind>,
    /// Its name: a SPIFFE id, a subject, an account, the name of a key.
    pub principal: Arc<str>,
    /// The tenant its data belongs to unless it names another it may name.
    pub own: Option<TenantId>,
    reach: Reach,
}

/// The tenants a sender may name besides its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    /// Any: nothing authenticates, so claims are all there is.
    Anybody,
    These(Vec<Glob>),
}

impl Caller {
    /// A sender that proves nothing.
    pub fn anonymous(plan: &Plan) -> Self {
        let identity = &plan.identity;
        let listed = identity.principals.iter().find(|entry| entry.who == Who::Anonymous);
        let reach = match listed {
            Some(entry) => Reach::These(entry.may_assert.clone()),
            None if identity.authenticate.is_empty() => Reach::Anybody,
            None => Reach::These(Vec::new()),
        };
        let fallback = match &plan.anonymous {
            Anonymous::Refuse => None,
            Anonymous::Overflow => Some(TenantId::overflow()),
            Anonymous::Tenant(id) => Some(id.clone()),
        };
        let own = listed.and_then(|entry| entry.tenant.clone()).or(fallback);
        Self { source: None, principal: "anonymous".into(), own, reach }
    }

    /// A sender whose name is proven; `tenant` is what the source says of it.
    pub(super) fn proven(plan: &Plan, source: SourceKind, principal: &str, tenant: Option<TenantId>) -> Self {
        let is_about = |who: &Who| match who {
            Who::Anonymous => false,
            Who::Named(glob, kind) => kind.is_none_or(|kind| kind == source) && glob.matches(principal),
        };
        let entry = plan.identity.principals.iter().find(|entry| is_about(&entry.who));
        Self {
            source: Some(source),
            principal: principal.into(),
            own: entry.and_then(|entry| entry.tenant.clone()).or(tenant),
            reach: Reach::These(entry.map(|entry| entry.may_assert.clone()).unwrap_or_default()),
        }
    }

    /// Whether it may send as this tenant.
    pub fn may_assert(&self, tenant: &str) -> bool {
        match &self.reach {
            Reach::Anybody => true,
            Reach::These(globs) => {
                self.own.as_ref().is_some_and(|own| own.as_str() == tenant)
                    || globs.iter().any(|glob| glob.matches(tenant))
            }
        }
    }

    /// Whether what it may name counts as proven: it showed who it is, or nobody can.
    pub fn is_taken_at_its_word(&self) -> bool {
        self.source.is_some() || self.is_believed()
    }

    /// Whether it may name any tenant because nothing authenticates.
    pub fn is_believed(&self) -> bool {
        self.reach == Reach::Anybody
    }

    /// Whether it may send although it proves nothing: there is a tenant its data can belong to.
    pub(super) fn may_stay_unknown(&self) -> bool {
        match &self.reach {
            Reach::Anybody => true,
            Reach::These(globs) => self.own.is_some() || !globs.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::parse;
    use crate::yaml::Source;

    fn plan(identity: &str) -> Plan {
        let text = format!("version: 1\nrules: []\nidentity: {identity}\n");
        parse(&Source::new("p.yaml", text), jiff::Timestamp::UNIX_EPOCH).unwrap().0
    }

    fn id(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    #[test]
    fn a_principal_may_name_its_own_tenant_and_those_listed() {
        let plan = plan(
            "{ authenticate: [{ mtls: {} }], principals: [
                { principal: \"gw-*\", source: mtls, may_assert: [\"*\"] },
                { principal: ci, tenant: builds, may_assert: [a, \"b-*\"] } ] }",
        );
        let proven =
            |source, name: &str, tenant: Option<&str>| Caller::proven(&plan, source, name, tenant.map(id));
        let check = |caller: &Caller, tenant: &str, expected: bool| {
            assert_eq!(caller.may_assert(tenant), expected, "{caller:?} {tenant}");
        };
        let gateway = proven(SourceKind::Mtls, "gw-1", None);
        check(&gateway, "anybody", true);
        // The same name from another source is another principal.
        check(&proven(SourceKind::Jwt, "gw-1", Some("acme")), "anybody", false);
        let ci = proven(SourceKind::Jwt, "ci", Some("acme"));
        assert_eq!(ci.own, Some(id("builds")));
        for (tenant, expected) in
            [("builds", true), ("a", true), ("b-1", true), ("acme", false), ("ab", false)]
        {
            check(&ci, tenant, expected);
        }
        let other = proven(SourceKind::ApiKey, "other", Some("acme"));
        check(&other, "acme", true);
        check(&other, "Acme", false);
        check(&other, "acme2", false);
    }

    #[test]
    fn a_principal_named_anonymous_is_not_the_unknown_sender() {
        let plan = plan(
            "{ authenticate: [{ mtls: {} }], principals: [{ principal: anonymous, may_assert: [\"*\"] }] }",
        );
        assert!(Caller::anonymous(&plan).may_assert("acme"));
        assert!(!Caller::proven(&plan, SourceKind::Jwt, "anonymous", None).may_assert("acme"));
    }

    #[test]
    fn who_proves_nothing_is_believed_only_where_nothing_authenticates() {
        let check = |identity: &str, believed: bool, stays: bool| {
            let caller = Caller::anonymous(&plan(identity));
            assert_eq!((caller.is_believed(), caller.may_stay_unknown()), (believed, stays), "{identity}");
        };
        check("{ claims: [{ header: x }] }", true, true);
        check("{ authenticate: [{ mtls: {} }] }", false, false);
        check("{ authenticate: [{ mtls: {} }], anonymous: overflow }", false, true);
        check("{ authenticate: [{ mtls: {} }], anonymous: tenant:public }", false, true);
        check("{ principals: [{ principal: anonymous, may_assert: [a] }] }", false, true);
    }
}

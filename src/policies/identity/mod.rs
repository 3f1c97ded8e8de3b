//! Reads `identity.authenticate`, `.principals` and `.on_mismatch`: who proves what, and what that permits.
//!
//! Not here: proving (`authentication`), claims (`document`). Invariant: a source names only verifiers
//! that run, as far as it is known which do.

use super::glob::Glob;
use super::pattern::TenantPattern;
use super::plan::PodText;
use super::reader::{At, Keys};
use crate::identity::TenantId;
use crate::yaml::{Problems, did_you_mean};

/// The longest name of a verifier, a claim or a principal.
const MAX_NAME: usize = 256;
/// A list longer than this would make every look-up dear.
const MAX_SOURCES: usize = 16;
/// As many principals can be told apart by one file.
const MAX_PRINCIPALS: usize = 10_000;
/// Stands for whoever proves nothing.
const ANONYMOUS: &str = "anonymous";

/// Who may speak for whom.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Identity {
    /// How a sender proves who it is, in the order they are tried; empty: claims are believed.
    pub authenticate: Vec<Source>,
    /// What principals may do, the first that matches.
    pub principals: Vec<Principal>,
    /// What becomes of a claim its principal may not make.
    pub on_mismatch: OnMismatch,
}

/// A kind of proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A client's certificate.
    Mtls,
    /// A signed token.
    Jwt,
    /// The token of a Kubernetes service account.
    ServiceAccount,
    /// A key of the sender's own.
    ApiKey,
    /// The address the sender connects from, which is a pod's.
    Pod,
}

impl SourceKind {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [SourceKind; 5] =
        [SourceKind::Mtls, SourceKind::Jwt, SourceKind::ServiceAccount, SourceKind::ApiKey, SourceKind::Pod];

    /// The key in policies and the label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            SourceKind::Mtls => "mtls",
            SourceKind::Jwt => "jwt",
            SourceKind::ServiceAccount => "service_account",
            SourceKind::ApiKey => "api_key",
            SourceKind::Pod => "pod",
        }
    }

    /// The type of the extension that verifies it.
    fn extension(self) -> &'static str {
        match self {
            SourceKind::ApiKey => "api_keys",
            SourceKind::Pod => PODS,
            other => other.as_str(),
        }
    }
}

/// One way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A certificate the receiver's authorities signed.
    Mtls {
        /// Which names of it count.
        names: Names,
        /// Where the tenant is in them; none: `principals` says.
        tenant: Option<TenantPattern>,
    },
    /// A token that an extension `jwt` verifies.
    Jwt {
        /// The extension's id.
        verifier: String,
        /// The claim that holds the tenant; none: `principals` says.
        tenant: Option<String>,
    },
    /// A token that an extension `service_account` verifies; the tenant is the namespace.
    ServiceAccount {
        /// The extension's id.
        verifier: String,
    },
    /// A key that an extension `api_keys` verifies.
    ApiKey {
        /// The extension's id.
        verifier: String,
        /// Where the tenant is in the key's name; none: `principals` says.
        tenant: Option<TenantPattern>,
    },
    /// The pod at the sender's address, which the API server tells; its name is `<namespace>/<pod>`.
    Pod {
        /// What names the tenant: the first that is there.
        tenant: Vec<PodText>,
    },
}

impl Source {
    /// What kind of proof it takes.
    pub fn kind(&self) -> SourceKind {
        match self {
            Source::Mtls { .. } => SourceKind::Mtls,
            Source::Jwt { .. } => SourceKind::Jwt,
            Source::ServiceAccount { .. } => SourceKind::ServiceAccount,
            Source::ApiKey { .. } => SourceKind::ApiKey,
            Source::Pod { .. } => SourceKind::Pod,
        }
    }

    /// What it asks of pods and namespaces.
    pub(super) fn pod_texts(&self) -> &[PodText] {
        match self {
            Source::Pod { tenant } => tenant,
            _ => &[],
        }
    }

    /// The extension it needs.
    pub fn verifier(&self) -> Option<&str> {
        match self {
            Source::Mtls { .. } => None,
            Source::Pod { .. } => Some(PODS),
            Source::Jwt { verifier, .. }
            | Source::ServiceAccount { verifier }
            | Source::ApiKey { verifier, .. } => Some(verifier),
        }
    }
}

/// Which names of a certificate count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// URIs of the alternative names: SPIFFE ids.
    #[default]
    Uri,
    /// DNS names of the alternative names.
    Dns,
    /// The subject's common name.
    CommonName,
}

/// What a principal may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Whom it is about.
    pub who: Who,
    /// Its own tenant, in place of what its source says.
    pub tenant: Option<TenantId>,
    /// The tenants it may name besides its own.
    pub may_assert: Vec<Glob>,
}

/// Whom an entry of `principals` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Senders that prove nothing.
    Anonymous,
    /// Principals by name and, if said, by what proved them.
    Named(Glob, Option<SourceKind>),
}

/// What becomes of a claim its principal may not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMismatch {
    /// The data belongs to the principal's own tenant.
    #[default]
    Overwrite,
    /// The request is refused.
    Refuse,
    /// The data belongs to `_overflow`.
    Overflow,
}

/// The id under which the watch of pods is among the verifiers.
const PODS: &str = "pods";

const SOURCES: Keys = Keys { known: &["mtls", "jwt", "service_account", "api_key", "pod"], later: &[] };
const PRINCIPAL: Keys = Keys { known: &["principal", "source", "tenant", "may_assert"], later: &[] };

/// Reads the three keys below `identity`; `verifiers` are the ids of those that run, if that is known.
pub(super) fn read(identity: &At<'_>, verifiers: Option<&[String]>, problems: &mut Problems) -> Identity {
    let authenticate: Vec<Source> = identity
        .key("authenticate")
        .map(|list| {
            let items = list.items(problems);
            if items.len() > MAX_SOURCES {
                list.error(problems, format!("names {} sources; allowed are {MAX_SOURCES}", items.len()));
            }
            items.iter().filter_map(|item| read_source(item, verifiers, problems)).collect()
        })
        .unwrap_or_default();
    let mut read = Identity { authenticate, ..Identity::default() };
    if let Some(list) = identity.key("principals") {
        let items = list.items(problems);
        if items.len() > MAX_PRINCIPALS {
            list.error(problems, format!("has {} entries; allowed are {MAX_PRINCIPALS}", items.len()));
        }
        let proven = identity.has("authenticate");
        read.principals = items.iter().filter_map(|item| read_principal(item, proven, problems)).collect();
    }
    if let Some(value) = identity.key("on_mismatch") {
        let choices = [
            ("overwrite", OnMismatch::Overwrite),
            ("refuse", OnMismatch::Refuse),
            ("overflow", OnMismatch::Overflow),
        ];
        read.on_mismatch = value.choice(&choices, problems).unwrap_or_default();
        if read.authenticate.is_empty() && read.principals.is_empty() {
            value.error(problems, "has no effect: without `authenticate` every claim is believed");
        }
    }
    read
}

fn read_source(at: &At<'_>, verifiers: Option<&[String]>, problems: &mut Problems) -> Option<Source> {
    if !at.check_keys(&SOURCES, problems) {
        return None;
    }
    let kinds: Vec<SourceKind> = SourceKind::ALL.into_iter().filter(|kind| at.has(kind.as_str())).collect();
    let [kind] = kinds[..] else {
        let message = "a source is exactly one of `mtls`, `jwt`, `service_account`, `api_key` and `pod`";
        at.error(problems, message);
        return None;
    };
    let body = at.key(kind.as_str())?;
    let known: &'static [&'static str] = match kind {
        SourceKind::Mtls => &["names", "tenant"],
        SourceKind::Jwt | SourceKind::ApiKey => &["verifier", "tenant"],
        SourceKind::ServiceAccount => &["verifier"],
        SourceKind::Pod => &["tenant"],
    };
    if !body.check_keys(&Keys { known, later: &[] }, problems) {
        return None;
    }
    let verifier = match kind {
        SourceKind::Mtls => String::new(),
        SourceKind::Pod => {
            check_pods(&body, verifiers, problems);
            String::new()
        }
        kind => read_verifier(&body, kind, verifiers, problems)?,
    };
    Some(match kind {
        SourceKind::Mtls => {
            let choices = [("uri", Names::Uri), ("dns", Names::Dns), ("common_name", Names::CommonName)];
            let names = body.key("names").and_then(|value| value.choice(&choices, problems));
            let names = names.unwrap_or_default();
            let separator = if names == Names::Dns { '.' } else { '/' };
            Source::Mtls { names, tenant: read_pattern(&body, separator, problems)? }
        }
        SourceKind::Jwt => {
            let tenant = body.key("tenant").and_then(|value| value.short_text(MAX_NAME, problems));
            Source::Jwt { verifier, tenant: tenant.map(str::to_owned) }
        }
        SourceKind::ServiceAccount => Source::ServiceAccount { verifier },
        SourceKind::ApiKey => Source::ApiKey { verifier, tenant: read_pattern(&body, '/', problems)? },
        SourceKind::Pod => Source::Pod { tenant: read_pod_tenant(&body, problems)? },
    })
}

/// Somebody must know the pods.
fn check_pods(body: &At<'_>, verifiers: Option<&[String]>, problems: &mut Problems) {
    if verifiers.is_some_and(|running| !running.iter().any(|id| id == PODS)) {
        let help = "list the extension `pods` in service.extensions, or use the processor `k8s_attributes`";
        body.error_with(problems, "collector.yaml watches no pods", help);
    }
}

/// The ordered list of what names the tenant.
fn read_pod_tenant(body: &At<'_>, problems: &mut Problems) -> Option<Vec<PodText>> {
    let Some(list) = body.key("tenant") else { return Some(vec![PodText::Namespace]) };
    let items = list.items(problems);
    if items.is_empty() || items.len() > MAX_SOURCES {
        list.error(problems, format!("names {} places; allowed are 1 to {MAX_SOURCES}", items.len()));
        return None;
    }
    let mut places = Vec::new();
    for item in &items {
        let Some(place) = PodText::parse(item.short_text(MAX_NAME, problems)?) else {
            let help = "write namespace, namespace_label.<k>, namespace_annotation.<k>, pod_label.<k> or \
                        pod_annotation.<k>";
            item.error_with(problems, "this is nothing a pod or its namespace says", help);
            return None;
        };
        if place.is_the_pods_own() {
            let message = "whoever may create pods decides whose data it is";
            let help = "take a label of the namespace, which its administrator sets";
            item.warning(problems, message, help);
        }
        places.push(place);
    }
    Some(places)
}

/// `Some(None)` if there is no pattern, `None` if there is a bad one.
#[expect(clippy::option_option, reason = "absent and unusable are told apart")]
fn read_pattern(body: &At<'_>, separator: char, problems: &mut Problems) -> Option<Option<TenantPattern>> {
    let Some(value) = body.key("tenant") else { return Some(None) };
    match TenantPattern::new(value.short_text(MAX_NAME, problems)?, separator) {
        Ok(pattern) => Some(Some(pattern)),
        Err(bad) => {
            let help = "for example spiffe://prod.example/ns/{tenant}/sa/*; `*` stays within a segment";
            value.error_with(problems, bad.to_string(), help);
            None
        }
    }
}

/// The id of the extension: written whole (`jwt/prod`), or only its name (`prod`).
fn read_verifier(
    body: &At<'_>,
    kind: SourceKind,
    verifiers: Option<&[String]>,
    problems: &mut Problems,
) -> Option<String> {
    let Some(value) = body.key("verifier") else {
        body.error_with(problems, "`verifier` is missing", "name an extension of collector.yaml");
        return None;
    };
    let written = value.short_text(MAX_NAME, problems)?;
    let extension = kind.extension();
    let whole = written == extension || written.split('/').next() == Some(extension);
    let id = if whole { written.to_owned() } else { format!("{extension}/{written}") };
    let Some(running) = verifiers else { return Some(id) };
    if !running.contains(&id) {
        let of_kind = running.iter().filter(|id| id.split('/').next() == Some(extension));
        let names: Vec<&str> = of_kind.map(String::as_str).collect();
        let there = match names.as_slice() {
            [] => format!("no extension `{extension}` runs; service.extensions must list it"),
            names => format!("running: {}", names.join(", ")),
        };
        let help = match did_you_mean(&id, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?\n{there}"),
            None => there,
        };
        value.error_with(problems, format!("collector.yaml runs no verifier `{id}`"), help);
    }
    Some(id)
}

fn read_principal(at: &At<'_>, proven: bool, problems: &mut Problems) -> Option<Principal> {
    if !at.check_keys(&PRINCIPAL, problems) {
        return None;
    }
    let Some(value) = at.key("principal") else {
        at.error(problems, "`principal` is missing");
        return None;
    };
    let text = value.short_text(MAX_NAME, problems)?;
    let kinds = SourceKind::ALL.map(|kind| (kind.as_str(), kind));
    let kind = at.key("source").and_then(|value| value.choice(&kinds, problems));
    let tenant = at.key("tenant").and_then(|value| match TenantId::new(value.text(problems)?) {
        Ok(id) => Some(id),
        Err(bad) => {
            value.error(problems, bad.to_string());
            None
        }
    });
    let may_assert = at.key("may_assert").map(|list| list.items(problems)).unwrap_or_default();
    let may_assert: Vec<Glob> = may_assert.iter().filter_map(|item| read_tenants(item, problems)).collect();
    if !at.has("tenant") && !at.has("may_assert") {
        at.error(problems, "says nothing: give `tenant`, `may_assert` or both");
    }
    if text == ANONYMOUS && kind.is_none() {
        let message = "anybody who can connect may send as the tenants of this entry";
        value.warning(problems, message, "leave it out unless the network in front decides who connects");
        return Some(Principal { who: Who::Anonymous, tenant, may_assert });
    }
    if !proven {
        let message = "never applies: without `authenticate` nobody is known by name";
        value.error_with(problems, message, "list a source in identity.authenticate");
    }
    match Glob::new(text) {
        Ok(glob) => Some(Principal { who: Who::Named(glob, kind), tenant, may_assert }),
        Err(bad) => {
            value.error(problems, bad.to_string());
            None
        }
    }
}

fn read_tenants(at: &At<'_>, problems: &mut Problems) -> Option<Glob> {
    let report = |message: String, problems: &mut Problems| {
        at.error(problems, message);
        None
    };
    match Glob::new(at.short_text(MAX_NAME, problems)?) {
        Err(bad) => report(bad.to_string(), problems),
        Ok(glob) => match glob.literal().map(|id| TenantId::check(&id)) {
            Some(Err(bad)) => report(bad.to_string(), problems),
            _ => Some(glob),
        },
    }
}

#[cfg(test)]
mod tests;

//! The walk over `identity.authenticate`: the first source that yields a principal wins.
//!
//! It runs on the spot as long as everything asked is remembered or can be computed; where somebody must be
//! asked, the rest of the walk becomes a future. Invariant: the order of the policies decides, never who
//! answers first.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::jwt::{Jwt, Reading};
use super::service_account::Reviewer;
use super::{
    Caller, Callers, Key, Known, NEGATIVE, OF_CERTIFICATE, Proven, Unproven, Verdict, Verifier, Verifiers,
    pod, sha256,
};
use crate::identity::TenantId;
use crate::internal_telemetry::{AuthenticationMetrics, AuthenticationOutcome as Outcome};
use crate::policies::{Names, ProofSource, SourceKind, TenantPattern};
use crate::tls::PeerCertificate;

/// The longest credential that is looked at.
const MAX_CREDENTIAL: usize = 16 << 10;

/// What a sender presents.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The headers or gRPC metadata.
    pub headers: &'a HeaderMap,
    /// The certificate of the connection.
    pub certificate: Option<&'a Arc<PeerCertificate>>,
    /// The address at its other end; absent on unix sockets.
    pub address: Option<IpAddr>,
}

/// Who it is, or the wait for it.
pub enum Authenticating {
    /// Known on the spot.
    Ready(Result<Arc<Caller>, Unproven>),
    /// Somebody is asked, with a deadline.
    Waiting(Pin<Box<dyn Future<Output = Result<Arc<Caller>, Unproven>> + Send>>),
}

/// What one source says.
pub(super) enum Asked {
    /// Nothing was presented that it looks at.
    Absent,
    Invalid,
    Unavailable,
    Caller(Arc<Caller>),
    /// Somebody must be asked.
    Wait,
}

/// A text that a header carries, or that it is no good.
enum Presented<'a> {
    Absent,
    Bad,
    Text(&'a str),
}

/// The walk so far.
#[derive(Default)]
struct Failed {
    invalid: Vec<SourceKind>,
    unavailable: Vec<SourceKind>,
}

impl Verifiers {
    /// Tells who sends. Counts what came of it.
    pub fn authenticate(
        &self,
        callers: &Arc<Callers>,
        metrics: &Arc<AuthenticationMetrics>,
        credentials: Credentials<'_>,
    ) -> Authenticating {
        let mut failed = Failed::default();
        for (index, source) in callers.plan.identity.authenticate.iter().enumerate() {
            match self.ask(callers, index, source, credentials) {
                Asked::Wait => {
                    let (verifiers, callers, metrics) = (self.clone(), callers.clone(), metrics.clone());
                    let headers = credentials.headers.clone();
                    let certificate = credentials.certificate.cloned();
                    let address = credentials.address;
                    return Authenticating::Waiting(Box::pin(async move {
                        let credentials =
                            Credentials { headers: &headers, certificate: certificate.as_ref(), address };
                        verifiers.patiently(&callers, &metrics, (index, failed), credentials).await
                    }));
                }
                Asked::Caller(caller) => {
                    metrics.count(caller.source, Outcome::Accepted);
                    return Authenticating::Ready(Ok(caller));
                }
                other => failed.add(source, &other),
            }
        }
        Authenticating::Ready(failed.verdict(callers, metrics))
    }

    /// The walk from `first` on, waiting where it must.
    async fn patiently(
        &self,
        callers: &Callers,
        metrics: &AuthenticationMetrics,
        (first, mut failed): (usize, Failed),
        credentials: Credentials<'_>,
    ) -> Result<Arc<Caller>, Unproven> {
        for (index, source) in callers.plan.identity.authenticate.iter().enumerate().skip(first) {
            let asked = match self.ask(callers, index, source, credentials) {
                Asked::Wait => self.wait(callers, index, source, credentials).await,
                asked => asked,
            };
            if let Asked::Caller(caller) = asked {
                metrics.count(caller.source, Outcome::Accepted);
                return Ok(caller);
            }
            failed.add(source, &asked);
        }
        failed.verdict(callers, metrics)
    }

    fn ask(&self, callers: &Callers, index: usize, source: &ProofSource, shown: Credentials<'_>) -> Asked {
        let verifier = source.verifier().and_then(|id| self.0.get(id));
        match (source, verifier) {
            (ProofSource::Mtls { names, tenant }, _) => match shown.certificate {
                None => Asked::Absent,
                Some(certificate) => ask_certificate(callers, index, (*names, tenant.as_ref()), certificate),
            },
            (ProofSource::Jwt { tenant, .. }, Some(Verifier::Jwt(jwt))) => {
                with_text(bearer(shown.headers), |token| {
                    ask_token(callers, index, (jwt, tenant.as_deref()), token)
                })
            }
            (ProofSource::ServiceAccount { .. }, Some(Verifier::ServiceAccount(reviewer))) => {
                with_text(bearer(shown.headers), |token| ask_account(callers, index, reviewer, token))
            }
            (ProofSource::ApiKey { tenant, .. }, Some(Verifier::ApiKeys(verifier))) => {
                let shown = match verifier.header() == AUTHORIZATION {
                    true => bearer(shown.headers),
                    false => header(shown.headers, verifier.header()),
                };
                with_text(shown, |key| match verifier.current() {
                    None => Asked::Unavailable,
                    Some(keys) => {
                        let digest = sha256(key);
                        match keys.find(&digest) {
                            None => Asked::Invalid,
                            Some(name) => {
                                let key = Key { source: index, stamp: keys.stamp, digest };
                                callers.remembered(key, || of_name(name, tenant.as_ref(), OF_CERTIFICATE))
                            }
                        }
                    }
                })
            }
            (ProofSource::Pod { tenant }, Some(Verifier::Pods(pods))) => {
                pod::ask(callers, index, (pods, tenant), shown.address)
            }
            // The policies want a verifier that this configuration, about to be replaced, does not run.
            _ => Asked::Unavailable,
        }
    }

    /// Asks whoever must be asked, then once more.
    async fn wait(
        &self,
        callers: &Callers,
        index: usize,
        source: &ProofSource,
        shown: Credentials<'_>,
    ) -> Asked {
        let Presented::Text(token) = bearer(shown.headers) else { return Asked::Invalid };
        match source.verifier().and_then(|id| self.0.get(id)) {
            Some(Verifier::Jwt(jwt)) => {
                jwt.refreshed().await;
                match self.ask(callers, index, source, shown) {
                    Asked::Wait if jwt.keys().is_some() => Asked::Invalid,
                    Asked::Wait => Asked::Unavailable,
                    asked => asked,
                }
            }
            Some(Verifier::ServiceAccount(reviewer)) => {
                let digest = sha256(token);
                let verdict = reviewer.review(token, digest).await;
                callers.remember(Key { source: index, stamp: reviewer.stamp, digest }, verdict)
            }
            _ => Asked::Unavailable,
        }
    }
}

fn ask_certificate(
    callers: &Callers,
    index: usize,
    (names, tenant): (Names, Option<&TenantPattern>),
    certificate: &PeerCertificate,
) -> Asked {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The handshake looked once; a connection may outlive its certificate.
    if i64::try_from(now.as_secs()).is_ok_and(|now| now > certificate.not_after) {
        return Asked::Invalid;
    }
    let key = Key { source: index, stamp: 0, digest: certificate.digest };
    callers.remembered(key, || {
        let names = match names {
            Names::Uri => &certificate.uris,
            Names::Dns => &certificate.dns_names,
            Names::CommonName => &certificate.common_names,
        };
        let mut found = names.iter().filter_map(|name| match tenant {
            None => Some((name, None)),
            Some(pattern) => Some((name, Some(pattern.tenant(name)?))),
        });
        match (found.next(), found.next()) {
            (Some((name, tenant)), None) => Verdict::Proven(Proven {
                principal: name.clone(),
                tenant: tenant.map(str::to_owned),
                lifetime: OF_CERTIFICATE,
            }),
            // Several names: nobody can tell which of them was meant.
            _ => Verdict::Invalid,
        }
    })
}

fn ask_token(callers: &Callers, index: usize, (jwt, tenant): (&Jwt, Option<&str>), token: &str) -> Asked {
    let Some(keys) = jwt.keys() else {
        return if jwt.may_refresh() { Asked::Wait } else { Asked::Unavailable };
    };
    let key = Key { source: index, stamp: keys.stamp, digest: sha256(token) };
    if let Some(known) = callers.known.get(&key) {
        return known.into();
    }
    match jwt.read(&keys, token, tenant) {
        Reading::Proven(proven) => callers.remember(key, Verdict::Proven(proven)),
        Reading::UnknownKey if jwt.may_refresh() => Asked::Wait,
        // Not remembered: the key may be known in a moment.
        Reading::UnknownKey => Asked::Invalid,
        Reading::Invalid => callers.remember(key, Verdict::Invalid),
    }
}

fn ask_account(callers: &Callers, index: usize, reviewer: &Reviewer, token: &str) -> Asked {
    let key = Key { source: index, stamp: reviewer.stamp, digest: sha256(token) };
    match callers.known.get(&key) {
        Some(known) => known.into(),
        None if Reviewer::is_candidate(token) => Asked::Wait,
        None => Asked::Invalid,
    }
}

/// What the name of a key proves; a name outside the pattern proves nothing here.
fn of_name(name: &str, tenant: Option<&TenantPattern>, lifetime: Duration) -> Verdict {
    let tenant = match tenant {
        None => None,
        Some(pattern) => match pattern.tenant(name) {
            None => return Verdict::Invalid,
            Some(tenant) => Some(tenant.to_owned()),
        },
    };
    Verdict::Proven(Proven { principal: name.to_owned(), tenant, lifetime })
}

impl Callers {
    pub(super) fn remembered(&self, key: Key, verdict: impl FnOnce() -> Verdict) -> Asked {
        match self.known.get(&key) {
            Some(known) => known.into(),
            None => self.remember(key, verdict()),
        }
    }

    /// Keeps what a verifier found; a tenant that is no tenant id spoils the proof.
    fn remember(&self, key: Key, verdict: Verdict) -> Asked {
        let (proven, lifetime) = match verdict {
            Verdict::Unavailable => return Asked::Unavailable,
            Verdict::Invalid => (None, NEGATIVE),
            Verdict::Proven(proven) => {
                let lifetime = proven.lifetime;
                (Some(proven), lifetime)
            }
        };
        let kind = self.plan.identity.authenticate[key.source].kind();
        let caller = proven.and_then(|proven| {
            let tenant = proven.tenant.as_deref().map(TenantId::new).transpose();
            let tenant = tenant.inspect_err(|why| {
                let source = kind.as_str();
                tracing::debug!(name: "authentication.bad_tenant", source, %why, "a proven tenant is no tenant id");
            });
            Some(Arc::new(Caller::proven(&self.plan, kind, &proven.principal, tenant.ok()?)))
        });
        let lifetime = if caller.is_some() { lifetime } else { NEGATIVE };
        let known = Known { caller, lifetime };
        self.known.insert(key, known.clone());
        known.into()
    }
}

impl From<Known> for Asked {
    fn from(known: Known) -> Self {
        known.caller.map_or(Asked::Invalid, Asked::Caller)
    }
}

impl Failed {
    fn add(&mut self, source: &ProofSource, asked: &Asked) {
        match asked {
            Asked::Invalid => self.invalid.push(source.kind()),
            Asked::Unavailable => self.unavailable.push(source.kind()),
            Asked::Absent | Asked::Wait | Asked::Caller(_) => {}
        }
    }

    /// What becomes of a sender that no source knows.
    fn verdict(&self, callers: &Callers, metrics: &AuthenticationMetrics) -> Result<Arc<Caller>, Unproven> {
        for source in &self.unavailable {
            metrics.count(Some(*source), Outcome::Unavailable);
        }
        for source in &self.invalid {
            metrics.count(Some(*source), Outcome::Invalid);
        }
        if !self.unavailable.is_empty() {
            return Err(Unproven::Unavailable);
        }
        if !self.invalid.is_empty() {
            return Err(Unproven::Invalid);
        }
        if !callers.anonymous.may_stay_unknown() {
            metrics.count(None, Outcome::Invalid);
            return Err(Unproven::Missing);
        }
        metrics.count(None, Outcome::Accepted);
        Ok(callers.anonymous.clone())
    }
}

fn with_text(presented: Presented<'_>, ask: impl FnOnce(&str) -> Asked) -> Asked {
    match presented {
        Presented::Absent => Asked::Absent,
        Presented::Bad => Asked::Invalid,
        Presented::Text(text) => ask(text),
    }
}

/// The token of `Authorization: Bearer TOKEN`; another scheme is no token.
fn bearer(headers: &HeaderMap) -> Presented<'_> {
    match header(headers, &AUTHORIZATION) {
        Presented::Text(text) => match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                Presented::Text(token.trim())
            }
            _ => Presented::Bad,
        },
        other => other,
    }
}

/// The one value of a header; two are one too many, whichever is meant.
fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Presented<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Presented::Absent,
        (Some(value), None) => match value.to_str() {
            Ok(text) if text.len() <= MAX_CREDENTIAL => Presented::Text(text),
            _ => Presented::Bad,
        },
        _ => Presented::Bad,
    }
}

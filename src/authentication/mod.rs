//! Who sends: a principal, proven from the headers or the client's certificate before a body is read.
//!
//! ```text
//! identity.authenticate, in order            cache (of one revision of the policies)
//!   certificate | bearer token | key ──▶ (source, keys' stamp, digest) ──▶ Caller | invalid
//!                                              │ not there
//!                                              ▼
//!                                     verifier: on the spot, or asked with a deadline
//! ```
//!
//! Not here: which tenant the caller's data belongs to (`tenant`). Invariants: a decision is never older
//! than the keys and the policies it rests on; credentials are kept as digests only and never logged; what
//! is presented and proves nothing is refused, never taken for anonymous.

mod api_keys;
mod caller;
mod fetch;
#[cfg(test)]
pub(crate) mod fixtures;
mod jwt;
mod keyring;
mod pod;
mod service_account;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderName;
use http::header::AUTHORIZATION;
use moka::Expiry;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

pub use api_keys::BadKeys;
pub use caller::Caller;
pub use keyring::BadKeySet;
pub use walk::{Authenticating, Credentials};

use crate::config::{Config, Extension};
use crate::internal_telemetry::Telemetry;
use crate::kubernetes::pods::{self, Pods};
use crate::policies::{Plan, ProofSource};
use crate::tasks::Scope;
use crate::tls::TlsError;

/// How many credentials are remembered with what they prove; more are checked anew each time.
const REMEMBERED: u64 = 20_000;
/// How long is remembered that a credential proves nothing.
const NEGATIVE: Duration = Duration::from_secs(5);
/// How long a certificate's mapping is remembered; it changes with the revision only.
const OF_CERTIFICATE: Duration = Duration::from_secs(300);

/// The id of the watch of pods among the verifiers.
const PODS: &str = "pods";

/// Why a sender is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Nothing was presented, and the policies have no tenant for such data.
    #[error("credentials are needed")]
    Missing,
    /// What was presented proves nothing.
    #[error("the credentials are not valid")]
    Invalid,
    /// Whoever could tell does not answer; come back.
    #[error("the credentials cannot be checked now")]
    Unavailable,
}

/// Why verifiers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file of API keys is not one.
    #[error("{path}: {source}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadKeys,
    },
    /// A file of public keys is not one.
    #[error("{path}: {source}")]
    KeySet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Neither an endpoint nor the environment of a pod.
    #[error("no `endpoint`, and KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")]
    NoCluster,
}

/// What a verifier found about a credential.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    Proven(Proven),
    Invalid,
    Unavailable,
}

/// What a credential proves.
#[derive(Debug, Clone, PartialEq)]
struct Proven {
    principal: String,
    /// As the source says it, not checked yet.
    tenant: Option<String>,
    lifetime: Duration,
}

/// The verifiers of one configuration; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Verifiers(Arc<HashMap<String, Verifier>>);

#[derive(Debug, Clone)]
enum Verifier {
    Jwt(Arc<jwt::Jwt>),
    ApiKeys(Arc<api_keys::ApiKeys>),
    ServiceAccount(Arc<service_account::Reviewer>),
    Pods(Pods),
}

impl Verifiers {
    /// The verifiers a configuration runs, `pods` among them if it watches any; touches neither network nor
    /// disk.
    pub fn prepare(config: &Config, pods: &Pods) -> Self {
        let verifier = |extension: &Extension| match extension {
            Extension::Jwt(keys) => Some(Verifier::Jwt(Arc::new(jwt::Jwt::new(keys)))),
            Extension::ApiKeys(keys) => Some(Verifier::ApiKeys(Arc::new(api_keys::ApiKeys::new(keys)))),
            Extension::ServiceAccount(keys) => {
                Some(Verifier::ServiceAccount(Arc::new(service_account::Reviewer::new(keys))))
            }
            _ => None,
        };
        let running = config.running_by_id();
        let watched = pods::Settings::of(config).map(|_| (PODS.to_owned(), Verifier::Pods(pods.clone())));
        let running = running.filter_map(|(id, one)| Some((id.to_string(), verifier(one)?)));
        Self(Arc::new(running.chain(watched).collect()))
    }

    /// The ids of the verifiers a configuration runs.
    pub fn ids(config: &Config) -> Vec<String> {
        let unwatched = Pods::new(&Telemetry::detached());
        let mut ids: Vec<String> = Self::prepare(config, &unwatched).0.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// Reads keys and follows them in tasks of `scope`.
    ///
    /// # Errors
    /// The id of the verifier that cannot start, and why; the program does not start.
    pub async fn start(&self, scope: &Scope) -> Result<(), (String, StartError)> {
        for (id, verifier) in self.0.iter() {
            let started = match verifier {
                Verifier::Jwt(jwt) => jwt.start(scope).await,
                Verifier::ApiKeys(keys) => keys.start(scope),
                Verifier::ServiceAccount(reviewer) => reviewer.start(scope),
                // There is one watch in the program, whatever configurations come and go.
                Verifier::Pods(_) => Ok(()),
            };
            started.map_err(|error| (id.clone(), error))?;
        }
        Ok(())
    }

    /// The headers that carry credentials under a plan; one of several sources is named by each.
    pub fn credential_headers<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a HeaderName> {
        static BEARER: HeaderName = AUTHORIZATION;
        plan.identity.authenticate.iter().filter_map(|source| {
            match (source, source.verifier().and_then(|id| self.0.get(id))) {
                (ProofSource::Mtls { .. } | ProofSource::Pod { .. }, _) => None,
                (_, Some(Verifier::ApiKeys(keys))) => Some(keys.header()),
                _ => Some(&BEARER),
            }
        })
    }
}

/// One revision of the policies and what credentials proved under it.
#[derive(Debug)]
pub struct Callers {
    plan: Arc<Plan>,
    anonymous: Arc<Caller>,
    known: Cache<Key, Known>,
}

/// One credential under one state of the keys that prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: usize,
    stamp: u64,
    digest: [u8; 32],
}

#[derive(Debug, Clone)]
struct Known {
    /// None: it proves nothing.
    caller: Option<Arc<Caller>>,
    lifetime: Duration,
}

impl Callers {
    /// Nobody is known yet.
    pub fn new(plan: Arc<Plan>) -> Self {
        let anonymous = Arc::new(Caller::anonymous(&plan));
        let known = Cache::builder().max_capacity(REMEMBERED).expire_after(Lifetimes).build();
        Self { plan, anonymous, known }
    }

    /// Whoever presents nothing.
    pub fn anonymous(&self) -> &Arc<Caller> {
        &self.anonymous
    }
}

/// Each entry says itself how long it lives.
struct Lifetimes;

impl Expiry<Key, Known> for Lifetimes {
    fn expire_after_create(&self, _: &Key, known: &Known, _: Instant) -> Option<Duration> {
        Some(known.lifetime)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        known: &Known,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(known.lifetime)
    }
}

/// A number no other reading of keys has: what was decided with older keys is not found any more.
fn next_stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn sha256(bytes: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

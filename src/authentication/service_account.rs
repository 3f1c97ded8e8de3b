//! Tokens of Kubernetes service accounts, reviewed by the API server (TokenReview).
//!
//! ```text
//! token ─ looks like one? ─ no ─▶ invalid
//!              │ yes
//!              ▼
//!        under review? ─ yes ─▶ wait for it          one review per token, at most MAX_PENDING at once
//!              │ no
//!              ▼
//!        task: POST tokenreviews ─▶ verdict to all who wait
//! ```
//!
//! Not here: the cache in front (`super`). Invariant: the API server sees at most `MAX_PENDING` reviews at
//! once, whatever senders do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fetch::{Client, FetchFailure};
use super::{Proven, StartError, Verdict, next_stamp};
use crate::config::verifiers as config;
use crate::tasks::Scope;

/// The most reviews under way; more tokens are told to come back.
const MAX_PENDING: usize = 64;
/// The longest token.
const MAX_TOKEN: usize = 16 << 10;
/// What the names of all service accounts begin with.
const ACCOUNT: &str = "system:serviceaccount:";
/// The authority of the cluster, as every pod finds it.
const CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// Where reviews are asked for.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// One verifier of accounts.
#[derive(Debug)]
pub(super) struct Reviewer {
    /// Tells this verifier from all others.
    pub(super) stamp: u64,
    config: config::ServiceAccount,
    started: OnceLock<(Client, Scope)>,
    pending: Mutex<HashMap<[u8; 32], watch::Receiver<Option<Verdict>>>>,
}

/// Why a review came to nothing.
#[derive(Debug, thiserror::Error)]
enum ReviewFailure {
    #[error("{path}: {source}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("the own token has characters no header may have")]
    Characters,
    #[error(transparent)]
    Fetch(#[from] FetchFailure),
    #[error("the answer is no TokenReview: {0}")]
    Answer(#[from] serde_json::Error),
}

impl Reviewer {
    pub(super) fn new(config: &config::ServiceAccount) -> Self {
        Self {
            stamp: next_stamp(),
            config: config.clone(),
            started: OnceLock::new(),
            pending: Mutex::default(),
        }
    }

    /// Finds the API server and reads its authority.
    pub(super) fn start(&self, scope: &Scope) -> Result<(), StartError> {
        let endpoint = match &self.config.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => in_cluster(&|name| std::env::var(name).ok()).ok_or(StartError::NoCluster)?,
        };
        let mut tls = self.config.tls.clone();
        if tls.ca_file.is_none() && tls.ca_pem.is_none() && !tls.insecure && !tls.insecure_skip_verify {
            tls.ca_file = Some(CLUSTER_CA.into());
        }
        let client = Client::load(&format!("{endpoint}{PATH}"), &tls, self.config.timeout)?;
        client.watch(scope);
        // A verifier is started once.
        let _again = self.started.set((client, scope.clone()));
        Ok(())
    }

    /// Whether a token can be one of an account, as far as it says itself; what it says proves nothing, but
    /// spares the API server what cannot be.
    pub(super) fn is_candidate(token: &str) -> bool {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        if token.len() > MAX_TOKEN {
            return false;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok();
        let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        let Some(claims) = claims else { return false };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        claims["sub"].as_str().is_some_and(|subject| subject.starts_with(ACCOUNT))
            && claims["exp"].as_f64().is_none_or(|expires| expires > now.as_secs_f64())
    }

    /// Asks the API server, or waits for whoever asks about the same token.
    ///
    /// # Cancel safety
    /// The review goes on and is there for the next who asks.
    pub(super) async fn review(self: &Arc<Self>, token: &str, digest: [u8; 32]) -> Verdict {
        let Some(mut verdict) = self.watched(token, digest) else { return Verdict::Unavailable };
        match verdict.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or(Verdict::Unavailable),
            Err(_aborted) => Verdict::Unavailable,
        }
    }

    /// The review of a token, begun if nobody else has; none if there are too many.
    fn watched(self: &Arc<Self>, token: &str, digest: [u8; 32]) -> Option<watch::Receiver<Option<Verdict>>> {
        let (_, scope) = self.started.get()?;
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let room = pending.len() < MAX_PENDING;
        match pending.entry(digest) {
            Entry::Occupied(known) => Some(known.get().clone()),
            Entry::Vacant(place) if room => {
                let (teller, verdict) = watch::channel(None);
                place.insert(verdict.clone());
                let (reviewer, token) = (self.clone(), token.to_owned());
                let stop = scope.token().clone();
                scope.spawn("token-review", async move {
                    let _known = Pending { reviewer: &reviewer, digest };
                    if let Some(told) = stop.run_until_cancelled(reviewer.ask(&token)).await {
                        teller.send_replace(Some(told));
                    }
                });
                Some(verdict)
            }
            Entry::Vacant(_) => None,
        }
    }

    async fn ask(&self, token: &str) -> Verdict {
        match self.exchange(token).await {
            Ok(answer) => self.verdict(&answer),
            Err(error) => {
                tracing::warn!(name: "token_review.failed", %error, "the API server reviews no tokens");
                Verdict::Unavailable
            }
        }
    }

    async fn exchange(&self, token: &str) -> Result<Value, ReviewFailure> {
        let Some((client, _)) = self.started.get() else { return Ok(Value::Null) };
        let path = &self.config.token_file;
        let own = tokio::fs::read_to_string(path)
            .await
            .map_err(|source| ReviewFailure::Token { path: path.clone(), source })?;
        let mut own = HeaderValue::try_from(format!("Bearer {}", own.trim()))
            .map_err(|_invalid| ReviewFailure::Characters)?;
        own.set_sensitive(true);
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": self.config.audiences },
        });
        let mut request = Request::new(Full::new(Bytes::from(body.to_string())));
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(AUTHORIZATION, own);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json.clone());
        request.headers_mut().insert(ACCEPT, json);
        Ok(serde_json::from_slice(&client.exchange(request).await?)?)
    }

    /// What a TokenReview says. A server that does not name the audience has not looked at it.
    fn verdict(&self, review: &Value) -> Verdict {
        let status = &review["status"];
        let for_us = status["audiences"].as_array().is_some_and(|audiences| {
            let ours = |audience: &Value| self.config.audiences.iter().any(|own| audience == own.as_str());
            audiences.iter().any(ours)
        });
        let user = status["user"]["username"].as_str().unwrap_or_default();
        let namespace = user.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
        match namespace {
            Some((namespace, _)) if status["authenticated"] == true && for_us => Verdict::Proven(Proven {
                principal: user.to_owned(),
                tenant: Some(namespace.to_owned()),
                lifetime: self.config.cache_duration.max(Duration::from_secs(1)),
            }),
            _ => Verdict::Invalid,
        }
    }
}

/// Ends a review for those who come later, however it ends.
struct Pending<'r> {
    reviewer: &'r Reviewer,
    digest: [u8; 32],
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.reviewer.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

/// The API server of the cluster this runs in.
fn in_cluster(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let host = env("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty())?;
    let port = env("KUBERNETES_SERVICE_PORT").filter(|port| !port.is_empty())?;
    Some(if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reviewer() -> Reviewer {
        let audiences = vec!["tollgate".to_owned()];
        Reviewer::new(&config::ServiceAccount { audiences, ..config::ServiceAccount::default() })
    }

    #[test]
    fn only_reviews_for_our_audience_prove_an_account() {
        let check = |status: Value, expected: Option<(&str, &str)>| {
            let verdict = reviewer().verdict(&json!({ "status": status }));
            let told = match &verdict {
                Verdict::Proven(proven) => {
                    Some((proven.principal.as_str(), proven.tenant.as_deref().unwrap()))
                }
                _ => None,
            };
            assert_eq!(told, expected, "{status}");
        };
        let user = json!({ "username": "system:serviceaccount:acme:agent" });
        let account = Some(("system:serviceaccount:acme:agent", "acme"));
        check(json!({ "authenticated": true, "user": user, "audiences": ["x", "tollgate"] }), account);
        check(json!({ "authenticated": true, "user": user, "audiences": ["x"] }), None);
        check(json!({ "authenticated": true, "user": user }), None);
        check(json!({ "authenticated": false, "user": user, "audiences": ["tollgate"] }), None);
        check(json!({ "error": "expired" }), None);
        let person = json!({ "username": "system:admin" });
        check(json!({ "authenticated": true, "user": person, "audiences": ["tollgate"] }), None);
    }

    #[test]
    fn what_cannot_be_an_accounts_token_is_not_asked_about() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        let check = |token: String, expected: bool| {
            assert_eq!(Reviewer::is_candidate(&token), expected, "{token}");
        };
        check(token(r#"{"sub": "system:serviceaccount:acme:agent", "exp": 99999999999}"#), true);
        check(token(r#"{"sub": "system:serviceaccount:acme:agent"}"#), true);
        check(token(r#"{"sub": "system:serviceaccount:acme:agent", "exp": 1000}"#), false);
        check(token(r#"{"sub": "agent"}"#), false);
        check("opaque".into(), false);
        check("a.b.c.d".into(), false);
    }

    #[test]
    fn the_cluster_is_found_by_the_environment() {
        let check = |host: &str, expected: Option<&str>| {
            let env = |name: &str| match name {
                "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
                _ => Some("443".to_owned()),
            };
            assert_eq!(in_cluster(&env).as_deref(), expected);
        };
        check("10.0.0.1", Some("https://10.0.0.1:443"));
        check("fd00::1", Some("https://[fd00::1]:443"));
        check("", None);
    }
}

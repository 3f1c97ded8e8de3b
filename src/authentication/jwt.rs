//! JSON Web Tokens: pinned issuer, audience and algorithms; keys that rotate.
//!
//! Not here: where keys come from (`keyring`). Invariant: nothing a token says is read before its
//! signature was checked, but which key and algorithm it was made with, and both must be allowed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::fetch::Client;
use super::keyring::{Keyring, Keys, Place};
use super::{Proven, StartError};
use crate::config::verifiers as config;
use crate::tasks::Scope;

/// The longest token.
const MAX_TOKEN: usize = 16 << 10;

/// One verifier of tokens.
#[derive(Debug)]
pub(super) struct Jwt {
    settings: Settings,
    keyring: std::sync::OnceLock<Arc<Keyring>>,
    config: config::Jwt,
}

/// What every token must fulfil.
#[derive(Debug)]
struct Settings {
    algorithms: Vec<Algorithm>,
    /// For one algorithm after the other.
    validation: Validation,
    cache_duration: Duration,
    subject: String,
}

/// What a token says.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    Proven(Proven),
    Invalid,
    /// Nobody knows the key it was made with.
    UnknownKey,
}

impl Jwt {
    pub(super) fn new(config: &config::Jwt) -> Self {
        Self { settings: Settings::new(config), keyring: std::sync::OnceLock::new(), config: config.clone() }
    }

    /// Gets the keys and follows them.
    pub(super) async fn start(&self, scope: &Scope) -> Result<(), StartError> {
        let config = &self.config;
        let place = match (&config.jwks_file, &config.jwks_url) {
            (Some(path), _) => Place::File(path.clone()),
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                Place::Url(Client::load(url, &config.tls, config.timeout)?)
            }
        };
        let keyring = self.keyring.get_or_init(|| Arc::new(Keyring::new(place, config.refresh_interval)));
        keyring.start(scope).await
    }

    /// The keys as they stand.
    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.keyring.get()?.current()
    }

    /// Whether asking for new keys makes sense.
    pub(super) fn may_refresh(&self) -> bool {
        self.keyring.get().is_some_and(|keyring| keyring.may_refresh())
    }

    /// Asks for new keys.
    pub(super) async fn refreshed(&self) {
        if let Some(keyring) = self.keyring.get() {
            // The look has its own deadline; this one is for a look that waits behind another.
            let patience = self.config.timeout * 2;
            let _late = tokio::time::timeout(patience, keyring.refreshed()).await;
        }
    }

    /// Checks a token; `tenant` is the claim that holds the tenant.
    pub(super) fn read(&self, keys: &Keys, token: &str, tenant: Option<&str>) -> Reading {
        self.settings.read(keys, token, tenant)
    }
}

impl Settings {
    fn new(config: &config::Jwt) -> Self {
        let mut validation = Validation::default();
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&config.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.leeway = config.clock_skew.as_secs();
        validation.validate_nbf = true;
        Self {
            algorithms: config.algorithms.iter().copied().map(algorithm).collect(),
            validation,
            cache_duration: config.cache_duration,
            subject: config.subject_claim.clone(),
        }
    }

    fn read(&self, keys: &Keys, token: &str, tenant: Option<&str>) -> Reading {
        if token.len() > MAX_TOKEN {
            return Reading::Invalid;
        }
        let Ok(header) = decode_header(token) else { return Reading::Invalid };
        if !self.algorithms.contains(&header.alg) {
            return Reading::Invalid;
        }
        let mut candidates = keys.for_token(header.kid.as_deref(), header.alg).peekable();
        if candidates.peek().is_none() {
            return Reading::UnknownKey;
        }
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims = candidates.find_map(|key| decode::<Map<String, Value>>(token, key, &validation).ok());
        claims.and_then(|token| self.proven(&token.claims, tenant)).map_or(Reading::Invalid, Reading::Proven)
    }

    /// None if a claim that is needed is missing or no text.
    fn proven(&self, claims: &Map<String, Value>, tenant: Option<&str>) -> Option<Proven> {
        let principal = claims.get(&self.subject)?.as_str().filter(|subject| !subject.is_empty())?;
        let tenant = match tenant.and_then(|claim| claims.get(claim)) {
            None => None,
            Some(tenant) => Some(tenant.as_str()?.to_owned()),
        };
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = (expires - now.as_secs_f64()).max(0.0) + self.validation.leeway as f64;
        let lifetime = Duration::try_from_secs_f64(left).unwrap_or(self.cache_duration);
        let lifetime = lifetime.min(self.cache_duration);
        Some(Proven { principal: principal.to_owned(), tenant, lifetime })
    }
}

fn algorithm(configured: config::Algorithm) -> Algorithm {
    match configured {
        config::Algorithm::RS256 => Algorithm::RS256,
        config::Algorithm::RS384 => Algorithm::RS384,
        config::Algorithm::RS512 => Algorithm::RS512,
        config::Algorithm::PS256 => Algorithm::PS256,
        config::Algorithm::PS384 => Algorithm::PS384,
        config::Algorithm::PS512 => Algorithm::PS512,
        config::Algorithm::ES256 => Algorithm::ES256,
        config::Algorithm::ES384 => Algorithm::ES384,
        config::Algorithm::EdDSA => Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::fixtures::{Signer, claims};

    fn settings() -> Settings {
        Settings::new(&config::Jwt {
            issuer: "https://issuer.example".into(),
            audiences: vec!["tollgate".into()],
            algorithms: vec![config::Algorithm::ES256],
            ..config::Jwt::default()
        })
    }

    #[test]
    fn only_tokens_made_for_us_by_the_issuer_are_proven() {
        let (signer, other) = (Signer::new("k1"), Signer::new("k1"));
        let keys = Keys::parse(&signer.jwks()).unwrap();
        let check = |token: String, expected: Option<(&str, Option<&str>)>| {
            let read = settings().read(&keys, &token, Some("org"));
            let told = match &read {
                Reading::Proven(proven) => Some((proven.principal.as_str(), proven.tenant.as_deref())),
                _ => None,
            };
            assert_eq!(told, expected, "{token}");
        };
        let sign = |change: Value| signer.sign(&claims(change));
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        check(sign(json("{}")), Some(("agent", Some("acme"))));
        check(sign(json(r#"{"org": null}"#)), None);
        check(sign(json(r#"{"aud": ["x", "tollgate"]}"#)), Some(("agent", Some("acme"))));
        check(sign(json(r#"{"aud": "other"}"#)), None);
        check(sign(json(r#"{"iss": "https://issuer.example/"}"#)), None);
        check(sign(json(r#"{"exp": 1000}"#)), None);
        check(sign(json(r#"{"nbf": 99999999999}"#)), None);
        check(sign(json(r#"{"sub": ""}"#)), None);
        check(sign(json(r#"{"sub": 5}"#)), None);
        check(other.sign(&claims(json("{}"))), None);
        check(signer.unsigned(&claims(json("{}"))), None);
        check(signer.with_secret(&claims(json("{}"))), None);
        check("a.b.c".into(), None);
        check(String::new(), None);
        let mut damaged = sign(json("{}"));
        damaged.replace_range(damaged.len() - 4.., "AAAA");
        check(damaged, None);
        for missing in ["exp", "iss", "aud", "sub"] {
            let mut without = claims(json("{}"));
            without.as_object_mut().unwrap().remove(missing);
            check(signer.sign(&without), None);
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let signer = Signer::new("k1");
        let keys = Keys::parse(&signer.jwks()).unwrap();
        let now = jsonwebtoken::get_current_timestamp();
        let check = |ago: u64, expected: bool| {
            let token = signer.sign(&claims(serde_json::json!({ "exp": now - ago })));
            let read = settings().read(&keys, &token, None);
            assert_eq!(matches!(read, Reading::Proven(_)), expected, "{ago}");
        };
        check(10, true);
        check(60, false);
    }

    #[test]
    fn an_unknown_key_is_told_from_a_bad_token() {
        let (known, new) = (Signer::new("k1"), Signer::new("k2"));
        let keys = Keys::parse(&known.jwks()).unwrap();
        let token = new.sign(&claims(serde_json::json!({})));
        assert_eq!(settings().read(&keys, &token, None), Reading::UnknownKey);
        let rotated = Keys::parse(&new.jwks()).unwrap();
        assert!(matches!(settings().read(&rotated, &token, None), Reading::Proven(_)));
        let old = known.sign(&claims(serde_json::json!({})));
        assert_eq!(settings().read(&rotated, &old, None), Reading::UnknownKey);
    }

    #[test]
    fn key_sets_without_a_usable_key_are_refused() {
        let check = |text: &str| assert!(Keys::parse(text.as_bytes()).is_err(), "{text}");
        check("{}");
        check("[]");
        check(r#"{"keys": []}"#);
        check(r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}"#);
    }
}

//! Verifiers: extensions that tell whether a credential is genuine, and whose it is.
//!
//! Only the keys, their defaults and what is wrong with them; `authentication` does the work, and the
//! policies say which tenant a proven sender has. Clients' certificates need no verifier: a receiver's
//! `tls.client_ca_file` proves them.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{self, TlsClient};

/// The longest a decision about a credential may be kept.
const MAX_CACHED: Duration = Duration::from_secs(3600);
/// Clocks further apart than this are broken.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// A signature algorithm; secrets that are shared with the sender (HS256 and the like) are not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and say all")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Proves senders by a JSON Web Token, `Authorization: Bearer …`, signed by a known key. Policies name it
/// in `identity.authenticate[].jwt.verifier`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// What `iss` must be, exactly. Default: none, it is needed.
    pub issuer: String,
    /// `aud` must name one of these; without it tokens made for other services would be taken.
    /// Default: none, at least one is needed.
    pub audiences: Vec<String>,
    /// File with the keys (JWKS); read again when it changes. Default: none; either it or `jwks_url` is
    /// needed.
    pub jwks_file: Option<PathBuf>,
    /// Where the keys (JWKS) are fetched, with https; http needs `tls.insecure`. Default: none.
    pub jwks_url: Option<String>,
    /// How often the keys are fetched or read again; a token with an unknown key asks for it at once, at
    /// most every 10 s. Default: 5m. Range: 1s to 24h.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub refresh_interval: Duration,
    /// How long fetching keys may take; a request with an unknown key waits so long. Default: 5s.
    /// Range: above 0, up to 1m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// The algorithms that are taken; others, and `none`, never. Default: `[RS256, ES256]`.
    pub algorithms: Vec<Algorithm>,
    /// How far the sender's clock may be off when `exp` and `nbf` are checked. Default: 30s.
    /// Range: 0 to 5m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub clock_skew: Duration,
    /// The claim that is the principal, a string. Default: `sub`.
    pub subject_claim: String,
    /// How a proven token is remembered, at most until it expires; keys that change end it at once.
    /// Default: 5m. Range: 1s to 1h.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub cache_duration: Duration,
    /// TLS towards `jwks_url`.
    pub tls: TlsClient,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            refresh_interval: Duration::from_secs(300),
            timeout: Duration::from_secs(5),
            algorithms: vec![Algorithm::RS256, Algorithm::ES256],
            clock_skew: Duration::from_secs(30),
            subject_claim: "sub".to_owned(),
            cache_duration: Duration::from_secs(300),
            tls: TlsClient::default(),
        }
    }
}

/// Proves senders by a key of their own. Policies name it in `identity.authenticate[].api_key.verifier`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeys {
    /// File with one `name: sha256` a line, the SHA-256 of the key in hexadecimal digits; a name may stand
    /// on several lines while its key is replaced. Read again when it changes; a bad file leaves the old
    /// keys. Default: none, it is needed.
    pub file: Option<PathBuf>,
    /// The header that carries the key: `authorization` as `Bearer KEY`, another one as it is.
    /// Default: `authorization`.
    pub header: String,
    /// How often the file is compared in addition to watching its directory. Default: 10s.
    /// Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub poll_interval: Duration,
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self { file: None, header: "authorization".to_owned(), poll_interval: Duration::from_secs(10) }
    }
}

/// Proves pods by the token of their Kubernetes service account, `Authorization: Bearer …`, which the API
/// server reviews (TokenReview). Policies name it in `identity.authenticate[].service_account.verifier`;
/// the tenant is the account's namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceAccount {
    /// The API server, with https; http needs `tls.insecure`. Default: the cluster Tollgate runs in, from
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub endpoint: Option<String>,
    /// File with Tollgate's own token, which must be allowed to create TokenReviews; read for each review.
    /// Default: `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    pub token_file: PathBuf,
    /// The sender's token must be made for one of these; a token for the API server itself is not one a
    /// sender should give away. Default: none, at least one is needed.
    pub audiences: Vec<String>,
    /// How long a review may take; the first request with a token waits so long. Default: 5s.
    /// Range: above 0, up to 1m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// How long a reviewed token is believed without asking again; a deleted account may send so long.
    /// Default: 1m. Range: 1s to 1h.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub cache_duration: Duration,
    /// TLS towards the API server. Without `ca_file` and `ca_pem` the cluster's authority,
    /// `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`, is believed.
    pub tls: TlsClient,
}

impl Default for ServiceAccount {
    fn default() -> Self {
        Self {
            endpoint: None,
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            audiences: Vec::new(),
            timeout: Duration::from_secs(5),
            cache_duration: Duration::from_secs(60),
            tls: TlsClient::default(),
        }
    }
}

/// What is wrong with a verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A key is needed that is not there.
    #[error("`{0}` is needed")]
    Missing(&'static str),
    /// Exactly one of two keys is needed.
    #[error("give either `jwks_file` or `jwks_url`, and not both")]
    OneSource,
    /// A duration outside its range.
    #[error("must be from {0} to {1}")]
    Range(&'static str, &'static str),
    /// Not a URL, or without the protection it needs.
    #[error("must be an https:// URL; http:// needs `tls.insecure: true`")]
    Url,
    /// Not the name of a header.
    #[error("not the name of a header")]
    Header,
    /// TLS keys.
    #[error(transparent)]
    Tls(#[from] tls::Problem),
}

impl Problem {
    /// Whether the program cannot start with it; otherwise it is a warning.
    pub fn is_error(&self) -> bool {
        match self {
            Problem::Tls(problem) => problem.is_error(),
            _ => true,
        }
    }
}

/// A problem of the keys of a verifier and the key it is at.
pub type Found = super::found::Found<Problem>;

#[derive(Default)]
struct Findings(Vec<Found>);

impl Findings {
    fn unless(&mut self, good: bool, at: &str, problem: Problem) {
        if !good {
            self.0.push(Found { at: at.to_owned(), problem });
        }
    }

    fn tls(&mut self, tls: &TlsClient) {
        for (key, problem) in tls.check() {
            let at = if key.is_empty() { "tls".to_owned() } else { format!("tls.{key}") };
            self.0.push(Found { at, problem: problem.into() });
        }
    }

    fn timeout(&mut self, timeout: Duration) {
        let good = !timeout.is_zero() && timeout <= Duration::from_secs(60);
        self.unless(good, "timeout", Problem::Range("1ms", "1m"));
    }

    fn cache(&mut self, duration: Duration) {
        let good = (Duration::from_secs(1)..=MAX_CACHED).contains(&duration);
        self.unless(good, "cache_duration", Problem::Range("1s", "1h"));
    }

    fn audiences(&mut self, audiences: &[String]) {
        let good = !audiences.is_empty() && audiences.iter().all(|audience| !audience.is_empty());
        self.unless(good, "audiences", Problem::Missing("audiences"));
    }
}

impl Jwt {
    /// Every problem, with the key it is at.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::default();
        found.unless(!self.issuer.is_empty(), "issuer", Problem::Missing("issuer"));
        found.audiences(&self.audiences);
        let one = self.jwks_file.is_some() != self.jwks_url.is_some();
        found.unless(one, if self.jwks_url.is_some() { "jwks_url" } else { "" }, Problem::OneSource);
        let url = self.jwks_url.as_ref().is_none_or(|url| is_protected(url, &self.tls));
        found.unless(url, "jwks_url", Problem::Url);
        let refresh = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        let refreshes = refresh.contains(&self.refresh_interval);
        found.unless(refreshes, "refresh_interval", Problem::Range("1s", "24h"));
        found.timeout(self.timeout);
        found.cache(self.cache_duration);
        found.unless(!self.algorithms.is_empty(), "algorithms", Problem::Missing("algorithms"));
        found.unless(self.clock_skew <= MAX_SKEW, "clock_skew", Problem::Range("0s", "5m"));
        found.unless(!self.subject_claim.is_empty(), "subject_claim", Problem::Missing("subject_claim"));
        found.tls(&self.tls);
        found.0
    }
}

impl ApiKeys {
    /// Every problem, with the key it is at.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::default();
        found.unless(self.file.is_some(), "file", Problem::Missing("file"));
        found.unless(HeaderName::try_from(&self.header).is_ok(), "header", Problem::Header);
        found.unless(!self.poll_interval.is_zero(), "poll_interval", Problem::Range("1ms", "24h"));
        found.0
    }
}

impl ServiceAccount {
    /// Every problem, with the key it is at.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::default();
        let url = self.endpoint.as_ref().is_none_or(|url| is_protected(url, &self.tls));
        found.unless(url, "endpoint", Problem::Url);
        found.audiences(&self.audiences);
        found.timeout(self.timeout);
        found.cache(self.cache_duration);
        found.tls(&self.tls);
        found.0
    }
}

/// Whether a text is a URL with a host, over TLS unless that was given up in as many words.
fn is_protected(url: &str, tls: &TlsClient) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return false };
    let scheme = match url.scheme_str() {
        Some("https") => true,
        Some("http") => tls.insecure,
        _ => false,
    };
    scheme && url.host().is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(found: &[Found]) -> Vec<&str> {
        found.iter().map(|finding| finding.at.as_str()).collect()
    }

    #[test]
    fn a_jwt_verifier_pins_issuer_audience_and_keys() {
        assert_eq!(at(&Jwt::default().check()), ["issuer", "audiences", ""]);
        let jwt = Jwt {
            issuer: "https://issuer.example".into(),
            audiences: vec!["tollgate".into()],
            jwks_url: Some("https://issuer.example/keys".into()),
            ..Jwt::default()
        };
        assert_eq!(jwt.check(), []);
        let check = |jwt: Jwt, expected: &str| assert_eq!(at(&jwt.check()), [expected]);
        check(Jwt { jwks_url: Some("http://issuer.example/keys".into()), ..jwt.clone() }, "jwks_url");
        check(Jwt { jwks_file: Some("keys".into()), ..jwt.clone() }, "jwks_url");
        check(Jwt { clock_skew: Duration::from_secs(301), ..jwt.clone() }, "clock_skew");
        check(Jwt { algorithms: Vec::new(), ..jwt.clone() }, "algorithms");
        check(Jwt { timeout: Duration::ZERO, ..jwt.clone() }, "timeout");
        check(Jwt { audiences: vec![String::new()], ..jwt }, "audiences");
    }

    #[test]
    fn api_keys_need_a_file_and_a_header() {
        let keys = ApiKeys { header: "x y".into(), ..ApiKeys::default() };
        assert_eq!(at(&keys.check()), ["file", "header"]);
    }

    #[test]
    fn a_service_account_verifier_needs_an_audience() {
        assert_eq!(at(&ServiceAccount::default().check()), ["audiences"]);
    }
}

//! Sources in order, what is remembered, what ends it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::fixtures::{Signer, claims};
use super::*;
use crate::internal_telemetry::{AuthenticationMetrics, Telemetry};
use crate::policies::parse;
use crate::tls::PeerCertificate;
use crate::yaml::Source;

/// A gate with verifiers `jwt` and `api_keys`, and whatever `authenticate` says.
struct Gate {
    verifiers: Verifiers,
    callers: Arc<Callers>,
    metrics: Arc<AuthenticationMetrics>,
    scope: Scope,
    folder: tempfile::TempDir,
}

const KEYS: &str = "agent: 2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"; // of "key"

async fn gate(signer: &Signer, identity: &str) -> Gate {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(place("jwks"), signer.jwks()).unwrap();
    std::fs::write(place("keys"), KEYS).unwrap();
    let config = json!({
        "receivers": { "otlp": { "protocols": { "grpc": {} } } },
        "exporters": { "nop": {} },
        "extensions": {
            "jwt": {
                "issuer": "https://issuer.example", "audiences": ["tollgate"], "jwks_file": place("jwks"),
            },
            "api_keys": { "file": place("keys"), "header": "x-api-key", "poll_interval": "10ms" },
        },
        "service": {
            "extensions": ["jwt", "api_keys"],
            "pipelines": { "traces": { "receivers": ["otlp"], "exporters": ["nop"] } },
        },
    });
    let sources = [Source::new("c.yaml", config.to_string())];
    let config = Config::parse(&sources, &[], &|_| None).unwrap_or_else(|problems| panic!("{problems}")).0;
    let verifiers = Verifiers::prepare(
        &config,
        &crate::kubernetes::pods::Pods::new(&crate::internal_telemetry::Telemetry::detached()),
    );
    let scope = Scope::root("test");
    verifiers.start(&scope).await.unwrap();
    let text = format!("version: 1\nrules: []\nidentity: {identity}\n");
    let plan = parse(&Source::new("p.yaml", text), jiff::Timestamp::UNIX_EPOCH).unwrap().0;
    let callers = Arc::new(Callers::new(Arc::new(plan)));
    let metrics = Telemetry::detached().authentication().clone();
    Gate { verifiers, callers, metrics, scope, folder }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let mut headers = HeaderMap::new();
    pairs.iter().map(header).for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

impl Gate {
    /// The principal and its tenant.
    async fn ask(
        &self,
        pairs: &[(&str, &str)],
        certificate: Option<PeerCertificate>,
    ) -> Result<(String, Option<String>), Unproven> {
        let (headers, certificate) = (headers(pairs), certificate.map(Arc::new));
        let shown = Credentials { headers: &headers, certificate: certificate.as_ref(), address: None };
        let caller = match self.verifiers.authenticate(&self.callers, &self.metrics, shown) {
            Authenticating::Ready(told) => told,
            Authenticating::Waiting(asked) => asked.await,
        }?;
        Ok((caller.principal.to_string(), caller.own.as_ref().map(ToString::to_string)))
    }

    async fn stop(self) {
        self.scope.close(tokio::time::Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(self.scope.alive(), 0);
    }
}

fn certificate(uris: &[&str]) -> PeerCertificate {
    let text = uris.join(" ");
    PeerCertificate {
        uris: uris.iter().map(|&uri| uri.to_owned()).collect(),
        dns_names: vec!["acme.agents.example".into()],
        common_names: vec!["acme".into()],
        digest: sha256(text),
        not_after: i64::MAX,
    }
}

fn known(principal: &str, tenant: &str) -> Result<(String, Option<String>), Unproven> {
    Ok((principal.to_owned(), Some(tenant.to_owned())))
}

const SPIFFE: &str = "mtls: { tenant: \"spiffe://prod.example/ns/{tenant}/sa/*\" }";

#[tokio::test]
async fn the_first_source_that_yields_a_principal_wins() {
    let signer = Signer::new("k1");
    let identity = format!(
        "{{ authenticate: [{{ {SPIFFE} }}, {{ jwt: {{ verifier: jwt, tenant: org }} }}, {{ api_key: {{ verifier: api_keys }} }}], principals: [{{ principal: agent, source: api_key, tenant: keyed }}] }}"
    );
    let gate = gate(&signer, &identity).await;
    let token = format!("Bearer {}", signer.sign(&claims(json!({ "org": "tokened" }))));
    let (token, key) = (("authorization", token.as_str()), ("x-api-key", "key"));
    let acme = "spiffe://prod.example/ns/acme/sa/a";
    let own = || Some(certificate(&[acme]));
    assert_eq!(gate.ask(&[token, key], own()).await, known(acme, "acme"));
    assert_eq!(gate.ask(&[token, key], None).await, known("agent", "tokened"));
    assert_eq!(gate.ask(&[key], None).await, known("agent", "keyed"));
    assert_eq!(gate.ask(&[], None).await, Err(Unproven::Missing));
    // What one source does not accept another may.
    let strange = || Some(certificate(&["spiffe://elsewhere/x"]));
    assert_eq!(gate.ask(&[token], strange()).await, known("agent", "tokened"));
    assert_eq!(gate.ask(&[("authorization", "Bearer x"), key], None).await, known("agent", "keyed"));
    // But nothing that was presented in vain is taken for nothing.
    assert_eq!(gate.ask(&[], strange()).await, Err(Unproven::Invalid));
    assert_eq!(gate.ask(&[("x-api-key", "other")], None).await, Err(Unproven::Invalid));
    gate.stop().await;
}

#[tokio::test]
async fn credentials_with_two_readings_prove_nothing() {
    let signer = Signer::new("k1");
    let identity = format!(
        "{{ authenticate: [{{ {SPIFFE} }}, {{ jwt: {{ verifier: jwt, tenant: org }} }}, {{ api_key: {{ verifier: api_keys }} }}], anonymous: 'tenant:public' }}"
    );
    let gate = gate(&signer, &identity).await;
    let token = signer.sign(&claims(json!({})));
    let bearer = format!("Bearer {token}");
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    let basic = format!("Basic {token}");
    for pairs in [
        &twice[..],
        &[("x-api-key", "key"), ("x-api-key", "other")],
        &[("authorization", &basic)],
        &[("authorization", "Bearer ")],
        &[("authorization", &token)],
        &[("x-api-key", "k\u{e9}y")],
        &[("x-api-key", "KEY")],
        &[("x-api-key", "")],
    ] {
        assert_eq!(gate.ask(pairs, None).await, Err(Unproven::Invalid), "{pairs:?}");
    }
    let two = ["spiffe://prod.example/ns/acme/sa/a", "spiffe://prod.example/ns/victim/sa/a"];
    assert_eq!(gate.ask(&[], Some(certificate(&two))).await, Err(Unproven::Invalid));
    let over = PeerCertificate { not_after: 1_000, ..certificate(&two[..1]) };
    assert_eq!(gate.ask(&[], Some(over)).await, Err(Unproven::Invalid));
    assert_eq!(gate.ask(&[], None).await, known("anonymous", "public"));
    gate.stop().await;
}

#[tokio::test]
async fn a_proven_tenant_that_is_no_tenant_id_spoils_the_proof() {
    let signer = Signer::new("k1");
    let gate = gate(&signer, "{ authenticate: [{ jwt: { verifier: jwt, tenant: org } }] }").await;
    for org in ["\u{430}cme", "_overflow", "", "..", &"x".repeat(151)] {
        let bearer = format!("Bearer {}", signer.sign(&claims(json!({ "org": org }))));
        let told = gate.ask(&[("authorization", &bearer)], None).await;
        assert_eq!(told, Err(Unproven::Invalid), "{org}");
    }
    gate.stop().await;
}

#[tokio::test]
async fn decisions_end_with_the_keys_they_rest_on() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let identity = "{ authenticate: [{ jwt: { verifier: jwt, tenant: org } }, { api_key: { verifier: api_keys } }], principals: [{ principal: agent, tenant: acme }] }";
    let gate = gate(&old, identity).await;
    let [before, after] = [&old, &new].map(|signer| format!("Bearer {}", signer.sign(&claims(json!({})))));
    let ask = async |token: &str| gate.ask(&[("authorization", token)], None).await;
    assert_eq!(ask(&before).await, known("agent", "acme"));
    assert_eq!(ask(&after).await, Err(Unproven::Invalid));
    assert_eq!(gate.ask(&[("x-api-key", "key")], None).await, known("agent", "acme"));
    std::fs::write(gate.folder.path().join("jwks"), new.jwks()).unwrap();
    std::fs::write(gate.folder.path().join("keys"), "# revoked\n").unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let told = (ask(&before).await, ask(&after).await, gate.ask(&[("x-api-key", "key")], None).await);
        if told == (Err(Unproven::Invalid), known("agent", "acme"), Err(Unproven::Invalid)) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{told:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.stop().await;
}

//! Nobody sends as somebody else: every source of identity, and what spoofers try.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::json;
use tonic::Code;

use crate::gate::gate;
use crate::harness::{
    Authority, Grpc, Http, Item, Keeper, Signer, Sink, Tollgate, eventually, post_with, spans,
};

/// SHA-256 of `acme-key`, `gateway-key` and `partner-key`.
const KEYS: &str = "
# who: sha256 of the key
acme/agent: @acme-key@
gateway: @gateway-key@
partner: @partner-key@
";

const POLICIES: &str = "
version: 1
identity:
  authenticate: [{ api_key: { verifier: keys, tenant: '{tenant}/*' } }, { api_key: { verifier: keys } }]
  claims: [{ header: x-tenant-id }, { resource: tenant.id }]
  principals:
    - { principal: gateway, source: api_key, may_assert: ['*'] }
    - { principal: partner, source: api_key, may_assert: [partner-a, 'partner-b-*'] }
rules: []
";

fn hex(key: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the hashes of the keys between `@`.
fn keys(folder: &std::path::Path, text: &str) {
    let hashed: Vec<String> = text
        .split('@')
        .enumerate()
        .map(|(i, part)| if i % 2 == 1 { hex(part) } else { part.into() })
        .collect();
    std::fs::write(folder.join("keys"), hashed.concat()).unwrap();
}

/// The gate with an extension more.
fn with_verifier(sink: &Sink, id: &str, body: &serde_json::Value) -> String {
    let config = gate(sink);
    let extension = format!("extensions: {{ {id}: {body}, admin: ,");
    config
        .replace("extensions: { admin: ,", &extension)
        .replace("extensions: [admin,", &format!("extensions: [{id}, admin,"))
}

fn key_file(folder: &tempfile::TempDir) -> serde_json::Value {
    json!({ "file": folder.path().join("keys"), "poll_interval": "50ms" })
}

fn of(resource: &[(&str, &str)], name: &str) -> ExportTraceServiceRequest {
    spans(resource, &[Item::named(name)])
}

/// The tenant an item arrived with.
async fn tenant_of(sink: &Sink, name: &str) -> String {
    eventually(&format!("the span {name}"), || async {
        let items = sink.items("traces");
        items.iter().find(|item| item.name == name).map(|item| item.resource["tenant.id"].clone())
    })
    .await
}

#[tokio::test]
async fn a_key_sends_as_its_own_tenant_whatever_it_claims() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    keys(folder.path(), KEYS);
    // Everything a processor could export of the headers.
    let config = with_verifier(&sink, "api_keys/keys", &key_file(&folder));
    let config = config.replace(
        "processors: { tenant: ,",
        "processors: { resource: { attributes: [{ key: a, action: insert, from_context: metadata.x-tenant-id }, { key: b, action: insert, from_context: metadata.authorization }] }, tenant: ,",
    );
    let config = config.replace("processors: [tenant,", "processors: [resource, tenant,");
    let tollgate = Tollgate::with(&config).policies(POLICIES).start().await;
    let http = Http::new(tollgate.address("otlp/http")).header("authorization", "Bearer acme-key");
    let long = "a".repeat(151);
    let names: [(&str, &[&'static str], &str); 9] = [
        ("nothing", &[], ""),
        ("own", &["acme"], ""),
        ("header", &["globex"], ""),
        ("attribute", &[], "globex"),
        ("both", &["globex"], "globex"),
        ("cyrillic", &[], "\u{430}cme"),
        ("case", &["ACME"], "Acme"),
        ("overflow", &["_overflow"], "_overflow"),
        ("unattributed", &["unattributed"], "a/b"),
    ];
    for (name, headers, attribute) in names {
        let http = headers.iter().fold(http.clone(), |http, value| http.header("x-tenant-id", value));
        let answer = http.protobuf("/v1/traces", &of(&[("tenant.id", attribute)], name)).await;
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(tenant_of(&sink, name).await, "acme", "{name}");
    }
    let answer = http.clone().header("x-tenant-id", &long).protobuf("/v1/traces", &of(&[], "long")).await;
    assert_eq!((answer.status().as_u16(), tenant_of(&sink, "long").await.as_str()), (200, "acme"));
    let answer =
        http.clone().header("x-tenant-id", "\u{430}cme").protobuf("/v1/traces", &of(&[], "bytes")).await;
    assert_eq!((answer.status().as_u16(), tenant_of(&sink, "bytes").await.as_str()), (200, "acme"));
    let twice = http.clone().tenant("acme").tenant("acme").protobuf("/v1/traces", &of(&[], "twice")).await;
    assert_eq!(twice.status(), 403);
    for item in sink.items("traces") {
        assert!(!item.resource.contains_key("a") && !item.resource.contains_key("b"), "{item:?}");
    }
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[("tenant", "acme")]), 11.0);
    assert_eq!(metrics.sum("tollgate_received_items_total", &[("tenant", "globex")]), 0.0);
    let labels = [("source", "api_key"), ("outcome", "accepted")];
    assert_eq!(metrics.sum("tollgate_authentications_total", &labels), 12.0);
    let (_, tenants) = tollgate.get("admin", "/v1/tenants").await;
    let tenants: serde_json::Value = serde_json::from_str(&tenants).unwrap();
    let acme = &tenants["tenants"]["acme"]["policies"];
    assert_eq!((&acme["class"], &acme["authenticated"]), (&json!("dynamic"), &json!(true)), "{tenants}");
    let ended = tollgate.stop().await;
    let log: String = ended.log.iter().map(|line| line.to_string()).collect();
    assert!(!log.contains("acme-key"), "no key in the log");
}

#[tokio::test]
async fn who_proves_nothing_is_refused_before_the_body() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    keys(folder.path(), KEYS);
    let config = with_verifier(&sink, "api_keys/keys", &key_file(&folder));
    let tollgate = Tollgate::with(&config).policies(POLICIES).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let http = Http::new(tollgate.address("otlp/http"));
    for header in [None, Some("Bearer wrong"), Some("Basic acme-key"), Some("acme-key")] {
        let (mut grpc, mut http) = (grpc.clone().tenant("acme"), http.clone().tenant("acme"));
        if let Some(header) = header {
            grpc = grpc.header("authorization", header);
            http = http.header("authorization", header);
        }
        let refused = grpc.spans(of(&[("tenant.id", "acme")], "x")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{header:?}");
        assert_eq!(http.protobuf("/v1/traces", &of(&[], "x")).await.status(), 401, "{header:?}");
    }
    // A revoked key ends within moments, a new one begins.
    let old = grpc.clone().header("authorization", "Bearer acme-key");
    let new = grpc.clone().header("authorization", "Bearer acme-new");
    old.spans(of(&[], "before")).await.unwrap();
    keys(folder.path(), "acme/agent: @acme-new@\n");
    eventually("the revocation", || async {
        let refused = old.spans(of(&[], "old")).await.err();
        refused.filter(|refused| refused.code() == Code::Unauthenticated)
    })
    .await;
    new.spans(of(&[], "new")).await.unwrap();
    assert_eq!(tenant_of(&sink, "new").await, "acme");
    // A broken file changes nothing.
    keys(folder.path(), "acme/agent: nothing\n");
    eventually("the complaint", || async { tollgate.event("api_keys.reload_failed") }).await;
    new.spans(of(&[], "still")).await.unwrap();
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn gateways_send_for_the_tenants_they_may_name() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    keys(folder.path(), KEYS);
    let config = with_verifier(&sink, "api_keys/keys", &key_file(&folder));
    let tollgate = Tollgate::with(&config).policies(POLICIES).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let send = async |key: &str, header: Option<&str>, attribute: &str, name: &str| {
        let mut grpc = grpc.clone().header("authorization", &format!("Bearer {key}"));
        if let Some(header) = header {
            grpc = grpc.tenant(header);
        }
        let sent = grpc.spans(of(&[("tenant.id", attribute)], name)).await;
        match sent {
            Ok(_) => Ok(tenant_of(&sink, name).await),
            Err(refused) => Err(refused.code()),
        }
    };
    let denied = Err(Code::PermissionDenied);
    let named = |name: &str| Ok(name.to_owned());
    assert_eq!(send("gateway-key", Some("globex"), "", "g1").await, named("globex"));
    assert_eq!(send("gateway-key", None, "initech", "g2").await, named("initech"));
    assert_eq!(send("gateway-key", Some("globex"), "initech", "g3").await, named("globex"));
    assert_eq!(send("gateway-key", None, "", "g4").await, denied);
    assert_eq!(send("gateway-key", Some("_overflow"), "", "g5").await, denied);
    assert_eq!(send("gateway-key", None, "\u{430}cme", "g6").await, denied);
    assert_eq!(send("partner-key", Some("partner-a"), "", "p1").await, named("partner-a"));
    assert_eq!(send("partner-key", None, "partner-b-7", "p2").await, named("partner-b-7"));
    assert_eq!(send("partner-key", Some("partner-c"), "", "p3").await, denied);
    assert_eq!(send("partner-key", Some("partner-c"), "partner-a", "p4").await, denied);
    assert_eq!(send("partner-key", Some("partner-a"), "acme", "p5").await, named("partner-a"));
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_mismatch_ends_as_the_policies_say() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    keys(folder.path(), KEYS);
    let config = with_verifier(&sink, "api_keys/keys", &key_file(&folder));
    let policies = |mode: &str| {
        POLICIES.replace("rules: []", &format!("  on_mismatch: {mode}\nrules: []\nrevision: {mode}"))
    };
    let tollgate = Tollgate::with(&config).policies(&policies("refuse")).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.header("authorization", "Bearer acme-key");
    let foreign = grpc.clone().tenant("globex");
    assert_eq!(foreign.spans(of(&[], "r1")).await.unwrap_err().code(), Code::PermissionDenied);
    let attribute = grpc.spans(of(&[("tenant.id", "x".repeat(151).as_str())], "r2")).await;
    assert_eq!(attribute.unwrap_err().code(), Code::PermissionDenied);
    grpc.spans(of(&[("tenant.id", "acme")], "r3")).await.unwrap();
    assert_eq!(tenant_of(&sink, "r3").await, "acme");
    std::fs::write(tollgate.policies_path(), policies("overflow")).unwrap();
    eventually("the revision", || async {
        tollgate.get("admin", "/v1/revisions").await.1.contains("\"overflow\"").then_some(())
    })
    .await;
    foreign.spans(of(&[("tenant.id", "globex")], "o1")).await.unwrap();
    assert_eq!(tenant_of(&sink, "o1").await, "_overflow");
    grpc.spans(of(&[], "o2")).await.unwrap();
    assert_eq!(tenant_of(&sink, "o2").await, "acme");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_certificate_sends_as_the_tenant_in_its_name() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let server = authority.sign("localhost");
    for (name, text) in [("ca", authority.pem()), ("cert", server.cert), ("key", server.key)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let place = |name: &str| folder.path().join(name).display().to_string();
    let tls = json!({ "cert_file": place("cert"), "key_file": place("key"), "client_ca_file": place("ca") });
    let config = gate(&sink).replace(
        "{otlp}",
        &format!(
            "receivers: {{ otlp: {{ protocols: {{ http: {{ endpoint: '127.0.0.1:0', tls: {tls} }} }} }} }}"
        ),
    );
    let policies = "
version: 1
identity:
  authenticate: [{ mtls: { tenant: 'spiffe://prod.example/ns/{tenant}/sa/*' } }]
  claims: [{ header: x-tenant-id }, { resource: tenant.id }]
  principals: [{ principal: 'spiffe://prod.example/ns/gateway/*', may_assert: ['*'] }]
rules: []
";
    let tollgate = Tollgate::with(&config).policies(policies).start().await;
    let spiffe = |rest: &str| authority.sign_uri(&format!("spiffe://prod.example/{rest}"));
    let (acme, gateway) = (spiffe("ns/acme/sa/agent"), spiffe("ns/gateway/sa/otel"));
    let ca = authority.pem();
    let (address, ca) = (tollgate.address("otlp/http"), ca.as_str());
    let post = async |own, headers: &[(&str, &str)], attribute: &str, name: &str| {
        let body = of(&[("tenant.id", attribute)], name).encode_to_vec();
        post_with(address, (ca, own), headers, body).await
    };
    let claim = [("x-tenant-id", "globex")];
    assert_eq!(post(Some(&acme), &[], "", "m1").await, Some(200));
    assert_eq!(post(Some(&acme), &claim, "globex", "m2").await, Some(200));
    assert_eq!(post(Some(&gateway), &claim, "", "m3").await, Some(200));
    assert_eq!(post(Some(&gateway), &[], "", "m4").await, Some(200));
    for (name, tenant) in [("m1", "acme"), ("m2", "acme"), ("m3", "globex"), ("m4", "gateway")] {
        assert_eq!(tenant_of(&sink, name).await, tenant, "{name}");
    }
    let strange = [spiffe("ns/acme"), spiffe("x/ns/acme/sa/a"), authority.sign("acme")];
    for own in &strange {
        assert_eq!(post(Some(own), &claim, "acme", "s").await, Some(401));
    }
    assert_eq!(post(None, &claim, "acme", "s").await, None, "no certificate, no conversation");
    let other = Authority::new().sign_uri("spiffe://prod.example/ns/acme/sa/agent");
    assert_eq!(post(Some(&other), &claim, "acme", "s").await, None, "another authority");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_token_sends_as_the_tenant_it_says_and_keys_rotate() {
    let (sink, keeper) = (Sink::start().await, Keeper::start().await);
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let jwt = json!({
        "issuer": "https://issuer.example", "audiences": ["tollgate"], "algorithms": ["ES256"],
        "jwks_url": format!("{}/jwks", keeper.url()), "refresh_interval": "1s", "tls": { "insecure": true },
    });
    let policies = "
version: 1
identity:
  authenticate: [{ jwt: { verifier: prod, tenant: org } }]
  claims: [{ header: x-tenant-id }, { resource: tenant.id }]
rules: []
";
    // No keys yet: nobody can tell, which is no verdict.
    let tollgate = Tollgate::with(&with_verifier(&sink, "jwt/prod", &jwt)).policies(policies).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let send = async |token: &str, name: &str| {
        let grpc = grpc.clone().header("authorization", &format!("Bearer {token}")).tenant("globex");
        grpc.spans(of(&[("tenant.id", "globex")], name)).await.map(drop).map_err(|refused| refused.code())
    };
    let good = old.token(json!({ "org": "acme" }));
    assert_eq!(send(&good, "early").await, Err(Code::Unavailable));
    keeper.publish(&[&old]);
    eventually("keys", || async { send(&good, "t1").await.ok() }).await;
    assert_eq!(tenant_of(&sink, "t1").await, "acme");
    let other = Signer::new("k1");
    for (what, token) in [
        ("expired", old.token(json!({ "org": "acme", "exp": 1_000 }))),
        ("issuer", old.token(json!({ "org": "acme", "iss": "https://evil.example" }))),
        ("audience", old.token(json!({ "org": "acme", "aud": "other" }))),
        ("none", old.unsigned(json!({ "org": "acme" }))),
        ("signature", other.token(json!({ "org": "acme" }))),
        ("key", new.token(json!({ "org": "acme" }))),
        ("look-alike", old.token(json!({ "org": "\u{430}cme" }))),
        ("garbage", "x.y.z".to_owned()),
    ] {
        assert_eq!(send(&token, "bad").await, Err(Code::Unauthenticated), "{what}");
    }
    let nobody = old.token(json!({}));
    assert_eq!(send(&nobody, "bad").await, Err(Code::PermissionDenied), "known, but of no tenant");
    keeper.publish(&[&new]);
    let rotated = new.token(json!({ "org": "acme" }));
    eventually("the new key", || async { send(&rotated, "t2").await.ok() }).await;
    assert_eq!(send(&good, "bad").await, Err(Code::Unauthenticated), "the old key is gone");
    assert_eq!(tenant_of(&sink, "t2").await, "acme");
    assert!(sink.items("traces").iter().all(|item| item.name != "bad" && item.name != "early"));
    tollgate.settled().await;
    let ended = tollgate.stop().await;
    let log: String = ended.log.iter().map(|line| line.to_string()).collect();
    assert!(!log.contains(&good), "no token in the log");
}

#[tokio::test]
async fn an_account_is_reviewed_once_and_sends_as_its_namespace() {
    let (sink, keeper, folder) = (Sink::start().await, Keeper::start().await, tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("token"), "own-token\n").unwrap();
    let reviewer = json!({
        "endpoint": keeper.url(), "token_file": folder.path().join("token"), "audiences": ["tollgate"],
        "tls": { "insecure": true },
    });
    let policies = "
version: 1
identity:
  authenticate: [{ service_account: { verifier: cluster } }]
  claims: [{ header: x-tenant-id }]
rules: []
";
    let config = with_verifier(&sink, "service_account/cluster", &reviewer);
    let tollgate = Tollgate::with(&config).policies(policies).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("globex");
    let signer = Signer::new("k");
    let token = |account: &str| signer.token(json!({ "sub": format!("system:serviceaccount:{account}") }));
    let send = async |token: &str, name: &str| {
        let grpc = grpc.clone().header("authorization", &format!("Bearer {token}"));
        grpc.spans(of(&[], name)).await.map(drop).map_err(|refused| refused.code())
    };
    // The API server is broken: come back.
    let acme = token("acme:agent");
    assert_eq!(send(&acme, "x").await, Err(Code::Unavailable));
    keeper.review_for(Some(&["tollgate", "other"]));
    let before = keeper.asked();
    let (a, b, c, d) =
        tokio::join!(send(&acme, "a1"), send(&acme, "a2"), send(&acme, "a3"), send(&acme, "a4"));
    assert_eq!((a, b, c, d), (Ok(()), Ok(()), Ok(()), Ok(())));
    assert_eq!(send(&acme, "a5").await, Ok(()));
    assert_eq!(keeper.asked() - before, 1, "one review for all of them");
    assert!(keeper.own_tokens().iter().all(|own| own == "Bearer own-token"), "{:?}", keeper.own_tokens());
    for name in ["a1", "a2", "a3", "a4", "a5"] {
        assert_eq!(tenant_of(&sink, name).await, "acme");
    }
    keeper.review_for(Some(&["other"]));
    assert_eq!(send(&token("globex:agent"), "x").await, Err(Code::Unauthenticated), "another audience");
    let asked = keeper.asked();
    assert_eq!(send(&signer.token(json!({})), "x").await, Err(Code::Unauthenticated), "no account");
    assert_eq!(send("opaque", "x").await, Err(Code::Unauthenticated));
    assert_eq!(keeper.asked(), asked, "what cannot be an account's token is not asked about");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn anonymous_senders_stay_within_what_is_listed_for_them() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    keys(folder.path(), KEYS);
    let config = with_verifier(&sink, "api_keys/keys", &key_file(&folder));
    let policies = POLICIES.replace(
        "  principals:\n",
        "  anonymous: 'tenant:public'\n  principals:\n    - { principal: anonymous, may_assert: [guest] }\n",
    );
    let tollgate = Tollgate::with(&config).policies(&policies).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    for (claim, tenant) in [("guest", "guest"), ("acme", "public"), ("public", "public")] {
        grpc.clone().tenant(claim).spans(of(&[], claim)).await.unwrap();
        assert_eq!(tenant_of(&sink, claim).await, tenant, "{claim}");
    }
    let wrong = grpc.clone().header("authorization", "Bearer wrong").tenant("guest");
    assert_eq!(wrong.spans(of(&[], "x")).await.unwrap_err().code(), Code::Unauthenticated);
    // What the policies chose is told apart, what somebody merely claims is not; neither is proven.
    for (tenant, class) in [("public", "dynamic"), ("guest", "_overflow")] {
        let (_, told) = tollgate.get("admin", &format!("/v1/policies/effective?tenant={tenant}")).await;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&told["class"], &told["authenticated"]), (&json!(class), &json!(false)), "{told}");
    }
    let warned = tollgate.log().iter().any(|line| line.to_string().contains("anybody who can connect"));
    assert!(warned, "listing anonymous is warned of");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn believed_claims_are_warned_of_and_verifiers_cannot_go_while_they_are_needed() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    keys(folder.path(), KEYS);
    let config = with_verifier(&sink, "api_keys/keys", &key_file(&folder));
    let believing =
        "version: 1\nidentity: { claims: [{ header: x-tenant-id }], anonymous: overflow }\nrules: []\n";
    let tollgate = Tollgate::with(&config).policies(believing).start().await;
    assert!(tollgate.event("identity.claims_believed").is_some(), "believed claims are warned of");
    // A revision that names a verifier nobody runs is refused.
    std::fs::write(tollgate.policies_path(), POLICIES.replace("verifier: keys", "verifier: other")).unwrap();
    eventually("the refusal", || async {
        let (_, revisions) = tollgate.get("admin", "/v1/revisions").await;
        revisions.contains("collector.yaml runs no verifier `api_keys/other`").then_some(())
    })
    .await;
    std::fs::write(tollgate.policies_path(), POLICIES).unwrap();
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    eventually("the revision", || async {
        grpc.spans(of(&[], "x")).await.err().filter(|refused| refused.code() == Code::Unauthenticated)
    })
    .await;
    // Nor can the configuration drop the one that is needed.
    let path = tollgate.dir.path().join("collector.yaml");
    let with_otlp = std::fs::read_to_string(&path).unwrap();
    let without = with_otlp.replace("extensions: [api_keys/keys, admin,", "extensions: [admin,");
    std::fs::write(&path, without).unwrap();
    tollgate.signal("HUP");
    let refused = eventually("the refusal", || async { tollgate.event("config.refused") }).await;
    assert!(refused.to_string().contains("the policies need the verifier `api_keys/keys`"), "{refused}");
    std::fs::write(&path, with_otlp).unwrap();
    tollgate.signal("HUP");
    eventually("the reload", || async { tollgate.event("config.reloaded") }).await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.header("authorization", "Bearer acme-key");
    grpc.spans(of(&[], "y")).await.unwrap();
    assert_eq!(tenant_of(&sink, "y").await, "acme");
    tollgate.settled().await;
    tollgate.stop().await;
}

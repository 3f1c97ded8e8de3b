use super::super::{Plan, parse_for};
use super::*;
use crate::yaml::Source as Text;

const RUNNING: [&str; 3] = ["jwt/prod", "api_keys", "service_account/cluster"];

fn read_text(identity: &str) -> Result<(Plan, Problems), Problems> {
    let text = format!("version: 1\nrules: []\nidentity:\n{identity}");
    let running = RUNNING.map(str::to_owned);
    parse_for(&Text::new("p.yaml", text), jiff::Timestamp::UNIX_EPOCH, Some(&running))
}

fn check(identity: &str, expected: &[&str]) {
    let lines = match read_text(identity) {
        Ok((_, warnings)) => warnings.lines(),
        Err(problems) => problems.lines(),
    };
    assert_eq!(lines, expected, "{identity}");
}

#[test]
fn sources_and_principals_are_read() {
    let (plan, warnings) = read_text(
        "  authenticate:
    - mtls: { tenant: \"spiffe://prod.example/ns/{tenant}/sa/*\" }
    - mtls: { names: dns }
    - jwt: { verifier: prod, tenant: org }
    - service_account: { verifier: service_account/cluster }
    - api_key: { verifier: api_keys, tenant: \"{tenant}/*\" }
  principals:
    - { principal: \"spiffe://prod.example/ns/gateway/*\", source: mtls, may_assert: [\"*\"] }
    - { principal: ci, tenant: builds }
  on_mismatch: refuse
",
    )
    .unwrap_or_else(|problems| panic!("{problems}"));
    assert!(warnings.is_empty(), "{warnings}");
    let identity = &plan.identity;
    let verifiers: Vec<_> = identity.authenticate.iter().map(Source::verifier).collect();
    let expected = [None, None, Some("jwt/prod"), Some("service_account/cluster"), Some("api_keys")];
    assert_eq!(verifiers, expected);
    assert_eq!(identity.on_mismatch, OnMismatch::Refuse);
    let gateway = Glob::new("spiffe://prod.example/ns/gateway/*").unwrap();
    assert_eq!(identity.principals[0].who, Who::Named(gateway, Some(SourceKind::Mtls)));
    assert_eq!(identity.principals[1].tenant, Some(TenantId::new("builds").unwrap()));
}

#[test]
fn a_verifier_must_run() {
    check(
        "  authenticate: [{ jwt: { verifier: prood } }, { api_key: { verifier: x } }, { jwt: {} }]\n",
        &[
            "p.yaml:4:37: identity.authenticate[0].jwt.verifier: collector.yaml runs no verifier `jwt/prood`; did you mean `jwt/prod`?",
            "p.yaml:4:71: identity.authenticate[1].api_key.verifier: collector.yaml runs no verifier `api_keys/x`; did you mean `api_keys`?",
            "p.yaml:4:85: identity.authenticate[2].jwt: `verifier` is missing; name an extension of collector.yaml",
        ],
    );
}

#[test]
fn a_source_is_one_thing() {
    check(
        "  authenticate: [{ mtls: {}, jwt: { verifier: prod } }, { pod: {} }, { mtls: { tenant: x } }]\n",
        &[
            "p.yaml:4:18: identity.authenticate[0]: a source is exactly one of `mtls`, `jwt`, `service_account`, `api_key` and `pod`",
            "p.yaml:4:64: identity.authenticate[1].pod: collector.yaml watches no pods; list the extension `pods` in service.extensions, or use the processor `k8s_attributes`",
            "p.yaml:4:88: identity.authenticate[2].mtls.tenant: must have {tenant} exactly once; for example spiffe://prod.example/ns/{tenant}/sa/*; `*` stays within a segment",
        ],
    );
}

#[test]
fn what_would_have_no_effect_is_refused() {
    check(
        "  principals: [{ principal: ci, may_assert: [a] }]\n",
        &[
            "p.yaml:4:29: identity.principals[0].principal: never applies: without `authenticate` nobody is known by name; list a source in identity.authenticate",
        ],
    );
    check(
        "  on_mismatch: refuse\n",
        &["p.yaml:4:16: identity.on_mismatch: has no effect: without `authenticate` every claim is believed"],
    );
    check(
        "  authenticate: [{ mtls: {} }]\n  principals: [{ principal: a }, { tenant: a }, { principal: b, tenant: _x, may_assert: [a/b] }]\n",
        &[
            "p.yaml:5:16: identity.principals[0]: says nothing: give `tenant`, `may_assert` or both",
            "p.yaml:5:34: identity.principals[1]: `principal` is missing",
            "p.yaml:5:73: identity.principals[2].tenant: tenant ids that start with `_` are reserved",
            "p.yaml:5:90: identity.principals[2].may_assert[0]: a tenant id is made of A-Z a-z 0-9 ! - _ . * ' ( ) and is neither `.` nor `..`",
        ],
    );
}

#[test]
fn listing_anonymous_is_a_warning() {
    check(
        "  principals: [{ principal: anonymous, may_assert: [\"*\"] }]\n",
        &[
            "p.yaml:4:29: identity.principals[0].principal: anybody who can connect may send as the tenants of this entry; leave it out unless the network in front decides who connects",
        ],
    );
}

#[test]
fn the_tenant_of_a_pod_comes_from_what_administrators_write() {
    let text = "version: 1\nrules: []\nidentity:\n  authenticate:\n    - pod: { tenant: [namespace_label.capsule.clastix.io/tenant, pod_label.team, namespace_label.kubernetes.io/metadata.name] }\n    - pod:\n        tenant: [labels.team]\n    - pod: { tenant: [] }\n";
    let running = ["pods".to_owned()];
    let read = parse_for(&Text::new("p.yaml", text), jiff::Timestamp::UNIX_EPOCH, Some(&running));
    let lines = read.unwrap_err().lines();
    assert_eq!(
        lines,
        [
            "p.yaml:5:66: identity.authenticate[0].pod.tenant[1]: whoever may create pods decides whose data it is; take a label of the namespace, which its administrator sets",
            "p.yaml:7:18: identity.authenticate[1].pod.tenant[0]: this is nothing a pod or its namespace says; write namespace, namespace_label.<k>, namespace_annotation.<k>, pod_label.<k> or pod_annotation.<k>",
            "p.yaml:8:22: identity.authenticate[2].pod.tenant: names 0 places; allowed are 1 to 16",
        ]
    );
    let text = "version: 1\nrules: []\nidentity: { authenticate: [{ pod: {} }] }";
    let (plan, _) =
        parse_for(&Text::new("p.yaml", text), jiff::Timestamp::UNIX_EPOCH, Some(&running)).unwrap();
    assert_eq!(plan.identity.authenticate, [Source::Pod { tenant: vec![PodText::Namespace] }]);
}

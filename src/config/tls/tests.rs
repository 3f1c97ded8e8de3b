use rcgen::{CertificateParams, KeyPair};

use super::*;

fn server(json: serde_json::Value) -> TlsServer {
    serde_json::from_value(json).unwrap()
}

#[test]
fn every_problem_of_a_listener_is_found() {
    let check = |json: serde_json::Value, expected: &[(&str, Problem)]| {
        assert_eq!(server(json.clone()).check(), expected, "{json}");
    };
    let pair = |mut json: serde_json::Value| {
        json["cert_file"] = "c.pem".into();
        json["key_file"] = "k.pem".into();
        json
    };
    check(pair(serde_json::json!({})), &[]);
    check(serde_json::json!({}), &[("", Problem::Missing("cert_file"))]);
    check(serde_json::json!({"cert_file": "c"}), &[("", Problem::Missing("key_file"))]);
    check(pair(serde_json::json!({"key_pem": "k"})), &[("key_pem", Problem::Both("key_file", "key_pem"))]);
    check(pair(serde_json::json!({"min_version": "1.0"})), &[("min_version", Problem::OldVersion)]);
    check(pair(serde_json::json!({"max_version": "1.1"})), &[("max_version", Problem::NoVersion)]);
    check(
        pair(serde_json::json!({"min_version": "1.3", "max_version": "1.2"})),
        &[("min_version", Problem::VersionOrder)],
    );
    check(
        pair(serde_json::json!({"cipher_suites": ["RC4"], "curve_preferences": ["P521"]})),
        &[
            ("cipher_suites", Problem::CipherSuite("RC4".into())),
            ("curve_preferences", Problem::Curve("P521".into())),
        ],
    );
    check(pair(serde_json::json!({"tpm": {"enabled": true}})), &[("tpm", Problem::Tpm)]);
    check(pair(serde_json::json!({"ca_file": "ca"})), &[("ca_file", Problem::NoEffect)]);
}

/// A certificate of its own and its key, PEM.
fn signed() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn pem_texts_are_read_where_they_stand() {
    let check = |cert: &str, key: &str, expected: &[(&str, Problem)]| {
        let config = server(serde_json::json!({"cert_pem": cert, "key_pem": key}));
        assert_eq!(config.check(), expected);
    };
    let ((cert, key), (_, other_key)) = (signed(), signed());
    check(&cert, &key, &[]);
    check(&cert, &other_key, &[("key_pem", Problem::OtherKey)]);
    check("x", &key, &[("cert_pem", Problem::Pem("certificate"))]);
    check(
        &key,
        &cert,
        &[("cert_pem", Problem::Pem("certificate")), ("key_pem", Problem::Pem("private key"))],
    );
    // Base64 of three bytes: a PEM text, but no certificate.
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encoding = Problem::Certificate(rustls::CertificateError::BadEncoding.to_string());
    check(odd, &key, &[("cert_pem", encoding.clone())]);
    let client = |ca_pem: &str| TlsClient { ca_pem: Some(ca_pem.to_owned()), ..TlsClient::default() };
    assert_eq!(client(&cert).check(), []);
    assert_eq!(client("").check(), [("ca_pem", Problem::Pem("certificate"))]);
    assert_eq!(client(odd).check(), [("ca_pem", encoding)]);
}

#[test]
fn a_server_name_is_a_host_or_an_address() {
    let check = |name: &str| TlsClient { server_name_override: name.into(), ..TlsClient::default() }.check();
    assert_eq!((check(""), check("a.test"), check("::1")), (vec![], vec![], vec![]));
    assert_eq!(check("a b"), [("server_name_override", Problem::ServerName("a b".into()))]);
}

#[test]
fn a_key_is_never_shown() {
    let config = server(serde_json::json!({"key_pem": "canary"}));
    let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(!shown.contains("canary"), "{shown}");
}

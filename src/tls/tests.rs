use std::time::Duration;

use serde_json::json;

use super::fixtures::{Authority, Pair};
use super::*;
use crate::config::tls::{TlsClient, TlsServer};
use crate::tasks::Scope;

fn server_config(folder: &std::path::Path) -> TlsServer {
    serde_json::from_value(json!({
        "cert_file": folder.join("a.crt"), "key_file": folder.join("a.key"), "reload_interval": "50ms",
    }))
    .unwrap()
}

async fn eventually(mut is_true: impl FnMut() -> bool) {
    let polling = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polling).await.expect("in time");
}

#[tokio::test]
async fn a_changed_pair_is_taken_and_a_broken_one_leaves_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.sign("one.test").write(folder.path(), "a");
    let tls = ServerTls::load(&server_config(folder.path()), &[b"h2"]).unwrap();
    let scope = Scope::root("test");
    tls.watch(&scope);
    let first = tls.current();
    assert_eq!((tls.generation(), tls.failed_reloads()), (1, 0));

    authority.sign("two.test").write(folder.path(), "a");
    eventually(|| tls.generation() == 2).await;
    let second = tls.current();
    assert!(!Arc::ptr_eq(&first, &second));

    let failed = tls.failed_reloads();
    let Pair { cert, .. } = authority.sign("three.test");
    std::fs::write(folder.path().join("a.crt"), cert).unwrap();
    eventually(|| tls.failed_reloads() == failed + 1).await;
    std::fs::remove_file(folder.path().join("a.key")).unwrap();
    eventually(|| tls.failed_reloads() == failed + 2).await;
    assert!(Arc::ptr_eq(&tls.current(), &second));

    authority.sign("four.test").write(folder.path(), "a");
    eventually(|| tls.generation() == 3).await;
    scope.close(tokio::time::Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((scope.alive(), scope.aborted()), (0, 0));
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |config: &TlsServer, expected: &str| {
        let text = ServerTls::load(config, &[]).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    let config = server_config(folder.path());
    check(&config, "a.crt: No such file");
    let authority = Authority::new();
    authority.sign("one.test").write(folder.path(), "a");
    std::fs::write(folder.path().join("a.key"), authority.sign("two.test").key).unwrap();
    check(&config, "keys may not be consistent");
    std::fs::write(folder.path().join("a.key"), "nothing").unwrap();
    check(&config, "key_file: not a PEM file with what belongs there");
    check(&TlsServer::default(), "`cert_file` is needed");
}

#[test]
fn only_what_is_offered_is_spoken() {
    let config: TlsServer = serde_json::from_value(json!({
        "cipher_suites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], "curve_preferences": ["P384", "X25519"],
    }))
    .unwrap();
    let provider = provider(&config.offer());
    let suites: Vec<_> = provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect();
    assert_eq!(suites.len(), 4, "{suites:?}");
    assert!(suites.contains(&"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()));
    let groups: Vec<_> = provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
    assert_eq!(groups, ["secp384r1", "X25519"]);
    for name in crate::config::tls::CIPHER_SUITES {
        let known = ring::ALL_CIPHER_SUITES.iter().any(|suite| format!("{:?}", suite.suite()) == name);
        assert!(known, "{name}");
    }
}

#[test]
fn a_client_believes_the_authorities_it_is_given() {
    let authority = Authority::new();
    let pair = authority.sign("client.test");
    let config: TlsClient = serde_json::from_value(json!({
        "ca_pem": authority.pem(), "cert_pem": pair.cert, "key_pem": pair.key,
        "server_name_override": "collector.test", "min_version": "1.3",
    }))
    .unwrap();
    let tls = ClientTls::load(&config).unwrap();
    assert!(tls.current().client_auth_cert_resolver.has_certs());
    assert!(tls.current().alpn_protocols.is_empty());
    assert_eq!(tls.server_name().unwrap().to_str(), "collector.test");
    let bad = TlsClient { server_name_override: "a b".into(), ..config };
    assert!(matches!(ClientTls::load(&bad), Err(TlsError::ServerName { .. })));
}

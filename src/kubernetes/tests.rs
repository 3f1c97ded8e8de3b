//! The watch against an API server that misbehaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::PartialObjectMeta;
use kube::{Client, Config, ResourceExt};
use serde_json::json;
use tonic::codegen::Service;

use super::api_server::{ApiServer, End, Fault};
use super::*;

fn client(server: &ApiServer) -> Client {
    let mut config = Config::new(server.url().parse().unwrap());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/one/configmaps/{name}")
}

/// Everything up to the first event of this kind, in short.
async fn up_to<K>(watch: &mut Watch<K>, last: &str) -> Vec<String>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let mut seen = Vec::new();
    loop {
        let told = match watch.next().await {
            Event::Restart => "restart".to_owned(),
            Event::Listed(object) => format!("listed {}", object.name_any()),
            Event::Complete => "complete".to_owned(),
            Event::Open => "open".to_owned(),
            Event::Applied(object) => format!("applied {}", object.name_any()),
            Event::Deleted(object) => format!("deleted {}", object.name_any()),
            Event::Failed(text) => format!("failed {text}"),
        };
        seen.push(told.clone());
        if told.starts_with(last) {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_and_changes_follow() {
    let server = ApiServer::start().await;
    for name in ["a", "b", "c"] {
        server.put(&path(name), json!({ "data": { "k": name } }));
    }
    server.put("/api/v1/namespaces/two/configmaps/d", json!({}));
    let mut watch = Watch::<ConfigMap>::within(client(&server), "one").page(2);
    let seen = up_to(&mut watch, "open").await;
    assert_eq!(seen, ["restart", "listed a", "listed b", "listed c", "complete", "open"]);
    assert_eq!(server.lists("configmaps"), 2);
    server.bookmark();
    server.put(&path("a"), json!({ "data": { "k": "new" } }));
    server.delete(&path("b"));
    server.put("/api/v1/namespaces/two/configmaps/d", json!({ "data": { "k": "new" } }));
    server.put(&path("e"), json!({}));
    assert_eq!(up_to(&mut watch, "applied e").await, ["applied a", "deleted b", "applied e"]);
}

#[tokio::test]
async fn field_selectors_are_always_sent_and_who_leaves_them_is_gone() {
    let server = ApiServer::start().await;
    let pod = |node: &str| json!({ "spec": { "nodeName": node, "containers": [] } });
    server.put("/api/v1/namespaces/one/pods/near", pod("here"));
    server.put("/api/v1/namespaces/one/pods/far", pod("there"));
    let mut watch = Watch::<Pod>::cluster(client(&server)).fields("spec.nodeName=here");
    assert_eq!(up_to(&mut watch, "open").await, ["restart", "listed near", "complete", "open"]);
    server.put("/api/v1/namespaces/one/pods/far", pod("here"));
    server.put("/api/v1/namespaces/one/pods/near", pod("there"));
    assert_eq!(up_to(&mut watch, "deleted").await, ["applied far", "deleted near"]);
    let asked = server.asked();
    assert!(
        asked.iter().all(|asked| asked.parameter("fieldSelector") == Some("spec.nodeName=here")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn metadata_alone_is_asked_for() {
    let server = ApiServer::start().await;
    server.put("/api/v1/namespaces/one", json!({ "metadata": { "labels": { "tenant": "acme" } } }));
    let mut watch =
        Watch::<PartialObjectMeta<k8s_openapi::api::core::v1::Namespace>>::cluster(client(&server));
    watch = watch.metadata_only();
    assert_eq!(up_to(&mut watch, "open").await, ["restart", "listed one", "complete", "open"]);
    server.put("/api/v1/namespaces/two", json!({}));
    assert_eq!(up_to(&mut watch, "applied").await, ["applied two"]);
}

#[tokio::test]
async fn a_version_that_is_too_old_leads_to_one_new_list() {
    for as_event in [true, false] {
        let server = ApiServer::start().await;
        server.put(&path("a"), json!({}));
        let mut watch = Watch::<ConfigMap>::within(client(&server), "one");
        up_to(&mut watch, "open").await;
        server.expire(as_event);
        server.end_watches(End::Clean);
        let seen = up_to(&mut watch, "complete").await;
        assert!(seen.iter().any(|told| told.starts_with("failed 410")), "{seen:?}");
        assert_eq!(seen.last().unwrap(), "complete");
        up_to(&mut watch, "open").await;
        assert_eq!(server.lists("configmaps"), 2);
    }
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_is_not_asked_in_a_loop() {
    let server = ApiServer::start().await;
    let mut watch = Watch::<ConfigMap>::within(client(&server), "one");
    server.fault(Some(Fault::ShortWatches));
    let running = async {
        loop {
            watch.next().await;
        }
    };
    // Waits of at least 0.8s and 1.6s fit in between.
    assert!(tokio::time::timeout(Duration::from_secs(2), running).await.is_err());
    assert!(server.watches("configmaps") <= 2, "{:?}", server.asked());
    assert_eq!(server.lists("configmaps"), 1);
}

#[tokio::test]
async fn failures_are_told_and_the_watch_goes_on_where_it_was() {
    let server = ApiServer::start().await;
    server.put(&path("a"), json!({}));
    let mut watch = Watch::<ConfigMap>::within(client(&server), "one");
    up_to(&mut watch, "open").await;
    server.fault(Some(Fault::Refuse(429, Some(1))));
    server.end_watches(End::Broken);
    let seen = up_to(&mut watch, "failed 429").await;
    assert!(seen.iter().all(|told| told.starts_with("failed")), "{seen:?}");
    server.put(&path("a"), json!({ "data": { "k": "new" } }));
    server.fault(None);
    let seen = up_to(&mut watch, "applied").await;
    assert_eq!(&seen[seen.len() - 2..], ["open", "applied a"]);
    assert_eq!(server.lists("configmaps"), 1);
}

/// An API server nobody can connect to; counts who tries.
#[derive(Clone, Default)]
struct Away(Arc<AtomicUsize>);

impl Service<http::Request<kube::client::Body>> for Away {
    type Response = http::Response<kube::client::Body>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<kube::client::Body>) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err(std::io::ErrorKind::ConnectionRefused.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_an_api_server_is_waited_out_with_few_requests() {
    let away = Away::default();
    let mut watch = Watch::<Pod>::cluster(Client::new(away.clone(), "default"));
    let running = async {
        loop {
            watch.next().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3600), running).await.is_err());
    let requests = away.0.load(Ordering::Relaxed);
    // One each 30s to 60s, and some at the beginning.
    assert!((60..=135).contains(&requests), "{requests}");
}

#[tokio::test]
async fn a_watch_that_says_nothing_past_its_time_is_given_up() {
    let server = ApiServer::start().await;
    let mut watch = Watch::<ConfigMap>::within(client(&server), "one").renewed_every(Duration::from_secs(1));
    up_to(&mut watch, "open").await;
    // The server ends it in time: no failure.
    assert_eq!(up_to(&mut watch, "open").await, ["open"]);
    server.fault(Some(Fault::Away));
    let seen = up_to(&mut watch, "failed").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
}

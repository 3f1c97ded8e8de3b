//! An API server: lists and watches of any resource over HTTP on loopback, with the faults a real one has.
//!
//! ```text
//! put, delete ─▶ objects + history ─▶ list (pages), watch (ADDED, MODIFIED, DELETED, BOOKMARK, 410)
//! ```
//!
//! Paths are those of Kubernetes: `/api/v1/namespaces/NS/configmaps/NAME`, `/apis/GROUP/VERSION/…`. It checks no
//! rights. It needs nothing of the harness around it, so that unit tests and benchmarks use it too.
#![allow(dead_code, missing_docs, reason = "several programs include it, and none uses all of it")]

mod forward;
mod serve;
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use store::Store;
pub use store::Target;

/// What goes wrong with every request from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status, and Retry-After if given in seconds.
    Refuse(u16, Option<u32>),
    /// Takes requests and never answers.
    Silent,
    /// Breaks off every connection.
    Away,
    /// Opens watches and ends them at once.
    ShortWatches,
}

/// How open watches end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As at their timeout.
    Clean,
    /// In the middle of the body.
    Broken,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Name and value of each parameter, decoded.
    pub query: Vec<(String, String)>,
    pub authorization: Option<String>,
    pub body: Value,
}

impl Asked {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn is_watch(&self) -> bool {
        matches!(self.parameter("watch"), Some("true" | "1"))
    }

    fn is_list(&self) -> bool {
        let target = Target::parse(&self.path);
        self.method == "GET" && !self.is_watch() && target.is_some_and(|target| target.name.is_none())
    }

    fn is_about(&self, resource: &str) -> bool {
        Target::parse(&self.path).is_some_and(|target| target.resource == resource)
    }
}

/// What all connections share.
struct Shared {
    store: Mutex<Store>,
    fault: Mutex<Option<Fault>>,
    asked: Mutex<Vec<Asked>>,
    /// Counts changes of the store, for those who watch.
    changed: watch::Sender<u64>,
    /// Counts the times that open watches were ended, and how.
    ended: watch::Sender<(u64, End)>,
    /// Open watches: the resource of each.
    watches: Mutex<Vec<String>>,
    /// Where forwarded ports of a pod lead: pod name, port, address.
    forwards: Mutex<Vec<(String, u16, SocketAddr)>>,
    /// No watch starts from a revision before this one is told as an event; else as a status.
    gone_as_event: Mutex<bool>,
}

/// Waits for no panicked holder: a test that failed has said so already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running API server; it ends with the runtime it was started on.
#[derive(Clone)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    certificate_authority: Option<String>,
}

impl ApiServer {
    /// Starts one on plain HTTP.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().expect("an address"), None).await
    }

    /// Starts one on TLS; the authority's certificate is for its kubeconfig.
    pub async fn start_tls(tls: Arc<rustls::ServerConfig>, certificate_authority: &str) -> Self {
        let address = "127.0.0.1:0".parse().expect("an address");
        let mut server = Self::start_on(address, Some(tls)).await;
        server.certificate_authority = Some(certificate_authority.to_owned());
        server
    }

    async fn start_on(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            fault: Mutex::default(),
            asked: Mutex::default(),
            changed: watch::Sender::new(0),
            ended: watch::Sender::new((0, End::Clean)),
            watches: Mutex::default(),
            forwards: Mutex::default(),
            gone_as_event: Mutex::new(true),
        });
        tokio::spawn(serve::accept(listener, tls, shared.clone()));
        Self { address, shared, certificate_authority: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificate_authority.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// Writes a kubeconfig for this server into a folder; its context has this namespace.
    pub fn kubeconfig(&self, folder: &Path, namespace: &str) -> PathBuf {
        let mut cluster = json!({ "server": self.url() });
        if let Some(authority) = &self.certificate_authority {
            use base64::Engine;
            let encoded = base64::engine::general_purpose::STANDARD.encode(authority);
            cluster["certificate-authority-data"] = encoded.into();
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "double", "cluster": cluster }],
            "users": [{ "name": "tester", "user": { "token": "of-a-tester" } }],
            "contexts": [{
                "name": "double",
                "context": { "cluster": "double", "user": "tester", "namespace": namespace },
            }],
            "current-context": "double",
        });
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("a writable folder");
        path
    }

    /// Creates or replaces the object at a path, as `kubectl apply` does; its resource version.
    pub fn put(&self, path: &str, object: Value) -> u64 {
        let revision = lock(&self.shared.store).put(&object_at(path), object);
        self.shared.changed.send_modify(|count| *count += 1);
        revision
    }

    /// As [`ApiServer::put`] with a version of the caller's choice, for disorder that only happens behind proxies.
    pub fn put_at(&self, path: &str, object: Value, version: u64) {
        lock(&self.shared.store).put_at(&object_at(path), object, version);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Deletes the object at a path, if it is there.
    pub fn delete(&self, path: &str) {
        lock(&self.shared.store).delete(&object_at(path));
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        lock(&self.shared.store).get(&object_at(path))
    }

    /// All objects of a resource.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        lock(&self.shared.store).of(resource)
    }

    /// Sends everybody who watches a bookmark of the present revision.
    pub fn bookmark(&self) {
        lock(&self.shared.store).bookmark();
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Forgets history: a watch from before now is told 410, by an event in a 200 or as the status of the answer.
    pub fn expire(&self, as_event: bool) {
        *lock(&self.shared.gone_as_event) = as_event;
        lock(&self.shared.store).expire();
    }

    /// What goes wrong from now on; none: nothing. Open watches stay open.
    pub fn fault(&self, fault: Option<Fault>) {
        *lock(&self.shared.fault) = fault;
    }

    /// Forwards a port of a pod to an address.
    pub fn forward(&self, pod: &str, port: u16, to: SocketAddr) {
        lock(&self.shared.forwards).push((pod.to_owned(), port, to));
    }

    /// Ends all open watches.
    pub fn end_watches(&self, how: End) {
        self.shared.ended.send_modify(|(count, end)| (*count, *end) = (*count + 1, how));
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// How many lists of a resource were asked for so far, every page counted.
    pub fn lists(&self, resource: &str) -> usize {
        lock(&self.shared.asked).iter().filter(|asked| asked.is_about(resource) && asked.is_list()).count()
    }

    /// How many watches of a resource were asked for so far.
    pub fn watches(&self, resource: &str) -> usize {
        lock(&self.shared.asked).iter().filter(|asked| asked.is_about(resource) && asked.is_watch()).count()
    }

    /// How many watches of a resource are open now.
    pub fn open_watches(&self, resource: &str) -> usize {
        lock(&self.shared.watches).iter().filter(|open| *open == resource).count()
    }

    /// Waits until a resource is watched, for half a minute.
    pub async fn watched(&self, resource: &str) {
        for _ in 0..3000 {
            if self.open_watches(resource) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody watches {resource}: {:?}", self.asked());
    }
}

fn object_at(path: &str) -> Target {
    match Target::parse(path) {
        Some(target) if target.name.is_some() => target,
        _ => panic!("{path} names no object"),
    }
}

//! The HTTP side: one connection, one request, one watch.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::forward;
use super::store::{Selectors, Target};
use super::{Asked, End, Fault, Shared, lock};

pub(super) type Answer = Response<Pin<Box<dyn Body<Data = Bytes, Error = std::io::Error> + Send>>>;

pub async fn accept(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(async move {
            if *lock(&shared.fault) == Some(Fault::Away) {
                return;
            }
            match tls {
                None => connection(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                        connection(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { answer(&shared, request).await.ok_or(Cut) }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    // A connection that breaks off is what tests do.
    drop(builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
}

/// Ends a connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Option<Answer> {
    if request.uri().path().ends_with("/portforward") {
        return Some(forward::answer(shared, request));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let asked = Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: parameters(head.uri.query().unwrap_or_default()),
        authorization: head.headers.get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    lock(&shared.asked).push(asked.clone());
    let fault = *lock(&shared.fault);
    match fault {
        Some(Fault::Away) => return None,
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Refuse(code, after)) => return Some(refused(code, after)),
        Some(Fault::ShortWatches) if asked.is_watch() => return Some(text(200, String::new())),
        _ => {}
    }
    let Some(target) = Target::parse(&asked.path) else { return Some(status(404, "NotFound")) };
    let accept = head.headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let metadata_only = accept.contains("as=PartialObjectMetadata");
    Some(match (&head.method, target.name.is_some()) {
        (&Method::GET, false) if asked.is_watch() => watch(shared, target, &asked, metadata_only),
        (&Method::GET, false) => list(shared, &target, &asked, metadata_only),
        (&Method::GET, true) => found(lock(&shared.store).get(&target)),
        (&Method::POST, false) => create(shared, &target, asked.body),
        (&Method::PUT, true) => replace(shared, &target, asked.body),
        (&Method::PATCH, true) => patch(shared, &target, &asked.body),
        (&Method::DELETE, true) => {
            let gone = lock(&shared.store).delete(&target);
            shared.changed.send_modify(|count| *count += 1);
            found(gone)
        }
        _ => status(405, "MethodNotAllowed"),
    })
}

pub(super) fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap_or("0"), 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn selectors(asked: &Asked) -> Selectors {
    let text = |name: &str| asked.parameter(name).unwrap_or_default().to_owned();
    Selectors { fields: text("fieldSelector"), labels: text("labelSelector") }
}

fn list(shared: &Shared, target: &Target, asked: &Asked, metadata_only: bool) -> Answer {
    let limit = asked.parameter("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let selectors = selectors(asked);
    let page = lock(&shared.store).list(
        target,
        &selectors,
        limit.unwrap_or(usize::MAX),
        asked.parameter("continue"),
    );
    let Ok(page) = page else { return status(410, "Expired") };
    let items: Vec<Value> = page.items.into_iter().map(|item| shaped(item, metadata_only)).collect();
    let kind = if metadata_only { "PartialObjectMetadata".to_owned() } else { target.kind() };
    let mut metadata = json!({ "resourceVersion": page.version.to_string() });
    if let Some(next) = page.next {
        metadata["continue"] = next.into();
    }
    let api = if metadata_only { "meta.k8s.io/v1" } else { target.api_version.as_str() };
    text(
        200,
        json!({ "apiVersion": api, "kind": format!("{kind}List"), "metadata": metadata, "items": items })
            .to_string(),
    )
}

fn shaped(object: Value, metadata_only: bool) -> Value {
    match metadata_only {
        false => object,
        true => json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
        }),
    }
}

fn create(shared: &Shared, target: &Target, object: Value) -> Answer {
    let mut store = lock(&shared.store);
    let name = match object["metadata"]["name"].as_str() {
        Some(name) => name.to_owned(),
        None => store.unused_name(object["metadata"]["generateName"].as_str().unwrap_or_default()),
    };
    let target = target.named(&name);
    if store.get(&target).is_some() {
        return status(409, "AlreadyExists");
    }
    store.put(&target, object);
    let made = store.get(&target).unwrap_or_default();
    drop(store);
    shared.changed.send_modify(|count| *count += 1);
    text(201, made.to_string())
}

fn replace(shared: &Shared, target: &Target, object: Value) -> Answer {
    let mut store = lock(&shared.store);
    let Some(present) = store.get(target) else { return status(404, "NotFound") };
    let wanted = &object["metadata"]["resourceVersion"];
    if !wanted.is_null() && *wanted != present["metadata"]["resourceVersion"] {
        return status(409, "Conflict");
    }
    store.put(target, object);
    let made = store.get(target);
    drop(store);
    shared.changed.send_modify(|count| *count += 1);
    found(made)
}

/// Every kind of patch is merged as JSON; a server-side apply may create.
/// Changes an object, or its subresource `status`.
fn patch(shared: &Shared, target: &Target, change: &Value) -> Answer {
    let target = &Target { subresource: None, ..target.clone() };
    let mut store = lock(&shared.store);
    let mut object = store.get(target).unwrap_or_else(|| json!({}));
    merge(&mut object, change);
    store.put(target, object);
    let made = store.get(target);
    drop(store);
    shared.changed.send_modify(|count| *count += 1);
    found(made)
}

fn merge(into: &mut Value, change: &Value) {
    let Some(changes) = change.as_object() else { return };
    for (key, value) in changes {
        match value {
            Value::Null => drop(into.as_object_mut().map(|map| map.remove(key))),
            Value::Object(_) if into[key].is_object() => merge(&mut into[key], value),
            value => into[key] = value.clone(),
        }
    }
}

fn watch(shared: &Arc<Shared>, target: Target, asked: &Asked, metadata_only: bool) -> Answer {
    let store = lock(&shared.store);
    let since = match asked.parameter("resourceVersion").and_then(|version| version.parse().ok()) {
        Some(0) | None => store.version(),
        Some(version) => version,
    };
    let selectors = selectors(asked);
    if store.events(&target, &selectors, (since, 0)).is_err() && !*lock(&shared.gone_as_event) {
        return status(410, "Expired");
    }
    drop(store);
    let seconds = asked.parameter("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(1800);
    let bookmarks = asked.parameter("allowWatchBookmarks") == Some("true");
    let (lines, body) = mpsc::channel(64);
    let follow = Follow { shared: shared.clone(), target, selectors, since, metadata_only, bookmarks, lines };
    lock(&shared.watches).push(follow.target.resource.clone());
    tokio::spawn(async move {
        // Its timeout ends a watch as a real server does: cleanly.
        drop(tokio::time::timeout(Duration::from_secs(seconds), follow.run()).await);
    });
    Response::new(Box::pin(Lines(body)))
}

/// One open watch.
struct Follow {
    shared: Arc<Shared>,
    target: Target,
    selectors: Selectors,
    since: u64,
    metadata_only: bool,
    bookmarks: bool,
    lines: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut watches = lock(&self.shared.watches);
        if let Some(place) = watches.iter().position(|open| *open == self.target.resource) {
            watches.swap_remove(place);
        }
    }
}

impl Follow {
    async fn run(self) {
        let (mut changed, mut ended) = (self.shared.changed.subscribe(), self.shared.ended.subscribe());
        ended.borrow_and_update();
        let mut place = 0;
        loop {
            changed.borrow_and_update();
            let events = lock(&self.shared.store).events(&self.target, &self.selectors, (self.since, place));
            let Ok((events, next)) = events else { return self.say(gone()).await };
            place = next;
            for event in events {
                if event["type"] == "BOOKMARK" && !self.bookmarks {
                    continue;
                }
                let object =
                    shaped(event["object"].clone(), self.metadata_only && event["type"] != "BOOKMARK");
                self.say(json!({ "type": event["type"], "object": object })).await;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = ended.changed() => {
                    if ended.borrow().1 == End::Broken {
                        drop(self.lines.send(Err(std::io::Error::other("broken"))).await);
                    }
                    return;
                }
                () = self.lines.closed() => return,
            }
        }
    }

    async fn say(&self, event: Value) {
        // Whoever went away is noticed by the loop.
        drop(self.lines.send(Ok(Bytes::from(format!("{event}\n")))).await);
    }
}

fn gone() -> Value {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 410,
        "reason": "Expired", "message": "too old resource version",
    });
    json!({ "type": "ERROR", "object": status })
}

/// The body of a watch.
struct Lines(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl Body for Lines {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| line.map(Frame::data)))
    }
}

fn found(object: Option<Value>) -> Answer {
    object.map_or_else(|| status(404, "NotFound"), |object| text(200, object.to_string()))
}

pub(super) fn status(code: u16, reason: &str) -> Answer {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": format!("{reason} ({code})"),
    });
    text(code, status.to_string())
}

/// As the API server refuses when it has too much to do: plain text.
fn refused(code: u16, after: Option<u32>) -> Answer {
    let mut answer = text(code, "Too many requests, please try again later.".to_owned());
    if let Some(seconds) = after {
        answer.headers_mut().insert("retry-after", http::HeaderValue::from(seconds));
    }
    answer
}

pub(super) fn text(code: u16, body: String) -> Answer {
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {});
    let mut answer: Answer = Response::new(Box::pin(body));
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}

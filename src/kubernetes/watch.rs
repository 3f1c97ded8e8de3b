//! Follows the objects of one resource: list in pages, then watch, again and again.
//!
//! ```text
//!           ┌──────────── 410, bad list: wait ───────────┐
//!           ▼                                            │
//!  Restart, Listed…, Complete ──▶ Open, Applied, Deleted…┤
//!                              ▲                         │
//!                              └─ ended, broken: wait ───┘
//! ```
//!
//! As kube's `watcher`, except that an end that comes too soon counts as a failure (it would spin), that the
//! caller learns when a watch stands, and that a silent connection is noticed by one deadline per watch.
//! Not here: what is kept of the objects. Invariant: no two requests follow each other without a wait, unless
//! the first succeeded and either carried a new page or lasted.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request, Status};
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::REQUEST_TIMEOUT;

/// Objects of one page of a list, as client-go has it.
const PAGE: u32 = 500;
/// How long a watch lasts before it is renewed. A connection that died without a word is noticed this long and
/// [`MARGIN`] after it was opened at the latest; a watch a minute is nothing to an API server.
const LASTS: Duration = Duration::from_secs(60);
/// How long after its time the end of a watch may come.
const MARGIN: Duration = Duration::from_secs(5);
/// A watch that ends sooner than this has failed, whatever the server says.
const TOO_SOON: Duration = Duration::from_secs(5);
/// The least wait after 429; the server's own wish is in a header that does not reach us.
const OVERLOADED: Duration = Duration::from_secs(2);
/// The longest wait a server may ask for.
const LONGEST: Duration = Duration::from_secs(60);

/// What happens to the objects.
#[derive(Debug)]
pub enum Event<K> {
    /// A list begins. What is not in it is gone once it is complete.
    Restart,
    /// One object of the list.
    Listed(K),
    /// The list is complete.
    Complete,
    /// A watch stands: what changes is told from now on.
    Open,
    /// An object is new or changed.
    Applied(K),
    /// An object is gone; this is how it was.
    Deleted(K),
    /// The API server does not answer as it should; what is known may be old until [`Event::Open`].
    Failed(String),
}

/// Where a watch stands.
enum State<K> {
    Start,
    Paging { next: Option<String>, version: Option<String>, objects: std::vec::IntoIter<K> },
    Listed { version: String },
    Watching { version: String, stream: BoxStream<'static, kube::Result<WatchEvent<K>>>, since: Instant },
}

/// Follows objects of one type; see [`Watch::next`].
pub struct Watch<K> {
    client: Client,
    request: Request,
    fields: Option<String>,
    labels: Option<String>,
    page: u32,
    lasts: Duration,
    metadata_only: bool,
    state: State<K>,
    backoff: DefaultBackoff,
    wait: Option<Duration>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Everything of its type in the cluster.
    pub fn cluster(client: Client) -> Self {
        Self::at(client, K::url_path(&(), None))
    }

    /// Everything of its type in a namespace.
    pub fn within(client: Client, namespace: &str) -> Self {
        Self::at(client, K::url_path(&(), Some(namespace)))
    }

    fn at(client: Client, path: String) -> Self {
        Self {
            client,
            request: Request::new(path),
            fields: None,
            labels: None,
            page: PAGE,
            lasts: LASTS,
            metadata_only: false,
            state: State::Start,
            backoff: DefaultBackoff::default(),
            wait: None,
        }
    }

    /// Only what this field selector selects, for example `metadata.name=tollgate`. Sent with every request.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// Only what this label selector selects, for example `app=web`. Sent with every request.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Asks for this many objects at a time; fewer need less memory while a list is read. Default: 500.
    pub fn page(mut self, objects: u32) -> Self {
        self.page = objects;
        self
    }

    /// Renews the watch this often. Default: 60s.
    pub fn renewed_every(mut self, lasts: Duration) -> Self {
        self.lasts = lasts;
        self
    }

    /// Asks for metadata only; `K` must need nothing else.
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// The next thing that happens. Waits as long as nothing does; after [`Event::Failed`] the next call waits
    /// before it asks again: from 0.8s on, doubled each time up to 30s, and by chance up to twice that, so that a
    /// fleet scatters; or what the server asks for, up to 60s.
    ///
    /// # Cancel safety
    /// Events are lost if this is dropped while it waits for an answer; a `Watch` that was cancelled starts
    /// again with a list.
    pub async fn next(&mut self) -> Event<K> {
        loop {
            if let Some(wait) = self.wait {
                tokio::time::sleep(wait).await;
                self.wait = None;
            }
            let state = std::mem::replace(&mut self.state, State::Start);
            if let Some(event) = self.step(state).await {
                return event;
            }
        }
    }

    async fn step(&mut self, state: State<K>) -> Option<Event<K>> {
        match state {
            State::Start => {
                self.state = State::Paging { next: None, version: None, objects: Vec::new().into_iter() };
                Some(Event::Restart)
            }
            State::Paging { next, version, objects } => self.page_on(next, version, objects).await,
            State::Listed { version } => self.open(version).await,
            State::Watching { version, stream, since } => self.follow(version, stream, since).await,
        }
    }

    async fn page_on(
        &mut self,
        next: Option<String>,
        version: Option<String>,
        mut objects: std::vec::IntoIter<K>,
    ) -> Option<Event<K>> {
        if let Some(object) = objects.next() {
            self.state = State::Paging { next, version, objects };
            return Some(Event::Listed(object));
        }
        if let (None, Some(version)) = (&next, version) {
            self.state = State::Listed { version };
            return Some(Event::Complete);
        }
        match self.list(next).await {
            Err(failure) => Some(self.failed(&failure)),
            Ok(list) => {
                let version = list.metadata.resource_version.filter(|version| !version.is_empty());
                let next = list.metadata.continue_.filter(|token| !token.is_empty());
                if version.is_none() {
                    return Some(self.failed(&Failure::told("the list has no resource version")));
                }
                self.state = State::Paging { next, version, objects: list.items.into_iter() };
                None
            }
        }
    }

    async fn list(&mut self, next: Option<String>) -> Result<ObjectList<K>, Failure> {
        let params = ListParams {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            limit: Some(self.page),
            continue_token: next,
            ..ListParams::default()
        };
        let request = match self.metadata_only {
            true => self.request.list_metadata(&params),
            false => self.request.list(&params),
        };
        let request = request.map_err(|error| Failure::told(&error))?;
        Ok(timeout(REQUEST_TIMEOUT, self.client.request(request))
            .await
            .map_err(|_late| Failure::late())??)
    }

    async fn open(&mut self, version: String) -> Option<Event<K>> {
        let since = Instant::now();
        match self.watch(&version).await {
            Ok(stream) => {
                self.state = State::Watching { version, stream, since };
                Some(Event::Open)
            }
            Err(failure) => {
                if !failure.gone {
                    self.state = State::Listed { version };
                }
                Some(self.failed(&failure))
            }
        }
    }

    async fn watch(
        &mut self,
        version: &str,
    ) -> Result<BoxStream<'static, kube::Result<WatchEvent<K>>>, Failure> {
        let seconds = u32::try_from(self.lasts.as_secs().max(1)).unwrap_or(u32::MAX);
        let params = WatchParams {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = match self.metadata_only {
            true => self.request.watch_metadata(&params, version),
            false => self.request.watch(&params, version),
        };
        let request = request.map_err(|error| Failure::told(&error))?;
        let opened = timeout(REQUEST_TIMEOUT, self.client.request_events(request)).await;
        Ok(opened.map_err(|_late| Failure::late())??.boxed())
    }

    async fn follow(
        &mut self,
        mut version: String,
        mut stream: BoxStream<'static, kube::Result<WatchEvent<K>>>,
        since: Instant,
    ) -> Option<Event<K>> {
        let event = match timeout_at(since + self.lasts + MARGIN, stream.next()).await {
            Err(_silent) => {
                self.state = State::Listed { version };
                return Some(self.failed(&Failure::told("the connection is silent")));
            }
            Ok(None) if since.elapsed() < TOO_SOON.min(self.lasts) => {
                self.state = State::Listed { version };
                return Some(self.failed(&Failure::told("the watch ended as soon as it began")));
            }
            Ok(None) => {
                self.backoff.reset();
                self.state = State::Listed { version };
                return None;
            }
            Ok(Some(Err(error))) => {
                self.state = State::Listed { version };
                return Some(self.failed(&error.into()));
            }
            Ok(Some(Ok(event))) => event,
        };
        let mut newer = None;
        let told = match event {
            WatchEvent::Error(status) => {
                let failure = Failure::of(&status);
                if !failure.gone {
                    self.state = State::Listed { version };
                }
                return Some(self.failed(&failure));
            }
            WatchEvent::Bookmark(bookmark) => {
                newer = Some(bookmark.metadata.resource_version);
                None
            }
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                object.meta().resource_version.clone_into(&mut newer);
                Some(Event::Applied(object))
            }
            WatchEvent::Deleted(object) => {
                object.meta().resource_version.clone_into(&mut newer);
                Some(Event::Deleted(object))
            }
        };
        // What has no version leaves the place to go on from as it was.
        version = newer.filter(|newer| !newer.is_empty()).unwrap_or(version);
        self.state = State::Watching { version, stream, since };
        told
    }

    fn failed(&mut self, failure: &Failure) -> Event<K> {
        let own = self.backoff.next().unwrap_or(LONGEST);
        self.wait = Some(own.max(failure.asked.min(LONGEST)));
        Event::Failed(failure.text.clone())
    }
}

/// What the server did instead of answering.
struct Failure {
    text: String,
    /// How long it asks to be left alone.
    asked: Duration,
    /// The version we know is too old: only a list helps.
    gone: bool,
}

impl Failure {
    fn told(what: impl ToString) -> Self {
        Self { text: what.to_string(), asked: Duration::ZERO, gone: false }
    }

    fn late() -> Self {
        Self::told(format!("no answer within {}s", REQUEST_TIMEOUT.as_secs()))
    }

    fn of(status: &Status) -> Self {
        let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let least = if status.code == 429 { OVERLOADED } else { Duration::ZERO };
        Self {
            text: format!("{} {}", status.code, status.message),
            asked: Duration::from_secs(asked.into()).max(least),
            gone: status.code == 410,
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => Self::of(status),
            error => Self::told(with_causes(error)),
        }
    }
}

/// An error and what it comes from, on one line; the client's own texts stop at "service error".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

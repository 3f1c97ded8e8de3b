//! Follows pods and namespaces at the API server.
//!
//! One task per resource; failures are waited out with growing pauses, and what is known stays in use.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keep::Keep;
use super::store::{Applied, Store};
use super::view::{NamespaceView, PodView};
use super::{Listed, Pods, Settings};
use crate::internal_telemetry::{WatchMetrics, Watched};
use crate::kubernetes::{Client, ConnectError, Event, Watch, connect};
use crate::tasks::Scope;

/// Objects of one page: a page is in memory as the API server wrote it, about 6 KB a pod.
const PAGE: u32 = 100;
/// The same where only a node's pods are asked for: five small pages weigh less than one large one.
const PAGE_OF_NODE: u32 = 25;
/// How often pods are forgotten whose grace is over.
const SWEEP: Duration = Duration::from_secs(1);
/// What stopping a watch may take.
const STOP: Duration = Duration::from_secs(1);

/// Why pods cannot be watched; the program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The variable that names the node is not set.
    #[error(
        "{place}.filter.node_from_env_var: the environment variable {variable} is not set; in the pod's \
         specification set it from spec.nodeName"
    )]
    NoNode {
        /// The component.
        place: String,
        /// The variable.
        variable: String,
    },
    /// There is no client for the API server.
    #[error("{place}: {source}")]
    Connect {
        /// The component.
        place: String,
        /// What is wrong.
        source: ConnectError,
    },
}

/// The filter as the API server is asked.
struct Selectors {
    namespace: Option<String>,
    fields: Option<String>,
    labels: Option<String>,
    page: u32,
}

impl Selectors {
    fn of(settings: &Settings) -> Result<Self, StartError> {
        let filter = &settings.filter;
        let node = match &filter.node_from_env_var {
            Some(variable) => match std::env::var(variable) {
                Ok(node) if !node.is_empty() => Some(node),
                _ => {
                    let (place, variable) = (settings.place.clone(), variable.clone());
                    return Err(StartError::NoNode { place, variable });
                }
            },
            None => filter.node.clone(),
        };
        let page = if node.is_some() { PAGE_OF_NODE } else { PAGE };
        let fields = filter.field_selector(node.as_deref());
        Ok(Self { namespace: filter.namespace.clone(), fields, labels: filter.label_selector(), page })
    }

    fn watch(&self, client: &Client) -> Watch<PodView> {
        let mut watch = match &self.namespace {
            Some(namespace) => Watch::within(client.clone(), namespace),
            None => Watch::cluster(client.clone()),
        };
        if let Some(fields) = &self.fields {
            watch = watch.fields(fields);
        }
        if let Some(labels) = &self.labels {
            watch = watch.labels(labels);
        }
        watch.page(self.page)
    }
}

impl Pods {
    /// Watches what `settings` say from now on, in tasks of `scope`; the earlier watch ends, and what it
    /// found stays until the new one has listed everything. Returns before the first list.
    ///
    /// # Errors
    /// [`StartError`]: nothing is changed.
    pub async fn follow(&self, settings: Settings, scope: &Scope) -> Result<(), StartError> {
        let client = connect(&settings.access).await;
        let place = settings.place.clone();
        let client = client.map_err(|source| StartError::Connect { place, source })?;
        self.follow_by(client, settings, scope).await
    }

    /// [`Pods::follow`] by a client that is there.
    ///
    /// # Errors
    /// [`StartError::NoNode`]: nothing is changed.
    pub async fn follow_by(
        &self,
        client: Client,
        settings: Settings,
        scope: &Scope,
    ) -> Result<(), StartError> {
        let selectors = Selectors::of(&settings)?;
        self.stop().await;
        let child = scope.child("pods");
        self.with_store(|store| store.bound(settings.max_pods, settings.ended_pods_grace));
        self.want(|wanted| wanted.configured = settings.keep.clone());
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        let only = selectors.namespace.clone();
        let (pods, of_pods, token) = (self.clone(), client.clone(), child.token().clone());
        child.spawn("pods", async move { pods.follow_pods(&of_pods, &selectors, &token).await });
        let (pods, token) = (self.clone(), child.token().clone());
        child.spawn("namespaces", async move { pods.follow_namespaces(&client, only, &token).await });
        let (pods, token) = (self.clone(), child.token().clone());
        child.spawn("ended-pods", async move {
            token.run_until_cancelled(pods.sweep()).await;
        });
        *self.0.watching.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Watches no pods any more, and forgets those that are known.
    pub async fn end(&self) {
        self.stop().await;
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.listed.send_replace(Listed::default());
        self.with_store(Store::clear);
    }

    async fn stop(&self) {
        let watching = self.0.watching.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(scope) = watching {
            scope.close(Instant::now() + STOP).await;
        }
    }

    /// Waits until everything was listed once, as long as the settings say; tells whether it was.
    pub async fn first_list(&self) -> bool {
        let patience = self.with_settings(|settings| settings.first_list_timeout).unwrap_or_default();
        let mut listed = self.0.listed.subscribe();
        let all = async {
            while !self.is_listed() {
                if listed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }

    fn with_store<T>(&self, edit: impl FnOnce(&mut Store) -> T) -> T {
        edit(&mut self.0.store.write().unwrap_or_else(PoisonError::into_inner))
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let count = self.with_store(|store| {
                store.sweep(Instant::now());
                store.len()
            });
            self.0.metrics.watch(Watched::Pods).objects.set(count as i64);
        }
    }

    async fn follow_pods(&self, client: &Client, selectors: &Selectors, stop: &CancellationToken) {
        let metrics = self.0.metrics.watch(Watched::Pods);
        metrics.start();
        let mut keeps = self.0.keep.subscribe();
        let mut standing = self.standing(Watched::Pods);
        loop {
            let keep = keeps.borrow_and_update().clone();
            let mut watch = selectors.watch(client);
            let follow = async {
                loop {
                    let event = watch.next().await;
                    standing.note(&event);
                    self.take_pod(event, &keep);
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // What is wanted has changed: everything is listed again.
                changed = keeps.changed() => if changed.is_err() { return },
                () = follow => {}
            }
        }
    }

    fn take_pod(&self, event: Event<PodView>, keep: &Arc<Keep>) {
        let now = Instant::now();
        match event {
            Event::Restart => self.with_store(Store::begin_round),
            Event::Listed(pod) | Event::Applied(pod) => {
                if self.with_store(|store| store.apply(&pod, keep, now)) == Applied::LeftOut {
                    self.0.metrics.left_out.add(1);
                }
            }
            Event::Deleted(pod) => self.with_store(|store| store.end(pod.uid(), now)),
            Event::Complete => {
                let count = self.with_store(|store| {
                    store.end_round(now);
                    store.len()
                });
                self.list_done(Watched::Pods, count);
            }
            Event::Open | Event::Failed(_) => {}
        }
    }

    async fn follow_namespaces(&self, client: &Client, only: Option<String>, stop: &CancellationToken) {
        let metrics = self.0.metrics.watch(Watched::Namespaces);
        let mut keeps = self.0.keep.subscribe();
        let mut standing: Option<Standing> = None;
        loop {
            let keep = keeps.borrow_and_update().clone();
            let follow = async {
                if !keep.wants_namespaces() {
                    return std::future::pending().await;
                }
                metrics.start();
                let standing = standing.get_or_insert_with(|| self.standing(Watched::Namespaces));
                let mut watch = Watch::<NamespaceView>::cluster(client.clone()).page(PAGE).metadata_only();
                if let Some(name) = &only {
                    watch = watch.fields(format!("metadata.name={name}"));
                }
                loop {
                    let event = watch.next().await;
                    standing.note(&event);
                    self.take_namespace(event, &keep);
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = keeps.changed() => if changed.is_err() { return },
                () = follow => {}
            }
        }
    }

    fn take_namespace(&self, event: Event<NamespaceView>, keep: &Arc<Keep>) {
        match event {
            Event::Restart => self.with_store(Store::begin_namespace_round),
            Event::Listed(namespace) | Event::Applied(namespace) => {
                self.with_store(|store| store.apply_namespace(&namespace, keep));
            }
            Event::Deleted(namespace) => self.with_store(|store| store.end_namespace(namespace.name())),
            Event::Complete => {
                let count = self.with_store(|store| {
                    store.end_namespace_round();
                    store.namespaces()
                });
                self.list_done(Watched::Namespaces, count);
            }
            Event::Open | Event::Failed(_) => {}
        }
        let count = self.with_store(|store| store.namespaces());
        self.0.metrics.watch(Watched::Namespaces).objects.set(count as i64);
    }

    fn standing(&self, watched: Watched) -> Standing {
        let metrics = self.0.telemetry.kubernetes_watch(watched.as_str());
        Standing { watched, metrics, failing_since: None }
    }

    fn list_done(&self, watched: Watched, count: usize) {
        let metrics = self.0.metrics.watch(watched);
        metrics.lists.add(1);
        metrics.listed.set(1);
        metrics.objects.set(count as i64);
        let is_first = self.0.listed.send_if_modified(|listed| {
            let one = match watched {
                Watched::Pods => &mut listed.pods,
                Watched::Namespaces => &mut listed.namespaces,
            };
            !std::mem::replace(one, true)
        });
        if is_first {
            let resource = watched.as_str();
            tracing::info!(name: "kubernetes.listed", resource, count, "the first list is complete");
        }
    }
}

/// Whether the API server answers, said once per change.
struct Standing {
    watched: Watched,
    metrics: WatchMetrics,
    failing_since: Option<Instant>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.metrics.up.set(0);
    }
}

impl Standing {
    fn note<K>(&mut self, event: &Event<K>) {
        match event {
            Event::Failed(why) => self.failed(why),
            Event::Open => self.stands(),
            _ => {}
        }
    }

    fn failed(&mut self, why: &str) {
        self.metrics.failures.add(1);
        self.metrics.up.set(0);
        // A watch that is too old is only listed again.
        if self.failing_since.is_some() || why.starts_with("410") {
            return;
        }
        self.failing_since = Some(Instant::now());
        let resource = self.watched.as_str();
        let way_out = if why.starts_with("403") { "; the account needs get, list and watch" } else { "" };
        tracing::warn!(
            name: "kubernetes.watch_failed",
            resource, why, "the API server does not tell{way_out}; what is known stays in use"
        );
    }

    fn stands(&mut self) {
        self.metrics.up.set(1);
        if let Some(since) = self.failing_since.take() {
            let (resource, away) = (self.watched.as_str(), since.elapsed());
            tracing::info!(name: "kubernetes.watch_restored", resource, ?away, "the API server tells again");
        }
    }
}

//! Follows pods and namespaces at the API server: list, watch, list again where the watch cannot go on.
//!
//! One task per resource; failures are waited out with growing pauses, and what is known stays in use.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use kube::runtime::watcher::{Config as WatchConfig, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keep::Keep;
use super::store::{Applied, Store};
use super::view::{NamespaceView, PodView};
use super::{Listed, Pods, Settings};
use crate::internal_telemetry::{WatchMetrics, Watched};
use crate::tasks::Scope;

/// Objects of one page: a page is in memory as the API server wrote it.
const PAGE: u32 = 100;
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
}

/// The filter as the API server is asked.
struct Selectors {
    namespace: Option<String>,
    config: WatchConfig,
}

impl Settings {
    fn selectors(&self) -> Result<Selectors, StartError> {
        let node = match &self.filter.node_from_env_var {
            Some(variable) => match std::env::var(variable) {
                Ok(node) if !node.is_empty() => Some(node),
                _ => {
                    let (place, variable) = (self.place.clone(), variable.clone());
                    return Err(StartError::NoNode { place, variable });
                }
            },
            None => self.filter.node.clone(),
        };
        let mut config = WatchConfig::default().page_size(PAGE);
        config.label_selector = self.filter.label_selector();
        config.field_selector = self.filter.field_selector(node.as_deref());
        Ok(Selectors { namespace: self.filter.namespace.clone(), config })
    }
}

impl Pods {
    /// Watches what `settings` say from now on, in tasks of `scope`; the earlier watch ends, and what it
    /// found stays until the new one has listed everything.
    ///
    /// # Errors
    /// [`StartError`]: nothing is changed.
    pub async fn follow(&self, settings: Settings, client: Client, scope: &Scope) -> Result<(), StartError> {
        let selectors = settings.selectors()?;
        self.stop().await;
        let child = scope.child("pods");
        self.with_store(|store| store.bound(settings.max_pods, settings.ended_pods_grace));
        self.want(|wanted| wanted.configured = settings.keep.clone());
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        let (pods, of_pods, token) = (self.clone(), client.clone(), child.token().clone());
        let namespace = selectors.namespace.clone();
        child.spawn("pods", async move { pods.follow_pods(of_pods, selectors, token).await });
        let (pods, token) = (self.clone(), child.token().clone());
        child.spawn("namespaces", async move { pods.follow_namespaces(client, namespace, token).await });
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

    async fn follow_pods(&self, client: Client, selectors: Selectors, stop: CancellationToken) {
        let metrics = self.0.metrics.watch(Watched::Pods);
        metrics.start();
        let mut keeps = self.0.keep.subscribe();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut outage = Outage::new(Watched::Pods, metrics);
        loop {
            let keep = keeps.borrow_and_update().clone();
            let api: Api<PodView> = match &selectors.namespace {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            let mut events = pin!(watcher(api, selectors.config.clone()).default_backoff());
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = keeps.changed() => if changed.is_ok() { break } else { return },
                    _ = sweep.tick() => self.with_store(|store| {
                        store.sweep(Instant::now());
                        metrics.objects.set(store.len() as i64);
                    }),
                    event = events.next() => match event {
                        Some(Ok(event)) => {
                            outage.over(&event);
                            self.take_pod(event, &keep);
                        }
                        Some(Err(error)) => outage.note(&error),
                        None => break,
                    },
                }
            }
        }
    }

    fn take_pod(&self, event: Event<PodView>, keep: &Arc<Keep>) {
        let now = Instant::now();
        let metrics = self.0.metrics.watch(Watched::Pods);
        match event {
            Event::Init => self.with_store(Store::begin_round),
            Event::InitApply(pod) | Event::Apply(pod) => {
                if self.with_store(|store| store.apply(&pod, keep, now)) == Applied::LeftOut {
                    self.0.metrics.left_out.add(1);
                }
            }
            Event::Delete(pod) => self.with_store(|store| store.end(pod.uid(), now)),
            Event::InitDone => {
                let count = self.with_store(|store| {
                    store.end_round(now);
                    store.len()
                });
                self.list_done(Watched::Pods, count);
                metrics.objects.set(count as i64);
            }
        }
    }

    async fn follow_namespaces(&self, client: Client, only: Option<String>, stop: CancellationToken) {
        let metrics = self.0.metrics.watch(Watched::Namespaces);
        let mut keeps = self.0.keep.subscribe();
        let mut outage = Outage::new(Watched::Namespaces, metrics);
        let mut config = WatchConfig::default().page_size(PAGE);
        config.field_selector = only.map(|name| format!("metadata.name={name}"));
        loop {
            let keep = keeps.borrow_and_update().clone();
            if !keep.wants_namespaces() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = keeps.changed() => if changed.is_ok() { continue } else { return },
                }
            }
            metrics.start();
            let api: Api<NamespaceView> = Api::all(client.clone());
            let mut events = pin!(watcher(api, config.clone()).default_backoff());
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = keeps.changed() => if changed.is_ok() { break } else { return },
                    event = events.next() => match event {
                        Some(Ok(event)) => {
                            outage.over(&event);
                            self.take_namespace(event, &keep);
                        }
                        Some(Err(error)) => outage.note(&error),
                        None => break,
                    },
                }
            }
        }
    }

    fn take_namespace(&self, event: Event<NamespaceView>, keep: &Arc<Keep>) {
        match event {
            Event::Init => self.with_store(Store::begin_namespace_round),
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                self.with_store(|store| store.apply_namespace(&namespace, keep));
            }
            Event::Delete(namespace) => self.with_store(|store| store.end_namespace(namespace.name())),
            Event::InitDone => {
                let count = self.with_store(|store| {
                    store.end_namespace_round();
                    store.namespaces()
                });
                self.list_done(Watched::Namespaces, count);
            }
        }
        let count = self.with_store(|store| store.namespaces());
        self.0.metrics.watch(Watched::Namespaces).objects.set(count as i64);
    }

    fn list_done(&self, watched: Watched, count: usize) {
        let metrics = self.0.metrics.watch(watched);
        metrics.lists.add(1);
        metrics.listed.set(1);
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
struct Outage<'m> {
    watched: Watched,
    metrics: &'m WatchMetrics,
    since: Option<Instant>,
}

impl<'m> Outage<'m> {
    fn new(watched: Watched, metrics: &'m WatchMetrics) -> Self {
        Self { watched, metrics, since: None }
    }

    fn note(&mut self, error: &watcher::Error) {
        self.metrics.errors.add(1);
        self.metrics.up.set(0);
        let resource = self.watched.as_str();
        // A watch that is too old is listed again at once; that is no outage.
        let is_expired = matches!(error, watcher::Error::WatchError(status) if status.code == 410);
        if is_expired || self.since.is_some() {
            return;
        }
        self.since = Some(Instant::now());
        let why = explained(error);
        tracing::warn!(
            name: "kubernetes.watch_failed",
            resource, %why, "the API server does not answer; what is known stays in use"
        );
    }

    /// An event came; `Init` only says that a list is about to be asked for.
    fn over<K>(&mut self, event: &Event<K>) {
        if matches!(event, Event::Init) {
            return;
        }
        self.metrics.up.set(1);
        if let Some(since) = self.since.take() {
            let (resource, away) = (self.watched.as_str(), since.elapsed());
            tracing::info!(name: "kubernetes.watch_restored", resource, ?away, "the API server answers again");
        }
    }
}

/// The whole chain of causes, and the way out of a missing right.
fn explained(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    if text.to_lowercase().contains("forbidden") {
        text += "; the service account needs get, list and watch";
    }
    text
}

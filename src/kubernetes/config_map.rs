//! The ConfigMap of the policies, followed through the API server.
//!
//! Not here: whether a text is good, and which source is believed (`policies::watch`). Invariant: what the API
//! server says is offered in its order, and that it falls silent is told.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;

use super::watch::{Event, Watch};
use crate::config::extensions;
use crate::internal_telemetry::WatchMetrics;
use crate::policies::InForce;
use crate::policies::watch::{Offer, Origin};

/// One ConfigMap and whom its text is offered to.
#[derive(Clone)]
pub struct Followed {
    client: Client,
    keys: extensions::ConfigMap,
    namespace: String,
    in_force: Arc<InForce>,
    /// The uid of the object as it was last seen, for events about it.
    uid: Arc<Mutex<Option<String>>>,
}

impl Followed {
    /// Follows the ConfigMap of these keys; without a namespace in the client's own.
    pub fn new(client: Client, keys: &extensions::ConfigMap, in_force: &Arc<InForce>) -> Self {
        let namespace = keys.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Self { client, keys: keys.clone(), namespace, in_force: in_force.clone(), uid: Arc::default() }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn in_force(&self) -> &Arc<InForce> {
        &self.in_force
    }

    /// Namespace, name and uid.
    pub(super) fn object(&self) -> (&str, &str, Option<String>) {
        let uid = self.uid.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (&self.namespace, &self.keys.name, uid)
    }

    /// Offers what the API server says of the object, for ever.
    ///
    /// # Cancel safety
    /// May be dropped; started again it begins with a list.
    pub async fn follow(self, metrics: WatchMetrics) {
        let selector = format!("metadata.name={}", self.keys.name);
        let mut watch = Watch::within(self.client.clone(), &self.namespace).fields(selector);
        let mut listed = None;
        loop {
            match watch.next().await {
                Event::Restart => listed = None,
                Event::Listed(object) => listed = Some(object),
                Event::Complete => self.offer(listed.take(), Said::List).await,
                Event::Open => self.open(&metrics),
                Event::Applied(object) => self.offer(Some(object), Said::Event).await,
                Event::Deleted(object) => self.offer(Some(object), Said::Deletion).await,
                Event::Failed(problem) => self.failed(&metrics, &problem),
            }
        }
    }

    fn open(&self, metrics: &WatchMetrics) {
        self.in_force.api_followed();
        if metrics.up.get() == 0 {
            let (namespace, name, _) = self.object();
            tracing::info!(name: "policies.api_followed", namespace, config_map = name, "the API server tells of changes");
        }
        metrics.up.set(1);
    }

    fn failed(&self, metrics: &WatchMetrics, problem: &str) {
        self.in_force.api_lost();
        metrics.failures.add(1);
        let (namespace, name, _) = self.object();
        tracing::warn!(
            name: "policies.api_lost",
            problem, namespace, config_map = name,
            "the API server tells nothing of the policies; those in force stay"
        );
        metrics.up.set(0);
    }

    async fn offer(&self, object: Option<ConfigMap>, said: Said) {
        let offer = self.read(object, said);
        let in_force = self.in_force.clone();
        let offered = tokio::task::spawn_blocking(move || in_force.offer(offer)).await;
        if let Err(error) = offered {
            tracing::error!(name: "policies.offer_failed", %error, "the policies of the API server were not looked at");
        }
    }

    fn read(&self, object: Option<ConfigMap>, said: Said) -> Offer {
        let (listed, key) = (said == Said::List, &self.keys.key);
        let place = format!("configmap {}/{}", self.namespace, self.keys.name);
        let Some(mut object) = object else {
            let origin = Origin { name: place, version: None };
            return Offer { origin, listed, text: Err("there is no such ConfigMap".to_owned()) };
        };
        let version = object.metadata.resource_version.take().and_then(|version| version.parse().ok());
        if object.immutable == Some(true) {
            tracing::warn!(
                name: "policies.immutable",
                config_map = place,
                "the ConfigMap is immutable: it will never change; replace it by one that is not"
            );
        }
        let text = match object.data.as_mut().and_then(|data| data.remove(key)) {
            _ if said == Said::Deletion => Err("the ConfigMap was deleted".to_owned()),
            Some(text) => Ok(text),
            None => Err(format!("it has no key `{key}`{}", known(&object))),
        };
        *self.uid.lock().unwrap_or_else(PoisonError::into_inner) = object.metadata.uid;
        // A version that is no number cannot be ordered: every event counts then.
        let listed = listed || version.is_none();
        Offer {
            origin: Origin { name: format!("{place} key {key}"), version: version.or(Some(0)) },
            listed,
            text,
        }
    }
}

/// Who said something of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    List,
    Event,
    Deletion,
}

/// The keys there are.
fn known(object: &ConfigMap) -> String {
    let texts = object.data.iter().flat_map(|data| data.keys());
    let bytes = object.binary_data.iter().flat_map(|data| data.keys());
    let keys: Vec<&str> = texts.chain(bytes).map(String::as_str).take(10).collect();
    if keys.is_empty() { "; it is empty".to_owned() } else { format!("; it has: {}", keys.join(", ")) }
}

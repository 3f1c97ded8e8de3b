//! Every pod of a fleet, asked through the API server.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ask, is_well as is_pod_well};
use crate::config::kubernetes::{Access, AuthType};
use crate::kubernetes::{REQUEST_TIMEOUT, connect};

/// Pods that are asked at a time.
const AT_A_TIME: usize = 16;
/// Pods of a page of the list.
const PAGE: u32 = 500;
/// The most pods that are asked.
const MAX_PODS: usize = 10_000;

/// Which pods.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The namespace of the pods. Default: that of the kubeconfig's context.
    #[arg(long, short, value_name = "NAMESPACE", requires = "fleet")]
    namespace: Option<String>,
    /// Which pods are asked, by their labels.
    #[arg(long, short = 'l', value_name = "LABELS", default_value = "app.kubernetes.io/name=tollgate")]
    selector: String,
    /// The port of the admin listener in the pods.
    #[arg(long, value_name = "PORT", default_value_t = 55679)]
    port: u16,
    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, value_name = "CONTEXT", requires = "fleet")]
    context: Option<String>,
}

/// What is known of one pod.
#[derive(Debug)]
pub(super) struct OfPod {
    pub(super) name: String,
    pub(super) node: String,
    /// What it answered, or why it did not.
    pub(super) status: Result<Value, String>,
    /// Whether it holds other policies than most.
    pub(super) drifts: bool,
}

impl OfPod {
    fn sha256(&self) -> Option<&str> {
        self.status.as_ref().ok()?["policies"]["in_force"]["sha256"].as_str()
    }
}

/// Asks every pod; in the order of their names.
pub(super) async fn ask(place: &Place, patience: Duration) -> anyhow::Result<Vec<OfPod>> {
    let access = Access { auth_type: AuthType::KubeConfig, context: place.context.clone() };
    let client = connect(&access).await?;
    let namespace = place.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let pods = list(&client, &namespace, &place.selector).await.with_context(|| {
        format!("no list of the pods of namespace {namespace} with the labels {}", place.selector)
    })?;
    if pods.len() > MAX_PODS {
        bail!("more than {MAX_PODS} pods have the labels {}; choose some with --selector", place.selector);
    }
    if pods.is_empty() {
        bail!(
            "namespace {namespace} has no pods with the labels {}; see --namespace, --selector",
            place.selector
        );
    }
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let asked = pods.into_iter().map(|pod| of_pod(&api, pod, place.port, patience));
    let mut pods: Vec<OfPod> = futures_util::stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await;
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    mark_drift(&mut pods);
    Ok(pods)
}

/// What the list says of a pod.
struct Listed {
    name: String,
    node: String,
    phase: String,
}

impl Listed {
    fn of(pod: Pod) -> Self {
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            node: pod.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
            phase: pod.status.and_then(|status| status.phase).unwrap_or_default(),
        }
    }
}

/// Pods, page by page, until there are no more or too many.
async fn list(client: &Client, namespace: &str, selector: &str) -> anyhow::Result<Vec<Listed>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    let mut pods = Vec::new();
    loop {
        let page =
            timeout(REQUEST_TIMEOUT, api.list(&params)).await.context("the API server does not answer")??;
        pods.extend(page.items.into_iter().map(Listed::of));
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        match next {
            Some(next) if pods.len() <= MAX_PODS => params = params.continue_token(&next),
            _ => return Ok(pods),
        }
    }
}

async fn of_pod(api: &Api<Pod>, pod: Listed, port: u16, patience: Duration) -> OfPod {
    let Listed { name, node, phase } = pod;
    let status = match phase.as_str() {
        "Running" => match timeout(patience, through(api, &name, port)).await {
            Ok(answered) => answered.map_err(|error| format!("{error:#}")),
            Err(_late) => Err(format!("no answer in {patience:?}")),
        },
        phase => Err(format!("the pod is {phase}")),
    };
    OfPod { name, node, status, drifts: false }
}

async fn through(api: &Api<Pod>, name: &str, port: u16) -> anyhow::Result<Value> {
    let mut forwarder = api.portforward(name, &[port]).await.context("no port-forward")?;
    let stream = forwarder.take_stream(port).context("no stream")?;
    let told = forwarder.take_error(port);
    let answered = ask::over(stream, "localhost").await;
    forwarder.abort();
    // What the kubelet says explains more than a stream that ended.
    match (answered, told) {
        (Ok(status), _) => Ok(status),
        (Err(error), Some(told)) => match timeout(Duration::from_millis(100), told).await {
            Ok(Some(problem)) => bail!("{}", problem.trim()),
            _ => Err(error),
        },
        (Err(error), None) => Err(error),
    }
}

/// Marks the pods whose policies are not those of most; of two that are equally frequent, those of the pod that
/// changed last are taken for the right ones.
fn mark_drift(pods: &mut [OfPod]) {
    let mut counts: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for pod in pods.iter() {
        let Some(sha256) = pod.sha256() else { continue };
        let since =
            pod.status.as_ref().ok().and_then(|status| status["policies"]["in_force"]["since"].as_str());
        let count = counts.entry(sha256.to_owned()).or_default();
        count.0 += 1;
        count.1 = count.1.clone().max(since.unwrap_or_default().to_owned());
    }
    let usual = counts.into_iter().max_by(|(_, a), (_, b)| a.cmp(b)).map(|(sha256, _)| sha256);
    for pod in pods {
        pod.drifts = pod.sha256().is_some_and(|sha256| Some(sha256) != usual.as_deref());
    }
}

/// Everybody answered, is ready and holds the same policies.
pub(super) fn is_well(pods: &[OfPod]) -> bool {
    pods.iter().all(|pod| !pod.drifts && pod.status.as_ref().is_ok_and(is_pod_well))
}

/// For scripts.
pub(super) fn json(pods: &[OfPod]) -> Value {
    let of = |pod: &OfPod| {
        json!({
            "pod": pod.name,
            "node": pod.node,
            "drifts": pod.drifts,
            "status": pod.status.as_ref().ok(),
            "not_reached": pod.status.as_ref().err(),
        })
    };
    json!({ "well": is_well(pods), "pods": pods.iter().map(of).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, sha256: &str, since: &str) -> OfPod {
        let in_force = json!({ "sha256": sha256, "since": since });
        let status = json!({ "ready": true, "policies": { "in_force": in_force, "refused": null } });
        OfPod { name: name.to_owned(), node: String::new(), status: Ok(status), drifts: false }
    }

    #[test]
    fn whoever_holds_other_policies_than_most_drifts() {
        let lost = OfPod { status: Err("gone".to_owned()), ..pod("d", "x", "1") };
        let mut pods = vec![pod("a", "x", "1"), pod("b", "y", "9"), pod("c", "x", "1"), lost];
        mark_drift(&mut pods);
        assert_eq!(pods.iter().map(|pod| pod.drifts).collect::<Vec<_>>(), [false, true, false, false]);
        let mut pods = vec![pod("a", "x", "1"), pod("b", "y", "9")];
        mark_drift(&mut pods);
        assert_eq!(pods.iter().map(|pod| pod.drifts).collect::<Vec<_>>(), [true, false]);
    }
}

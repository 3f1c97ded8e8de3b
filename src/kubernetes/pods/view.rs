//! Pods and namespaces as they come from the API server: the few fields that are looked at, nothing else is
//! decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::{Deserialize, Deserializer};

/// Labels or annotations.
pub(super) type Texts = BTreeMap<String, String>;

/// A pod on its way into the store.
#[derive(Debug, Clone, Default)]
pub(super) struct PodView {
    /// Name, namespace, uid and resource version only.
    meta: ObjectMeta,
    pub(super) created: Option<String>,
    pub(super) labels: Texts,
    pub(super) annotations: Texts,
    pub(super) owners: Vec<OwnerView>,
    pub(super) node: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) host_network: bool,
    pub(super) containers: Vec<ContainerView>,
    pub(super) has_ended: bool,
    pub(super) started: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) hosts: Vec<IpAddr>,
}

/// Who made a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct OwnerView {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) controller: Option<bool>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerView {
    pub(super) name: String,
    pub(super) image: Option<String>,
}

/// A namespace on its way into the store.
#[derive(Debug, Clone, Default)]
pub(super) struct NamespaceView {
    /// Name, uid and resource version only.
    meta: ObjectMeta,
    pub(super) labels: Texts,
    pub(super) annotations: Texts,
}

impl PodView {
    pub(super) fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }
}

impl NamespaceView {
    pub(super) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<String>,
    labels: Option<Texts>,
    annotations: Option<Texts>,
    owner_references: Option<Vec<OwnerView>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    hostname: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<ContainerView>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    start_time: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<Address>>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs")]
    host_ips: Option<Vec<Address>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Address {
    ip: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    metadata: Meta,
    spec: Option<Spec>,
    status: Option<Status>,
}

/// The addresses of a list and of its older form with one of them; what is no address is passed over.
fn addresses(one: Option<&str>, all: Option<Vec<Address>>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let all = all.unwrap_or_default();
    for text in all.iter().map(|address| address.ip.as_str()).chain(one) {
        if let Ok(address) = text.parse::<IpAddr>().map(|address| address.to_canonical())
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

impl Meta {
    fn identity(&mut self) -> ObjectMeta {
        ObjectMeta {
            name: self.name.take(),
            namespace: self.namespace.take(),
            uid: self.uid.take(),
            resource_version: self.resource_version.take(),
            ..ObjectMeta::default()
        }
    }
}

impl<'de> Deserialize<'de> for PodView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object { mut metadata, spec, status } = Object::deserialize(deserializer)?;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        Ok(Self {
            meta: metadata.identity(),
            created: metadata.creation_timestamp,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            owners: metadata.owner_references.unwrap_or_default(),
            node: spec.node_name.filter(|name| !name.is_empty()),
            hostname: spec.hostname.filter(|name| !name.is_empty()),
            host_network: spec.host_network.unwrap_or_default(),
            containers: spec.containers.unwrap_or_default(),
            has_ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            started: status.start_time,
            addresses: addresses(status.pod_ip.as_deref(), status.pod_ips),
            hosts: addresses(status.host_ip.as_deref(), status.host_ips),
        })
    }
}

impl<'de> Deserialize<'de> for NamespaceView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object { mut metadata, .. } = Object::deserialize(deserializer)?;
        Ok(Self {
            meta: metadata.identity(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        })
    }
}

macro_rules! resource {
    ($view:ty, $scope:ty, $kind:literal, $plural:literal, $metadata_only:literal) => {
        impl Resource for $view {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn metadata_api() -> bool {
                $metadata_only
            }

            fn meta(&self) -> &ObjectMeta {
                &self.meta
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.meta
            }
        }
    };
}

resource!(PodView, NamespaceResourceScope, "Pod", "pods", false);
resource!(NamespaceView, ClusterResourceScope, "Namespace", "namespaces", true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read_whatever_is_missing_or_null() {
        let pod: PodView = serde_json::from_str(
            r#"{"kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","labels":null,
                "managedFields":[{"fieldsV1":{"f:x":{}}}]},
                "status":{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"},{"ip":""}]}}"#,
        )
        .unwrap();
        assert_eq!((pod.name(), pod.namespace(), pod.uid()), ("a", "n", "u"));
        assert_eq!(pod.addresses, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(!pod.host_network && !pod.has_ended && pod.labels.is_empty());
        let nothing: PodView = serde_json::from_str(r#"{"metadata":{},"spec":null}"#).unwrap();
        assert!(nothing.uid().is_empty() && nothing.addresses.is_empty());
    }
}

//! Extensions: things beside the pipelines that the configuration names.
//!
//! Only the keys and their defaults; `admin` and `policies` do the work.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kubernetes::{Access, AuthType};

/// Answers probes over HTTP: 200 while data is taken, 503 while starting and draining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Where to listen; must be reachable by whoever probes. Default: `localhost:13133`.
    pub endpoint: String,
    /// The path that answers; `/` answers every path. Default: `/`.
    pub path: String,
    /// Replaces the JSON status in answers. Default: the JSON status.
    pub response_body: Option<ResponseBody>,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { endpoint: "localhost:13133".into(), path: "/".into(), response_body: None }
    }
}

/// What `health_check` answers instead of the JSON status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseBody {
    /// The body of a 200. Default: empty.
    pub healthy: String,
    /// The body of a 503. Default: empty.
    pub unhealthy: String,
}

/// Accepted so that a Collector's file runs unchanged; serves nothing, because the profiles it would
/// offer are those of the Go runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pprof {
    /// Not used. Default: `localhost:1777`.
    pub endpoint: String,
    /// Not used. Default: 0.
    pub block_profile_fraction: i64,
    /// Not used. Default: 0.
    pub mutex_profile_fraction: i64,
    /// Not used. Default: empty.
    pub save_to_file: String,
}

impl Default for Pprof {
    fn default() -> Self {
        Self {
            endpoint: "localhost:1777".into(),
            block_profile_fraction: 0,
            mutex_profile_fraction: 0,
            save_to_file: String::new(),
        }
    }
}

/// Where the policies file is and how it is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// The policies file; a change on disk is in force at once, a bad file never replaces a good one.
    /// Default: none, the embedded policies apply.
    pub path: Option<PathBuf>,
    /// How often the file is compared in addition to watching its directory, for file systems that
    /// report no changes. Default: 10s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub poll_interval: Duration,
    /// Where the last good revision is kept, to start with when the file is bad.
    /// Default: none, a bad file at start is an error.
    pub last_good: Option<PathBuf>,
    /// How many tenants are told apart that the policies do not list by their exact id: each has its own
    /// line in every queue and its own metrics. The rest shares 16 lines and the label `_overflow`, until
    /// it is busier than others. Default: 1000. Range: 4 to 100000.
    #[schemars(range(min = 4, max = 100_000))]
    pub max_dynamic_tenants: usize,
    /// Follows one ConfigMap through the API server besides: a change is in force within a second, where the
    /// mount waits up to 90 s for the kubelet. `path` stays where the program starts from; while the API server
    /// answers, and two minutes longer, the file is not listened to. Default: none, nothing of Kubernetes is
    /// asked.
    pub config_map: Option<ConfigMap>,
}

/// The ConfigMap that holds the policies. The account needs `get`, `list` and `watch` of configmaps with this
/// `resourceNames`, and `create` of events in `events.k8s.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigMap {
    /// Its name. Default: none, it is needed.
    pub name: String,
    /// Where it is. Default: the pod's own namespace; of a kubeconfig, that of its context.
    pub namespace: Option<String>,
    /// The key with the text. Default: `policies.yaml`.
    pub key: String,
    /// Where address and credentials come from: `serviceAccount`, `kubeConfig` (`$KUBECONFIG`, else
    /// `~/.kube/config`). Default: `serviceAccount`.
    pub auth_type: AuthType,
    /// The context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
}

impl Default for ConfigMap {
    fn default() -> Self {
        Self {
            name: String::new(),
            namespace: None,
            key: "policies.yaml".to_owned(),
            auth_type: AuthType::default(),
            context: None,
        }
    }
}

impl ConfigMap {
    /// How the API server is reached.
    pub fn access(&self) -> Access {
        Access { auth_type: self.auth_type, context: self.context.clone() }
    }
}

impl Policies {
    /// Every problem: the key it is at, and the text.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if self.poll_interval.is_zero() {
            found.push(("poll_interval".to_owned(), "must be above 0s".to_owned()));
        }
        let Some(map) = &self.config_map else { return found };
        let mut name = |key: &str, value: &str, kind: &str| {
            if !is_kubernetes_name(value) {
                let text =
                    format!("`{value}` is no {kind}: lower-case letters, digits, `-` and `.`, at most 253");
                found.push((format!("config_map.{key}"), text));
            }
        };
        name("name", &map.name, "name of a ConfigMap");
        if let Some(namespace) = &map.namespace {
            name("namespace", namespace, "name of a namespace");
        }
        if map.key.is_empty() {
            found.push(("config_map.key".to_owned(), "must not be empty".to_owned()));
        }
        found
    }
}

/// RFC 1123, as Kubernetes has it.
fn is_kubernetes_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let ends = [name.bytes().next(), name.bytes().last()];
    let ends = ends.iter().all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric()));
    ends && name.len() <= 253 && name.bytes().all(inner)
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            path: None,
            poll_interval: Duration::from_secs(10),
            last_good: None,
            max_dynamic_tenants: 1000,
            config_map: None,
        }
    }
}

/// The read-only API and status page of this collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where to listen; it names tenants and has no authentication, so keep it on loopback.
    /// Default: `localhost:55679`.
    pub endpoint: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { endpoint: "localhost:55679".into() }
    }
}

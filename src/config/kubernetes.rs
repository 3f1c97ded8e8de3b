//! How the API server of Kubernetes is reached, for everything that asks it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where address and credentials come from; the Collector's `auth_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-unavailable" = ["none", "tls"]))]
pub enum AuthType {
    /// The pod's own service account.
    #[default]
    ServiceAccount,
    /// `$KUBECONFIG`, else `~/.kube/config`.
    KubeConfig,
}

/// Address and credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Where they come from.
    pub auth_type: AuthType,
    /// The context of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
}

//! Address and credentials into a client.

use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};
use kube::{Client, Config};

use crate::config::kubernetes::{Access, AuthType};

/// How long connecting to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the API server may take to answer, a watch's first byte included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no client. The API server was not asked yet: what is wrong is a file or the environment.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This does not run in a pod, or the pod has no token.
    #[error("no service account of a pod: {0}; outside a cluster say `auth_type: kubeConfig`")]
    NotInCluster(#[from] InClusterError),
    /// The kubeconfig is missing or bad.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// Certificates or credentials cannot be used.
    #[error("no client for the API server: {0}")]
    Client(#[from] kube::Error),
}

/// Reads address and credentials. Nothing is sent: the first request connects. The client's own retries are off,
/// so that whoever asks decides how often; it has no timeout for answers, so that watches may last:
/// everything else is to be held against [`REQUEST_TIMEOUT`].
///
/// # Errors
/// [`ConnectError`]: the program cannot start as configured.
pub async fn connect(access: &Access) -> Result<Client, ConnectError> {
    let mut config = match access.auth_type {
        AuthType::ServiceAccount => Config::incluster()?,
        AuthType::KubeConfig => {
            let options =
                KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    config.read_timeout = None;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

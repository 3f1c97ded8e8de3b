//! Extensions: things beside the pipelines that the configuration names.
//!
//! Only the keys and their defaults; `admin` and `policies` do the work.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            path: None,
            poll_interval: Duration::from_secs(10),
            last_good: None,
            max_dynamic_tenants: 1000,
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

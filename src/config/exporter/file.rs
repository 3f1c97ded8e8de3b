//! Keys of the exporter `file`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::null::null_is_present;

/// The exporter `file`: one line of OTLP/JSON per batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The file. Default: none, it is required.
    pub path: PathBuf,
    /// Keeps what the file holds at start, instead of emptying it; excludes `rotation`, which always
    /// keeps it. Default: false.
    pub append: bool,
    /// Renames the file when it is large and begins a new one. Default: absent, it grows without limit.
    #[serde(deserialize_with = "null_is_present", skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// What is written. Default: json. Range: json; proto is not available.
    pub format: FileFormat,
    /// How long written lines may stay in memory; 0 writes each at once. Default: 1s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub flush_interval: Duration,
    /// Compression of the file; not available. Default: empty.
    pub compression: String,
    /// An encoding extension; not available. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// A file per value of a resource attribute; not available. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_by: Option<serde_json::Value>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            append: false,
            rotation: None,
            format: FileFormat::Json,
            flush_interval: Duration::from_secs(1),
            compression: String::new(),
            encoding: None,
            group_by: None,
        }
    }
}

/// What the exporter `file` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Lines of OTLP/JSON.
    Json,
    /// Length-prefixed protobuf; not available.
    Proto,
}

/// When a file is put aside. The old ones are named by the time, `spans-2026-01-31T08-00-00.000.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// The size that puts a file aside, in MiB. Default: 100. Range: at least 1.
    pub max_megabytes: u64,
    /// Files put aside longer ago are deleted; 0 keeps them. Default: 0.
    pub max_days: u64,
    /// Only so many files put aside are kept; 0 keeps all. Default: 100.
    pub max_backups: usize,
    /// Names with local time; not available, they have UTC. Default: false.
    pub localtime: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_megabytes: 100, max_days: 0, max_backups: 100, localtime: false }
    }
}

//! Why an exporter cannot be made, or cannot start.

use crate::config::exporter::BadEndpoint;
use crate::tls::TlsError;

use super::StoreOpenError;

/// Why an exporter cannot be made from its configuration; [`Exporter::check`] finds all of it.
///
/// [`Exporter::check`]: crate::config::Exporter::check
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// Not a destination.
    #[error("{key}: {bad}")]
    Endpoint {
        /// The key.
        key: &'static str,
        /// What is wrong.
        bad: BadEndpoint,
    },
    /// Not a header or authority.
    #[error("`{0}` cannot be set as a header")]
    Header(String),
}

/// Why an exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates or keys do not load.
    #[error("exporter `{exporter}`: tls: {error}")]
    Tls {
        /// The id of the exporter.
        exporter: String,
        /// What is wrong.
        error: TlsError,
    },
    /// The file cannot be opened.
    #[error("exporter `{exporter}`: path: {error}")]
    File {
        /// The id of the exporter.
        exporter: String,
        /// What is wrong.
        error: std::io::Error,
    },
    /// The queue on disk cannot be used.
    #[error("extensions.{extension}.{error} (the queue of exporter `{exporter}`)")]
    Storage {
        /// The id of the exporter.
        exporter: String,
        /// The id of the storage.
        extension: String,
        /// What is wrong.
        error: StoreOpenError,
    },
}

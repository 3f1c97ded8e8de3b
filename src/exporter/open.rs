//! What sends: configured, then opened, then connected once for each worker.
//!
//! Not here: queues and consumers. Invariant: configuring touches neither network nor disk.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::exporter as config;
use crate::otlp::status::ExportResponse;
use crate::tasks::Scope;
use crate::tls::ClientTls;

use super::destination::{Destination, Outgoing, SendError};
use super::pool::Place;
use super::{PrepareError, StartError, debug, file, nop, otlp_grpc, otlp_http};

/// What sends, not yet opened.
#[derive(Debug)]
pub(super) enum Kind {
    OtlpGrpc(Arc<otlp_grpc::Settings>),
    OtlpHttp(Arc<otlp_http::Settings>),
    Debug(config::Debug),
    Nop,
    File(config::File),
}

impl Kind {
    pub(super) fn new(config: &config::Exporter) -> Result<Self, PrepareError> {
        Ok(match config {
            config::Exporter::OtlpGrpc(config) => Kind::OtlpGrpc(Arc::new(otlp_grpc::Settings::new(config)?)),
            config::Exporter::OtlpHttp(config) => Kind::OtlpHttp(Arc::new(otlp_http::Settings::new(config)?)),
            config::Exporter::Debug(config) => Kind::Debug(config.clone()),
            config::Exporter::Nop(_) => Kind::Nop,
            config::Exporter::File(config) => Kind::File(config.clone()),
        })
    }

    /// Loads certificates and opens files; `places` is how many requests there may be at a time.
    pub(super) fn open(
        &self,
        id: &Arc<str>,
        connections: &Scope,
        places: usize,
    ) -> Result<Opened, StartError> {
        let tls = |error| StartError::Tls { exporter: id.to_string(), error };
        Ok(match self {
            Kind::OtlpGrpc(settings) => {
                Opened::Grpc(settings.clone(), settings.load_tls(connections).map_err(tls)?)
            }
            Kind::OtlpHttp(settings) => {
                Opened::Http(settings.clone(), settings.load_tls(connections).map_err(tls)?)
            }
            Kind::Debug(config) => Opened::Debug(Arc::new(debug::Log::new(id, config))),
            Kind::Nop => Opened::Nop,
            Kind::File(config) => {
                let opened = file::Writer::start(config, places);
                let failed = |error| StartError::File { exporter: id.to_string(), error };
                let (writer, finished) = opened.map_err(failed)?;
                Opened::File(Arc::new(writer), Some(finished))
            }
        })
    }
}

/// What sends, with what all its connections share.
pub(super) enum Opened {
    Grpc(Arc<otlp_grpc::Settings>, Option<ClientTls>),
    Http(Arc<otlp_http::Settings>, Option<ClientTls>),
    Debug(Arc<debug::Log>),
    Nop,
    File(Arc<file::Writer>, Option<oneshot::Receiver<()>>),
}

impl Opened {
    /// The destination as one worker sees it; no connection is opened yet.
    pub(super) fn connect(&self, place: &Place) -> Single {
        match self {
            Opened::Grpc(settings, tls) => Single::Grpc(settings.connect(tls.as_ref(), place)),
            Opened::Http(settings, tls) => Single::Http(settings.connect(tls.as_ref(), place)),
            Opened::Debug(log) => Single::Debug(log.clone()),
            Opened::Nop => Single::Nop(nop::Nowhere),
            Opened::File(writer, _) => Single::File(writer.clone()),
        }
    }

    /// Its certificates and authorities, if it speaks TLS.
    pub(super) fn tls(&self) -> Option<ClientTls> {
        match self {
            Opened::Grpc(_, tls) | Opened::Http(_, tls) => tls.clone(),
            Opened::Debug(_) | Opened::Nop | Opened::File(..) => None,
        }
    }

    /// Resolves when everything has been put down, for those that write behind.
    pub(super) fn finished(&mut self) -> Option<oneshot::Receiver<()>> {
        match self {
            Opened::File(_, finished) => finished.take(),
            _ => None,
        }
    }
}

/// One destination of any type.
#[derive(Debug)]
pub(super) enum Single {
    Grpc(Arc<otlp_grpc::Grpc>),
    Http(Arc<otlp_http::Http>),
    Debug(Arc<debug::Log>),
    Nop(nop::Nowhere),
    File(Arc<file::Writer>),
}

impl Destination for Single {
    async fn send(&self, request: Outgoing) -> Result<ExportResponse, SendError> {
        match self {
            Single::Grpc(grpc) => grpc.send(request).await,
            Single::Http(http) => http.send(request).await,
            Single::Debug(log) => log.send(request).await,
            Single::Nop(nowhere) => nowhere.send(request).await,
            Single::File(writer) => writer.send(request).await,
        }
    }
}

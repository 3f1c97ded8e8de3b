//! `Config` to graph: the file to read to see how a configuration becomes receivers, processors, queues.
//!
//! Not here: what components do. Invariant: [`Graph::prepare`] touches neither network nor disk, so that
//! `validate`, start and reload can all call it.

mod delivery;
mod entrance;
mod request;

pub use crate::tenant::Pass;
pub use entrance::Entrance;
pub use request::{Accepted, Admitted, Arrival, Authentication, Refusal, Request, Transport};

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::authentication::Verifiers;
use crate::cgroup::Capacity;
use crate::config::processor::{Batch, Processor as ProcessorConfig};
use crate::config::{ComponentId, Config, PipelineId, Receiver, exporter, receiver};
use crate::exporter::{Exporter, PrepareError, Storage};
use crate::flow::Board;
use crate::internal_telemetry::Telemetry;
use crate::kubernetes::pods::{self, Pods};
use crate::otlp::{Limits, PerSignal};
use crate::processor::{
    Attributes, Kind, MemoryLimiter, PodAttributes, Probabilistic, Processor, Sampling, Stop, Tenancy, Work,
};
use crate::sampling::Caps;
use crate::sampling::probabilistic::BadSettings;
use crate::tenant::Directory;

/// One pipeline: what happens between its receivers and its exporters.
pub(crate) struct Pipeline {
    processors: Vec<Processor>,
    exporters: Vec<Exporter>,
}

impl Pipeline {
    /// Whether one of its processors asks whose the data is.
    fn tells_tenants(&self) -> bool {
        self.processors.iter().any(Processor::tells_tenants)
    }

    fn run(&self, work: &mut Work<'_>) -> Result<(), Stop> {
        self.processors.iter().try_for_each(|processor| processor.run(work))
    }
}

/// Everything a configuration asks for, connected and not started.
pub struct Graph {
    /// Each receiver some pipeline names, and where its requests go.
    pub receivers: Vec<(ComponentId, receiver::Otlp, Entrance)>,
    /// Each exporter some pipeline names.
    pub exporters: Vec<Exporter>,
    /// Each memory limiter some pipeline names; somebody has to run their watch.
    pub limiters: Vec<Arc<MemoryLimiter>>,
    /// What tells who sends; somebody has to start it.
    pub verifiers: Verifiers,
}

/// What outlives a configuration; clones are the same.
#[derive(Debug, Clone)]
pub struct Lasting {
    /// Where requests find the policies in force.
    pub directory: Arc<ArcSwap<Directory>>,
    /// What sampling has spent under them.
    pub caps: Arc<Caps>,
    /// The pods that are known.
    pub pods: Pods,
}

/// Why a configuration that reads well makes no graph.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// An exporter cannot be made; change its configuration.
    #[error("exporters.{id}: {source}")]
    Exporter {
        /// The exporter.
        id: ComponentId,
        /// What is wrong.
        source: PrepareError,
    },
    /// A sampler cannot be made; change its configuration.
    #[error("processors.{id}: {source}")]
    Sampler {
        /// The processor.
        id: ComponentId,
        /// What is wrong.
        source: BadSettings,
    },
}

impl Graph {
    /// Connects the components to what outlives them; percentages of memory are those of `capacity`.
    ///
    /// # Errors
    /// [`GraphError`]: the configuration must change.
    pub fn prepare(
        config: &Config,
        telemetry: &Telemetry,
        lasting: &Lasting,
        capacity: &Capacity,
    ) -> Result<Self, GraphError> {
        let Lasting { directory, caps, pods } = lasting;
        let board = directory.load().table().board().clone();
        let (exporters, limiters) = (HashMap::new(), HashMap::new());
        let mut builder = Builder { config, telemetry, board, caps, pods, capacity, exporters, limiters };
        let mut pipelines: Vec<(&PipelineId, Arc<Pipeline>)> = Vec::new();
        for id in config.service.pipelines.keys() {
            pipelines.push((id, Arc::new(builder.pipeline(id)?)));
        }
        let verifiers = Verifiers::prepare(config, pods);
        let watched = pods::Settings::of(config).map(|_| pods.clone());
        let mut receivers = Vec::new();
        for (id, Receiver::Otlp(config_of)) in &config.receivers {
            let own = |signal| {
                let takes = |pipeline: &PipelineId| {
                    pipeline.signal == signal && config.service.pipelines[pipeline].receivers.contains(id)
                };
                pipelines.iter().filter(|(pipeline, _)| takes(pipeline)).map(|(_, p)| p.clone()).collect()
            };
            let entrance = Entrance::new(entrance::Shared {
                pipelines: PerSignal::from_fn(own),
                directory: directory.clone(),
                grpc: telemetry.receiver(id.as_str(), Transport::Grpc.as_str()),
                http: telemetry.receiver(id.as_str(), Transport::Http.as_str()),
                normalized: telemetry.requests_normalised().clone(),
                limits: limits(config_of),
                verifiers: verifiers.clone(),
                authentication: telemetry.authentication().clone(),
                pods: watched.clone(),
                cancellations: telemetry.cancellations().clone(),
            });
            if entrance.leads_anywhere() {
                receivers.push((id.clone(), (**config_of).clone(), entrance));
            }
        }
        let exporters = builder.exporters.into_values().collect();
        let limiters = builder.limiters.into_values().collect();
        Ok(Self { receivers, exporters, limiters, verifiers })
    }
}

/// What the largest request of a receiver may be; the smaller limits of a transport were applied before.
fn limits(config: &receiver::Otlp) -> Limits {
    let grpc = config.protocols.grpc.as_ref().map(|grpc| grpc.max_message_bytes());
    let http = config.protocols.http.as_ref().map(|http| http.max_body_bytes());
    Limits::for_message_size(grpc.max(http).unwrap_or(0))
}

struct Builder<'a> {
    config: &'a Config,
    telemetry: &'a Telemetry,
    caps: &'a Arc<Caps>,
    capacity: &'a Capacity,
    pods: &'a Pods,
    board: Arc<Board>,
    exporters: HashMap<ComponentId, Exporter>,
    limiters: HashMap<ComponentId, Arc<MemoryLimiter>>,
}

impl Builder<'_> {
    fn pipeline(&mut self, id: &PipelineId) -> Result<Pipeline, GraphError> {
        let pipeline = &self.config.service.pipelines[id];
        let mut processors = Vec::new();
        let mut batch = None;
        for id in &pipeline.processors {
            let config = &self.config.processors[id];
            if let ProcessorConfig::Batch(config) = config {
                batch = Some(config);
            }
            if let Some(kind) = self.processor(id, config)? {
                processors.push(Processor::new(kind, self.telemetry.processor(id.as_str())));
            }
        }
        let exporters =
            pipeline.exporters.iter().map(|id| self.exporter(id, batch)).collect::<Result<_, _>>()?;
        Ok(Pipeline { processors, exporters })
    }

    /// The processor of a configuration; `batch` is none, because batching is done by the exporter.
    fn processor(&mut self, id: &ComponentId, config: &ProcessorConfig) -> Result<Option<Kind>, GraphError> {
        Ok(Some(match config {
            ProcessorConfig::Batch(_) => return Ok(None),
            ProcessorConfig::Tenant(_) => Kind::Tenant(Tenancy::new(self.telemetry.models().clone())),
            ProcessorConfig::Sampling(_) => {
                Kind::Sampling(Sampling::new(self.telemetry.sampling().clone(), self.caps.clone()))
            }
            ProcessorConfig::ProbabilisticSampler(config) => {
                let metrics = self.telemetry.sampler(id.as_str());
                let refused = |source| GraphError::Sampler { id: id.clone(), source };
                Kind::Probabilistic(Probabilistic::new(config, metrics).map_err(refused)?)
            }
            ProcessorConfig::Resource(config) => Kind::Attributes(Attributes::resource(config).into()),
            ProcessorConfig::Attributes(config) => Kind::Attributes(Attributes::items(config).into()),
            ProcessorConfig::K8sAttributes(config) => {
                Kind::Kubernetes(Box::new(PodAttributes::new(config, self.pods)))
            }
            ProcessorConfig::MemoryLimiter(config) => {
                let metrics = self.telemetry.memory_limiter(id.as_str());
                let new = || Arc::new(MemoryLimiter::new(config, metrics, self.capacity));
                Kind::MemoryLimiter(self.limiters.entry(id.clone()).or_insert_with(new).clone())
            }
        }))
    }

    /// The exporter with this id, made at first sight. Where the exporter does not say how to batch, the
    /// `batch` processor of the first pipeline that names it does.
    fn exporter(&mut self, id: &ComponentId, batch: Option<&Batch>) -> Result<Exporter, GraphError> {
        if let Some(exporter) = self.exporters.get(id) {
            return Ok(exporter.clone());
        }
        let mut config = self.config.exporters[id].clone();
        if let Some(batch) = batch {
            config.batch_by_default(exporter::Batching {
                flush_timeout: batch.timeout,
                min_size: u64::from(batch.send_batch_size),
                max_size: u64::from(batch.send_batch_max_size),
                ..exporter::Batching::default()
            });
        }
        let metrics = self.telemetry.exporter(id.as_str());
        let storage = self.config.storage_of(id).map(|(extension, keys)| Storage {
            extension: extension.as_str().into(),
            folder: keys.folder(id),
            keys: keys.clone(),
        });
        let exporter = Exporter::prepare(id.as_str(), &config, storage, metrics)
            .map_err(|source| GraphError::Exporter { id: id.clone(), source })?;
        exporter.follow(&self.board);
        self.exporters.insert(id.clone(), exporter.clone());
        Ok(exporter)
    }
}

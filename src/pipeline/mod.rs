//! `Config` to graph: the file to read to see how a configuration becomes receivers, processors, queues.
//!
//! Not here: what components do. Invariant: [`Graph::prepare`] touches neither network nor disk, so that
//! `validate`, start and reload can all call it.

mod delivery;
mod entrance;
mod onward;
mod request;
mod routing;

pub use crate::tenant::Pass;
pub use entrance::Entrance;
pub use request::{Accepted, Admitted, Arrival, Authentication, Refusal, Request, Transport};

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use routing::Router;

use crate::authentication::Verifiers;
use crate::cgroup::Capacity;
use crate::config::processor::{Batch, Processor as ProcessorConfig};
use crate::config::{ComponentId, Config, Connector, PipelineId, Receiver, connector, exporter, receiver};
use crate::exporter::{Exporter, PrepareError, Storage};
use crate::flow::Board;
use crate::internal_telemetry::Telemetry;
use crate::kubernetes::pods::{self, Pods};
use crate::otlp::{Limits, PerSignal, Signal};
use crate::processor::{
    Attributes, Kind, MemoryLimiter, PodAttributes, Probabilistic, Processor, Sampling, Stop, Tenancy, Work,
};
use crate::sampling::Caps;
use crate::sampling::probabilistic::BadSettings;
use crate::tenant::Directory;

/// One pipeline: what happens between where its data comes from and where it goes.
pub(crate) struct Pipeline {
    processors: Vec<Processor>,
    outlets: Vec<Outlet>,
}

/// Where data goes that leaves a pipeline.
enum Outlet {
    Exporter(Exporter),
    Router(Arc<Router>),
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
        let pipelines = HashMap::new();
        let mut builder =
            Builder { config, telemetry, board, caps, pods, capacity, exporters, limiters, pipelines };
        let mut pipelines: Vec<(&PipelineId, Arc<Pipeline>)> = Vec::new();
        for (id, pipeline) in &config.service.pipelines {
            if pipeline.receivers.iter().any(|id| config.receivers.contains_key(id)) {
                pipelines.push((id, builder.pipeline(id)?));
            }
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
    pipelines: HashMap<PipelineId, Arc<Pipeline>>,
}

impl Builder<'_> {
    /// The pipeline with this id and everything it leads to, made at first sight. The configuration has no
    /// cycles.
    fn pipeline(&mut self, id: &PipelineId) -> Result<Arc<Pipeline>, GraphError> {
        if let Some(known) = self.pipelines.get(id) {
            return Ok(known.clone());
        }
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
        let mut outlets = Vec::new();
        for outlet in &pipeline.exporters {
            outlets.push(match self.config.connectors.get(outlet) {
                None => Outlet::Exporter(self.exporter(outlet, batch)?),
                Some(Connector::Routing(routing)) => {
                    Outlet::Router(Arc::new(self.router(routing, id.signal)?))
                }
                Some(Connector::Failover(failover)) => {
                    Outlet::Exporter(self.failover(outlet, failover, batch)?)
                }
            });
        }
        let pipeline = Arc::new(Pipeline { processors, outlets });
        self.pipelines.insert(id.clone(), pipeline.clone());
        Ok(pipeline)
    }

    /// What a `routing` connector does with one signal.
    fn router(&mut self, routing: &connector::Routing, signal: Signal) -> Result<Router, GraphError> {
        let mut router = Router::new(self.pipelines_of(&routing.default_pipelines, signal)?);
        for route in &routing.table {
            let to = self.pipelines_of(&route.pipelines, signal)?;
            router.add(route, to);
        }
        Ok(router)
    }

    /// Those of a connector's pipelines that take a signal.
    fn pipelines_of(&mut self, names: &[String], signal: Signal) -> Result<Vec<Arc<Pipeline>>, GraphError> {
        let named = names.iter().filter_map(|name| PipelineId::parse(name).ok());
        let mut ids: Vec<PipelineId> = named.filter(|id| id.signal == signal).collect();
        ids.sort();
        ids.dedup();
        ids.iter().map(|id| self.pipeline(id)).collect()
    }

    /// The exporter that stands for a `failover` connector: each level is the exporter its pipelines lead to.
    fn failover(
        &mut self,
        id: &ComponentId,
        failover: &connector::Failover,
        batch: Option<&Batch>,
    ) -> Result<Exporter, GraphError> {
        if let Some(exporter) = self.exporters.get(id) {
            return Ok(exporter.clone());
        }
        let mut failover = failover.clone();
        if let Some(batch) = batch {
            failover.sending_queue.batch.get_or_insert(batching(batch));
        }
        let pipelines = &self.config.service.pipelines;
        let exporter_of = |level: &Vec<String>| {
            let pipeline = level.iter().find_map(|name| pipelines.get(&PipelineId::parse(name).ok()?))?;
            let id = pipeline.exporters.first()?;
            Some((id.as_str(), self.config.exporters.get(id)?))
        };
        let levels: Vec<_> = failover.priority_levels.iter().filter_map(exporter_of).collect();
        let metrics = (self.telemetry.exporter(id.as_str()), self.telemetry.failover(id.as_str()));
        let exporter =
            Exporter::prepare_failover((id.as_str(), self.storage(id)), &failover, &levels, metrics)
                .map_err(|source| GraphError::Exporter { id: id.clone(), source })?;
        Ok(self.keep(id, exporter))
    }

    /// Where the queue of an exporter or a `failover` connector is, if not in memory.
    fn storage(&self, id: &ComponentId) -> Option<Storage> {
        self.config.storage_of(id).map(|(extension, keys)| Storage {
            extension: extension.as_str().into(),
            folder: keys.folder(id),
            keys: keys.clone(),
        })
    }

    fn keep(&mut self, id: &ComponentId, exporter: Exporter) -> Exporter {
        exporter.follow(&self.board);
        self.exporters.insert(id.clone(), exporter.clone());
        exporter
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
            config.batch_by_default(batching(batch));
        }
        let metrics = self.telemetry.exporter(id.as_str());
        let exporter = Exporter::prepare(id.as_str(), &config, self.storage(id), metrics)
            .map_err(|source| GraphError::Exporter { id: id.clone(), source })?;
        Ok(self.keep(id, exporter))
    }
}

/// How the processor `batch` asks to batch.
fn batching(batch: &Batch) -> exporter::Batching {
    exporter::Batching {
        flush_timeout: batch.timeout,
        min_size: u64::from(batch.send_batch_size),
        max_size: u64::from(batch.send_batch_max_size),
        ..exporter::Batching::default()
    }
}

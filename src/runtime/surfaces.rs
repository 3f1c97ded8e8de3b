//! What operators and probes connect to: metrics, health, the admin API.
//!
//! A surface whose address the new configuration keeps keeps its socket and connections; only what it
//! answers changes.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::admin::{self, Api, Handler, HealthCheck, Question, Readiness, Server};
use crate::config::Config;
use crate::config::service::Prometheus;
use crate::internal_telemetry::Telemetry;
use crate::tasks::Scope;

use super::in_force::Policies;

/// Everything these surfaces tell of.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) telemetry: Telemetry,
    pub(super) readiness: Readiness,
    pub(super) policies: Policies,
}

/// The surfaces that listen.
pub(super) struct Surfaces {
    sources: Sources,
    list: Vec<Surface>,
}

struct Surface {
    wanted: Wanted,
    address: String,
    scope: Scope,
    answers: Arc<ArcSwap<Handler>>,
}

/// A surface the configuration asks for.
#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Metrics(Prometheus),
    Health(crate::config::extensions::HealthCheck),
    Admin(crate::config::extensions::Admin),
}

impl Wanted {
    fn all(config: &Config) -> Vec<Self> {
        let readers = config.service.telemetry.metrics.active_readers().iter();
        let pulled = readers.filter_map(|reader| reader.pull.as_ref());
        let mut wanted: Vec<Self> =
            pulled.map(|pull| Wanted::Metrics(pull.exporter.prometheus.clone())).collect();
        wanted.extend(config.health_check().cloned().map(Wanted::Health));
        wanted.extend(config.admin().cloned().map(Wanted::Admin));
        wanted
    }

    fn name(&self) -> &'static str {
        match self {
            Wanted::Metrics(_) => "metrics",
            Wanted::Health(_) => "health_check",
            Wanted::Admin(_) => "admin",
        }
    }

    fn endpoint(&self) -> String {
        match self {
            Wanted::Metrics(reader) if reader.host.contains(':') => {
                format!("[{}]:{}", reader.host, reader.port)
            }
            Wanted::Metrics(reader) => format!("{}:{}", reader.host, reader.port),
            Wanted::Health(health) => health.endpoint.clone(),
            Wanted::Admin(admin) => admin.endpoint.clone(),
        }
    }

    async fn start(self, sources: &Sources, scope: &Scope) -> anyhow::Result<Surface> {
        let server = Server::bind(&self.endpoint()).await?;
        let address = server.address().to_string();
        let scope = scope.child(self.name());
        let answers = Arc::new(ArcSwap::from_pointee(self.handler(sources)));
        let current = answers.clone();
        server.start(&scope, Arc::new(move |question: &Question| (current.load())(question)));
        Ok(Surface { wanted: self, address, scope, answers })
    }

    fn handler(&self, sources: &Sources) -> Handler {
        match self {
            Wanted::Metrics(reader) => admin::metrics(&sources.telemetry, reader),
            Wanted::Health(health) => HealthCheck::handler(health, &sources.readiness),
            Wanted::Admin(_) => sources.api().handler(&self.endpoint()),
        }
    }
}

impl Surface {
    /// Whether it can go on as `wanted`: the same kind, at what was asked for or at the very address.
    fn serves(&self, wanted: &Wanted) -> bool {
        let endpoint = wanted.endpoint();
        self.wanted.name() == wanted.name()
            && (self.wanted.endpoint() == endpoint || self.address == endpoint)
    }

    fn turn_into(&mut self, wanted: Wanted, sources: &Sources) {
        if self.wanted != wanted {
            self.answers.store(Arc::new(wanted.handler(sources)));
            self.wanted = wanted;
        }
    }
}

impl Sources {
    fn api(&self) -> Api {
        let (revisions, effective) = (self.policies.clone(), self.policies.clone());
        Api {
            telemetry: self.telemetry.clone(),
            readiness: self.readiness.clone(),
            revisions: Arc::new(move || revisions.revisions()),
            effective_policies: Arc::new(move |tenant| effective.effective(tenant)),
        }
    }
}

impl Surfaces {
    /// Opens every surface the configuration asks for.
    pub(super) async fn start(config: &Config, sources: Sources, scope: &Scope) -> anyhow::Result<Self> {
        let mut list = Vec::new();
        for wanted in Wanted::all(config) {
            list.push(wanted.start(&sources, scope).await?);
        }
        Ok(Self { sources, list })
    }

    /// Opens what is new, then changes what stays and closes what is not wanted any more. On failure
    /// everything stays as it was.
    pub(super) async fn replace(&mut self, config: &Config, scope: &Scope) -> anyhow::Result<()> {
        let mut left: Vec<Option<Surface>> = Vec::new();
        let (mut stay, mut opened) = (Vec::new(), Vec::new());
        let mut taken = vec![false; self.list.len()];
        for wanted in Wanted::all(config) {
            let found = (0..self.list.len()).find(|at| !taken[*at] && self.list[*at].serves(&wanted));
            match found {
                Some(at) => {
                    taken[at] = true;
                    stay.push((at, wanted));
                }
                None => opened.push(wanted.start(&self.sources, scope).await?),
            }
        }
        left.extend(self.list.drain(..).map(Some));
        for (at, wanted) in stay {
            if let Some(mut surface) = left[at].take() {
                surface.turn_into(wanted, &self.sources);
                self.list.push(surface);
            }
        }
        self.list.extend(opened);
        for surface in left.into_iter().flatten() {
            surface.scope.close(tokio::time::Instant::now() + super::STOP_GRACE).await;
        }
        Ok(())
    }

    /// Names and addresses.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        self.list.iter().map(|surface| (surface.wanted.name().to_owned(), surface.address.clone())).collect()
    }
}

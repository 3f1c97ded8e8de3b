//! What operators and probes connect to: metrics, health, the admin API.
//!
//! A surface whose address the new configuration keeps stays as it is.

use crate::admin::{self, Api, HealthCheck, Readiness, Server};
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
        let endpoint = self.endpoint();
        let server = Server::bind(&endpoint).await?;
        let address = server.address().to_string();
        let scope = scope.child(self.name());
        let handler = match &self {
            Wanted::Metrics(reader) => admin::metrics(&sources.telemetry, reader),
            Wanted::Health(health) => HealthCheck::handler(health, &sources.readiness),
            Wanted::Admin(_) => sources.api().handler(&endpoint),
        };
        server.start(&scope, handler);
        Ok(Surface { wanted: self, address, scope })
    }
}

impl Sources {
    fn api(&self) -> Api {
        let (revisions, effective) = (self.policies.clone(), self.policies.clone());
        Api {
            telemetry: self.telemetry.clone(),
            readiness: self.readiness.clone(),
            revisions: std::sync::Arc::new(move || revisions.revisions()),
            effective_policies: std::sync::Arc::new(move |tenant| effective.effective(tenant)),
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

    /// Opens what is new, then closes what is not wanted any more. On failure everything stays.
    pub(super) async fn replace(&mut self, config: &Config, scope: &Scope) -> anyhow::Result<()> {
        let wanted = Wanted::all(config);
        let mut opened = Vec::new();
        for new in wanted.iter().filter(|wanted| !self.list.iter().any(|surface| surface.wanted == **wanted))
        {
            opened.push(new.clone().start(&self.sources, scope).await?);
        }
        let (kept, closed) = self.list.drain(..).partition(|surface| wanted.contains(&surface.wanted));
        self.list = kept;
        self.list.extend(opened);
        for surface in closed as Vec<Surface> {
            surface.scope.close(tokio::time::Instant::now() + super::STOP_GRACE).await;
        }
        Ok(())
    }

    /// Names and addresses.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        self.list.iter().map(|surface| (surface.wanted.name().to_owned(), surface.address.clone())).collect()
    }
}

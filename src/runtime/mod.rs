//! The whole life on one page: prepare, start, ready, reload, drain, stop.
//!
//! Not here: what any part does. Invariants: nothing is started before everything that can fail without
//! network and disk was checked; when [`Collector::stop`] returns no task is alive and every accepted
//! item is accounted for.

mod capacity;
mod effective;
mod generation;
mod in_force;
mod leaks;
mod pools;
mod prepare;
mod surfaces;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::admin::Readiness;
use crate::cgroup::Capacity;
use crate::config::{Config, service};
use crate::exporter::Stores;
use crate::internal_telemetry::logging::Log;
use crate::internal_telemetry::{LogFormat, OwnResource, Telemetry, Traces, logging, push};
use crate::kubernetes::pods::Settings;
use crate::kubernetes::{self, Client};
use crate::outcome::{Books, CancelReason, DroppedReason};
use crate::receiver::Sockets;
use crate::tasks::{Scope, Workers};
use crate::yaml::Problems;

use capacity::Following;
use generation::{Generation, Retired};
use in_force::Policies;
pub use prepare::{Checked, Files, check};
use surfaces::{Sources, Surfaces};

/// What was asked for on the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sources of the configuration, merged in order; none: the embedded default.
    pub config: Vec<String>,
    /// `key=value`, wins over every source.
    pub set: Vec<String>,
    /// The policies file; overrides the extension `policies`.
    pub policies: Option<PathBuf>,
    /// Worker threads; `None`: what the cgroup's CPU quota and the affinity allow.
    pub workers: Option<usize>,
    /// Where the control groups are mounted whose limits are followed.
    pub cgroup_root: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How long queues may drain.
    pub shutdown_grace: Duration,
}

impl Options {
    fn files(&self) -> Files<'_> {
        let memory = Capacity::read(&self.cgroup_root).memory();
        Files { config: &self.config, set: &self.set, policies: self.policies.as_deref(), memory }
    }
}

/// Bad configuration, as sysexits has it.
const BAD_CONFIG: u8 = 78;
/// The program failed while it ran, as sysexits has it.
const FAILED: u8 = 70;
/// Earlier configurations that may deliver at a time: each can hold its queues' bounds in memory, and a
/// destination that is dead must not keep its own correction out.
const MAX_RETIRED: usize = 4;
/// What is granted past the drain to tasks that should have ended.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT; the exit code.
pub fn run(options: Options) -> ExitCode {
    let checked = match prepare::check_to_run(options.files()) {
        Ok(checked) => checked,
        Err(problems) => return refuse(&problems),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let life = match runtime {
        Ok(runtime) => runtime.block_on(live(options, checked)),
        Err(error) => Err(error).context("no runtime"),
    };
    match life {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn live(options: Options, checked: Checked) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut collector = Collector::start_checked(options, checked).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => collector.reload().await,
        }
    }
    let stopped = tokio::select! {
        books = collector.stop() => Some(books),
        // A second signal ends at once.
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    stopped.map(drop).context("stopped by a second signal before the queues were drained")
}

/// A collector that runs.
pub struct Collector {
    options: Options,
    scope: Scope,
    workers: Workers,
    following: Following,
    telemetry: Telemetry,
    readiness: Readiness,
    policies: Policies,
    sockets: Sockets,
    stores: Stores,
    surfaces: Surfaces,
    generation: Generation,
    retired: Vec<Retired>,
    traces: Option<Traces>,
    log: Log,
    /// The part of the configuration that only a restart can change, as it is in force.
    own: service::Telemetry,
    /// How many file descriptors were open before the start.
    descriptors: usize,
}

impl Collector {
    /// Checks, starts, and returns when data is taken.
    ///
    /// # Errors
    /// The configuration is bad, an address is taken, a certificate cannot be read.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let checked =
            prepare::check_to_run(options.files()).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        Self::start_checked(options.clone(), checked).await
    }

    async fn start_checked(options: Options, checked: Checked) -> anyhow::Result<Self> {
        let descriptors = leaks::descriptors();
        let config = &checked.config;
        let own = &config.service.telemetry;
        let telemetry = Telemetry::new(OwnResource::new(&own.resource)?);
        let scope = Scope::root("tollgate");
        let traces = Traces::start(&scope, &own.traces, telemetry.resource())?;
        let log = logging::init(&own.logs, options.log_format, traces.as_ref())?;
        telemetry.watch_log(log.suppressed());
        for line in checked.warnings.lines() {
            tracing::warn!(name: "config.warning", "{line}");
        }
        let following = Following::new(&options.cgroup_root, options.workers, &telemetry);
        let count = following.workers();
        let workers = Workers::start(count).context("no worker threads")?;
        telemetry.workers().set(count as i64);
        telemetry.watch_tasks(&scope);
        scope.spawn("tasks.watch", scope.clone().watch());
        let readiness = Readiness::new(telemetry.ready().clone());
        let policies = Policies::start(&checked, &telemetry, &scope);
        let sources = Sources {
            telemetry: telemetry.clone(),
            readiness: readiness.clone(),
            policies: policies.clone(),
        };
        let surfaces = Surfaces::start(config, sources, &scope).await?;
        for periodic in own.metrics.active_readers().iter().filter_map(|reader| reader.periodic.as_ref()) {
            push::start(&scope, &telemetry, periodic)?;
        }
        policies.follow_api(client_of(&checked).await?);
        let graph = checked.graph(&telemetry, policies.lasting(), following.capacity());
        let graph = graph.map_err(|p| anyhow::anyhow!("{p}"))?;
        following.size(checked.pools.clone(), &graph.exporters);
        following.start(&scope, workers.team());
        watch_pods(config, &policies, &scope).await?;
        let mut sockets = Sockets::default();
        sockets.begin();
        let stores = Stores::new(&policies.lasting().directory);
        let generation =
            Generation::start(graph, &scope, (&workers, following.budget()), (&mut sockets, &stores)).await?;
        generation.take_over();
        generation.show_tls(&telemetry);
        readiness.set_ready();
        let retired = Vec::new();
        let collector = Self {
            options,
            scope,
            workers,
            following,
            telemetry,
            readiness,
            policies,
            sockets,
            stores,
            surfaces,
            generation,
            retired,
            traces,
            log,
            own: config.service.telemetry.clone(),
            descriptors,
        };
        let addresses = collector.announcement();
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(name: "ready", version, workers = count, %addresses, "ready");
        Ok(collector)
    }

    /// Re-reads the configuration. A bad one changes nothing; a good one takes over the listening
    /// sockets, and what the old one accepted is delivered in the background.
    pub async fn reload(&mut self) {
        self.retired.retain(|retired| !retired.is_drained());
        if self.retired.len() >= MAX_RETIRED {
            let items = self.retired.iter().map(Retired::items).sum::<u64>();
            tracing::error!(name: "config.refused", items, "{MAX_RETIRED} earlier configurations are still delivering; try again later");
            return;
        }
        match self.replace().await {
            Ok(()) => {
                let addresses = self.announcement();
                tracing::info!(name: "config.reloaded", %addresses, "configuration reloaded");
            }
            Err(problem) => {
                tracing::error!(name: "config.refused", "{problem:#}");
            }
        }
    }

    async fn replace(&mut self) -> anyhow::Result<()> {
        let (place, in_force) = self.policies.source();
        let checked = prepare::check_to_reload(self.options.files(), (place.as_ref(), &in_force))
            .map_err(|problems| anyhow::anyhow!("{}", problems.lines().join("\n")))?;
        let graph = checked.graph(&self.telemetry, self.policies.lasting(), self.following.capacity());
        let graph = graph.map_err(|p| anyhow::anyhow!("{p}"))?;
        let exporters = graph.exporters.clone();
        let client = client_of(&checked).await?;
        self.sockets.begin();
        let shared = (&mut self.sockets, &self.stores);
        let running = (&self.workers, self.following.budget());
        let next = match Generation::start(graph, &self.scope, running, shared).await {
            Ok(next) => next,
            Err(error) => {
                self.sockets.roll_back();
                return Err(error);
            }
        };
        if let Err(error) = self.surfaces.replace(&checked.config, &self.scope).await {
            self.sockets.roll_back();
            // It may have taken data already, and may have opened queues on disk.
            self.retired.push(next.retire(&self.scope, self.options.shutdown_grace));
            return Err(error);
        }
        self.sockets.commit();
        next.take_over();
        self.following.size(checked.pools.clone(), &exporters);
        self.policies.switch(&checked, client, &self.scope).await;
        if let Err(error) = watch_pods(&checked.config, &self.policies, &self.scope).await {
            tracing::error!(name: "pods.failed", "{error:#}; pods are watched as before");
        }
        next.show_tls(&self.telemetry);
        self.follow(&checked.config.service.telemetry);
        let old = std::mem::replace(&mut self.generation, next);
        self.retired.push(old.retire(&self.scope, self.options.shutdown_grace));
        Ok(())
    }

    /// Takes over what can change while the program runs, and says so if there is more.
    fn follow(&mut self, wanted: &service::Telemetry) {
        self.log.set_level(wanted.logs.level);
        self.own.logs.level = wanted.logs.level;
        // Prometheus endpoints are surfaces, which follow by themselves.
        let fixed = |own: &service::Telemetry| {
            let pushed = |reader: &&service::Reader| reader.periodic.is_some();
            let readers: Vec<_> = own.metrics.active_readers().iter().filter(pushed).cloned().collect();
            (own.logs.clone(), readers, own.traces.clone(), own.resource.clone())
        };
        if fixed(&self.own) != fixed(wanted) {
            tracing::warn!(
                name: "config.restart_needed",
                "service.telemetry changed: logs (except their level), pushed metrics, traces and resource \
                 stay as they are until a restart"
            );
        }
    }

    /// Stops taking data, delivers what was accepted until the grace ends, counts the rest as dropped.
    /// The sums over all tenants and signals.
    pub async fn stop(mut self) -> Books {
        self.readiness.set_draining();
        self.sockets.close();
        let deadline = Instant::now() + self.options.shutdown_grace;
        tracing::info!(name: "draining", "draining");
        self.generation.drain(deadline).await;
        for retired in &self.retired {
            retired.drain(deadline).await;
        }
        if let Some(traces) = self.traces {
            traces.close(deadline + STOP_GRACE).await;
        }
        self.scope.close(deadline + STOP_GRACE).await;
        self.workers.stop();
        drop((self.generation, self.retired, self.surfaces, self.policies));
        let left = leaks::left(&self.telemetry, self.descriptors).await;
        let books = self.telemetry.ledger().totals();
        report(&books, &self.telemetry, (&self.scope, &left));
        books
    }

    /// The address announced under a name, such as `otlp/http`.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let mut all = self.generation.addresses().into_iter().chain(self.surfaces.addresses());
        all.find(|(known, _)| known == name).and_then(|(_, address)| address.parse().ok())
    }

    /// The owner of all tasks.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What the collector counts.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The policies' revision in force, and what is wrong with the one on disk if it is refused.
    pub fn revision(&self) -> (String, Option<String>) {
        self.policies.revision()
    }

    /// Every listening address, as `name=address`, with blanks between.
    fn announcement(&self) -> String {
        let all = self.generation.addresses().into_iter().chain(self.surfaces.addresses());
        let all: Vec<String> = all.map(|(name, address)| format!("{name}={address}")).collect();
        all.join(" ")
    }
}

/// Watches the pods a configuration asks for, and waits for the first list as long as it says.
async fn watch_pods(config: &Config, policies: &Policies, scope: &Scope) -> anyhow::Result<()> {
    let pods = policies.pods();
    let Some(settings) = Settings::of(config) else {
        pods.end().await;
        return Ok(());
    };
    let waited = settings.first_list_timeout;
    pods.follow(settings, scope).await?;
    if !pods.first_list().await {
        tracing::warn!(
            name: "pods.not_listed",
            ?waited,
            "the API server has not told which pods there are: until it has, data passes without attributes \
             of pods, and senders told by their address are handled by before_first_list"
        );
    }
    Ok(())
}

/// The client of the API server, if the configuration asks for one; without, nothing of it is started.
async fn client_of(checked: &Checked) -> anyhow::Result<Option<Client>> {
    let Some(keys) = &checked.config_map else { return Ok(None) };
    let client = kubernetes::connect(&keys.access()).await.context("extensions.policies.config_map")?;
    Ok(Some(client))
}

fn report(books: &Books, telemetry: &Telemetry, (scope, left): (&Scope, &str)) {
    let cancelled = CancelReason::ALL.iter().map(|reason| (reason, telemetry.cancellations().get(*reason)));
    let cancelled = cancelled.filter(|(_, requests)| *requests > 0);
    let cancelled: Vec<_> = cancelled.map(|(reason, n)| format!("{}={n}", reason.as_str())).collect();
    tracing::info!(
        name: "stopped",
        received = books.received,
        copied = books.copied,
        recovered = books.recovered,
        refused = books.refused_total(),
        sampled_out = books.sampled_out,
        sent = books.sent,
        dropped = books.dropped_total(),
        stored = books.stored,
        queued = books.queued,
        abandoned = books.dropped[DroppedReason::Abandoned as usize],
        balanced = books.balanced(),
        cancelled = cancelled.join(" "),
        tasks_alive = scope.alive(),
        tasks_aborted = scope.aborted(),
        left,
        "stopped"
    );
}

/// Before there is a log, people read stderr.
#[allow(clippy::print_stderr, reason = "the log is not set up yet, or the program ends here")]
fn refuse(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(BAD_CONFIG)
}

#[allow(clippy::print_stderr, reason = "the log is not set up yet, or the program ends here")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(FAILED)
}

//! Everything that can be wrong in the two files, found before anything is started.
//!
//! `validate`, start and reload by SIGHUP all come through here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::pools::{Pools, Sizes};
use crate::authentication::Verifiers;
use crate::cgroup::Capacity;
use crate::config::extensions::{ConfigMap, Policies as PoliciesExtension};
use crate::config::{ComponentId, Config};
use crate::internal_telemetry::Telemetry;
use crate::kubernetes::pods::Pods;
use crate::pipeline::{Graph, Lasting};
use crate::policies::watch::Place;
use crate::policies::{self, InForce, Plan};
use crate::sampling;
use crate::tenant::{Directory, Tenants};
use crate::yaml::{Location, Problems, Source};

/// The configuration of `run` without a file.
const DEFAULT_CONFIG: &str = include_str!("../../config/default.yaml");

/// Where the two files come from.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Sources of the configuration, merged in order; none: the embedded default.
    pub config: &'a [String],
    /// `key=value`, wins over every source.
    pub set: &'a [String],
    /// The policies file; overrides the extension `policies`.
    pub policies: Option<&'a Path>,
    /// The memory that everything has to fit into, in bytes.
    pub memory: u64,
}

/// What every check of the policies holds them against: the configuration in force.
#[derive(Debug, Clone)]
pub(super) struct Bounds(Arc<ArcSwap<Bound>>);

#[derive(Debug, Clone)]
struct Bound {
    /// The bytes of the smallest queue: guarantees must fit in half of it.
    smallest_queue: u64,
    /// The ids of the verifiers that run; none if the configuration could not be read.
    verifiers: Option<Vec<String>>,
}

impl Bounds {
    fn of(config: Option<&Config>, sizes: Option<&Sizes>) -> Self {
        let bytes = |config: &Config| {
            let size = |id: &ComponentId| {
                let configured = || config.max_queue_bytes(id).map(|bytes| bytes.0);
                sizes.and_then(|sizes| sizes.queue(id.as_str())).or_else(configured)
            };
            config.queues().into_iter().filter_map(size).min()
        };
        let smallest_queue = config.and_then(bytes).unwrap_or(u64::MAX);
        let verifiers = config.map(Verifiers::ids);
        Self(Arc::new(ArcSwap::from_pointee(Bound { smallest_queue, verifiers })))
    }

    /// Another configuration is in force.
    pub(super) fn follow(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// Reads a text and holds it against these bounds.
    fn prepare(&self, text: &Source) -> Result<(Plan, Problems), Problems> {
        let bound = self.0.load_full();
        let (plan, warnings) = sampling::prepare(text, jiff::Timestamp::now(), bound.verifiers.as_deref())?;
        bound.fits(&plan, text).map(|()| (plan, warnings))
    }
}

impl Bound {
    /// Whether a plan that was good under another configuration is good under this one.
    fn fits(&self, plan: &Plan, source: &Source) -> Result<(), Problems> {
        let mut problems = Problems::new();
        plan.check_guarantees(self.smallest_queue, source, &mut problems);
        let named = plan.identity.authenticate.iter().filter_map(|proof| proof.verifier());
        for id in named {
            if self.verifiers.as_ref().is_some_and(|running| !running.iter().any(|one| one == id)) {
                let message =
                    format!("the policies need the verifier `{id}`, which is not in service.extensions");
                let place = Location::start_of(Arc::new(source.clone()));
                problems.error(&place, "identity.authenticate", message, None);
            }
        }
        if problems.errors() == 0 { Ok(()) } else { Err(problems) }
    }
}

/// Two files that are good.
pub struct Checked {
    /// The static configuration.
    pub config: Config,
    /// What it came from, for people.
    pub config_name: String,
    /// The policies.
    pub policies: Arc<InForce>,
    /// Where they are watched; `None`: embedded.
    pub place: Option<Place>,
    /// The ConfigMap that is followed besides.
    pub config_map: Option<ConfigMap>,
    /// What is questionable about the two.
    pub warnings: Problems,
    /// What reloads of the policies are held against.
    pub(super) bounds: Bounds,
    /// What may take memory.
    pub(super) pools: Pools,
}

impl Checked {
    /// The policies' plan.
    pub fn plan(&self) -> Arc<Plan> {
        self.policies.plan_arc()
    }
}

/// Checks both files as they are on disk.
///
/// # Errors
/// Everything that is wrong with either.
pub fn check(files: Files<'_>) -> Result<Checked, Problems> {
    checked(files, |place, bounds| load(Place { last_good: None, ..place.clone() }, bounds))
}

/// Checks both files to run with them: where the policies file is bad, the last good one is taken.
///
/// # Errors
/// Everything that is wrong; the program cannot start.
pub(super) fn check_to_run(files: Files<'_>) -> Result<Checked, Problems> {
    checked(files, |place, bounds| load(place.clone(), bounds))
}

/// Checks the configuration; the policies stay those in force unless another file is named.
///
/// # Errors
/// Everything that is wrong; what runs goes on.
pub(super) fn check_to_reload(
    files: Files<'_>,
    (place_now, in_force): (Option<&Place>, &Arc<InForce>),
) -> Result<Checked, Problems> {
    checked(files, |place, bounds| match place_now == Some(place) {
        true => {
            let source = Source::new(place.path.display().to_string(), "");
            bounds.0.load().fits(&in_force.plan_arc(), &source).map(|()| in_force.clone())
        }
        false => load(place.clone(), bounds),
    })
}

fn load(place: Place, bounds: &Bounds) -> Result<Arc<InForce>, Problems> {
    let bounds = bounds.clone();
    InForce::load(place, Box::new(move |text: &Source| bounds.prepare(text)))
}

fn checked(
    files: Files<'_>,
    load: impl FnOnce(&Place, &Bounds) -> Result<Arc<InForce>, Problems>,
) -> Result<Checked, Problems> {
    let (config, mut problems) = load_config(files);
    let place = place(files.policies, config.as_ref());
    let pools =
        config.as_ref().map_or_else(Pools::default, |config| Pools::of(config, dynamic_tenants(config)));
    let sizes = pools.within(files.memory);
    if let Err(problem) = &sizes {
        let place = Location::start_of(Arc::new(Source::new(name(files.config), "")));
        problems.error(&place, "", problem.to_string(), None);
    }
    let bounds = Bounds::of(config.as_ref(), sizes.as_ref().ok());
    let config_map = config.as_ref().and_then(Config::policies).and_then(|keys| keys.config_map.clone());
    if config_map.is_some() && place.is_none() {
        let source = Source::new(name(files.config), "");
        let help = "name the file of the mounted ConfigMap: the program starts from it, with or without an API server";
        let place = Location::start_of(Arc::new(source));
        let message = "is needed beside `config_map`".to_owned();
        problems.error(&place, "extensions.policies.path", message, Some(help.to_owned()));
    }
    let policies = match &place {
        None => Ok(InForce::fixed(policies::default_plan())),
        Some(place) => load(place, &bounds),
    };
    let policies = match policies {
        Ok(policies) => {
            problems.append(policies.status().warnings.clone());
            Some(policies)
        }
        Err(found) => {
            problems.append(found);
            None
        }
    };
    if problems.errors() > 0 {
        return Err(problems);
    }
    let (Some(config), Some(policies)) = (config, policies) else { return Err(problems) };
    let config_name = name(files.config);
    let checked =
        Checked { config, config_name, policies, place, config_map, warnings: problems, bounds, pools };
    let telemetry = Telemetry::detached();
    let directory = Directory::new(checked.plan(), &checked.table(&telemetry));
    let directory = Arc::new(ArcSwap::from_pointee(directory));
    let pods = Pods::new(&telemetry);
    checked.graph(&telemetry, &Lasting { directory, caps: Arc::default(), pods }, &Capacity::unlimited())?;
    Ok(checked)
}

fn load_config(files: Files<'_>) -> (Option<Config>, Problems) {
    let embedded = [format!("yaml:{DEFAULT_CONFIG}")];
    let sources = if files.config.is_empty() { &embedded[..] } else { files.config };
    match Config::load(sources, files.set, &|name| std::env::var(name).ok()) {
        Ok((config, warnings)) => (Some(config), warnings),
        Err(problems) => (None, problems),
    }
}

/// What `--policies` says, else the extension `policies`.
fn place(argument: Option<&Path>, config: Option<&Config>) -> Option<Place> {
    let extension = config.and_then(Config::policies).cloned().unwrap_or_default();
    let PoliciesExtension { path, poll_interval, last_good, .. } = extension;
    let path: Option<PathBuf> = argument.map(Path::to_owned).or(path);
    path.map(|path| Place { path, poll_interval, last_good })
}

fn dynamic_tenants(config: &Config) -> usize {
    config.policies().map_or_else(PoliciesExtension::default, Clone::clone).max_dynamic_tenants
}

fn name(sources: &[String]) -> String {
    match sources {
        [] => "embedded default".to_owned(),
        sources => sources.join(", "),
    }
}

impl Checked {
    /// The table of tenants, before anybody was met.
    pub(super) fn table(&self, telemetry: &Telemetry) -> Arc<Tenants> {
        Tenants::new(telemetry.ledger(), &self.plan(), self.max_dynamic_tenants())
    }

    /// How many tenants are told apart that the policies do not list.
    pub(super) fn max_dynamic_tenants(&self) -> usize {
        dynamic_tenants(&self.config)
    }

    /// The components of the configuration, connected.
    pub(super) fn graph(
        &self,
        telemetry: &Telemetry,
        lasting: &Lasting,
        capacity: &Capacity,
    ) -> Result<Graph, Problems> {
        Graph::prepare(&self.config, telemetry, lasting, capacity).map_err(|error| {
            let mut problems = Problems::new();
            let place = Location::start_of(Arc::new(Source::new(self.config_name.clone(), "")));
            problems.error(&place, "", error.to_string(), None);
            problems
        })
    }
}

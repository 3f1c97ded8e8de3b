//! Everything that can be wrong in the two files, found before anything is started.
//!
//! `validate`, start and reload by SIGHUP all come through here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::authentication::Verifiers;
use crate::config::Config;
use crate::config::extensions::Policies as PoliciesExtension;
use crate::internal_telemetry::Telemetry;
use crate::pipeline::Graph;
use crate::policies::watch::Place;
use crate::policies::{self, InForce, Plan};
use crate::sampling;
use crate::tenant::Directory;
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
    /// The verifiers that policies may name, as whoever checks a changed file knows them.
    pub(super) running: Running,
    /// The verifiers of the configuration.
    pub(super) verifiers: Arc<Vec<String>>,
    /// What is questionable about the two.
    pub warnings: Problems,
}

impl Checked {
    /// The policies' plan.
    pub fn plan(&self) -> Arc<Plan> {
        self.policies.plan_arc()
    }
}

/// The ids of the verifiers that run, as every check of the policies finds them; none if the configuration
/// could not be read.
pub(super) type Running = Arc<ArcSwapOption<Vec<String>>>;

/// Checks both files as they are on disk.
///
/// # Errors
/// Everything that is wrong with either.
pub fn check(files: Files<'_>) -> Result<Checked, Problems> {
    checked(files, |place, running| load(Place { last_good: None, ..place.clone() }, running))
}

/// Checks both files to run with them: where the policies file is bad, the last good one is taken.
///
/// # Errors
/// Everything that is wrong; the program cannot start.
pub(super) fn check_to_run(files: Files<'_>) -> Result<Checked, Problems> {
    checked(files, |place, running| load(place.clone(), running))
}

/// Checks the configuration; the policies stay those in force unless another file is named.
///
/// # Errors
/// Everything that is wrong; what runs goes on.
pub(super) fn check_to_reload(
    files: Files<'_>,
    (place_now, in_force, running): (Option<&Place>, &Arc<InForce>, &Running),
) -> Result<Checked, Problems> {
    let mut checked = checked(files, |place, fresh| match place_now == Some(place) {
        true => Ok(in_force.clone()),
        false => load(place.clone(), fresh),
    })?;
    if checked.place.as_ref() == place_now {
        // The policies that stay go on with what they are checked by.
        checked.running = running.clone();
    }
    Ok(checked)
}

fn load(place: Place, running: &Running) -> Result<Arc<InForce>, Problems> {
    let running = running.clone();
    InForce::load(
        place,
        Box::new(move |text: &Source| {
            let running = running.load_full();
            let running = running.as_ref().map(|running| running.as_slice());
            sampling::prepare(text, jiff::Timestamp::now(), running)
        }),
    )
}

fn checked(
    files: Files<'_>,
    load: impl FnOnce(&Place, &Running) -> Result<Arc<InForce>, Problems>,
) -> Result<Checked, Problems> {
    let (config, mut problems) = load_config(files);
    let verifiers = config.as_ref().map(Verifiers::ids).map(Arc::new);
    let running = Arc::new(ArcSwapOption::new(verifiers.clone()));
    let place = place(files.policies, config.as_ref());
    let policies = match &place {
        None => Ok(InForce::fixed(policies::default_plan())),
        Some(place) => load(place, &running),
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
    let (Some(config), Some(policies)) = (config, policies) else { return Err(problems) };
    let config_name = name(files.config);
    let verifiers = verifiers.unwrap_or_default();
    let checked = Checked { config, config_name, policies, place, running, verifiers, warnings: problems };
    checked.missing_verifiers()?;
    checked.graph(&Telemetry::detached(), &checked.directory(&Telemetry::detached()))?;
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
    let PoliciesExtension { path, poll_interval, last_good } = extension;
    let path: Option<PathBuf> = argument.map(Path::to_owned).or(path);
    path.map(|path| Place { path, poll_interval, last_good })
}

fn name(sources: &[String]) -> String {
    match sources {
        [] => "embedded default".to_owned(),
        sources => sources.join(", "),
    }
}

impl Checked {
    /// The policies as requests look them up, before anybody was met.
    pub(super) fn directory(&self, telemetry: &Telemetry) -> Arc<ArcSwap<Directory>> {
        Arc::new(ArcSwap::from_pointee(Directory::new(self.plan(), telemetry.ledger().clone())))
    }

    /// The policies in force may stay while the configuration changes.
    fn missing_verifiers(&self) -> Result<(), Problems> {
        let plan = self.plan();
        let named = plan.identity.authenticate.iter().filter_map(|source| source.verifier());
        let missing = named.filter(|id| !self.verifiers.iter().any(|running| running == id));
        let mut problems = Problems::new();
        for id in missing {
            let place = Location::start_of(Arc::new(Source::new(self.config_name.clone(), "")));
            let message =
                format!("the policies need the verifier `{id}`, which is not among service.extensions");
            problems.error(&place, "service.extensions", message, None);
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The components of the configuration, connected.
    pub(super) fn graph(
        &self,
        telemetry: &Telemetry,
        directory: &Arc<ArcSwap<Directory>>,
    ) -> Result<Graph, Problems> {
        Graph::prepare(&self.config, telemetry, directory).map_err(|error| {
            let mut problems = Problems::new();
            let place = Location::start_of(Arc::new(Source::new(self.config_name.clone(), "")));
            problems.error(&place, "", error.to_string(), None);
            problems
        })
    }
}

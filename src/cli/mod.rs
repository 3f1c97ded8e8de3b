//! The command line: what was typed, turned into calls.
//!
//! Results go to stdout, diagnostics to stderr. Exit codes: 0 success, 1 findings of `validate`, 2 usage,
//! 70 the collector failed while it ran, 78 bad configuration at `run`.

mod demo;
mod demo_load;
mod healthcheck;
mod queue;
mod status;
mod validate;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cgroup;
use crate::internal_telemetry::LogFormat;
use crate::runtime::{self, Options};

/// An OpenTelemetry collector for platforms with many tenants and many model versions.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector; without a file, with the embedded default configuration.
    Run(RunArguments),
    /// Show the main job: three tenants, live table, sampling rates changed by editing a file.
    Demo(demo::Arguments),
    /// Check configuration and policies as `run` would, report every problem, start nothing.
    Validate(validate::Arguments),
    /// Print the JSON Schema of collector.yaml, or the commented reference file.
    Schema(SchemaArguments),
    /// List the components of this build.
    Components,
    /// Tell how a collector does, or with --fleet every pod: policies, queues, exporters; exit code 1 if not well.
    Status(status::Arguments),
    /// Ask a health URL; exit code 0 if it answers that all is well, else 1.
    Healthcheck(healthcheck::Arguments),
    /// Look at a durable queue on disk.
    Queue(queue::Arguments),
}

#[derive(Debug, Args)]
struct SchemaArguments {
    /// Print the commented reference collector.yaml instead of the schema.
    #[arg(long)]
    reference: bool,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
struct ConfigArguments {
    /// A collector.yaml: a path, or `file:`, `env:` or `yaml:` with text. Repeatable; later ones win.
    #[arg(long, value_name = "URI", env = "TOLLGATE_CONFIG", hide_env_values = true)]
    config: Vec<String>,
    /// Sets one key, as `processors.batch.timeout=1s`; wins over every file. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", env = "TOLLGATE_SET", hide_env_values = true)]
    set: Vec<String>,
    /// The policies file, watched while running. Default: the extension `policies`, else the embedded policies.
    #[arg(long, value_name = "FILE", env = "TOLLGATE_POLICIES", hide_env_values = true)]
    policies: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct RunArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Threads that carry requests. Default: what the CPU quota of the cgroup and the affinity allow.
    #[arg(long, value_name = "COUNT", env = "TOLLGATE_WORKERS", hide_env_values = true)]
    workers: Option<usize>,
    /// Where the control groups are mounted whose CPU and memory limits are followed.
    #[arg(long, value_name = "FOLDER", default_value = cgroup::ROOT, env = "TOLLGATE_CGROUP_ROOT",
          hide_env_values = true)]
    cgroup_root: PathBuf,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Auto, env = "TOLLGATE_LOG_FORMAT", hide_env_values = true)]
    log_format: LogFormat,
    /// How long queues may drain after SIGTERM; keep it below terminationGracePeriodSeconds.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "25s",
          env = "TOLLGATE_SHUTDOWN_GRACE", hide_env_values = true)]
    shutdown_grace: Duration,
}

impl From<RunArguments> for Options {
    fn from(typed: RunArguments) -> Self {
        Self {
            config: typed.config.config,
            set: typed.config.set,
            policies: typed.config.policies,
            workers: typed.workers,
            cgroup_root: typed.cgroup_root,
            log_format: typed.log_format,
            shutdown_grace: typed.shutdown_grace,
        }
    }
}

/// Parses the command line, does what it says, gives the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Run(arguments.run)) {
        Command::Run(run) => runtime::run(run.into()),
        Command::Demo(demo) => demo::run(&demo),
        Command::Validate(validate) => validate::run(&validate),
        Command::Schema(schema) => print_schema(&schema),
        Command::Components => print_components(),
        Command::Status(status) => status::run(&status),
        Command::Healthcheck(healthcheck) => healthcheck::run(&healthcheck),
        Command::Queue(queue) => queue::run(&queue),
    }
}

/// Writes a result to stdout; a closed pipe is no failure.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Writes problems to stderr.
#[allow(clippy::print_stderr, reason = "what went wrong belongs on stderr")]
fn complain(problems: &crate::yaml::Problems) {
    eprintln!("{problems}");
}

/// Says why a command failed.
#[allow(clippy::print_stderr, reason = "what went wrong belongs on stderr")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn print_schema(arguments: &SchemaArguments) -> ExitCode {
    match arguments.reference {
        true => print(&crate::config::reference()),
        false => print(&format!("{:#}\n", crate::config::schema())),
    }
}

fn print_components() -> ExitCode {
    let mut text = format!("version: {}\n", env!("CARGO_PKG_VERSION"));
    for (section, types) in crate::config::component_types() {
        text.push_str(&format!("{section}:\n"));
        for name in types {
            text.push_str(&format!("  - {name}\n"));
        }
    }
    print(&text)
}

//! `tollgate validate`: the checks of `run`, and nothing started.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArguments, print};
use crate::runtime::{self, Checked, Files};
use crate::yaml::Problems;

/// What to check; without a configuration the embedded default.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Warnings are errors too.
    #[arg(long)]
    strict: bool,
}

/// Prints every problem to stderr, or a line per file to stdout.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let config = &arguments.config;
    // Where it will run is not known here, so all sizes fit.
    let memory = u64::MAX;
    let files =
        Files { config: &config.config, set: &config.set, policies: config.policies.as_deref(), memory };
    let checked = match runtime::check(files) {
        Ok(checked) => checked,
        Err(problems) => return fail(&problems),
    };
    match checked.warnings.is_empty() {
        true => print(&summary(&checked)),
        false if arguments.strict => fail(&checked.warnings),
        false => {
            super::complain(&checked.warnings);
            print(&summary(&checked))
        }
    }
}

fn fail(problems: &Problems) -> ExitCode {
    super::complain(problems);
    ExitCode::from(1)
}

fn summary(checked: &Checked) -> String {
    let plan = checked.plan();
    let tests = match plan.tests.len() {
        1 => "1 test passed".to_owned(),
        count => format!("{count} tests passed"),
    };
    let mut text = format!(
        "configuration ok: {}\npolicies ok: revision {}, {tests}\n",
        checked.config_name,
        plan.revision_name()
    );
    for test in &plan.tests {
        text += &format!("  ok {}: {}\n", test.path, test.expect);
    }
    text
}

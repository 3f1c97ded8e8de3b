//! `tollgate status`: how one collector does, or with `--fleet` every pod of it.
//!
//! One process is asked at its admin listener; a fleet through the API server's port-forward, with the rights of
//! whoever asks. Nothing is changed. Every wait has a deadline.

mod ask;
mod fleet;
mod show;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::{fail, print};

/// Whom to ask.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The admin listener of one collector, http only.
    #[arg(long, value_name = "URL", default_value = "http://localhost:55679/", env = "TOLLGATE_STATUS_URL")]
    url: http::Uri,
    /// How long one collector may take to answer.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s",
          env = "TOLLGATE_STATUS_TIMEOUT")]
    timeout: Duration,
    /// Print JSON: what the collector answers, or an object with a list of pods.
    #[arg(long)]
    json: bool,
    /// Ask every pod through the API server, with the rights of your kubeconfig: `list` of pods, `get` and
    /// `create` of pods/portforward.
    #[arg(long)]
    fleet: bool,
    #[command(flatten)]
    place: fleet::Place,
}

/// 0 if everything asked is ready, holds the policies it should and answered, else 1.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let told = runtime.context("no runtime").and_then(|runtime| {
        let told = runtime.block_on(tell(arguments));
        // A name server that does not answer must not keep the program past its timeout.
        runtime.shutdown_background();
        told
    });
    match told {
        Ok((text, true)) => print(&text),
        Ok((text, false)) => {
            print(&text);
            ExitCode::FAILURE
        }
        Err(error) => fail(&error),
    }
}

/// What to print, and whether all is well.
async fn tell(arguments: &Arguments) -> anyhow::Result<(String, bool)> {
    if arguments.fleet {
        let pods = fleet::ask(&arguments.place, arguments.timeout).await?;
        let text = match arguments.json {
            true => format!("{:#}\n", fleet::json(&pods)),
            false => show::fleet(&pods),
        };
        return Ok((text, fleet::is_well(&pods)));
    }
    let asked = tokio::time::timeout(arguments.timeout, ask::url(&arguments.url)).await;
    let status = match asked {
        Ok(status) => status,
        Err(_late) => Err(anyhow::anyhow!("no answer in {:?}", arguments.timeout)),
    };
    let status = status.with_context(|| arguments.url.to_string())?;
    let text = if arguments.json { format!("{status:#}\n") } else { show::one(&status) };
    Ok((text, is_well(&status)))
}

/// Ready, and the policies that were read last are in force.
fn is_well(status: &Value) -> bool {
    status["ready"] == true && status["policies"]["refused"].is_null()
}

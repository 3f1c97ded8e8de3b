//! `tollgate healthcheck`: asks a health URL and says so by the exit code.
//!
//! For images without a shell: `helm test`, container health checks, scripts. Plain HTTP only, no
//! redirects; what the answer says beyond its status is not looked at.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep_until, timeout};

use super::{fail, print};

/// How long to rest between two attempts: a name of a Service appears within a few of these.
const PAUSE: Duration = Duration::from_millis(500);

/// Whom to ask and for how long.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The health check's address, http only.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://localhost:13133/",
        env = "TOLLGATE_HEALTHCHECK_URL"
    )]
    url: http::Uri,
    /// How long one attempt may take, from looking up the name to the status.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "2s",
          env = "TOLLGATE_HEALTHCHECK_TIMEOUT")]
    timeout: Duration,
    /// Ask again for so long before giving up; 0s asks once.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s",
          env = "TOLLGATE_HEALTHCHECK_WAIT")]
    wait: Duration,
}

/// 0 for an answer of 200 to 299, else 1 with the reason on stderr.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime.context("no runtime").and_then(|runtime| {
        let asked = runtime.block_on(ask(arguments));
        // A name server that does not answer must not keep the program past its timeout.
        runtime.shutdown_background();
        asked
    });
    match asked {
        Ok(status) => print(&format!("{}: {status}\n", arguments.url)),
        Err(error) => fail(&error.context(arguments.url.to_string())),
    }
}

/// Attempts until one succeeds or the wait is over; the last failure then.
async fn ask(arguments: &Arguments) -> anyhow::Result<http::StatusCode> {
    if arguments.url.scheme() != Some(&http::uri::Scheme::HTTP) {
        bail!("a URL is needed, http://host:port/path");
    }
    let end = Instant::now() + arguments.wait;
    loop {
        let attempt = timeout(arguments.timeout, once(&arguments.url)).await;
        let outcome = match attempt {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer in {:?}", arguments.timeout)),
        };
        let next = Instant::now() + PAUSE;
        if outcome.is_ok() || next > end {
            return outcome;
        }
        sleep_until(next).await;
    }
}

async fn once(url: &http::Uri) -> anyhow::Result<http::StatusCode> {
    // A client of its own for each attempt, so that names are looked up again.
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let status = client.get(url.clone()).await?.status();
    match status.is_success() {
        true => Ok(status),
        false => bail!("the answer is {status}"),
    }
}

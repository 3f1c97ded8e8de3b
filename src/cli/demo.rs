//! `tollgate demo`: the main job in one terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::demo_load::{SENDERS, VERSIONS, send};
use crate::internal_telemetry::LogFormat;
use crate::otlp::Signal;
use crate::outcome::Books;
use crate::runtime::{Collector, Options};

/// How long to show it.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Stop after this time. Default: Ctrl-C on a terminal, else 10s.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// The policies the demo starts with; the file is there to be edited.
const POLICIES: &str = include_str!("../../config/demo-policies.yaml");

/// Runs the demo; 0 when every item is accounted for.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match demo(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => super::fail(&error),
    }
}

fn demo(arguments: &Arguments) -> anyhow::Result<bool> {
    let terminal = std::io::stdout().is_terminal();
    let duration = arguments.duration.or((!terminal).then_some(Duration::from_secs(10)));
    let folder = Folder::create()?;
    let policies = folder.0.join("policies.yaml");
    std::fs::write(&policies, POLICIES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(&policies, terminal, duration))
}

/// A folder of its own below the system's one for temporary files, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn create() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tollgate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(name: "demo.folder", %error, "folder not removed");
        }
    }
}

/// The embedded default on free loopback ports; only warnings are logged, the table takes the screen.
fn options(policies: &Path) -> Options {
    let set = [
        "receivers.otlp.protocols.grpc.endpoint=127.0.0.1:0",
        "receivers.otlp.protocols.http.endpoint=127.0.0.1:0",
        "extensions.health_check.endpoint=127.0.0.1:0",
        "extensions.admin.endpoint=127.0.0.1:0",
        "service.telemetry.metrics.readers=[{pull: {exporter: {prometheus: {host: 127.0.0.1, port: 0}}}}]",
        "service.telemetry.logs.level=error",
    ];
    Options {
        config: Vec::new(),
        set: set.map(str::to_owned).to_vec(),
        policies: Some(policies.to_owned()),
        workers: None,
        log_format: LogFormat::Auto,
        cgroup_root: crate::cgroup::ROOT.into(),
        shutdown_grace: Duration::from_secs(5),
    }
}

async fn show(policies: &Path, terminal: bool, duration: Option<Duration>) -> anyhow::Result<bool> {
    let collector = Collector::start(&options(policies)).await?;
    let receiver =
        collector.address("otlp/http").ok_or_else(|| anyhow::anyhow!("the receiver has no address"))?;
    let senders = collector.scope().child("demo");
    for sender in &SENDERS {
        senders.spawn("sender", send(sender, receiver, senders.token().clone()));
    }
    let mut table = Table::new(policies, receiver.to_string(), terminal);
    table.announce()?;
    let ended = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => drop(tokio::signal::ctrl_c().await),
        }
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let shown = async {
        let mut tick = tokio::time::interval(table.period());
        tick.tick().await;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            table.draw(&collector)?;
        }
        anyhow::Ok(())
    };
    let (shown, ()) = tokio::join!(shown, async {
        ended.await;
        stop.cancel();
    });
    shown?;
    senders.close(tokio::time::Instant::now() + Duration::from_secs(2)).await;
    let books = collector.stop().await;
    let balanced = books.balanced();
    table.finish(&books, balanced)?;
    Ok(balanced)
}

/// What stands on the screen.
struct Table {
    policies: PathBuf,
    receiver: String,
    terminal: bool,
    last: BTreeMap<String, Books>,
}

impl Table {
    fn new(policies: &Path, receiver: String, terminal: bool) -> Self {
        Self { policies: policies.to_owned(), receiver, terminal, last: BTreeMap::new() }
    }

    /// A terminal is redrawn twice a second; elsewhere a line is printed every second.
    fn period(&self) -> Duration {
        Duration::from_millis(if self.terminal { 500 } else { 1000 })
    }

    fn head(&self) -> String {
        let tenants: Vec<String> = SENDERS.iter().map(|s| format!("{} ({})", s.tenant, s.model)).collect();
        format!(
            "Tollgate demo: {} send OTLP to {}, model versions {}.\nEdit a rate in {} and watch the column `kept`.\n",
            tenants.join(", "),
            self.receiver,
            VERSIONS.join(" and "),
            self.policies.display()
        )
    }

    fn announce(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(self.head().as_bytes())?;
        out.flush()
    }

    fn draw(&mut self, collector: &Collector) -> std::io::Result<()> {
        let (revision, problem) = collector.revision();
        let mut now = BTreeMap::new();
        for account in collector.telemetry().ledger().accounts() {
            let mut books = Books::default();
            Signal::ALL.into_iter().for_each(|signal| books.add(&account.signal(signal).read()));
            if books != Books::default() {
                now.insert(account.label().to_string(), books);
            }
        }
        let seconds = self.period().as_secs_f64();
        let text = match self.terminal {
            true => self.screen(&now, seconds, &revision, problem.as_deref()),
            false => self.line(&now, seconds, &revision),
        };
        self.last = now;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn screen(
        &self,
        now: &BTreeMap<String, Books>,
        seconds: f64,
        revision: &str,
        problem: Option<&str>,
    ) -> String {
        let mut text = format!("\x1b[H\x1b[J{}\n", self.head());
        let title = ["tenant", "received/s", "kept", "refused/s", "sent/s", "queue B", "sent total"];
        row(&mut text, &title.map(str::to_owned));
        for (tenant, books) in now {
            let rates = self.rates(tenant, books, seconds);
            row(
                &mut text,
                &[
                    tenant.clone(),
                    format!("{:.0}", rates.received),
                    rates.kept(),
                    format!("{:.0}", rates.refused),
                    format!("{:.0}", rates.sent),
                    books.queued_bytes.to_string(),
                    books.sent.to_string(),
                ],
            );
        }
        let _infallible = writeln!(text, "\npolicies revision {revision}; Ctrl-C drains and prints the sums");
        if let Some(problem) = problem {
            let _infallible = writeln!(
                text,
                "\nthe file on disk is refused, the revision above stays in force:\n{problem}"
            );
        }
        text
    }

    fn line(&self, now: &BTreeMap<String, Books>, seconds: f64, revision: &str) -> String {
        let mut text = format!("revision {revision}");
        for (tenant, books) in now {
            let rates = self.rates(tenant, books, seconds);
            let _infallible = write!(
                text,
                " | {tenant} received {:.0}/s kept {} refused {:.0}/s sent {:.0}/s queue {} B",
                rates.received,
                rates.kept(),
                rates.refused,
                rates.sent,
                books.queued_bytes
            );
        }
        text.push('\n');
        text
    }

    fn rates(&self, tenant: &str, books: &Books, seconds: f64) -> Rates {
        let before = self.last.get(tenant).cloned().unwrap_or_default();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            received: rate(books.received, before.received),
            sampled_out: rate(books.sampled_out, before.sampled_out),
            refused: rate(books.refused_total(), before.refused_total()),
            sent: rate(books.sent, before.sent),
        }
    }

    fn finish(&self, books: &Books, balanced: bool) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.terminal {
            // Behind the `^C` of the terminal.
            writeln!(out)?;
        }
        writeln!(
            out,
            "received {} = refused {} + sampled out {} + sent {} + dropped {} + queued {}: {}",
            books.received,
            books.refused_total(),
            books.sampled_out,
            books.sent,
            books.dropped_total(),
            books.queued,
            if balanced { "balanced" } else { "NOT balanced" }
        )
    }
}

/// A row fits a terminal of 80 columns.
fn row(text: &mut String, cells: &[String; 7]) {
    let [tenant, rest @ ..] = cells;
    let _infallible = write!(text, "{tenant:<12}");
    for cell in rest {
        let _infallible = write!(text, "{cell:>11}");
    }
    text.push('\n');
}

/// Items per second.
struct Rates {
    received: f64,
    sampled_out: f64,
    refused: f64,
    sent: f64,
}

impl Rates {
    /// The share that rules let pass.
    fn kept(&self) -> String {
        match self.received {
            received if received > 0.0 => format!("{:.0}%", 100.0 * (1.0 - self.sampled_out / received)),
            _ => "-".to_owned(),
        }
    }
}

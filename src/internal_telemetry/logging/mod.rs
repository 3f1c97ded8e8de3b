//! The program's own log: `tracing` events as lines of text or JSON.
//!
//! One line is written by one call. A line carries the event's stable name as `event`. What one place in
//! the program logs is limited (`limit`), so one bad sender cannot flood a node's log. Libraries log
//! from `warn` whatever the level. Spans are not logged; they are for [`super::traces`].

mod format;
mod limit;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use super::metrics::Counter;
use super::traces::Traces;
use crate::config::service::{LogEncoding, LogLevel, Logs};
use format::Form;
use limit::{Admission, Limiter};

/// What `--log-format` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// What the configuration says, else text on a terminal and JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Correct the path or its permissions.
    #[error("service.telemetry.logs.output_paths: cannot open {path}")]
    Open {
        /// The path as configured.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The program set up logging twice.
    #[error("logging is set up already")]
    AlreadySet,
}

/// The log, once it is set up; clones are the same.
#[derive(Debug, Clone)]
pub struct Log {
    level: LevelSwitch,
    suppressed: Counter,
}

impl Log {
    /// Changes what is logged from now on.
    pub fn set_level(&self, level: LogLevel) {
        self.level.set(level);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Lines left out because one place logged too often; give it to `Telemetry::watch_log`.
    pub fn suppressed(&self) -> Counter {
        self.suppressed.clone()
    }
}

/// Sets up the log of the program, and its traces if there are any, for the rest of its life.
///
/// # Errors
/// [`LoggingError`]: the program cannot start.
pub fn init(config: &Logs, format: LogFormat, traces: Option<&Traces>) -> Result<Log, LoggingError> {
    let outputs = Outputs::open(config)?;
    let lines = Lines::new(config, format, outputs);
    let log = Log { level: LevelSwitch::new(config.level), suppressed: lines.suppressed.clone() };
    let dispatch = dispatch(lines, &log.level, traces);
    tracing::dispatcher::set_global_default(dispatch).map_err(|_already| LoggingError::AlreadySet)?;
    Ok(log)
}

fn dispatch(lines: Lines, level: &LevelSwitch, traces: Option<&Traces>) -> Dispatch {
    let level = level.clone();
    match traces {
        Some(traces) => {
            Dispatch::new(Registry::default().with(traces.layer()).with(lines.with_filter(level)))
        }
        None => Dispatch::new(Registry::default().with(lines.with_filter(level))),
    }
}

/// Where lines go, all to each.
struct Outputs {
    writers: Vec<Box<dyn Write + Send>>,
    all_terminals: bool,
}

impl Outputs {
    fn open(config: &Logs) -> Result<Self, LoggingError> {
        let mut outputs = Self { writers: Vec::new(), all_terminals: true };
        for path in &config.output_paths {
            let (writer, terminal): (Box<dyn Write + Send>, bool) = match path.as_str() {
                "stderr" => (Box::new(std::io::stderr()), std::io::stderr().is_terminal()),
                "stdout" => (Box::new(std::io::stdout()), std::io::stdout().is_terminal()),
                path => {
                    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
                    let file = opened.map_err(|source| LoggingError::Open { path: path.into(), source })?;
                    (Box::new(file), false)
                }
            };
            outputs.writers.push(writer);
            outputs.all_terminals &= terminal;
        }
        Ok(outputs)
    }
}

/// Writes events as lines.
struct Lines {
    form: Form,
    limiter: Option<Limiter>,
    suppressed: Counter,
    writers: Mutex<Vec<Box<dyn Write + Send>>>,
}

impl Lines {
    fn new(config: &Logs, format: LogFormat, outputs: Outputs) -> Self {
        let json = match (format, config.encoding) {
            (LogFormat::Text, _) | (LogFormat::Auto, Some(LogEncoding::Console)) => false,
            (LogFormat::Json, _) | (LogFormat::Auto, Some(LogEncoding::Json)) => true,
            (LogFormat::Auto, None) => !outputs.all_terminals,
        };
        let caller = !config.disable_caller;
        let initial = config.initial_fields.clone().into_iter().collect();
        let form = match json {
            true => Form::Json { caller, initial },
            false => Form::Text { caller, initial, colours: outputs.all_terminals },
        };
        Self {
            form,
            limiter: config.sampling.enabled.then(|| Limiter::new(&config.sampling)),
            suppressed: Counter::default(),
            writers: Mutex::new(outputs.writers),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let left_out = match &self.limiter {
            None => 0,
            Some(limiter) => match limiter.admit(event.metadata().callsite(), tokio::time::Instant::now()) {
                Admission::Log { left_out } => left_out,
                Admission::LeaveOut => return self.suppressed.add(1),
            },
        };
        let line = self.form.line(event, jiff::Timestamp::now(), left_out);
        for writer in self.writers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            // A log that cannot be written has nowhere to say so.
            let _lost = writer.write_all(line.as_bytes());
        }
    }
}

/// Which events are logged; can be changed while the program runs.
#[derive(Debug, Clone)]
struct LevelSwitch(Arc<AtomicU8>);

impl LevelSwitch {
    fn new(level: LogLevel) -> Self {
        Self(Arc::new(AtomicU8::new(level as u8)))
    }

    fn set(&self, level: LogLevel) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    fn level(&self) -> LevelFilter {
        match self.0.load(Ordering::Relaxed) {
            level if level == LogLevel::Debug as u8 => LevelFilter::DEBUG,
            level if level == LogLevel::Info as u8 => LevelFilter::INFO,
            level if level == LogLevel::Warn as u8 => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        }
    }

    fn logs(&self, metadata: &Metadata<'_>) -> bool {
        // It calls every request that fails an error; whoever asked says what is to be known.
        if metadata.target().starts_with("kube") {
            return false;
        }
        let own = metadata.target().starts_with(env!("CARGO_PKG_NAME"));
        let level = if own { self.level() } else { self.level().min(LevelFilter::WARN) };
        metadata.is_event() && *metadata.level() <= level
    }
}

impl<S> Filter<S> for LevelSwitch {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.logs(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.logs(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level())
    }
}

#[cfg(test)]
mod tests;

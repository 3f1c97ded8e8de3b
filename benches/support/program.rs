//! Processes: started, steered over standard input, read from /proc, and ended when dropped.
//!
//! Invariant: every process ends with its standard input, so that none outlives the benchmark, even one that
//! is killed. A program that does not do so by itself is run by a guard that does.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::PATIENCE;

/// Kernel clock ticks a second in /proc/PID/stat; 100 on every Linux there is (`USER_HZ`).
const TICKS: u64 = 100;
/// The last lines of a program that are shown if it fails.
const LAST_LINES: usize = 40;

/// A running process. Dropping it, also while unwinding, ends it and waits for its end.
pub(crate) struct Program {
    name: String,
    child: Child,
    /// Whose time and memory are read: the child, or what it guards.
    id: u32,
    said: Receiver<String>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

/// Which output of a program is read line by line by [`Program::next_line`]; what is not is kept for failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Stdout,
    Both,
}

impl Program {
    /// Starts this binary again in a role; returns it and the address or word it is ready with.
    pub(crate) fn role(role: &str, arguments: &[String]) -> (Self, String) {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg(role).args(arguments);
        let mut program = Self::start(role, command, Speaks::Stdout);
        let line = program.next_line();
        let Some(ready) = line.strip_prefix("ready ") else {
            program.fail(&format!("said {line:?} instead of being ready"))
        };
        let ready = ready.to_owned();
        (program, ready)
    }

    /// Starts a program that is not one of ours, with what it says on standard error and with variables in its
    /// environment.
    pub(crate) fn guarded(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg("guard").arg(program).args(arguments).envs(environment.iter().copied());
        let mut guard = Self::start(name, command, Speaks::Both);
        guard.id = loop {
            let line = guard.next_line();
            if let Some(id) = line.strip_prefix("guards ") {
                break id.parse().expect("a guard says a process id");
            }
        };
        guard
    }

    /// Starts `command`.
    fn start(name: &str, mut command: Command, speaks: Speaks) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let last_lines = Arc::default();
        // More lines than a program says before they are read; further ones wait in the pipe.
        let (say, said) = sync_channel(1024);
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        read_lines(stdout, &last_lines, Some(say.clone()));
        read_lines(stderr, &last_lines, (speaks == Speaks::Both).then_some(say));
        Self { name: name.into(), id: child.id(), child, said, last_lines }
    }

    /// The next line the program says; the benchmark ends if there is none in time.
    pub(crate) fn next_line(&mut self) -> String {
        self.next_line_within(PATIENCE)
    }

    /// As [`Program::next_line`], for answers that are known to take a while.
    pub(crate) fn next_line_within(&mut self, patience: Duration) -> String {
        match self.said.recv_timeout(patience) {
            Ok(line) => line,
            Err(error) => self.fail(&format!("said nothing: {error}")),
        }
    }

    /// Sends the program one line.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is piped");
        if let Err(error) = writeln!(stdin, "{line}").and_then(|()| stdin.flush()) {
            self.fail(&format!("does not listen: {error}"));
        }
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// User and system time so far, ended threads included; exact to 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The second field is the name in parentheses and may hold anything; utime and stime are fields
        // 14 and 15, hence 11 and 12 after it.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory so far, in bytes.
    pub(crate) fn peak_resident(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }

    fn proc_file(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.id);
        std::fs::read_to_string(&path).unwrap_or_else(|error| self.fail(&format!("{path}: {error}")))
    }

    /// Ends the benchmark with what this program said last.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let lines =
            self.last_lines.lock().map(|lines| Vec::from(lines.clone()).join("\n")).unwrap_or_default();
        panic!("{} (process {}) {what}; its last lines:\n{lines}", self.name, self.id)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Fails only if it was waited for before.
        drop(self.child.wait());
    }
}

fn read_lines(
    stream: impl Read + Send + 'static,
    last_lines: &Arc<Mutex<VecDeque<String>>>,
    say: Option<SyncSender<String>>,
) {
    let last_lines = last_lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Ok(mut last) = last_lines.lock() {
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(line.clone());
            }
            // A full channel means that nobody listens any more; the lines are read all the same, because a
            // full pipe would stop the program.
            if let Some(say) = &say {
                drop(say.try_send(line));
            }
        }
    });
}

/// A program that is to end when the benchmark does, and its arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Guarded {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// The role of a guard: runs a program, and kills it at the end of its own standard input.
pub(crate) fn guard(guarded: &Guarded) {
    let (program, arguments) = guarded.command.split_first().expect("a guard is told what to run");
    let started = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    say(format_args!("guards {}", child.id()));
    let mut unheard = Vec::new();
    // Whether it ends with an end or an error, nobody is there any more.
    drop(std::io::stdin().read_to_end(&mut unheard));
    // Both fail only if the process has already ended.
    drop(child.kill());
    drop(child.wait());
}

/// Runs a role on one thread, as every actor is.
pub(crate) fn play(role: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(role);
}

/// Says that a role is ready, and with what.
pub(crate) fn ready(with: impl std::fmt::Display) {
    say(format_args!("ready {with}"));
}

/// Says one line to the benchmark.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut stdout = std::io::stdout().lock();
    // If the benchmark is gone, the role ends at the end of its standard input.
    drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}

/// What the benchmark tells a role, line by line. The role's process ends with its standard input, so that
/// none outlives the benchmark even if that is killed.
pub(crate) fn told() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    told
}

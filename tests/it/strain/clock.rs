//! The wall clock jumps by hours and days, and nothing that waits, limits or retries takes notice.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use tonic::Code;

use super::figure;
use crate::edge::Usage;
use crate::gate::gate;
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, scaled, spans};

const HOUR: i64 = 3600;
const JUMPS: [i64; 4] = [HOUR, -HOUR, 24 * HOUR, -24 * HOUR];
/// A span in 50 seconds.
const POLICIES: &str = "version: 1
identity: { claims: [{ header: x-tenant-id }] }
tenants: { small: { limits: { spans_per_second: 0.02, burst: 1m } } }
rules: []
";

/// The wall clock of one program; the rest of the machine keeps its own.
struct Clock {
    offset: File,
    path: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(folder: &Path) -> Self {
        let (path, library) = (folder.join("clock"), folder.join("clock.so"));
        std::fs::write(&path, 0_i64.to_ne_bytes()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/strain/clock.c");
        // A C compiler is what a build needs anyway.
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut compile = Command::new(compiler);
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]);
        assert!(compile.status().unwrap().success());
        Self { offset: File::options().write(true).open(&path).unwrap(), path, library }
    }

    /// From now on it is off by so many seconds.
    fn jump(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// When the program's log last says that this happened.
fn last(tollgate: &Tollgate, event: &str) -> Timestamp {
    let log = tollgate.log();
    let line = log.iter().rev().find(|line| line["event"] == event).unwrap();
    line["ts"].as_str().unwrap().parse().unwrap()
}

/// Puts other policies in force, which say the same.
async fn reload(tollgate: &Tollgate, number: usize) {
    let (loaded, path) = (tollgate.events("policies.loaded"), tollgate.policies_path());
    std::fs::write(path.with_extension("new"), format!("# number {number}\n{POLICIES}")).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
    eventually("the new policies", || async { (tollgate.events("policies.loaded") > loaded).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_wall_clock_jumps_limits_retries_deadlines_and_the_end_stay_as_they_were() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let clock = Clock::new(folder.path());
    let tollgate = Tollgate::with(&gate(&sink))
        .policies(POLICIES)
        // Every reload is looked for in the log.
        .argument("--set=service.telemetry.logs.sampling.enabled=false")
        .environment("LD_PRELOAD", clock.library.to_str().unwrap())
        .environment("TOLLGATE_TEST_CLOCK", clock.path.to_str().unwrap())
        .start()
        .await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let (small, other) = (grpc.clone().tenant("small"), grpc.tenant("other"));
    let one = |name: &str| spans(&[], &[Item::named(name)]);
    for (number, jump) in (0..scaled(1, 20)).flat_map(|_| JUMPS).enumerate() {
        while small.spans(one("small")).await.is_ok() {}
        // Waits for its next attempt while the clock jumps.
        sink.answer(Answer::Unavailable);
        other.spans(one("waits")).await.unwrap();
        clock.jump(jump);
        // A bucket is filled by time that passes.
        let refused = small.spans(one("too much")).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "after {jump} s");
        sink.answer(Answer::Ok);
        tollgate.settled().await;
        other.spans(one("taken")).await.unwrap();
        // Files are still looked at; it is the clock that jumped which dates what is said of them.
        reload(&tollgate, number).await;
        let off = last(&tollgate, "policies.loaded").duration_since(Timestamp::now());
        assert!((off.as_secs() - jump).abs() < HOUR / 2, "{off:?} after a jump to {jump} s");
    }
    // Timers that are due at once, again and again, would keep a core busy.
    let usage = Usage::from_now(&tollgate);
    for _ in 0..20 {
        other.spans(one("later")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cores = usage.cores();
    figure("clock_jumps.cores", cores, 0.5);
    assert!(cores < 0.5, "{cores} cores");
    tollgate.settled().await;
    tollgate.stop().await;
}

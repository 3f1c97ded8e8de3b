//! `cargo bench --bench kubernetes`: what it costs to live beside an API server, and how fast its changes arrive.
//!
//! The API server is the double of the tests, in this process; Tollgate is the real program, idle otherwise.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends with the reason")]
#![allow(clippy::disallowed_methods, reason = "actors end by being killed; their tasks need no owner")]

#[path = "../../tests/it/harness/api_server/mod.rs"]
#[allow(unreachable_pub, reason = "shared with the black-box tests")]
mod api_server;
mod pods;
mod policies;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod support;

use std::path::PathBuf;

use clap::Parser;
use mimalloc::MiMalloc;
use support::tollgate;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures Tollgate beside an API server.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<support::Role>,
    /// Said by `cargo bench`; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// The same: this benchmark is always short.
    #[arg(long)]
    quick: bool,
    /// Prints a line for each figure that is owed.
    #[arg(long)]
    figures: bool,
    /// Another build of Tollgate to measure.
    #[arg(long, default_value = tollgate::BINARY)]
    tollgate: PathBuf,
}

fn main() {
    let args = Args::parse();
    match args.role {
        Some(role) => role.play(),
        None if args.bench => measure(&args),
        None => println!("nothing is measured without --bench; see cargo bench"),
    }
}

fn measure(args: &Args) {
    // The double answers on threads of its own, so that waiting for Tollgate does not stop it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut figures = policies::measure(&runtime, &args.tollgate);
    figures.extend(pods::measure(&args.tollgate));
    if args.figures {
        figures.iter().for_each(|figure| println!("{figure}"));
    }
}

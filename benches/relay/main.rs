//! `cargo bench --bench relay`: what a span costs on its way through Tollgate, against a raw HTTP/2 relay
//! below it and the usual prost and tonic relay above it, measured in turns in one run.
//!
//! Figures are CPU time of the relay's process alone (user and system): load, relay and sink share the
//! machine's cores, so throughput says more about the machine than about the relay.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends with the reason")]
#![allow(clippy::disallowed_methods, reason = "actors end by being killed; their tasks need no owner")]

mod measure;
mod memory;
mod prost;
mod raw;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod support;
mod variants;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use measure::{Outcome, Shape, Trial};
use mimalloc::MiMalloc;
use support::arguments::Usual;
use support::figures::{Bound, Figure, median};
use support::sink::Sink;
use support::tollgate::{ConfigMap, Destination, Setup};
use variants::Variant;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Spans a request, with what Tollgate may cost at most in raw relays, and what the prost relay must cost at
/// least in Tollgates.
const BOUNDS: [(usize, f64, Option<f64>); 4] =
    [(1, 1.25, None), (10, 1.5, None), (100, 2.2, Some(5.5)), (1000, 2.6, Some(5.5))];
/// Spans a request with which the cost of tenancy is owed, what it may cost over Tollgate without, and what
/// the most tenants may cost over one.
const TENANCY: (usize, f64, f64) = (100, 1.15, 1.2);
const IDLE_MIB: f64 = 12.0;
const QUEUE_RSS_PER_BYTE: f64 = 1.15;

/// Measures what a span costs on its way through Tollgate and two relays to compare it with.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<RelayRole>,
    #[command(flatten)]
    usual: Usual,
    /// Spans a request.
    #[arg(long, value_delimiter = ',', default_values_t = BOUNDS.map(|(spans, ..)| spans))]
    sizes: Vec<usize>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Variant::RELAYS)]
    variants: Vec<Variant>,
    /// Trials of each size and variant [default: 5, quick 3].
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a trial in seconds [default: 3, quick 0.8].
    #[arg(long)]
    seconds: Option<f64>,
    #[command(flatten)]
    shape: Shape,
}

/// Which actor this process is; without one it is the benchmark itself.
#[derive(Debug, clap::Subcommand)]
enum RelayRole {
    #[command(flatten)]
    Shared(support::Role),
    /// Relays without looking.
    Raw {
        /// Where to.
        #[arg(long)]
        sink: SocketAddr,
    },
    /// Relays by decoding and encoding.
    Prost {
        /// Where to.
        #[arg(long)]
        sink: SocketAddr,
    },
}

fn main() {
    let args = Args::parse();
    match args.role {
        Some(RelayRole::Shared(role)) => role.play(),
        Some(RelayRole::Raw { sink }) => support::program::play(raw::serve(sink)),
        Some(RelayRole::Prost { sink }) => support::program::play(prost::serve(sink)),
        None => args.usual.measure(|| compare(&args)),
    }
}

fn compare(args: &Args) {
    let policies = ConfigMap::mount("bench");
    let policies = policies.file();
    let mut sink = Sink::start();
    let destination = Destination::Sink(sink.address);
    let tollgate = Setup { binary: &args.usual.tollgate, destination, policies: &policies };
    let rounds = args.rounds.unwrap_or(if args.usual.quick { 3 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.usual.quick { 0.8 } else { 3.0 });
    println!("{rounds} rounds of {seconds} s; medians; CPU is user and system time of the relay alone");
    println!("spans/request variant     CPU s/M spans     spans/s   p50 ms   p99 ms  peak MiB  busy %");
    let (mut lines, mut figures) = (Vec::new(), Vec::new());
    let time = Duration::from_secs_f64(seconds);
    let trial = |variant, spans| Trial { variant, spans, time, shape: args.shape, tollgate };
    for &spans in &args.sizes {
        let size = Size::measure(&args.variants, rounds, |variant| trial(variant, spans).run(&mut sink));
        let size = Size { spans, ..size };
        size.print();
        lines.push(size.line());
        figures.extend(size.figures());
    }
    lines.iter().for_each(|line| println!("{line}"));
    if args.variants.contains(&Variant::Tollgate) {
        let spans = TENANCY.0;
        let one = |variant| trial(variant, spans).run(&mut sink);
        let tenancy = Size { spans, ..Size::measure(&Variant::TENANCY, 2 * rounds, one) };
        tenancy.print();
        figures.extend(tenancy.tenancy_figures());
        figures.extend(memory_figures(tollgate, args.shape));
    }
    args.usual.print(&figures);
}

/// Measures what Tollgate holds; owed are the figures with the usual request of 100 spans.
fn memory_figures(tollgate: Setup<'_>, shape: Shape) -> [Figure; 2] {
    let [usual, small] = [100, 1].map(|spans| memory::measure(tollgate, shape, spans));
    println!(
        "tollgate memory: idle {:.1} MiB; resident for each queued byte {:.2} (requests of 100 spans), {:.2} (1)",
        usual.idle_mib, usual.per_queued_byte, small.per_queued_byte
    );
    let named = |name: &str, value, limit| Figure {
        name: format!("relay.{name}"),
        value,
        bound: Bound::AtMost(limit),
    };
    [
        named("idle_rss_mib", usual.idle_mib, IDLE_MIB),
        named("queue_rss_per_byte", usual.per_queued_byte, QUEUE_RSS_PER_BYTE),
    ]
}

/// All outcomes of one size of request: those of a variant in the order of rounds.
struct Size<'a> {
    spans: usize,
    variants: &'a [Variant],
    outcomes: Vec<Vec<Outcome>>,
}

impl<'a> Size<'a> {
    /// Runs `one` trial of each variant in each round.
    fn measure(variants: &'a [Variant], rounds: usize, mut one: impl FnMut(Variant) -> Outcome) -> Self {
        let mut outcomes = vec![Vec::new(); variants.len()];
        for _ in 0..rounds {
            for (variant, outcomes) in variants.iter().zip(&mut outcomes) {
                outcomes.push(one(*variant));
            }
        }
        Self { spans: 0, variants, outcomes }
    }

    fn print(&self) {
        for (variant, outcomes) in self.variants.iter().zip(&self.outcomes) {
            let of = |value: fn(&Outcome) -> f64| median(&outcomes.iter().map(value).collect::<Vec<_>>());
            println!(
                "{:>13} {:<12} {:>12.3} {:>11.0} {:>8.2} {:>8.2} {:>9.1} {:>7.0}",
                self.spans,
                variant.name(),
                of(|outcome| outcome.cpu_per_span),
                of(|outcome| outcome.spans_per_second),
                of(|outcome| outcome.p50_ms),
                of(|outcome| outcome.p99_ms),
                of(|outcome| outcome.peak_mib),
                of(|outcome| outcome.busy) * 100.0,
            );
        }
    }

    /// CPU of one variant in units of another: the median of the rounds' own ratios, because a round's
    /// trials follow each other and the machine changes less between them than between rounds.
    fn ratio(&self, variant: Variant, unit: Variant) -> Option<f64> {
        let of = |wanted| self.variants.iter().position(|&v| v == wanted).map(|index| &self.outcomes[index]);
        let pairs = of(variant)?.iter().zip(of(unit)?);
        Some(median(&pairs.map(|(a, b)| a.cpu_per_span / b.cpu_per_span).collect::<Vec<_>>()))
    }

    fn line(&self) -> String {
        let mut line = format!("relay spans={}", self.spans);
        let mut pairs = vec![(Variant::Tollgate, Variant::Raw), (Variant::Prost, Variant::Tollgate)];
        if !self.variants.contains(&Variant::Tollgate) {
            pairs = vec![(Variant::Prost, Variant::Raw)];
        }
        for (variant, unit) in pairs {
            if let Some(ratio) = self.ratio(variant, unit) {
                line += &format!(" {}/{}={ratio:.2}", variant.name(), unit.name());
            }
        }
        line
    }

    fn figures(&self) -> Vec<Figure> {
        let Some((_, over_raw, prost_over)) = BOUNDS.into_iter().find(|(spans, ..)| *spans == self.spans)
        else {
            return Vec::new();
        };
        let named =
            |name, value, bound| Figure { name: format!("relay.{}.{name}", self.spans), value, bound };
        let over_raw = self
            .ratio(Variant::Tollgate, Variant::Raw)
            .map(|value| named("over_raw", value, Bound::AtMost(over_raw)));
        let prost_over = self
            .ratio(Variant::Prost, Variant::Tollgate)
            .zip(prost_over)
            .map(|(value, bound)| named("prost_over", value, Bound::AtLeast(bound)));
        over_raw.into_iter().chain(prost_over).collect()
    }

    fn tenancy_figures(&self) -> Vec<Figure> {
        let [without, one, hundred, thousands] = Variant::TENANCY;
        let (_, over_without, over_one) = TENANCY;
        let pairs = [
            ("1_over_without", one, without, over_without),
            ("100_over_without", hundred, without, over_without),
            ("5000_over_without", thousands, without, over_without),
            ("5000_over_1", thousands, one, over_one),
        ];
        let figure = |(name, variant, unit, bound)| {
            let value = self.ratio(variant, unit)?;
            Some(Figure { name: format!("relay.tenants.{name}"), value, bound: Bound::AtMost(bound) })
        };
        pairs.into_iter().filter_map(figure).collect()
    }
}

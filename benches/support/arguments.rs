//! The arguments every end-to-end benchmark takes.

use std::path::PathBuf;

use super::figures::Figure;
use super::tollgate;

/// What `cargo bench` says, and what people may add.
#[derive(Debug, clap::Args)]
pub(crate) struct Usual {
    /// Said by `cargo bench`; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// Shorter, where there is something to shorten.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Prints a line for each figure that is owed.
    #[arg(long)]
    figures: bool,
    /// Another build of Tollgate to measure.
    #[arg(long, default_value = tollgate::BINARY)]
    pub(crate) tollgate: PathBuf,
}

impl Usual {
    /// Measures, if that is asked for.
    pub(crate) fn measure(&self, measure: impl FnOnce()) {
        match self.bench {
            true => measure(),
            false => println!("nothing is measured without --bench; see cargo bench"),
        }
    }

    /// Prints the figures, if that is asked for.
    pub(crate) fn print(&self, figures: &[Figure]) {
        if self.figures {
            figures.iter().for_each(|figure| println!("{figure}"));
        }
    }
}

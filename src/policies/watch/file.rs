//! The policies file and the last good text beside it, on disk.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Origin, Place, Prepare};
use crate::policies::document::MAX_BYTES;
use crate::policies::plan::Plan;
use crate::yaml::{Location, Problems, Source};

/// Where texts come from and what makes them good.
pub(super) struct File {
    pub(super) place: Place,
    pub(super) prepare: Box<Prepare>,
}

/// A text that was found.
#[derive(PartialEq)]
pub(super) struct Seen {
    pub(super) text: String,
    pub(super) sha256: String,
}

impl Seen {
    pub(super) fn new(text: String) -> Self {
        Self { sha256: sha256(&text), text }
    }
}

impl File {
    pub(super) fn read(&self) -> io::Result<Seen> {
        read_text(&self.place.path)
    }

    /// Checks a text of this name.
    pub(super) fn prepared(&self, name: &str, seen: &Seen) -> Result<(Plan, Problems), Problems> {
        (self.prepare)(&Source::new(name, seen.text.clone()))
    }

    /// The file, as where a text is found.
    pub(super) fn origin(&self) -> Origin {
        Origin { name: self.place.path.display().to_string(), version: None }
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> Problems {
        absent(&self.origin().name, format!("cannot be read: {error}"))
    }

    /// Keeps a good text for a start at which the file is bad. A failure costs only that.
    pub(super) fn persist(&self, seen: &Seen) {
        let Some(path) = &self.place.last_good else { return };
        if read_text(path).is_ok_and(|kept| kept.sha256 == seen.sha256) {
            return;
        }
        if let Err(error) = write_whole(path, seen.text.as_bytes()) {
            let path = path.display();
            tracing::warn!(name: "policies.not_persisted", %path, %error, "the last good policies are not on disk");
        }
    }

    /// Place, plan and warnings of the text that was kept, if it is still good.
    pub(super) fn last_good(&self) -> Option<(Origin, Plan, Problems)> {
        let path = self.place.last_good.as_ref()?;
        let (name, seen) = (path.display().to_string(), read_text(path).ok()?);
        let (plan, warnings) = self.prepared(&name, &seen).ok()?;
        Some((Origin { name, version: None }, plan, warnings))
    }
}

/// The problem of a text that is not there.
pub(super) fn absent(name: &str, what: String) -> Problems {
    let mut problems = Problems::new();
    let place = Location::start_of(Arc::new(Source::new(name, "")));
    let help = "missing policies are never \"no rules\"".to_owned();
    problems.error(&place, "", what, Some(help));
    problems
}

/// Reads a text of at most one byte more than policies may have, so that a huge file costs nothing.
fn read_text(path: &Path) -> io::Result<Seen> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(Seen::new(text))
}

/// The digest of a text, in lower-case hexadecimal digits.
pub(in crate::policies) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces a file so that a crash leaves the old or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

//! Reads what is in the directory of a journal, and changes nothing.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::ends::{self, Ends};
use super::format::BadHeader;
use super::scan::{self, Contents, Unreadable};
use super::shared::{ends_name, number_of, segment_name};
use super::storage::Storage;
use super::types::OpenError;

/// A sequence number some file is named after, and what its files say.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) base: u64,
    /// The length of the segment's file, if there is one.
    pub(super) len: Option<u64>,
    pub(super) contents: State,
    pub(super) ends: Option<Ends>,
}

/// What became of a segment.
#[derive(Debug)]
pub(super) enum State {
    Read(Contents),
    /// Its file is not there.
    Gone,
    /// Nothing in it can be read.
    Lost,
    /// Its note says that it is done with; a power loss brought the file back.
    Over,
}

impl Found {
    pub(super) fn contents(&self) -> Option<&Contents> {
        match &self.contents {
            State::Read(contents) => Some(contents),
            _ => None,
        }
    }

    /// What the segment follows, if any file says it.
    pub(super) fn follows(&self) -> Option<u64> {
        let of_ends = self.ends.as_ref().map(|ends| ends.identity.follows);
        self.contents().map(|contents| contents.identity.follows).or(of_ends)
    }

    pub(super) fn note(&self) -> Option<&Range<u64>> {
        self.ends.as_ref().and_then(|ends| ends.note.as_ref())
    }

    /// Where what it speaks for starts: records of older segments from here on do not count.
    pub(super) fn starts(&self) -> Option<u64> {
        self.note().map(|note| note.start).or(self.follows())
    }

    /// It should be there and is not. Of one whose ends cannot be read either nobody knows: most likely it
    /// was removed when it was done with.
    pub(super) fn is_missing(&self) -> bool {
        self.ends.is_some() && self.note().is_none() && matches!(self.contents, State::Gone)
    }
}

/// Everything in the directory, in the order of the sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) found: Vec<Found>,
    /// Files of dead letters, with their lengths and how many letters they hold.
    pub(super) dead: Vec<(u64, u64, u64)>,
    /// Files a crash left half done.
    pub(super) left_over: Vec<String>,
    /// The length of the reserve.
    pub(super) reserve: Option<u64>,
}

/// Reads the directory.
///
/// # Errors
/// It cannot be listed, a file in it cannot be opened, or a newer build wrote a segment.
pub(super) fn survey(storage: &dyn Storage, dir: &Path) -> Result<Survey, OpenError> {
    let disk = |error| OpenError::Disk { path: dir.to_owned(), error };
    let mut survey = Survey::default();
    let files = storage.list(dir).map_err(disk)?;
    let with_ending = |ending: &str| {
        let named = files.iter().filter_map(|(name, len)| Some((number_of(name, ending)?, *len)));
        named.collect::<std::collections::BTreeMap<u64, u64>>()
    };
    let (segments, notes) = (with_ending(".seg"), with_ending(".ends"));
    let bases: std::collections::BTreeSet<u64> = segments.keys().chain(notes.keys()).copied().collect();
    for base in bases {
        let ends = match notes.contains_key(&base) {
            true => read_ends(storage, &dir.join(ends_name(base)), base)?,
            false => None,
        };
        let len = segments.get(&base).copied();
        let is_over = ends.as_ref().is_some_and(|ends| ends.note.is_some());
        let contents = match len {
            None => State::Gone,
            // A note may say more than what is in the segment: it is what counts, and stays.
            Some(_) if is_over => State::Over,
            Some(_) => read_segment(storage, &dir.join(segment_name(base)), base, ends.as_ref())?,
        };
        survey.found.push(Found { base, len, contents, ends });
    }
    for (number, len) in with_ending(".dead") {
        let letters = storage.open(&dir.join(format!("{number:016x}.dead"))).ok();
        let letters = letters.and_then(|file| scan::read(&*file, None).ok());
        survey.dead.push((number, len, letters.map_or(0, |contents| contents.index.entries.len() as u64)));
    }
    let is_new = |name: &&String| name.ends_with(super::room::NEW);
    survey.left_over = files.iter().map(|(name, _)| name).filter(is_new).cloned().collect();
    survey.reserve = files.iter().find(|(name, _)| name == super::engine::RESERVE).map(|(_, len)| *len);
    Ok(survey)
}

fn read_ends(storage: &dyn Storage, path: &Path, base: u64) -> Result<Option<Ends>, OpenError> {
    let read = storage.open(path).and_then(|file| ends::read(&*file));
    match read {
        Ok(Err(BadHeader::Newer(version))) => Err(OpenError::Newer { path: path.to_owned(), version }),
        Ok(Ok(ends)) if ends.identity.base == base => Ok(Some(ends)),
        // Its records are sent again.
        _ => Ok(None),
    }
}

fn read_segment(
    storage: &dyn Storage,
    path: &Path,
    base: u64,
    ends: Option<&Ends>,
) -> Result<State, OpenError> {
    let known = ends.map(|ends| ends.identity);
    let read = match storage.open(path) {
        Ok(file) => scan::read(&*file, known),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Gone),
        Err(error) => Err(Unreadable::Disk(error)),
    };
    match read {
        Ok(contents) if contents.identity.base == base => Ok(State::Read(contents)),
        Ok(_) | Err(Unreadable::Nothing) => Ok(State::Lost),
        Err(Unreadable::Disk(error)) => Err(OpenError::Disk { path: path.to_owned(), error }),
        Err(Unreadable::Newer(version)) => Err(OpenError::Newer { path: path.to_owned(), version }),
    }
}

/// How many sequence numbers of `range` are in none of `covers`.
pub(super) fn uncovered(range: Range<u64>, mut covers: Vec<Range<u64>>) -> u64 {
    covers.sort_unstable_by_key(|cover| cover.start);
    let (mut at, mut holes) = (range.start, 0);
    for cover in covers {
        if cover.start >= range.end {
            break;
        }
        holes += cover.start.saturating_sub(at);
        at = at.max(cover.end);
    }
    holes + range.end.saturating_sub(at)
}

//! Opens a journal: what waits, what was broken, and files that the next start need not scan.
//!
//! Footers are trusted; only segments without one are scanned. Nothing that is found stops newer segments
//! from being read, and nothing is written to a segment of an earlier run but its index.

use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use super::backlog::Backlog;
use super::dead::DeadLetters;
use super::ends::EndsFile;
use super::engine::{Engine, Note};
use super::format::{KIND_BATCH, SEGMENT_HEADER};
use super::index::Index;
use super::room::keep_damaged;
use super::scan::Contents;
use super::segment::{Segment, ranges};
use super::shared::{Shared, ends_name, lock, segment_name};
use super::storage::Storage;
use super::survey::{Found, State, Survey, survey, uncovered};
use super::types::{Damage, OpenError, Options, Recovery, Usage};
use super::writer;

/// Opens the journal in `dir`, which is made if it does not exist; the caller holds the lock.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    dir: &Path,
    options: Options,
) -> Result<(Engine, Recovery), OpenError> {
    let start = Instant::now();
    // What a killed process renamed and could not sync must not change under the files it renamed.
    let synced = storage.sync_dir(dir);
    let survey = survey(&*storage, dir)?;
    let mut damage = missing(&survey);
    let mut engine = empty(Shared::new(storage, dir, options));
    let size = engine.shared.options.segment_size;
    engine.is_dir_dirty = synced.is_err();
    engine.note(synced);
    engine.has_reserve = survey.reserve.is_some_and(|len| len >= size);
    for (number, len, letters) in &survey.dead {
        engine.dead.add(*number, *len, *letters);
    }
    for name in &survey.left_over {
        drop(engine.shared.storage.remove(&engine.path(name)));
    }
    let limits = limits(&survey);
    let mut waiting = Backlog::default();
    for (found, limit) in survey.found.into_iter().zip(limits) {
        engine.next = engine.next.max(found.base + 1);
        if let Some(mut contents) = take(&mut engine, found, limit, &mut damage) {
            leave_what_waits(&mut engine, &mut contents, &mut damage);
            // Of a record that was copied forward, the last copy counts.
            let moved = waiting.add(contents.identity.base, contents.index);
            moved.into_iter().for_each(|(older, ordinal)| end_copy(&mut engine, older, ordinal));
        }
    }
    let copied = waiting.without_originals();
    copied.into_iter().for_each(|(original, ordinal)| end_copy(&mut engine, original, ordinal));
    lock(&engine.shared.table).moved.extend(waiting.moved());
    engine.counts.damage = Damage { set_aside: engine.counts.damage.set_aside, ..damage };
    engine.next = engine.next.max(engine.tail).max(1);
    engine.publish();
    let damage = engine.counts.damage;
    Ok((engine, Recovery { waiting, damage, took: start.elapsed() }))
}

fn empty(shared: Shared) -> Engine {
    Engine {
        shared: Arc::new(shared),
        segments: Default::default(),
        notes: Default::default(),
        writer: None,
        next: 1,
        tail: 1,
        staging: Vec::new(),
        has_reserve: false,
        dead: DeadLetters::default(),
        relief: None,
        relief_pause: None,
        ends_since: None,
        is_dir_dirty: false,
        old_notes: Vec::new(),
        pause: None,
        counts: Usage::default(),
    }
}

/// For every segment, where its sequence numbers end: where the next one follows, else where its ends say, else
/// behind its last record. Records beyond were never acknowledged.
fn limits(survey: &Survey) -> Vec<Option<u64>> {
    let mut next_follows = None;
    let mut limits: Vec<Option<u64>> = Vec::new();
    for found in survey.found.iter().rev() {
        let whole = found.ends.as_ref().and_then(|ends| Some(ends.whole.as_ref()?.end));
        let own = found.contents().map(Contents::next).max(whole).or(found.note().map(|note| note.end));
        limits.push(next_follows.or(own).or(found.follows()));
        next_follows = found.starts().or(next_follows);
    }
    limits.reverse();
    limits
}

/// Counts what was stored, has not ended, and is in no file.
fn missing(survey: &Survey) -> Damage {
    let mut damage = Damage::default();
    let (mut covers, mut start, mut end) = (Vec::new(), u64::MAX, 0);
    for found in &survey.found {
        damage.segments += u64::from(found.is_missing() || matches!(found.contents, State::Lost));
        if let Some(follows) = found.follows() {
            covers.push(follows..found.base);
            start = start.min(follows);
            end = end.max(follows);
        }
        if let Some(ends) = &found.ends {
            covers.extend(ends.ranges.iter().chain(&ends.note).cloned());
            start = ends.note.as_ref().map_or(start, |note| note.start.min(start));
            end = ends.whole.as_ref().map_or(end, |whole| whole.end.max(end));
        }
        if let Some(contents) = found.contents() {
            if contents.is_sealed {
                // What is missing in it was counted when it was sealed.
                covers.push(found.base..contents.next());
            }
            let stored = contents.index.entries.iter().map(|entry| found.base + u64::from(entry.ordinal));
            covers.extend(ranges(stored));
            end = end.max(contents.floor);
            damage.stretches += u64::from(contents.damaged) + u64::from(contents.is_headless);
        }
    }
    damage.records = if start < end { uncovered(start..end, covers) } else { 0 };
    damage
}

/// Takes what was found into the engine; the contents, if it holds records.
fn take(engine: &mut Engine, found: Found, limit: Option<u64>, damage: &mut Damage) -> Option<Contents> {
    let (base, len) = (found.base, found.len.unwrap_or(0));
    match found.contents {
        State::Lost => {
            let path = engine.path(&segment_name(base));
            if len > SEGMENT_HEADER as u64 {
                engine.counts.damage.set_aside += u64::from(keep_damaged(engine, &path));
            } else {
                // Made by a crash: nothing was in it yet.
                damage.segments -= 1;
                drop(engine.shared.storage.remove(&path));
            }
            engine.is_dir_dirty = true;
            note_absence(engine, found.ends, limit);
            None
        }
        State::Gone => {
            note_absence(engine, found.ends, limit);
            None
        }
        State::Over => {
            let removed = engine.shared.storage.remove(&engine.path(&segment_name(base)));
            engine.is_dir_dirty = true;
            engine.note(removed);
            note_absence(engine, found.ends, limit);
            None
        }
        State::Read(mut contents) => {
            engine.next = engine.next.max(contents.next());
            let limit = limit.unwrap_or(contents.next());
            contents.index.entries.retain(|entry| base + u64::from(entry.ordinal) < limit);
            let held_nothing = contents.index.entries.is_empty() && limit <= base;
            if held_nothing && found.ends.as_ref().is_none_or(|ends| ends.ranges.is_empty()) {
                discard(engine, &contents, len, damage);
                return None;
            }
            let gap = contents.gap.filter(|gap| *gap < contents.index.entries.len());
            let (bytes, is_sealed) = settle(engine, &contents, len, damage);
            let limit = match gap.filter(|_| !is_sealed) {
                None => limit,
                // Without an index to say that nothing else was there, the next start would miss it.
                Some(gap) => {
                    contents.index.entries.truncate(gap);
                    contents.next()
                }
            };
            let mut segment = Segment::new(contents.identity, None);
            if let Some(ends) = found.ends.as_ref().filter(|_| !engine.is_dir_dirty) {
                segment.ends = Some(EndsFile::resume(contents.identity, ends.len));
            }
            segment.bytes = bytes;
            segment.is_damaged = contents.damaged > 0 || contents.is_headless || contents.next() < limit;
            for entry in &contents.index.entries {
                segment.add(entry.ordinal, entry.len, entry.received);
            }
            for entry in contents.index.entries.iter() {
                let seq = base + u64::from(entry.ordinal);
                if found.ends.as_ref().is_some_and(|ends| ends.has_ended(seq)) {
                    segment.end(entry.ordinal, entry.len);
                }
            }
            segment.fresh.clear();
            segment.count = segment.count.max(u32::try_from(limit.saturating_sub(base)).unwrap_or(u32::MAX));
            segment.whole = found.ends.as_ref().and_then(|ends| ends.whole.clone());
            if !contents.is_sealed {
                // They are counted now, and not again at the next start.
                segment.end_all_but(contents.index.entries.iter().map(|entry| entry.ordinal));
            }
            engine.tail = engine.tail.max(segment.next());
            lock(&engine.shared.table).seeds.insert(base, contents.identity.seed());
            engine.segments.insert(base, segment);
            Some(contents)
        }
    }
}

/// A segment that is not there leaves a note, so that what it held is counted as missing once.
fn note_absence(engine: &mut Engine, ends: Option<super::ends::Ends>, limit: Option<u64>) {
    let Some(ends) = ends else { return };
    let follows = ends.identity.follows;
    let covers = follows..limit.unwrap_or(follows).max(ends.identity.base);
    let covers = ends.note.clone().unwrap_or(covers);
    let path = engine.path(&ends_name(ends.identity.base));
    if ends.note.is_none() {
        let noted = engine
            .shared
            .storage
            .open(&path)
            .and_then(|file| EndsFile::resume(ends.identity, ends.len).note(&*file, &covers));
        engine.note(noted);
    }
    engine.next = engine.next.max(covers.end);
    engine.tail = engine.tail.max(covers.end);
    engine.notes.insert(ends.identity.base, Note { identity: ends.identity, covers, len: ends.len });
}

/// Removes a segment without records.
fn discard(engine: &mut Engine, contents: &Contents, len: u64, damage: &mut Damage) {
    let base = contents.identity.base;
    let path = engine.path(&segment_name(base));
    // The ends first: a file of ends alone would look like a lost segment.
    drop(engine.shared.storage.remove(&engine.path(&ends_name(base))));
    let torn = len.saturating_sub(SEGMENT_HEADER as u64);
    if torn > 0 && !contents.is_sealed {
        damage.torn_bytes += torn;
        engine.counts.damage.set_aside += u64::from(keep_damaged(engine, &path));
    } else {
        drop(engine.shared.storage.remove(&path));
    }
    engine.is_dir_dirty = true;
}

/// Ends a scanned segment with its index, so that it is scanned once; the length of its file, and whether
/// it has its index.
fn settle(engine: &mut Engine, contents: &Contents, len: u64, damage: &mut Damage) -> (u64, bool) {
    if contents.is_sealed {
        return (len, true);
    }
    damage.torn_bytes += len.saturating_sub(contents.end);
    let path = engine.path(&segment_name(contents.identity.base));
    let sealed = engine.shared.storage.open(&path).and_then(|file| {
        if contents.end < len {
            file.set_len(contents.end)?;
        }
        writer::seal(&*file, contents.identity, &contents.index, (contents.end, contents.damaged))
    });
    let (bytes, is_sealed) = (*sealed.as_ref().unwrap_or(&len), sealed.is_ok());
    // Without an index it is scanned again at the next start.
    engine.note(sealed.map(drop));
    (bytes, is_sealed)
}

/// Of the records of a segment, those that wait.
fn leave_what_waits(engine: &mut Engine, contents: &mut Contents, damage: &mut Damage) {
    let base = contents.identity.base;
    let Some(segment) = engine.segments.get_mut(&base) else { return };
    let Index { entries, names } = &mut contents.index;
    entries.retain(|entry| {
        if segment.has_ended(entry.ordinal) {
            return false;
        }
        let is_known = entry.kind == KIND_BATCH && entry.head(names).is_some();
        if !is_known {
            // Whose it is cannot be known any more.
            damage.records += 1;
            segment.is_damaged = true;
            segment.end(entry.ordinal, entry.len);
        }
        is_known
    });
    entries.shrink_to_fit();
}

fn end_copy(engine: &mut Engine, place: super::types::Place, ordinal: u32) {
    if let Some(segment) = engine.segments.get_mut(&place.segment) {
        segment.end(ordinal, place.len);
    }
}

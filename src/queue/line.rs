//! What waits of one flow and signal, and the wheel on which lines have their turns.
//!
//! ```text
//! line:   head [entry][entry] … [packed, packed, packed …] tail     what comes back goes to the head
//! wheel:  [this round][next][next but one] …       a line whose head needs k quanta stands k rounds on
//!              │ turn: serve while the deficit lasts
//!              └──▶ empty: forfeits its deficit;  else: as many rounds on as the head needs
//! ```
//!
//! Deficit round robin by bytes in which waiting rounds are computed, not spun: the wheel goes straight to
//! the next round in which somebody has a turn. Of a queue on disk, what is neither a head nor in memory
//! anyway is packed, and unpacked one by one. Invariants: a line that has something waiting stands on
//! the wheel, is parked or held; its oldest batch is an entry; what is packed is younger than what is not;
//! every operation is O(1), but to put a batch back past older ones that came back before it.

use super::list::{Links, List, Slab};
use super::log::Cache;
use super::packed::Packed;
use super::room::Size;
use super::schedule::Entry;

/// Rounds a line can be put off in one go; one that needs more is put off again.
const ROUNDS: u32 = 1024;
const WORDS: usize = ROUNDS as usize / 64;

/// What waits of one flow and signal.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The oldest batches.
    fifo: List,
    /// Those behind them; never empty.
    packed: Option<Box<Packed>>,
    pub(super) size: Size,
    /// What it may still send in its turn, in bytes.
    pub(super) deficit: u64,
    /// For how many rounds it is credited at its turn.
    pub(super) rounds: u32,
    pub(super) stand: Stand,
}

/// Where a line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stand {
    /// Nothing waits, or its turn is on.
    #[default]
    Nowhere,
    /// On the wheel.
    Wheel,
    /// Its flow has all the slots it may have while others wait.
    Parked,
    /// Its flow has all the slots it may ever have.
    Held,
}

/// The entries of all lines: what waits and is not packed.
#[derive(Debug, Default)]
pub(super) struct Loose {
    entries: Slab<Entry>,
    fifo: Links,
    age: Links,
    cache: Cache,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.fifo.is_empty()
    }

    /// Whether a part of it is packed.
    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// The oldest batch.
    pub(super) fn front<'a>(&self, loose: &'a Loose) -> Option<&'a Entry> {
        loose.get(self.fifo.front()?)
    }

    /// Puts the youngest batch to the tail, and of its signal to the tail of `age` unless it is packed.
    pub(super) fn push(&mut self, loose: &mut Loose, age: &mut List, mut entry: Entry) {
        if !self.is_packed() {
            loose.cache.put(&mut entry);
        }
        let is_put_down = entry.batch.bytes().is_none();
        match (&mut self.packed, entry.kept) {
            (Some(packed), Some(kept)) => packed.push(entry, kept),
            (None, Some(kept)) if is_put_down && !self.fifo.is_empty() => {
                self.packed = Some(Box::new(Packed::beginning_with(entry, kept)));
            }
            _ => {
                let at = loose.entries.insert(entry);
                self.fifo.push_back(&mut loose.fifo, at);
                age.push_back(&mut loose.age, at);
            }
        }
    }

    /// Puts a batch back to where it was: it is among the oldest.
    pub(super) fn put_back(&mut self, loose: &mut Loose, age: &mut List, mut entry: Entry) {
        loose.cache.put(&mut entry);
        let sequence = entry.sequence;
        let at = loose.entries.insert(entry);
        insert_by_age(&mut self.fifo, &mut loose.fifo, at, (sequence, &loose.entries));
        insert_by_age(age, &mut loose.age, at, (sequence, &loose.entries));
    }

    /// Takes the oldest batch, from `age` as well.
    pub(super) fn pop(&mut self, loose: &mut Loose, age: &mut List) -> Option<Entry> {
        let at = self.fifo.pop_front(&mut loose.fifo)?;
        age.remove(&mut loose.age, at);
        let entry = loose.entries.remove(at)?;
        loose.cache.take(&entry);
        if self.fifo.is_empty()
            && let Some(packed) = &mut self.packed
        {
            if let Some(next) = packed.next() {
                let at = loose.entries.insert(next);
                self.fifo.push_back(&mut loose.fifo, at);
                age.push_front(&mut loose.age, at);
            }
            if packed.is_empty() {
                self.packed = None;
            }
        }
        Some(entry)
    }

    /// Takes what is packed.
    pub(super) fn take_packed(&mut self) -> Option<Box<Packed>> {
        self.packed.take()
    }
}

/// Those that come back are among the oldest.
fn insert_by_age(list: &mut List, links: &mut Links, at: u32, (sequence, entries): (u64, &Slab<Entry>)) {
    let is_older = |at: u32| entries.get(at).is_some_and(|entry| entry.sequence < sequence);
    if list.back().is_none_or(is_older) {
        return list.push_back(links, at);
    }
    let (mut before, mut next) = (None, list.front());
    while let Some(older) = next.filter(|next| is_older(*next)) {
        before = Some(older);
        next = links.next(older);
    }
    match before {
        None => list.push_front(links, at),
        Some(before) => list.push_behind(links, before, at),
    }
}

impl Loose {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    pub(super) fn get(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at)
    }

    /// How many places for batches there are, used or free.
    pub(super) fn places(&self) -> usize {
        self.entries.places()
    }

    /// Takes all, in no order.
    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        std::mem::take(self).entries.into_values().collect()
    }
}

/// The lines of one signal in the order of their turns.
#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Vec<List>,
    filled: [u64; WORDS],
    round: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { buckets: Vec::new(), filled: [0; WORDS], round: 0 }
    }
}

impl Wheel {
    /// Puts a line off by some rounds, at least 1; for how many rounds it is to be credited then.
    pub(super) fn put_off(&mut self, links: &mut Links, line: u32, rounds: u64) -> u32 {
        let rounds = rounds.clamp(1, u64::from(ROUNDS) - 1) as u32;
        let bucket = (self.round + rounds) % ROUNDS;
        self.bucket(bucket).push_back(links, line);
        rounds
    }

    /// Puts a line first in this round: its turn goes on.
    pub(super) fn put_first(&mut self, links: &mut Links, line: u32) {
        let bucket = self.round;
        self.bucket(bucket).push_front(links, line);
    }

    fn bucket(&mut self, bucket: u32) -> &mut List {
        if self.buckets.is_empty() {
            self.buckets.resize(ROUNDS as usize, List::default());
        }
        self.filled[bucket as usize / 64] |= 1 << (bucket % 64);
        &mut self.buckets[bucket as usize]
    }

    /// The line whose turn is next, taken off the wheel.
    pub(super) fn next(&mut self, links: &mut Links) -> Option<u32> {
        self.round = self.first_filled()?;
        let bucket = self.round;
        let line = self.buckets[bucket as usize].pop_front(links);
        self.note(bucket);
        line
    }

    fn note(&mut self, bucket: u32) {
        if self.buckets[bucket as usize].is_empty() {
            self.filled[bucket as usize / 64] &= !(1 << (bucket % 64));
        }
    }

    /// The first bucket with a line, from this round on.
    fn first_filled(&self) -> Option<u32> {
        let (word, bit) = (self.round as usize / 64, self.round % 64);
        let from_here = self.filled[word] & (u64::MAX << bit);
        if from_here != 0 {
            return Some(word as u32 * 64 + from_here.trailing_zeros());
        }
        // Once around; in the end the buckets of this word that lie before this round.
        (1..=WORDS).find_map(|step| {
            let word = (word + step) % WORDS;
            (self.filled[word] != 0).then(|| word as u32 * 64 + self.filled[word].trailing_zeros())
        })
    }
}

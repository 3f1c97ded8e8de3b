//! What waits of one flow and signal, and the wheel on which lines have their turns.
//!
//! ```text
//! wheel:  [this round][next][next but one] …       a line whose head needs k quanta stands k rounds on
//!              │ turn: serve while the deficit lasts
//!              └──▶ empty: forfeits its deficit;  else: as many rounds on as the head needs
//! ```
//!
//! Deficit round robin by bytes in which waiting rounds are computed, not spun: the wheel goes straight to
//! the next round in which somebody has a turn. Invariant: a line that has something waiting stands on
//! the wheel, is parked or held; every operation is O(1).

use super::list::{Links, List};
use super::room::Size;

/// Rounds a line can be put off in one go; one that needs more is put off again.
const ROUNDS: u32 = 1024;
const WORDS: usize = ROUNDS as usize / 64;

/// What waits of one flow and signal.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The batches, oldest first.
    pub(super) fifo: List,
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

//! A journal on a simulated disk beside a model of it, through restarts, crashes and power losses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::disk::{Faults, Mutant, SimDisk};
use super::record;
use crate::journal::engine::Engine;
use crate::journal::shared::{Append, Placed, SetAside};
use crate::journal::types::*;
use crate::journal::{Journal, format};

pub(super) const DIR: &str = "/queue";

/// What a record with this number holds.
fn payload(number: u64, len: usize) -> Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    let mut rng = fastrand::Rng::with_seed(number);
    bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(len));
    bytes.into()
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Records of these lengths, an append for each list; dropped calls too.
    Append(Vec<(Vec<usize>, Caller)>),
    /// Of what waits, the records at these positions (modulo their number) end.
    End(Vec<usize>),
    SetAside(usize),
    Wait(u64),
    Close,
    Kill,
    PowerLoss,
    /// The power goes during the operations that come next.
    Fuse(u64),
}

/// Whether somebody waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Waits,
    Left,
}

type Answer = oneshot::Receiver<Result<Placed, AppendError>>;

/// What was sent and not acknowledged may come back, what has ended and is not durable may come back, what
/// was acknowledged must.
#[derive(Debug, Default)]
struct Model {
    sent: BTreeMap<u64, usize>,
    waiting: BTreeMap<u64, Place>,
    ended: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

pub(super) struct Life {
    disk: SimDisk,
    faults: Faults,
    options: Options,
    journal: Option<(Journal, Engine)>,
    model: Model,
    now: Instant,
    next: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    _entered: turmoil_fs::FsEnterGuard,
}

impl Life {
    pub(super) fn start(seed: u64, mutant: Mutant, faults: Faults, options: Options) -> Result<Self, String> {
        format::TRUST.set(mutant == Mutant::NoChecksum);
        let disk = SimDisk::new(seed, mutant, faults);
        let entered = disk.enter();
        let mut life = Self {
            disk,
            faults,
            options,
            journal: None,
            model: Model::default(),
            now: Instant::now(),
            next: 1,
            acknowledged: 0,
            refused: 0,
            _entered: entered,
        };
        life.disk.set_faults(Faults::default());
        drop(super::super::make_dir(&life.disk, Path::new(DIR)).map_err(|error| error.to_string())?);
        life.open()?;
        Ok(life)
    }

    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Append(appends) => self.append(appends),
            Step::End(positions) => self.end(positions),
            Step::SetAside(position) => self.set_aside(*position),
            Step::Wait(ms) => {
                self.now += Duration::from_millis(*ms);
                self.round();
            }
            Step::Fuse(operations) => self.disk.set_fuse(*operations),
            Step::Close => {
                if let Some((_, mut engine)) = self.journal.take() {
                    engine.finish(self.now);
                    self.see_durable(&engine);
                }
                return self.reopen();
            }
            Step::Kill => return self.reopen(),
            Step::PowerLoss => {
                self.journal = None;
                self.disk.crash();
                return self.open();
            }
        }
        match self.disk.has_power() {
            true => Ok(()),
            false => self.step(&Step::PowerLoss),
        }
    }

    pub(super) fn usage(&self) -> Usage {
        self.journal.as_ref().unwrap().0.usage()
    }

    pub(super) fn fail_next_syncs(&self, count: u64) {
        self.disk.fail_next_syncs(count);
    }

    pub(super) fn set_capacity(&mut self, capacity: u64) {
        self.faults.capacity = Some(capacity);
        self.disk.set_faults(self.faults);
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.journal = None;
        match self.disk.has_power() {
            true => self.open(),
            false => self.step(&Step::PowerLoss),
        }
    }

    fn round(&mut self) {
        if let Some((journal, engine)) = &mut self.journal {
            // One round ends what nobody took of the last.
            for _ in 0..2 {
                let work = std::mem::take(&mut *journal.shared.inbox.lock().unwrap());
                engine.step(work, self.now);
            }
        }
        if let Some((journal, engine)) = self.journal.take() {
            self.see_durable(&engine);
            self.journal = Some((journal, engine));
        }
    }

    fn see_durable(&mut self, engine: &Engine) {
        let is_durable =
            engine.segments.values().all(|segment| segment.fresh.is_empty() && !segment.is_unsynced);
        if is_durable && self.disk.has_power() {
            self.model.gone.append(&mut self.model.ended);
        }
    }

    fn append(&mut self, appends: &[(Vec<usize>, Caller)]) {
        let Some((journal, _)) = &self.journal else { return };
        let mut answers: Vec<(Vec<u64>, Answer)> = Vec::new();
        for (lens, caller) in appends {
            let numbers: Vec<u64> = (self.next..).take(lens.len()).collect();
            self.next += lens.len() as u64;
            self.model.sent.extend(numbers.iter().copied().zip(lens.iter().copied()));
            let records = numbers.iter().zip(lens).map(|(number, len)| {
                let mut record =
                    record(["acme", "zeta", "stuck"][*number as usize % 3], payload(*number, *len));
                record.head.items = *number;
                record
            });
            let (answer, stored) = oneshot::channel();
            journal.shared.push(Append { records: records.collect(), answer, permit: None }).unwrap();
            if *caller == Caller::Waits {
                answers.push((numbers, stored));
            }
        }
        let shared = journal.shared.clone();
        if let Some((_, engine)) = &mut self.journal {
            let work = std::mem::take(&mut *shared.inbox.lock().unwrap());
            engine.step(work, self.now);
        }
        for (numbers, mut stored) in answers {
            match stored.try_recv().unwrap() {
                Ok(placed) => {
                    self.acknowledged += numbers.len() as u64;
                    self.model.waiting.extend(numbers.into_iter().zip(placed.take()));
                }
                Err(_) => self.refused += 1,
            }
        }
        self.round();
    }

    fn pick(&self, position: usize) -> Option<(u64, Place)> {
        let waiting = &self.model.waiting;
        let picked = waiting.iter().nth(position % waiting.len().max(1));
        picked.map(|(number, place)| (*number, *place))
    }

    fn end(&mut self, positions: &[usize]) {
        for position in positions {
            let Some((number, place)) = self.pick(*position) else { break };
            self.model.waiting.remove(&number);
            self.model.ended.insert(number);
            self.journal.as_ref().unwrap().0.end(&[place]);
        }
        self.round();
    }

    fn set_aside(&mut self, position: usize) {
        let Some((number, place)) = self.pick(position) else { return };
        let (answer, mut done) = oneshot::channel();
        let (journal, engine) = self.journal.as_mut().unwrap();
        let reason = "given up".to_owned();
        journal.shared.inbox.lock().unwrap().set_asides.push(SetAside { place, reason, answer });
        let work = std::mem::take(&mut *journal.shared.inbox.lock().unwrap());
        engine.step(work, self.now);
        if done.try_recv().unwrap().is_ok() {
            self.model.waiting.remove(&number);
            self.model.ended.insert(number);
        }
    }

    /// Opens the journal and holds what it gives against the model.
    fn open(&mut self) -> Result<(), String> {
        self.disk.set_faults(Faults { read_or_write: 0.0, sync: self.faults.sync, ..self.faults });
        let opened = Journal::inline(Arc::new(self.disk.clone()), Path::new(DIR), self.options.clone());
        if !self.disk.has_power() {
            drop(opened);
            return self.step(&Step::PowerLoss);
        }
        self.disk.set_fuse(u64::MAX);
        let (journal, engine, recovery) = opened.map_err(|error| format!("cannot be opened: {error}"))?;
        let damage = recovery.damage;
        if damage.records + damage.segments > 0 {
            return Err(format!("nothing was damaged, but: {damage:?}"));
        }
        let mut found = BTreeMap::new();
        let mut last = 0;
        for waits in recovery.waiting {
            let number = waits.head.items;
            let bytes =
                journal.shared.read(waits.place).map_err(|error| format!("record {number}: {error}"))?;
            let len = *self.model.sent.get(&number).ok_or(format!("record {number} was never sent"))?;
            if bytes != payload(number, len) || waits.bytes != bytes.len() as u64 {
                return Err(format!("record {number} has other bytes"));
            }
            if waits.place.sequence() <= last {
                return Err(format!("record {number} is out of order"));
            }
            last = waits.place.sequence();
            if self.model.gone.contains(&number) {
                return Err(format!("record {number} had ended durably"));
            }
            if found.insert(number, waits.place).is_some() {
                return Err(format!("record {number} is there twice"));
            }
        }
        if let Some((lost, _)) = self.model.waiting.iter().find(|(number, _)| !found.contains_key(number)) {
            return Err(format!("record {lost} is lost"));
        }
        self.model.ended.retain(|number| !found.contains_key(number));
        self.model.waiting = found;
        self.disk.set_faults(self.faults);
        self.journal = Some((journal, engine));
        Ok(())
    }

    /// No faults any more: everything can be read, ends, and is gone.
    pub(super) fn finish(mut self) -> Result<Self, String> {
        self.disk.set_fuse(u64::MAX);
        self.faults = Faults { capacity: self.faults.capacity, ..Faults::default() };
        self.disk.set_faults(self.faults);
        for (number, place) in self.model.waiting.clone() {
            let bytes = self.journal.as_ref().unwrap().0.shared.read(place);
            let bytes = bytes.map_err(|error| format!("record {number}: {error}"))?;
            if bytes != payload(number, self.model.sent[&number]) {
                return Err(format!("record {number} has other bytes"));
            }
        }
        let all: Vec<usize> = vec![0; self.model.waiting.len()];
        self.end(&all);
        for _ in 0..3 {
            self.now += Duration::from_secs(2);
            self.round();
        }
        self.step(&Step::Close)?;
        match self.model.waiting.is_empty() {
            true => Ok(self),
            false => Err(format!("{} records came back", self.model.waiting.len())),
        }
    }
}

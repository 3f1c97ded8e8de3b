//! The two threads of a journal: one owns the files and writes, one reads.
//!
//! They are threads and not tasks because the disk blocks, and because nobody may cancel a write.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::time::Instant;

use super::engine::Engine;
use super::shared::{Shared, lock};

/// Starts both; `dir_lock` is held until the writer ends.
pub(super) fn start(shared: &Arc<Shared>, engine: Engine, dir_lock: Box<dyn Send + Sync>) -> io::Result<()> {
    let readers = shared.clone();
    let reader = thread::Builder::new().name("journal-read".to_owned()).spawn(move || read(&readers))?;
    let ending = Ending { shared: shared.clone(), reader: Some(reader) };
    let write = move || {
        write(engine, &ending.shared);
        drop(dir_lock);
        drop(ending);
    };
    thread::Builder::new().name("journal-write".to_owned()).spawn(write).map(drop)
}

/// However the writer ends, nobody waits for it any longer, and no file stays open.
struct Ending {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.close();
        drop(std::mem::take(&mut *lock(&self.shared.inbox)).appends);
        lock(&self.shared.inbox).is_closing = true;
        // Reads that were asked for are answered; one that panicked has nothing left to answer.
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        lock(&self.shared.table).close_files();
        self.shared.closed.cancel();
    }
}

fn write(mut engine: Engine, shared: &Shared) {
    loop {
        let work = shared.wait(engine.patience(Instant::now()));
        let is_closing = work.is_closing;
        engine.step(work, Instant::now());
        if is_closing {
            break;
        }
    }
    // Answers that nobody took came back as ends.
    let rest = shared.wait(None);
    engine.step(rest, Instant::now());
    engine.finish(Instant::now());
}

fn read(shared: &Shared) {
    loop {
        let reads = lock(&shared.reads);
        let is_idle = |reads: &mut super::shared::Reads| reads.waiting.is_empty() && !reads.is_closing;
        let mut reads = shared.wake_reader.wait_while(reads, is_idle).unwrap_or_else(PoisonError::into_inner);
        let Some(next) = reads.waiting.pop_front() else { return };
        drop(reads);
        if !next.answer.is_closed() {
            drop(next.answer.send(shared.read(next.place)));
        }
    }
}

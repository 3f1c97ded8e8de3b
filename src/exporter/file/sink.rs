//! The file that is written now, and the lines that are not in it yet.
//!
//! Invariant: what `take` refuses leaves no trace; what it accepts is written or still in memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::config::exporter::{File as Config, Rotation};

use super::{BUFFER, rotation};

/// An open file with its unwritten lines.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    rotation: Option<Rotation>,
    file: File,
    /// Bytes in the file.
    written: u64,
    pending: Vec<u8>,
    #[cfg(test)]
    is_broken: bool,
}

impl Sink {
    /// Opens the file, emptied unless it is appended to or rotated.
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        let keep = config.append || config.rotation.is_some();
        let file =
            OpenOptions::new().create(true).write(true).append(keep).truncate(!keep).open(&config.path)?;
        Ok(Self {
            path: config.path.clone(),
            rotation: config.rotation.clone(),
            written: file.metadata()?.len(),
            file,
            pending: Vec::new(),
            #[cfg(test)]
            is_broken: false,
        })
    }

    /// Takes lines over; `now` also writes them.
    pub(super) fn take(&mut self, lines: &[u8], now: bool) -> io::Result<()> {
        if self.pending.len() + lines.len() > BUFFER {
            self.flush()?;
        }
        self.rotate_for(lines.len() as u64)?;
        let before = self.pending.len();
        self.pending.extend_from_slice(lines);
        if !now && self.pending.len() < BUFFER {
            return Ok(());
        }
        let Err(error) = self.flush() else { return Ok(()) };
        // Lines of which nothing is in the file yet are given back; the caller will bring them again.
        let (written, unwritten) = ((before + lines.len()) - self.pending.len(), self.pending.len());
        if written <= before {
            self.pending.truncate(unwritten - lines.len());
            return Err(error);
        }
        Ok(())
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes everything that is in memory; what is left after an error begins where the file ends.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == self.pending.len() {
                break Ok(());
            }
            match self.write_some(written) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.written += written as u64;
        self.pending.drain(..written);
        if self.pending.is_empty() && self.pending.capacity() > 2 * BUFFER {
            self.pending = Vec::new();
        }
        result
    }

    fn write_some(&mut self, from: usize) -> io::Result<usize> {
        #[cfg(test)]
        if self.is_broken {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(&self.pending[from..])
    }

    /// Begins a new file if the lines would make this one too large.
    fn rotate_for(&mut self, more: u64) -> io::Result<()> {
        let Some(rotation) = &self.rotation else { return Ok(()) };
        let used = self.written + self.pending.len() as u64;
        if used == 0 || used + more <= rotation.max_megabytes.saturating_mul(1024 * 1024) {
            return Ok(());
        }
        let rotation = rotation.clone();
        self.flush()?;
        rotation::put_aside(&self.path)?;
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.written = 0;
        rotation::clean_up(&self.path, &rotation)
    }

    #[cfg(test)]
    pub(super) fn break_for_test(&mut self, broken: bool) {
        self.is_broken = broken;
    }
}

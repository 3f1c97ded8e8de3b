//! The exporter `file`: lines of OTLP/JSON, written by a thread of its own.
//!
//! Files block, so no worker touches them. A request is answered when its lines are taken over by the
//! thread; lines that could not be written stay in memory and come first next time, and until they are
//! written further requests fail and are retried. Invariant: lines are written whole and in order, and
//! none is written twice.

mod rotation;
mod sink;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::exporter::File as Config;
use crate::otlp::status::ExportResponse;
use crate::otlp::{Signal, json};

use super::answer;
use super::destination::{Destination, Outgoing, SendError};

use sink::Sink;

/// What is written at once, and what may stay in memory.
const BUFFER: usize = 64 * 1024;

/// The way to the thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: SyncSender<Job>,
}

#[derive(Debug)]
struct Job {
    signal: Signal,
    parts: Vec<bytes::Bytes>,
    done: oneshot::Sender<io::Result<()>>,
}

impl Writer {
    /// Opens the file and starts the thread; the receiver resolves when the thread has ended, which it
    /// does once the writer is dropped and everything is written.
    pub(super) fn start(config: &Config, places: usize) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let sink = Sink::open(config)?;
        let (jobs, receiver) = sync_channel(places);
        let (ended, finished) = oneshot::channel();
        let flush_interval = config.flush_interval;
        std::thread::Builder::new().name("file-exporter".into()).spawn(move || {
            write(&receiver, sink, flush_interval);
            // Nobody may be waiting.
            let _unheard = ended.send(());
        })?;
        Ok((Self { jobs }, finished))
    }
}

impl Destination for Writer {
    async fn send(&self, request: Outgoing) -> Result<ExportResponse, SendError> {
        let (done, written) = oneshot::channel();
        let job = Job { signal: request.signal, parts: request.parts, done };
        self.jobs.try_send(job).map_err(|full| match full {
            TrySendError::Full(_) => answer::unreachable("the file is slower than the data".into(), None),
            TrySendError::Disconnected(_) => answer::unreachable("the file is closed".into(), None),
        })?;
        let written = written.await.unwrap_or_else(|_gone| Err(io::ErrorKind::BrokenPipe.into()));
        match written {
            Ok(()) => Ok(ExportResponse::default()),
            Err(error) => Err(answer::unreachable(format!("writing the file failed: {error}"), None)),
        }
    }
}

/// The life of the thread.
fn write(jobs: &Receiver<Job>, mut sink: Sink, flush_interval: Duration) {
    let mut lines = Vec::new();
    loop {
        // With nothing in memory there is nothing to flush.
        let next = match sink.is_flushed() {
            true => jobs.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
            false => jobs.recv_timeout(flush_interval),
        };
        match next {
            Ok(job) => {
                // Whoever asked may have been cancelled; then the request is sent again, and twice here.
                if job.done.is_closed() {
                    continue;
                }
                lines.clear();
                for part in &job.parts {
                    json::from_protobuf(job.signal, part, &mut lines);
                    lines.push(b'\n');
                }
                let taken = sink.take(&lines, flush_interval.is_zero());
                let _unheard = job.done.send(taken);
            }
            Err(RecvTimeoutError::Timeout) => tell(sink.flush()),
            Err(RecvTimeoutError::Disconnected) => return tell(sink.flush()),
        }
    }
}

fn tell(flushed: io::Result<()>) {
    if let Err(error) = flushed {
        tracing::warn!(name: "exporter.file_failed", %error, "writing the file failed, lines stay in memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::exporter::Rotation;

    fn config(path: &std::path::Path) -> Config {
        Config { path: path.into(), flush_interval: Duration::ZERO, ..Config::default() }
    }

    #[test]
    fn an_existing_file_is_emptied_unless_it_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let read = || std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "old\n").unwrap();
        Sink::open(&Config { append: true, ..config(&path) }).unwrap().take(b"new\n", true).unwrap();
        assert_eq!(read(), "old\nnew\n");
        Sink::open(&config(&path)).unwrap().take(b"only\n", true).unwrap();
        assert_eq!(read(), "only\n");
    }

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let rotation = Rotation { max_megabytes: 1, max_backups: 2, ..Rotation::default() };
        let mut sink = Sink::open(&Config { rotation: Some(rotation), ..config(&path) }).unwrap();
        let line = vec![b'x'; 600 * 1024];
        for _ in 0..6 {
            sink.take(&line, true).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("out") && name.ends_with(".json")), "{names:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 600 * 1024);
    }

    #[test]
    fn lines_that_could_not_be_written_come_first_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let mut sink = Sink::open(&config(&path)).unwrap();
        sink.break_for_test(true);
        assert!(sink.take(b"first\n", true).is_err());
        assert!(sink.take(b"first\n", true).is_err());
        sink.break_for_test(false);
        sink.take(b"first\n", true).unwrap();
        sink.take(b"second\n", false).unwrap();
        assert!(!sink.is_flushed());
        sink.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nsecond\n");
    }
}

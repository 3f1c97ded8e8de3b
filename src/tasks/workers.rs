//! The threads that carry requests: several single-threaded runtimes, as many as there are CPUs to use.
//!
//! Their number follows the CPUs while the program runs. New work is dealt to the active ones only; a
//! worker that is no longer active keeps what it has until that ends, and is woken again when it is
//! needed. A thread without work costs nothing but its stack.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Alive;

/// What a thread gets to end once it is told; one that does not is left behind.
const FAREWELL: Duration = Duration::from_millis(500);

/// One of the [`Workers`].
#[derive(Debug, Clone)]
pub struct Worker {
    number: usize,
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// Its number, from 0; it stays when others come and go.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where tasks of this worker are spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Takes part of this worker until the returned value is dropped, for [`Team::least_loaded`].
    pub fn occupy(&self) -> impl Drop + Send + use<> {
        Alive::new(self.load.clone())
    }
}

/// The active workers, whose number may change; clones are the same team.
#[derive(Debug, Clone)]
pub struct Team(Arc<Members>);

#[derive(Debug)]
struct Members {
    active: ArcSwap<Vec<Worker>>,
    count: watch::Sender<usize>,
    hired: Mutex<Hired>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Hired {
    workers: Vec<Worker>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Team {
    /// The active worker with the fewest occupants; none after the end.
    pub fn least_loaded(&self) -> Option<Worker> {
        let active = self.0.active.load();
        active.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)).cloned()
    }

    /// The active workers, in order; at least one.
    pub fn active(&self) -> Arc<Vec<Worker>> {
        self.0.active.load_full()
    }

    /// Tells whenever the number of active workers changes.
    pub fn subscribe(&self) -> watch::Receiver<usize> {
        self.0.count.subscribe()
    }

    /// Makes the first `count` workers, at least one, the active ones; starts threads where there are fewer.
    ///
    /// # Errors
    /// The system gives no thread or no event queue; those there are stay active.
    pub fn resize(&self, count: usize) -> std::io::Result<()> {
        let count = count.max(1);
        let mut hired = self.0.hired.lock().unwrap_or_else(PoisonError::into_inner);
        while hired.workers.len() < count {
            let (worker, thread) = self.hire(hired.workers.len())?;
            hired.workers.push(worker);
            hired.threads.push(thread);
        }
        self.0.active.store(Arc::new(hired.workers[..count].to_vec()));
        drop(hired);
        self.0.count.send_replace(count);
        Ok(())
    }

    fn hire(&self, number: usize) -> std::io::Result<(Worker, std::thread::JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let worker = Worker { number, handle: runtime.handle().clone(), load: Arc::default() };
        let stop = self.0.stop.clone();
        let run = move || runtime.block_on(stop.cancelled_owned());
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?;
        Ok((worker, thread))
    }
}

/// The owner of the threads.
#[derive(Debug)]
pub struct Workers(Team);

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// The system gives no thread or no event queue; the program cannot start.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let (count_told, _) = watch::channel(0);
        let stop = CancellationToken::new();
        let members =
            Members { active: ArcSwap::default(), count: count_told, hired: Mutex::default(), stop };
        let workers = Self(Team(Arc::new(members)));
        workers.team().resize(count)?;
        Ok(workers)
    }

    /// The active ones.
    pub fn team(&self) -> &Team {
        &self.0
    }

    /// Ends the threads; tasks still on them are dropped. A thread that is stuck is left behind after half
    /// a second, to end with the program.
    pub fn stop(self) {
        let members = &*self.0.0;
        members.stop.cancel();
        let hired = std::mem::take(&mut *members.hired.lock().unwrap_or_else(PoisonError::into_inner));
        members.active.store(Arc::default());
        let until = Instant::now() + FAREWELL;
        for thread in hired.threads {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            match thread.is_finished() {
                // A panic of a worker thread was already reported by the panic hook.
                true => drop(thread.join()),
                false => {
                    tracing::error!(name: "worker.stuck", thread = thread.thread().name(), "worker does not end")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_dealt_to_the_least_loaded_worker() {
        let workers = Workers::start(2).unwrap();
        let first = workers.team().least_loaded().unwrap();
        let occupied = first.occupy();
        let second = workers.team().least_loaded().unwrap();
        assert_ne!(first.handle().id(), second.handle().id());
        drop(occupied);
        workers.stop();
    }

    #[test]
    fn work_is_dealt_to_active_workers_only_and_those_come_back() {
        let workers = Workers::start(3).unwrap();
        let (team, told) = (workers.team().clone(), workers.team().subscribe());
        let numbers = || team.active().iter().map(Worker::number).collect::<Vec<_>>();
        let last = team.active()[2].clone();
        team.resize(1).unwrap();
        assert_eq!((numbers(), *told.borrow()), (vec![0], 1));
        let _occupied: Vec<_> = (0..9).map(|_| team.least_loaded().unwrap().occupy()).collect();
        // What was dealt to it before still runs.
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        drop(last.handle().spawn(async move { sender.send(()).unwrap() }));
        receiver.recv().unwrap();
        team.resize(4).unwrap();
        assert_eq!((numbers(), *told.borrow()), (vec![0, 1, 2, 3], 4));
        assert_eq!(team.active()[2].handle().id(), last.handle().id());
        workers.stop();
    }
}

//! Every task has an owner, a name and a scope; after [`Scope::close`] none is alive.
//!
//! A scope is a cancellation token and a tracker; scopes form a tree, and cancelling one cancels all
//! below it. [`Workers`] are the threads tasks run on: several single-threaded runtimes, because one
//! multi-threaded runtime costs 20 to 40 % more CPU for the same requests. Bare `tokio::spawn` is banned
//! by lint.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The owner of tasks.
#[derive(Debug, Clone)]
pub struct Scope {
    name: Arc<str>,
    token: CancellationToken,
    tracker: TaskTracker,
    /// Those of the scopes above: their ends wait for the tasks of this scope too.
    above: Arc<[TaskTracker]>,
    abort: CancellationToken,
    alive: Arc<AtomicUsize>,
    aborted: Arc<AtomicUsize>,
}

impl Scope {
    /// The root of a tree of scopes.
    pub fn root(name: &str) -> Self {
        Self {
            name: name.into(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            above: Arc::default(),
            abort: CancellationToken::new(),
            alive: Arc::default(),
            aborted: Arc::default(),
        }
    }

    /// A scope below this one: cancelled with it, waited for with it or on its own. Its tasks count in
    /// [`Scope::alive`] of the root too.
    pub fn child(&self, name: &str) -> Self {
        Self {
            name: format!("{}/{name}", self.name).into(),
            token: self.token.child_token(),
            tracker: TaskTracker::new(),
            above: self.above.iter().chain([&self.tracker]).cloned().collect(),
            abort: self.abort.child_token(),
            alive: self.alive.clone(),
            aborted: self.aborted.clone(),
        }
    }

    /// Starts a task of this scope on `runtime`. The task is expected to end soon after
    /// [`Scope::token`] is cancelled; past the grace of [`Scope::close`] it is aborted.
    pub fn spawn_on<F>(&self, runtime: &Handle, task: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let alive = Alive::new(self.alive.clone());
        let above: Vec<_> = self.above.iter().map(TaskTracker::token).collect();
        let (abort, aborted, scope) = (self.abort.clone(), self.aborted.clone(), self.name.clone());
        self.tracker.spawn_on(
            async move {
                let _alive = (alive, above);
                if abort.run_until_cancelled(future).await.is_none() {
                    aborted.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(name: "task.aborted", %scope, task, "task did not stop in its grace");
                }
            },
            runtime,
        )
    }

    /// Starts a task on the runtime of the caller.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn spawn<F>(&self, task: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_on(&Handle::current(), task, future)
    }

    /// Tells the tasks of this scope, and of all below it, to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Cancels, waits for the tasks of this scope and of all below it until `deadline`, then aborts what is
    /// left.
    ///
    /// # Cancel safety
    /// May be called again; cancellation stays.
    pub async fn close(&self, deadline: Instant) {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout_at(deadline, self.tracker.wait()).await.is_err() {
            self.abort.cancel();
            self.tracker.wait().await;
        }
    }

    /// Waits for the tasks of this scope and of all below it until `deadline` without cancelling them; tells
    /// whether all ended.
    pub async fn finished(&self, deadline: Instant) -> bool {
        self.tracker.close();
        tokio::time::timeout_at(deadline, self.tracker.wait()).await.is_ok()
    }

    /// Whether its tasks were aborted because they did not stop in their grace.
    pub fn is_aborted(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// How many tasks of the whole tree are alive.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// How many tasks of the whole tree had to be aborted.
    pub fn aborted(&self) -> usize {
        self.aborted.load(Ordering::Relaxed)
    }
}

/// Counts one living task.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The threads that carry requests: `count` single-threaded runtimes.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: CancellationToken,
}

/// One of the [`Workers`].
#[derive(Debug, Clone)]
pub struct Worker {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// Where tasks of this worker are spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Takes part of this worker until the returned value is dropped, for [`Workers::least_loaded`].
    pub fn occupy(&self) -> impl Drop + Send + use<> {
        Alive::new(self.load.clone())
    }

    /// The worker with the fewest occupants; none if there are none.
    pub fn least_loaded(workers: &[Worker]) -> Option<&Worker> {
        workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed))
    }
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// The system gives no thread or no event queue; the program cannot start.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let mut started = Self { workers: Vec::new(), threads: Vec::new(), stop: stop.clone() };
        for i in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            started.workers.push(Worker { handle: runtime.handle().clone(), load: Arc::default() });
            let stop = stop.clone();
            let name = format!("worker-{i}");
            let run = move || runtime.block_on(stop.cancelled_owned());
            started.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        }
        Ok(started)
    }

    /// The worker with the fewest occupants.
    pub fn least_loaded(&self) -> &Worker {
        let mut best = &self.workers[0];
        for worker in &self.workers[1..] {
            if worker.load.load(Ordering::Relaxed) < best.load.load(Ordering::Relaxed) {
                best = worker;
            }
        }
        best
    }

    /// The workers, in order.
    pub fn all(&self) -> &[Worker] {
        &self.workers
    }

    /// Ends the threads; tasks still on them are dropped.
    pub fn stop(self) {
        self.stop.cancel();
        for thread in self.threads {
            // A panic of a worker thread was already reported by the panic hook.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_cancellation_is_aborted_and_counted() {
        let root = Scope::root("test");
        let child = root.child("stubborn");
        child.spawn("sleeper", std::future::pending());
        let token = child.token().clone();
        child.spawn("polite", async move { token.cancelled().await });
        assert_eq!(root.alive(), 2);
        child.close(Instant::now() + Duration::from_secs(1)).await;
        assert_eq!((root.alive(), root.aborted()), (0, 1));
    }

    #[tokio::test]
    async fn closing_a_scope_waits_for_the_tasks_below_it() {
        let root = Scope::root("test");
        let below = root.child("a").child("b");
        let token = below.token().clone();
        below.spawn("polite", async move { token.cancelled().await });
        assert!(!root.finished(Instant::now()).await);
        root.close(Instant::now() + Duration::from_secs(30)).await;
        assert_eq!((root.alive(), root.aborted()), (0, 0));
    }

    #[test]
    fn work_is_dealt_to_the_least_loaded_worker() {
        let workers = Workers::start(2).unwrap();
        let first = workers.least_loaded().clone();
        let occupied = first.occupy();
        let second = workers.least_loaded().clone();
        assert_ne!(first.handle().id(), second.handle().id());
        drop(occupied);
        workers.stop();
    }
}

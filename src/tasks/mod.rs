//! Every task has an owner, a name and a scope; after [`Scope::close`] none is alive.
//!
//! A scope is a cancellation token and a tracker; scopes form a tree, and cancelling one cancels all
//! below it. The tree knows every task by name ([`Scope::tasks`]), and tells of those that outlive their
//! scope. [`Workers`] are the threads tasks run on: several single-threaded runtimes, because one
//! multi-threaded runtime costs 20 to 40 % more CPU for the same requests. Bare `tokio::spawn` is banned
//! by lint.

mod tree;
mod workers;

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use tree::Node;
pub use tree::{Overdue, TaskInfo, TaskState};
pub use workers::{Team, Worker, Workers};

/// What a task that was aborted gets to be dropped in; one that does not yield for so long is reported.
const ABORT_GRACE: Duration = Duration::from_millis(500);
/// How often the tree is looked through for tasks that should not be there.
const LOOK: Duration = Duration::from_secs(5);
/// What is granted past the end of a scope before its tasks are reported.
const MARGIN: Duration = Duration::from_secs(1);

/// The owner of tasks; clones are the same owner.
#[derive(Debug, Clone)]
pub struct Scope {
    token: CancellationToken,
    tracker: TaskTracker,
    /// Those of the scopes above: their ends wait for the tasks of this scope too.
    above: Arc<[TaskTracker]>,
    abort: CancellationToken,
    counts: Arc<Counts>,
    owner: Arc<Owner>,
}

/// What is counted of a whole tree.
#[derive(Debug, Default)]
struct Counts {
    alive: Arc<AtomicUsize>,
    aborted: AtomicUsize,
    outlived_scope: AtomicUsize,
    outlived_parent: AtomicUsize,
}

/// Everybody who holds a scope; holds those above.
#[derive(Debug)]
struct Owner {
    node: Arc<Node>,
    _above: Option<Arc<Owner>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut since = self.node.ownerless_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = Some(Instant::now());
    }
}

impl Scope {
    /// The root of a tree of scopes.
    pub fn root(name: &str) -> Self {
        let (token, abort) = (CancellationToken::new(), CancellationToken::new());
        let node = Node::new(name.into(), None, (&token, &abort));
        Self {
            token,
            tracker: TaskTracker::new(),
            above: Arc::default(),
            abort,
            counts: Arc::default(),
            owner: Arc::new(Owner { node, _above: None }),
        }
    }

    /// A scope below this one: cancelled with it, waited for with it or on its own. Its tasks count in
    /// [`Scope::alive`] of the root too.
    pub fn child(&self, name: &str) -> Self {
        let (token, abort) = (self.token.child_token(), self.abort.child_token());
        let above = &self.owner.node;
        let node = Node::new(format!("{}/{name}", above.path()).into(), Some(above), (&token, &abort));
        Self {
            token,
            tracker: TaskTracker::new(),
            above: self.above.iter().chain([&self.tracker]).cloned().collect(),
            abort,
            counts: self.counts.clone(),
            owner: Arc::new(Owner { node, _above: Some(self.owner.clone()) }),
        }
    }

    /// Starts a task of this scope on `runtime`. The task is expected to end soon after
    /// [`Scope::token`] is cancelled; past the grace of [`Scope::close`] it is aborted.
    #[track_caller]
    pub fn spawn_on<F>(&self, runtime: &Handle, task: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let spawned_at = Location::caller();
        let alive = Alive::new(self.counts.alive.clone());
        let above: Vec<_> = self.above.iter().map(TaskTracker::token).collect();
        let entry = self.owner.node.enter(task, spawned_at);
        let (abort, counts, scope) =
            (self.abort.clone(), self.counts.clone(), self.owner.node.path().clone());
        self.tracker.spawn_on(
            async move {
                let _alive = (entry, alive, above);
                if abort.run_until_cancelled(future).await.is_none() {
                    counts.aborted.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(name: "task.aborted", %scope, task, %spawned_at, "task did not stop in its grace");
                }
            },
            runtime,
        )
    }

    /// Starts a task on the runtime of the caller.
    ///
    /// # Panics
    /// Outside a runtime.
    #[track_caller]
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
    /// left; what does not even yield to that is reported and left behind half a second later.
    ///
    /// # Cancel safety
    /// May be called again; cancellation stays.
    pub async fn close(&self, deadline: Instant) {
        self.owner.node.ends_at(deadline);
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout_at(deadline, self.tracker.wait()).await.is_err() {
            self.abort.cancel();
            if tokio::time::timeout(ABORT_GRACE, self.tracker.wait()).await.is_err() {
                self.report(Duration::ZERO);
            }
        }
    }

    /// Waits for the tasks of this scope and of all below it until `deadline` without cancelling them; tells
    /// whether all ended.
    pub async fn finished(&self, deadline: Instant) -> bool {
        self.tracker.close();
        tokio::time::timeout_at(deadline, self.tracker.wait()).await.is_ok()
    }

    /// Looks again and again for tasks that outlive their scope or whoever should own it, and reports each
    /// once, until this scope ends.
    pub async fn watch(self) {
        let mut look = tokio::time::interval(LOOK);
        while self.token.run_until_cancelled(look.tick()).await.is_some() {
            self.report(MARGIN);
        }
    }

    /// Logs and counts the tasks that should not be there any more, those that are new.
    fn report(&self, margin: Duration) {
        for (why, task) in self.owner.node.overdue(Instant::now(), margin) {
            let counter = match why {
                Overdue::OutlivedScope => &self.counts.outlived_scope,
                Overdue::OutlivedParent => &self.counts.outlived_parent,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let TaskInfo { name, parent, age, state, spawned_at } = task;
            let (why, state) = (why.as_str(), state.as_str());
            tracing::error!(name: "task.overdue", why, task = name, scope = %parent, ?age, state, %spawned_at,
                "a task is alive that should have ended");
        }
    }

    /// The tasks of this scope and of all below it, at most `most`.
    pub fn tasks(&self, most: usize) -> Vec<TaskInfo> {
        self.owner.node.list(most)
    }

    /// Whether its tasks were aborted because they did not stop in their grace.
    pub fn is_aborted(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// How many tasks of the whole tree are alive.
    pub fn alive(&self) -> usize {
        self.counts.alive.load(Ordering::Relaxed)
    }

    /// How many tasks of the whole tree had to be aborted.
    pub fn aborted(&self) -> usize {
        self.counts.aborted.load(Ordering::Relaxed)
    }

    /// How many tasks of the whole tree were found alive when they should have ended.
    pub fn overdue(&self, why: Overdue) -> usize {
        let counter = match why {
            Overdue::OutlivedScope => &self.counts.outlived_scope,
            Overdue::OutlivedParent => &self.counts.outlived_parent,
        };
        counter.load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn every_task_is_listed_with_its_scope_and_where_it_was_spawned() {
        let root = Scope::root("test");
        let below = root.child("a").child("b");
        let line = line!() + 1;
        below.spawn("sleeper", std::future::pending());
        root.spawn("polite", root.token().clone().cancelled_owned());
        let mut tasks = root.tasks(10);
        tasks.sort_by_key(|task| task.name);
        let told: Vec<_> = tasks.iter().map(|task| (task.name, &*task.parent, task.state)).collect();
        assert_eq!(
            told,
            [("polite", "test", TaskState::Running), ("sleeper", "test/a/b", TaskState::Running)]
        );
        assert_eq!((tasks[1].spawned_at.file(), tasks[1].spawned_at.line()), (file!(), line));
        assert_eq!(root.tasks(1).len(), 1);
        below.token().cancel();
        assert_eq!(below.tasks(10)[0].state, TaskState::Stopping);
        root.close(Instant::now()).await;
        assert!(root.tasks(10).is_empty());
    }

    #[test]
    fn a_task_that_never_yields_is_reported_and_left_behind() {
        let workers = Workers::start(1).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let root = Scope::root("test");
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let (begin, begun) = std::sync::mpsc::sync_channel::<()>(1);
        let worker = workers.team().least_loaded().unwrap();
        root.child("below").spawn_on(worker.handle(), "stuck", async move {
            begin.send(()).unwrap();
            // Blocks its thread, as a defect would.
            let _released = held.recv();
        });
        begun.recv().unwrap();
        runtime.block_on(root.close(Instant::now()));
        assert_eq!((root.alive(), root.overdue(Overdue::OutlivedScope)), (1, 1));
        root.report(Duration::ZERO);
        assert_eq!(root.overdue(Overdue::OutlivedScope), 1, "each is told once");
        release.send(()).unwrap();
        workers.stop();
        assert_eq!(root.alive(), 0);
    }

    #[tokio::test]
    async fn a_task_whose_scope_nobody_holds_is_reported() {
        let root = Scope::root("test");
        let lost = root.child("lost");
        lost.spawn("orphan", std::future::pending());
        root.report(Duration::ZERO);
        assert_eq!(root.overdue(Overdue::OutlivedParent), 0);
        drop(lost);
        root.report(Duration::ZERO);
        assert_eq!(root.overdue(Overdue::OutlivedParent), 1);
        root.close(Instant::now()).await;
        assert_eq!(root.alive(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_a_cancellation_nobody_waits_for_is_reported() {
        let root = Scope::root("test");
        let lost = root.child("lost");
        lost.spawn("deaf", std::future::pending());
        lost.token().cancel();
        drop(lost);
        root.report(Duration::ZERO);
        assert_eq!(root.overdue(Overdue::OutlivedParent), 0, "it may be on its way");
        tokio::time::advance(Duration::from_secs(11)).await;
        root.report(Duration::ZERO);
        assert_eq!(root.overdue(Overdue::OutlivedParent), 1);
        root.close(Instant::now()).await;
        assert_eq!((root.alive(), root.aborted()), (0, 1));
    }
}

//! Which tasks there are, and where each was spawned.
//!
//! A node for each scope, a record for each task. The lock of a node is held for a few instructions when
//! one of its tasks begins or ends; requests on a connection are no tasks of a scope and cost nothing here.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the tasks of a scope that was cancelled and let go without waiting get to stop in.
const STOPPING: Duration = Duration::from_secs(10);

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// At work.
    Running,
    /// Told to stop.
    Stopping,
    /// Past its grace; dropped as soon as it yields.
    Aborted,
}

impl TaskState {
    /// The word for people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Running => "running",
            TaskState::Stopping => "stopping",
            TaskState::Aborted => "aborted",
        }
    }
}

/// One living task.
#[derive(Debug, Clone)]
pub struct TaskInfo {
    /// What it does.
    pub name: &'static str,
    /// The scope that owns it, with those above, such as `tollgate/pipelines/receiver`.
    pub parent: Arc<str>,
    /// How long it has lived.
    pub age: Duration,
    /// How far it is.
    pub state: TaskState,
    /// Where in the source it was spawned.
    pub spawned_at: &'static Location<'static>,
}

/// Why a task should not be there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Its scope has ended, its grace too.
    OutlivedScope,
    /// Nobody holds its scope any longer, so nobody could end it.
    OutlivedParent,
}

impl Overdue {
    /// The reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Overdue::OutlivedScope => "outlived_scope",
            Overdue::OutlivedParent => "outlived_parent",
        }
    }
}

/// One scope in the tree.
pub(super) struct Node {
    path: Arc<str>,
    parent: Option<Arc<Node>>,
    token: CancellationToken,
    abort: CancellationToken,
    /// When tasks that ignore cancellation are aborted.
    ends_at: Mutex<Option<Instant>>,
    /// Since when nobody holds the scope.
    pub(super) ownerless_since: Mutex<Option<Instant>>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    tasks: Vec<Option<Record>>,
    free: Vec<usize>,
    children: Vec<Weak<Node>>,
}

struct Record {
    name: &'static str,
    spawned_at: &'static Location<'static>,
    since: Instant,
    is_reported: bool,
}

/// A task's place in the tree, as long as it lives.
pub(super) struct Entry {
    node: Arc<Node>,
    at: usize,
}

impl Node {
    pub(super) fn new(
        path: Arc<str>,
        parent: Option<&Arc<Node>>,
        (token, abort): (&CancellationToken, &CancellationToken),
    ) -> Arc<Self> {
        let node = Arc::new(Self {
            path,
            parent: parent.cloned(),
            token: token.clone(),
            abort: abort.clone(),
            ends_at: Mutex::default(),
            ownerless_since: Mutex::default(),
            inside: Mutex::default(),
        });
        if let Some(parent) = parent {
            let mut inside = parent.lock();
            inside.children.retain(|child| child.strong_count() > 0);
            inside.children.push(Arc::downgrade(&node));
        }
        node
    }

    pub(super) fn path(&self) -> &Arc<str> {
        &self.path
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        name: &'static str,
        spawned_at: &'static Location<'static>,
    ) -> Entry {
        let record = Record { name, spawned_at, since: Instant::now(), is_reported: false };
        let mut inside = self.lock();
        let at = match inside.free.pop() {
            Some(at) => at,
            None => {
                inside.tasks.push(None);
                inside.tasks.len() - 1
            }
        };
        inside.tasks[at] = Some(record);
        drop(inside);
        Entry { node: self.clone(), at }
    }

    /// Its tasks have until then to stop.
    pub(super) fn ends_at(&self, deadline: Instant) {
        *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    /// When the grace of this scope, or of one above it, is over.
    fn end(&self) -> Option<Instant> {
        let above = self.parent.as_ref().and_then(|parent| parent.end());
        let own = *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner);
        [own, above].into_iter().flatten().min()
    }

    /// How far its tasks are.
    fn state(&self) -> TaskState {
        match () {
            () if self.abort.is_cancelled() => TaskState::Aborted,
            () if self.token.is_cancelled() => TaskState::Stopping,
            () => TaskState::Running,
        }
    }

    /// Whether nobody can end its tasks any longer, and nobody has told them to stop or they do not.
    fn is_lost(&self, now: Instant) -> bool {
        let since = *self.ownerless_since.lock().unwrap_or_else(PoisonError::into_inner);
        let grace = if self.token.is_cancelled() { STOPPING } else { Duration::ZERO };
        since.is_some_and(|since| since + grace <= now)
    }

    /// Calls `visit` with this node and all below it.
    fn walk(self: &Arc<Self>, visit: &mut dyn FnMut(&Arc<Self>)) {
        visit(self);
        let children: Vec<_> = self.lock().children.iter().filter_map(Weak::upgrade).collect();
        for child in children {
            child.walk(visit);
        }
    }

    /// The tasks here and below, at most `most`.
    pub(super) fn list(self: &Arc<Self>, most: usize) -> Vec<TaskInfo> {
        let now = Instant::now();
        let mut list = Vec::new();
        self.walk(&mut |node| {
            let state = node.state();
            for record in node.lock().tasks.iter().flatten().take(most - list.len()) {
                list.push(node.info(record, state, now));
            }
        });
        list
    }

    /// Tasks that should not be there any more, each told once; `margin` is granted past the end of a scope.
    pub(super) fn overdue(self: &Arc<Self>, now: Instant, margin: Duration) -> Vec<(Overdue, TaskInfo)> {
        let mut found = Vec::new();
        self.walk(&mut |node| {
            let why = match node.end() {
                Some(end) if end + margin < now => Overdue::OutlivedScope,
                None if node.is_lost(now) => Overdue::OutlivedParent,
                _ => return,
            };
            let state = node.state();
            for record in node.lock().tasks.iter_mut().flatten().filter(|record| !record.is_reported) {
                record.is_reported = true;
                found.push((why, node.info(record, state, now)));
            }
        });
        found
    }

    fn info(&self, record: &Record, state: TaskState, now: Instant) -> TaskInfo {
        TaskInfo {
            name: record.name,
            parent: self.path.clone(),
            age: now.saturating_duration_since(record.since),
            state,
            spawned_at: record.spawned_at,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut inside = self.node.lock();
        inside.tasks[self.at] = None;
        inside.free.push(self.at);
        if inside.free.len() == inside.tasks.len() {
            // What was once many keeps no memory when there are none.
            (inside.tasks, inside.free) = (Vec::new(), Vec::new());
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

//! A value made of files, kept current.
//!
//! The directory watch makes changes quick; the poll makes them certain (file systems without events, and
//! Kubernetes, which swaps a symlink two levels up).

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::TlsError;
use super::pem::{Pems, Places};
use crate::tasks::Scope;

/// Files of a pair are written one after the other: after the first event so long is waited for the rest.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

type Build<T> = Box<dyn Fn(&Pems) -> Result<T, TlsError> + Send + Sync>;

/// The last value that could be made of the files.
pub(super) struct Kept<T> {
    places: Places,
    build: Build<T>,
    current: ArcSwap<T>,
    /// The digest of what was read last, good or not; none if reading failed.
    seen: Mutex<Option<[u8; 32]>>,
    /// When the certificate in use ends, in seconds since 1970; 0 if there is none.
    not_after: AtomicI64,
    generation: AtomicU64,
    failures: AtomicU64,
}

impl<T: Send + Sync + 'static> Kept<T> {
    /// Reads the files for the first time.
    pub(super) fn load(places: Places, build: Build<T>) -> Result<Self, TlsError> {
        let pems = places.read()?;
        let current = ArcSwap::from_pointee(build(&pems)?);
        let seen = Mutex::new(Some(pems.digest()));
        let not_after = AtomicI64::new(pems.not_after().unwrap_or(0));
        let (generation, failures) = (AtomicU64::new(1), AtomicU64::new(0));
        Ok(Self { places, build, current, seen, not_after, generation, failures })
    }

    pub(super) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(super) fn not_after(&self) -> Option<i64> {
        Some(self.not_after.load(Ordering::Relaxed)).filter(|seconds| *seconds != 0)
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Reads the files and, if they changed and are good, replaces the value.
    pub(super) fn refresh(&self) {
        let read = self.places.read();
        let digest = read.as_ref().ok().map(Pems::digest);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == digest {
                return;
            }
            *seen = digest;
        }
        match read.and_then(|pems| Ok(((self.build)(&pems)?, pems.not_after()))) {
            Ok((value, not_after)) => {
                self.current.store(Arc::new(value));
                self.not_after.store(not_after.unwrap_or(0), Ordering::Relaxed);
                let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::info!(name: "tls.reloaded", generation, "certificates reloaded");
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(name: "tls.reload_failed", %error, "certificates stay as they were");
            }
        }
    }

    /// Refreshes when the files' directories change, and every `interval`, until the scope ends.
    pub(super) fn watch(self: &Arc<Self>, scope: &Scope, interval: Duration) {
        let directories = self.places.directories();
        if interval.is_zero() || directories.is_empty() {
            return;
        }
        let changed = Arc::new(Notify::new());
        let watcher = watch_directories(&directories, changed.clone());
        let (kept, token) = (self.clone(), scope.token().clone());
        scope.spawn("tls-watch", async move {
            let _watcher = watcher;
            let refreshing = async {
                loop {
                    if tokio::time::timeout(interval, changed.notified()).await.is_ok() {
                        tokio::time::sleep(SETTLE).await;
                    }
                    kept.refresh();
                }
            };
            token.run_until_cancelled(refreshing).await;
        });
    }
}

/// None if the system gives no watch: the poll does it alone.
pub(crate) fn watch_directories(directories: &[&Path], changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| is_change(event.kind)) {
            changed.notify_one();
        }
    };
    let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
        for directory in directories {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watching
        .inspect_err(|error| tracing::warn!(name: "tls.watch_failed", %error, "files are only polled"))
        .ok()
}

/// Opening a file is an event too, and a refresh that answered it would cause the next one.
fn is_change(kind: EventKind) -> bool {
    !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

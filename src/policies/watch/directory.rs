//! Events of the directory the policies file is in.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// The directory watch; without one (no such directory, no inotify left) the poll remains.
pub(super) struct Events {
    watcher: Option<RecommendedWatcher>,
    directory: PathBuf,
}

impl Events {
    pub(super) fn start(path: &Path) -> (mpsc::Receiver<()>, Self) {
        // One event waiting says as much as a hundred.
        let (sender, receiver) = mpsc::channel(1);
        let told = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(&event.kind)) {
                // Full: the look that is due sees this change too.
                let _full = sender.try_send(());
            }
        };
        let watcher = match notify::recommended_watcher(told) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(name: "policies.unwatched", %error, "no directory watch; changes are found by polling");
                None
            }
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        if let Some(why) = never_changes(path, &directory) {
            let path = path.display();
            tracing::warn!(name: "policies.never_changes", %path, why, "changes of the ConfigMap do not reach this file");
        }
        let mut events = Self { watcher, directory };
        events.attach();
        (receiver, events)
    }

    /// Watches the directory that stands there now; it may be another one than before.
    pub(super) fn attach(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(&self.directory, RecursiveMode::NonRecursive)
        {
            tracing::debug!(name: "policies.unwatched", %error, "no directory watch; changes are found by polling");
        }
    }
}

/// Whether an event may mean another content. Our own reading does not; a writer's data is looked at
/// when it closes the file, where the system tells.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_)) => !cfg!(target_os = "linux"),
        _ => true,
    }
}

/// Why a file in a pod does not follow its ConfigMap; `None` if it may. Outside of Kubernetes every file may.
fn never_changes(path: &Path, directory: &Path) -> Option<&'static str> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if is_mount_point(path, &mounts) {
        return Some("it is mounted by subPath; mount the directory instead");
    }
    let plain = in_pod && path.exists() && !directory.join("..data").exists();
    plain.then_some("its directory has no ..data; mount the ConfigMap itself as this directory")
}

/// Whether a path is a mount of its own in `/proc/self/mountinfo`.
fn is_mount_point(path: &Path, mounts: &str) -> bool {
    let Some(path) = path.to_str() else { return false };
    // The fifth field is the mount point; blanks and the like are written as octal escapes.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().any(|point| point.replace("\\040", " ") == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_mounted_by_sub_path_is_recognised() {
        let mounts = "\
            1047 1032 259:1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/p /etc/tollgate rw - ext4 /dev/a rw\n\
            1048 1032 259:1 /var/lib/kubelet/pods/u/volume-subpaths/p/t/0 /etc/my\\040own/policies.yaml ro - ext4 /dev/a rw\n";
        let check =
            |path: &str, expected| assert_eq!(is_mount_point(Path::new(path), mounts), expected, "{path}");
        check("/etc/tollgate/policies.yaml", false);
        check("/etc/my own/policies.yaml", true);
    }
}

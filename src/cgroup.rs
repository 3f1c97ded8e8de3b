//! What the control groups of this process allow: CPUs and memory, version 2 or 1.
//!
//! A limit may stand anywhere on the path from the group to the root, so the tightest one counts. In a
//! container the path of `/proc/self/cgroup` is often the host's and not there: then the nearest folder
//! above it that exists is taken, in the end the root, which is the container's own group.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where control groups are mounted on every system this runs on.
pub const ROOT: &str = "/sys/fs/cgroup";

/// What the groups allow; none where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// CPUs' worth of time, above 0.
    pub cpus: Option<f64>,
    /// Bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// The limits of this process, whose groups are mounted at `root`.
    pub fn read(root: &Path) -> Self {
        Self::of(root, &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    /// The limits of a process that is in `groups`, as `/proc/self/cgroup` writes them.
    fn of(root: &Path, groups: &str) -> Self {
        match root.join("cgroup.controllers").exists() {
            true => {
                let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
                Self {
                    cpus: tightest(root, path, f64::min, |folder| quota(&text(&folder.join("cpu.max"))?)),
                    memory: tightest(root, path, u64::min, |folder| number(&folder.join("memory.max"))),
                }
            }
            false => Self::of_version_1(root, groups),
        }
    }

    fn of_version_1(root: &Path, groups: &str) -> Self {
        let path = |controller: &str| {
            let mut lines = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            let found = lines.find(|(controllers, _)| controllers.split(',').any(|one| one == controller));
            found.map_or("/", |(_, path)| path)
        };
        let cpus = |folder: &Path| {
            let quota = number(&folder.join("cpu.cfs_quota_us"))?;
            let period = number(&folder.join("cpu.cfs_period_us")).filter(|period| *period > 0)?;
            Some(quota as f64 / period as f64)
        };
        let memory = |folder: &Path| {
            // "No limit" is written as the largest number of pages there could be.
            number(&folder.join("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 60)
        };
        Self {
            cpus: tightest(&root.join("cpu"), path("cpu"), f64::min, cpus),
            memory: tightest(&root.join("memory"), path("memory"), u64::min, memory),
        }
    }
}

/// The tightest of the limits on the way from a group up to the root.
fn tightest<T>(
    root: &Path,
    group: &str,
    less: fn(T, T) -> T,
    read: impl Fn(&Path) -> Option<T>,
) -> Option<T> {
    let group = root.join(group.trim_start_matches('/'));
    // `..` in a path means a group outside of this namespace.
    let inside = !group.components().any(|part| part == std::path::Component::ParentDir);
    let start = if inside { group } else { root.to_owned() };
    start.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(read).reduce(less)
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// A number above 0; `max` and -1 are no limit.
fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok().filter(|number| *number > 0)
}

/// `cpu.max`: quota and period in µs.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// The memory of the machine, in bytes; without `/proc`, as much as there could be.
pub fn machine_memory() -> u64 {
    let read = || {
        let meminfo = text(Path::new("/proc/meminfo"))?;
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.to_owned();
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    read().unwrap_or(u64::MAX)
}

/// What this process may use, as last looked at; clones are the same.
#[derive(Debug, Clone)]
pub struct Capacity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// In thousandths; 0: no limit.
    cpus: AtomicU64,
    memory: AtomicU64,
}

impl Capacity {
    /// What the groups mounted at `root` allow now.
    pub fn read(root: &Path) -> Self {
        let shared = Shared { root: root.to_owned(), cpus: AtomicU64::new(0), memory: AtomicU64::new(0) };
        let capacity = Self(Arc::new(shared));
        capacity.look();
        capacity
    }

    /// Of nobody in particular: no quota, all the memory there could be.
    pub fn unlimited() -> Self {
        let (cpus, memory) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self(Arc::new(Shared { root: PathBuf::new(), cpus, memory }))
    }

    /// Looks again; tells whether anything changed.
    pub fn look(&self) -> bool {
        let limits = Limits::read(&self.0.root);
        let cpus = limits.cpus.map_or(0, |cpus| ((cpus * 1000.0) as u64).max(1));
        let memory = limits.memory.unwrap_or(u64::MAX).min(machine_memory());
        let (cpus_before, memory_before) =
            (self.0.cpus.swap(cpus, Ordering::Relaxed), self.0.memory.swap(memory, Ordering::Relaxed));
        (cpus_before, memory_before) != (cpus, memory)
    }

    /// The quota, in CPUs; none without one.
    pub fn cpus(&self) -> Option<f64> {
        let thousandths = self.0.cpus.load(Ordering::Relaxed);
        (thousandths > 0).then_some(thousandths as f64 / 1000.0)
    }

    /// The memory limit in bytes; without one, what the machine has.
    pub fn memory(&self) -> u64 {
        self.0.memory.load(Ordering::Relaxed)
    }

    /// How many threads can work at a time: whole CPUs of affinity and quota, at least one.
    pub fn parallelism(&self) -> usize {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        self.cpus().map_or(most, |cpus| (cpus as usize).clamp(1, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a tree of files below a temporary folder.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn check(files: &[(&str, &str)], groups: &str, expected: (Option<f64>, Option<u64>)) {
        let limits = Limits::of(tree(files).path(), groups);
        assert_eq!((limits.cpus, limits.memory), expected, "{files:?} {groups:?}");
    }

    #[test]
    fn version_2_is_read_and_the_tightest_of_the_path_counts() {
        let two = ("cgroup.controllers", "cpu memory\n");
        check(&[two], "0::/\n", (None, None));
        let none = [("cpu.max", "max 100000\n"), ("memory.max", "max\n")];
        check(&[two, none[0], none[1]], "0::/\n", (None, None));
        let root = [("cpu.max", "150000 100000\n"), ("memory.max", "268435456\n")];
        check(&[two, root[0], root[1]], "0::/", (Some(1.5), Some(256 << 20)));
        // The path of the host is not there: the root is the container's own group.
        check(&[two, root[0], root[1]], "0::/kubepods/pod1/abc", (Some(1.5), Some(256 << 20)));
        check(&[two, root[0], root[1]], "0::/../other", (Some(1.5), Some(256 << 20)));
        let below =
            [("a/b/cpu.max", "200000 100000"), ("a/b/memory.max", "1048576"), ("a/cpu.max", "50000 100000")];
        let all = [two, root[0], root[1], below[0], below[1], below[2]];
        check(&all, "1:name=systemd:/x\n0::/a/b\n", (Some(0.5), Some(1 << 20)));
        check(&[two, ("cpu.max", "garbage"), ("memory.max", "-3")], "0::/", (None, None));
    }

    #[test]
    fn version_1_is_read_where_there_is_no_version_2() {
        let groups = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/a\n0::/\n";
        check(&[], groups, (None, None));
        let unlimited = [
            ("cpu/a/cpu.cfs_quota_us", "-1\n"),
            ("cpu/a/cpu.cfs_period_us", "100000\n"),
            ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        check(&unlimited, groups, (None, None));
        let limited = [
            ("cpu/a/cpu.cfs_quota_us", "250000\n"),
            ("cpu/a/cpu.cfs_period_us", "100000\n"),
            ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.limit_in_bytes", "1048576\n"),
            ("memory/memory.limit_in_bytes", "2097152\n"),
        ];
        check(&limited, groups, (Some(2.5), Some(1 << 20)));
    }

    #[test]
    fn a_change_is_seen_at_the_next_look() {
        let root =
            tree(&[("cgroup.controllers", ""), ("cpu.max", "100000 100000"), ("memory.max", "1048576")]);
        let capacity = Capacity::read(root.path());
        assert_eq!((capacity.cpus(), capacity.memory(), capacity.parallelism()), (Some(1.0), 1 << 20, 1));
        assert!(!capacity.look());
        std::fs::write(root.path().join("memory.max"), "max").unwrap();
        assert!(capacity.look());
        assert_eq!(capacity.memory(), machine_memory());
        std::fs::write(root.path().join("cpu.max"), "max 100000").unwrap();
        assert!(capacity.look());
        assert_eq!(capacity.cpus(), None);
    }
}

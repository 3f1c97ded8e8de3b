//! A control group with a memory limit, where the machine lets us make one; else a folder that looks like one,
//! so that the program sizes itself by it and its resident memory is held against the same bound.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A limit on memory.
pub(crate) enum Group {
    /// The kernel's, version 2 or 1.
    Real(PathBuf),
    /// A folder.
    Looks(tempfile::TempDir),
}

impl Group {
    pub(crate) fn with_memory(bytes: u64) -> Self {
        let name = format!("tollgate-bench-{}", std::process::id());
        let real = [("", "memory.max"), ("memory", "memory.limit_in_bytes")].into_iter().find_map(
            |(folder, file)| {
                let group = Path::new("/sys/fs/cgroup").join(folder).join(&name);
                std::fs::create_dir(&group).ok()?;
                let set =
                    group.join(file).exists() && std::fs::write(group.join(file), bytes.to_string()).is_ok();
                if !set {
                    std::fs::remove_dir(&group).ok()?;
                }
                set.then(|| Self::Real(group))
            },
        );
        real.unwrap_or_else(|| {
            let root = tempfile::tempdir().expect("a temporary folder");
            std::fs::write(root.path().join("cgroup.controllers"), "memory").expect("a writable folder");
            std::fs::write(root.path().join("memory.max"), bytes.to_string()).expect("a writable folder");
            Self::Looks(root)
        })
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Real(_) => "a real control group",
            Self::Looks(_) => "what looks like a control group",
        }
    }

    /// Runs a program inside.
    pub(crate) fn command(&self, binary: &Path) -> Vec<OsString> {
        match self {
            Self::Real(group) => {
                let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
                ["sh", "-c", &enter, "sh"].map(OsString::from).into_iter().chain([binary.into()]).collect()
            }
            Self::Looks(_) => vec![binary.into()],
        }
    }

    /// What the program is told of it.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Real(_) => Vec::new(),
            Self::Looks(root) => vec!["--cgroup-root".into(), root.path().into()],
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Self::Real(group) = self {
            // The program inside may take a moment to end.
            for _ in 0..100 {
                if std::fs::remove_dir(&*group).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            eprintln!("{} is left behind", group.display());
        }
    }
}

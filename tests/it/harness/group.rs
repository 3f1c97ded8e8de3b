//! Control groups of the kernel, version 2 or 1, for a program under test.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group; it ends with the test, after the program inside.
pub struct Group {
    /// One for each controller; version 2 has one for all.
    folders: Vec<PathBuf>,
    /// The one of memory.
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Group {
    /// A group with a quota of CPUs; none, and a line says so, where the machine allows none.
    pub fn of_cpus(cpus: u64) -> Option<Self> {
        let quota = [("cpu.max", format!("{} 100000", cpus * 100_000))];
        let quota_1 =
            [("cpu.cfs_period_us", "100000".to_owned()), ("cpu.cfs_quota_us", (cpus * 100_000).to_string())];
        let folder = folder("", &quota).or_else(|| folder("cpu", &quota_1));
        let cpu = or_say("CPU quota", folder)?;
        Some(Self { folders: vec![cpu.clone()], memory: None, cpu: Some(cpu) })
    }

    /// A group with so many bytes of memory; none, and a line says so, where the machine allows none.
    pub fn of_memory(bytes: u64) -> Option<Self> {
        let (limit, limit_1) =
            ([("memory.max", bytes.to_string())], [("memory.limit_in_bytes", bytes.to_string())]);
        let folder = folder("", &limit).or_else(|| folder("memory", &limit_1));
        let memory = or_say("memory limit", folder)?;
        Some(Self { folders: vec![memory.clone()], memory: Some(memory), cpu: None })
    }

    /// A shell command that goes inside and executes its arguments there.
    pub fn enter(&self) -> String {
        let enter = |folder: &PathBuf| format!("echo $$ > {}/cgroup.procs && ", folder.display());
        self.folders.iter().map(enter).collect::<String>() + "exec \"$@\""
    }

    /// Changes the quota.
    pub fn set_cpus(&self, cpus: u64) {
        let folder = self.cpu.as_ref().unwrap();
        let (file, text) = match folder.join("cpu.max").exists() {
            true => ("cpu.max", format!("{} 100000", cpus * 100_000)),
            false => ("cpu.cfs_quota_us", (cpus * 100_000).to_string()),
        };
        std::fs::write(folder.join(file), text).unwrap();
    }

    /// Changes the memory limit.
    pub fn set_memory(&self, bytes: u64) {
        let folder = self.memory.as_ref().unwrap();
        let file = if folder.join("memory.max").exists() { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(folder.join(file), bytes.to_string()).unwrap();
    }

    /// How many processes inside the kernel killed for want of memory.
    pub fn killed(&self) -> u64 {
        let folder = self.memory.as_ref().unwrap();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let text = read("memory.events").or_else(|| read("memory.oom_control")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map_or(0, |n| n.trim().parse().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // What was inside may take a moment to be gone.
            let gone = (0..200).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                std::fs::remove_dir(folder).is_ok()
            });
            if !gone {
                eprintln!("{} is left behind", folder.display());
            }
        }
    }
}

/// A new group below a controller's root in which these files can be written.
fn folder(controller: &str, files: &[(&str, String)]) -> Option<PathBuf> {
    let root = Path::new(ROOT).join(controller);
    let is_there = if controller.is_empty() { root.join("cgroup.controllers") } else { root.clone() };
    if !is_there.exists() {
        return None;
    }
    let folder = root.join(format!("tollgate-it-{}-{:x}", std::process::id(), fastrand::u32(..)));
    std::fs::create_dir(&folder).ok()?;
    let set = files
        .iter()
        .all(|(file, text)| folder.join(file).exists() && std::fs::write(folder.join(file), text).is_ok());
    if !set {
        std::fs::remove_dir(&folder).ok()?;
    }
    set.then_some(folder)
}

fn or_say(what: &str, folder: Option<PathBuf>) -> Option<PathBuf> {
    if folder.is_none() {
        println!("skipped: no control group with a {what} can be made below {ROOT}; a stand-in is used");
    }
    folder
}

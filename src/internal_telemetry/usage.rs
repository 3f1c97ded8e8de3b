//! What this program uses: CPU time and memory, read from `/proc`.
//!
//! Resident figures, not the allocator's: mimalloc tells its own only through unsafe calls. There is no
//! `runtime_total_alloc_bytes`, because nothing counts allocations. Elsewhere than on Linux: nothing.

/// CPU and memory of this program.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Resident bytes.
    pub resident: u64,
    /// Resident anonymous bytes: heap and stacks.
    pub anonymous: u64,
    /// Writable private address space, in bytes.
    pub data_segment: u64,
}

impl Usage {
    /// The figures now; `None` where the system does not tell.
    pub fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        Self::parse(&stat, &status)
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The name of the program, in parentheses, may itself hold spaces and parentheses.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let cpu_ticks = ticks()? + ticks()?;
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        Some(Self {
            cpu_seconds: cpu_ticks as f64 / TICKS_PER_SECOND,
            resident: kib("VmRSS:")? * 1024,
            anonymous: kib("RssAnon:").unwrap_or(0) * 1024,
            data_segment: kib("VmData:").unwrap_or(0) * 1024,
        })
    }
}

/// `USER_HZ`: part of Linux's interface to programs and 100 on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_a_hostile_program_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 5 6 7";
        let status = "Name:\ta\nVmRSS:\t  2048 kB\nRssAnon:\t 1024 kB\nVmData:\t 4096 kB\n";
        let expected =
            Usage { cpu_seconds: 2.0, resident: 2 << 20, anonymous: 1 << 20, data_segment: 4 << 20 };
        assert_eq!(Usage::parse(stat, status), Some(expected));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_program_uses_memory() {
        assert!(Usage::read().is_some_and(|usage| usage.resident > 100_000));
    }
}

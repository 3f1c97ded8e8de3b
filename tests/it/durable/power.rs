//! Power cuts of a real file system: ext4 on a loop device that is shut down as it is, nothing flushed.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Bound, Load, arrivals, durable, figure, lost, ms, seed};
use crate::harness::{Answer, Sink, Tollgate, eventually, scaled};

/// EXT4_IOC_SHUTDOWN without a flush of the log: what is not on the device is gone, and all that follows fails.
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A disk of 1 GiB whose power can be cut.
struct CutDisk {
    folder: tempfile::TempDir,
}

impl CutDisk {
    /// `None` where the test may not make one.
    fn new() -> Option<Self> {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::File::create(disk.image()).unwrap().set_len(1 << 30).unwrap();
        std::fs::create_dir(disk.path()).unwrap();
        let mut make = Command::new("mkfs.ext4");
        let is_there = succeeds(make.args(["-q", "-F"]).arg(disk.image())) && disk.mount();
        if !is_there {
            eprintln!(
                "SKIPPED: no right to mount a loop device, so a power cut of a real disk is not tested"
            );
        }
        is_there.then_some(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) -> bool {
        succeeds(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()))
    }

    fn cut(&self) {
        assert!(succeeds(Command::new("python3").args(["-c", CUT]).arg(self.path())));
    }

    /// The power is back; nobody may have a file open.
    async fn restore(&self) {
        eventually("the disk to be let go of", || async {
            succeeds(Command::new("umount").arg(self.path())).then_some(())
        })
        .await;
        assert!(self.mount());
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        let _ = succeeds(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Scorecard, test 3.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_power_of_a_real_disk_is_cut() {
    let Some(disk) = CutDisk::new() else { return };
    let sink = Sink::start().await;
    let config = durable(&sink, &disk.path(), ("", "sizer: items, queue_size: 10000000"));
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (cycles, mut slowest) = (scaled(3, 20), Duration::ZERO);
    for cycle in 0..cycles {
        // What was delivered before the cut proves nothing.
        sink.answer(if random.u8(..3) == 0 { Answer::Ok } else { Answer::Unavailable });
        let starting = Instant::now();
        let tollgate = Tollgate::with(&config).start().await;
        slowest = slowest.max(starting.elapsed());
        let load = Load::start(&tollgate, &cycle.to_string(), &acknowledged).await;
        tokio::time::sleep(Duration::from_millis(random.u64(100..1000))).await;
        // Senders go on: what is acknowledged from a dead disk would be lost.
        disk.cut();
        tokio::time::sleep(Duration::from_millis(100)).await;
        load.tell_to_stop();
        tollgate.kill();
        load.stopped().await;
        disk.restore().await;
    }
    sink.answer(Answer::Ok);
    let tollgate = Tollgate::with(&config).start().await;
    let metrics = tollgate.settled().await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost = lost(&acknowledged, &arrivals(&sink));
    println!("{cycles} power cuts: {} spans acknowledged", acknowledged.len());
    figure("power_cut.lost", lost.len() as f64, Bound::AtMost(0.0));
    figure("power_cut.slowest_start_ms", ms(slowest), Bound::AtMost(2000.0));
    assert!(acknowledged.len() > cycles * Load::SPANS, "{} spans are no load", acknowledged.len());
    assert_eq!(lost, Vec::<String>::new(), "seed {seed}");
    let damaged = metrics.sum("tollgate_storage_damaged_records_total", &[]);
    assert_eq!(damaged, 0.0, "a power cut is no damage, seed {seed}");
    tollgate.stop().await;
}

//! A simulated disk: loses power at any operation, tears writes, writes back at random, fails, fills up.
//!
//! Underneath is turmoil-fs. Its syncs never fail; here a sync that fails also throws away what was to be
//! synced, as kernels do, and a second call would succeed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use turmoil_fs::shim::std::fs as sim;
use turmoil_fs::{Fs, FsConfig, FsContext, FsEnterGuard};

use crate::journal::storage::{Storage, StoredFile};

/// A way to get it wrong; the tests must notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    None,
    /// Segments are never synced, so acknowledging comes first.
    AcknowledgeBeforeSync,
    NoDirectorySync,
    NoChecksum,
    /// Ends are never synced, so removing a segment comes first.
    UnlinkBeforeEnds,
    /// A sync that fails is tried again.
    RetrySync,
}

/// One write takes no more than to the next multiple of this.
const PIECE: u64 = 2 << 10;

/// What goes wrong by itself, each as a probability.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) sync: f64,
    pub(super) read_or_write: f64,
    pub(super) write_back: f64,
    pub(super) capacity: Option<u64>,
}

#[derive(Debug)]
pub(super) struct World {
    mutant: Mutant,
    faults: Mutex<Faults>,
    rng: Mutex<fastrand::Rng>,
    /// Syncs that will fail.
    failing: AtomicU64,
    /// Operations until the power goes.
    fuse: AtomicU64,
    uuids: AtomicU64,
}

/// The disk; clones are the same.
#[derive(Clone)]
pub(super) struct SimDisk {
    fs: Fs,
    world: Arc<World>,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.world.fmt(f)
    }
}

impl SimDisk {
    pub(super) fn new(seed: u64, mutant: Mutant, faults: Faults) -> Self {
        let mut config = FsConfig::default();
        config.block_size(512).sync_probability(faults.write_back);
        let fs = Fs::builder().config(config).seed(seed).build();
        let world = World {
            mutant,
            faults: Mutex::new(faults),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            failing: AtomicU64::new(0),
            fuse: AtomicU64::new(u64::MAX),
            uuids: AtomicU64::new(seed << 32),
        };
        Self { fs, world: Arc::new(world) }
    }

    /// All of the disk's operations on this thread go to this disk while the guard lives.
    pub(super) fn enter(&self) -> FsEnterGuard {
        self.fs.enter()
    }

    /// The power goes after `operations` more.
    pub(super) fn set_fuse(&self, operations: u64) {
        self.world.fuse.store(operations, Ordering::Relaxed);
    }

    pub(super) fn fail_next_syncs(&self, count: u64) {
        self.world.failing.store(count, Ordering::Relaxed);
    }

    pub(super) fn has_power(&self) -> bool {
        self.world.fuse.load(Ordering::Relaxed) > 0
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        *self.world.faults.lock().unwrap() = faults;
        FsContext::current(|ctx| ctx.fs.io_error_probability = faults.read_or_write);
    }

    /// What was not synced is lost, or torn; the power is back.
    pub(super) fn crash(&self) {
        self.fs.crash();
        self.set_fuse(u64::MAX);
    }
}

impl World {
    fn operate(&self) -> io::Result<()> {
        let lit = |left: u64| (left != u64::MAX).then(|| left.saturating_sub(1));
        _ = self.fuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lit);
        match self.fuse.load(Ordering::Relaxed) {
            0 => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    /// Whether a file of the journal may grow. turmoil-fs would count every pending write of a file anew.
    fn check_room(&self, file: &sim::File, end: u64) -> io::Result<()> {
        let Some(capacity) = self.faults.lock().unwrap().capacity else { return Ok(()) };
        let more = end.saturating_sub(file.metadata()?.len());
        let used: u64 = [super::life::DIR.to_owned(), format!("{}/damaged", super::life::DIR)]
            .iter()
            .flat_map(|dir| sim::read_dir(dir).into_iter().flatten())
            .map(|entry| {
                entry.unwrap().metadata().map_or(0, |found| if found.is_file() { found.len() } else { 0 })
            })
            .sum();
        match more > 0 && used + more > capacity {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn fails_to_sync(&self) -> bool {
        if self.failing.load(Ordering::Relaxed) > 0 {
            self.failing.fetch_sub(1, Ordering::Relaxed);
            return true;
        }
        let probability = self.faults.lock().unwrap().sync;
        probability > 0.0 && self.rng.lock().unwrap().f64() < probability
    }
}

#[derive(Debug)]
struct SimFile {
    path: PathBuf,
    file: sim::File,
    world: Arc<World>,
    /// What the file was when it was last synced, if that is needed.
    synced: Mutex<Option<Vec<u8>>>,
}

impl SimFile {
    fn open(world: &Arc<World>, path: &Path, create: bool) -> io::Result<Arc<dyn StoredFile>> {
        world.operate()?;
        let file = sim::OpenOptions::new().read(true).write(true).create_new(create).open(path)?;
        Ok(Arc::new(Self { path: path.to_owned(), file, world: world.clone(), synced: Mutex::new(None) }))
    }

    fn image(&self) -> Vec<u8> {
        let len = self.file.metadata().map_or(0, |found| found.len());
        let mut bytes = vec![0; len as usize];
        FsContext::current(|ctx| ctx.fs.read_file(&self.path, &mut bytes, 0));
        bytes
    }

    fn remember(&self) {
        if self.world.faults.lock().unwrap().sync > 0.0 {
            self.synced.lock().unwrap().get_or_insert_with(|| self.image());
        }
    }

    /// What was written since the last sync is gone, and the file is clean.
    fn throw_away(&self) {
        if let Some(image) = self.synced.lock().unwrap().take() {
            let quiet = FsContext::current(|ctx| std::mem::take(&mut ctx.fs.io_error_probability));
            self.file.set_len(0).unwrap();
            FsContext::current(|ctx| {
                let now = ctx.now;
                ctx.fs.write_file(&self.path, 0, &image, now);
            });
            self.file.sync_data().unwrap();
            FsContext::current(|ctx| ctx.fs.io_error_probability = quiet);
        }
    }

    fn is(&self, ending: &str) -> bool {
        self.path.extension().is_some_and(|extension| extension == ending)
    }
}

impl StoredFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.world.fuse.load(Ordering::Relaxed) == 0 {
            return Err(io::Error::other("the power is gone"));
        }
        std::os::unix::fs::FileExt::read_at(&self.file, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.world.operate()?;
        self.remember();
        // Short writes are legal, and what is written in pieces can be torn in the middle.
        let room = (PIECE - offset % PIECE) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        self.world.check_room(&self.file, offset + bytes.len() as u64)?;
        std::os::unix::fs::FileExt::write_at(&self.file, bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.world.operate()?;
        self.remember();
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.world.operate()?;
        self.world.check_room(&self.file, len)?;
        match self.world.faults.lock().unwrap().capacity {
            Some(_) => self.file.set_len(len),
            None => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.world.operate()?;
        let mutant = self.world.mutant;
        let is_skipped = mutant == Mutant::AcknowledgeBeforeSync && self.is("seg")
            || mutant == Mutant::UnlinkBeforeEnds && self.is("ends");
        if is_skipped {
            return Ok(());
        }
        if self.world.fails_to_sync() {
            self.throw_away();
            if mutant != Mutant::RetrySync {
                return Err(io::Error::other("the sync failed"));
            }
        }
        *self.synced.lock().unwrap() = None;
        self.file.sync_data()
    }
}

impl Storage for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        SimFile::open(&self.world, path, true)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        SimFile::open(&self.world, path, false)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in sim::read_dir(dir)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.is_file() {
                files.push((entry.file_name().into_string().unwrap(), found.len()));
            }
        }
        Ok(files)
    }

    fn is_dir(&self, dir: &Path) -> bool {
        sim::metadata(dir).is_ok_and(|found| found.is_dir())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.world.operate()?;
        sim::create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.world.operate()?;
        match self.world.mutant {
            Mutant::NoDirectorySync if dir.components().count() > 1 => Ok(()),
            Mutant::RetrySync => sim::sync_dir(dir),
            _ if self.world.fails_to_sync() => Err(io::Error::other("the sync failed")),
            _ => sim::sync_dir(dir),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.world.operate()?;
        sim::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world.operate()?;
        sim::rename(from, to)
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn unique(&self) -> [u8; 16] {
        u128::from(self.world.uuids.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

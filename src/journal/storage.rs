//! The file system as the journal sees it, and the real one.
//!
//! The seam exists so that tests can lose power, fill the disk and fail a sync. Implementations do not
//! buffer: what they are told, they tell the system.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// An open file. All calls may block.
pub trait StoredFile: Debug + Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for are legal, 0 is the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`; fewer bytes than given are legal.
    ///
    /// # Errors
    /// What the system says; a full disk is [`io::ErrorKind::StorageFull`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;

    /// Reserves room on the disk for `len` bytes; file systems that cannot do so do nothing.
    ///
    /// # Errors
    /// What the system says; a full disk is [`io::ErrorKind::StorageFull`].
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Returns once all bytes and the length are on stable storage.
    ///
    /// # Errors
    /// What the system says. The bytes may be gone then, and a second call would not say so.
    fn sync(&self) -> io::Result<()>;
}

/// Directories of files. All calls may block.
pub trait Storage: Debug + Send + Sync {
    /// Creates a file that must not exist, for reading and writing.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>>;

    /// Opens a file that exists, for reading and, if it may be written, for writing.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>>;

    /// Names and lengths of the files in `dir`; directories are left out.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;

    /// Whether `dir` is a directory.
    fn is_dir(&self, dir: &Path) -> bool;

    /// Makes one directory; its parent exists.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Returns once what was created, renamed and removed in `dir` is on stable storage.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Unlinks a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file; one of the new name is replaced.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Locks `path`, a file made for it, until the answer is dropped; nothing if somebody else has it.
    ///
    /// # Errors
    /// What the system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// Sixteen bytes no other segment has.
    fn unique(&self) -> [u8; 16];
}

/// The real file system.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl StoredFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Storage for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if is_read_only(&error) => File::open(path),
            other => other,
        };
        Ok(Arc::new(file?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let found = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if found.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), found.len()));
            }
        }
        Ok(files)
    }

    fn is_dir(&self, dir: &Path) -> bool {
        dir.is_dir()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unique(&self) -> [u8; 16] {
        fastrand::u128(..).to_le_bytes()
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Writes all bytes.
pub(super) fn write_all(file: &dyn StoredFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How often a read that fails is tried: a journal is opened once, and a passing fault must not hide it.
const READ_TRIES: u32 = 3;

/// Fills `bytes`, or as much of them as the file has; returns how many.
pub(super) fn read_full(file: &dyn StoredFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let (mut filled, mut failed) = (0, 0);
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                failed += 1;
                if failed == READ_TRIES {
                    return Err(error);
                }
            }
        }
    }
    Ok(filled)
}

/// Whether the disk, or what of it the user may have, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

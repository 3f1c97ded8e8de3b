//! A disk in memory that tests can damage.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::journal::storage::{Storage, StoredFile};

pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Files by their paths; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>>);

#[derive(Debug, Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryDisk {
    pub(super) fn of(files: &Files) -> Self {
        let file = |bytes: &Vec<u8>| Arc::new(MemoryFile { bytes: Mutex::new(bytes.clone()) });
        Self(Arc::new(Mutex::new(files.iter().map(|(path, bytes)| (path.clone(), file(bytes))).collect())))
    }

    pub(super) fn files(&self) -> Files {
        let files = self.0.lock().unwrap();
        files.iter().map(|(path, file)| (path.clone(), file.bytes.lock().unwrap().clone())).collect()
    }
}

impl StoredFile for MemoryFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let stored = self.bytes.lock().unwrap();
        let rest = stored.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut stored = self.bytes.lock().unwrap();
        let end = offset as usize + bytes.len();
        if stored.len() < end {
            stored.resize(end, 0);
        }
        stored[offset as usize..end].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Storage for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = Arc::new(MemoryFile::default());
        match self.0.lock().unwrap().entry(path.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
            std::collections::btree_map::Entry::Vacant(free) => Ok(free.insert(file).clone()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = self.0.lock().unwrap().get(path).cloned();
        Ok(file.ok_or(io::ErrorKind::NotFound)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let files = self.files().into_iter().filter(|(path, _)| path.parent() == Some(dir));
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(files.map(|(path, bytes)| (name(&path), bytes.len() as u64)).collect())
    }

    fn is_dir(&self, _: &Path) -> bool {
        true
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.lock().unwrap().remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn unique(&self) -> [u8; 16] {
        fastrand::u128(..).to_le_bytes()
    }
}

//! Queues on disk, which outlive the configurations that use them.
//!
//! A folder is open once in a process. The exporter of the next configuration takes the same queue, with
//! all that waits in it, and the old one leaves; who leaves last closes the files. Not here: what is in the
//! files (`journal`). Invariant: a queue is closed only when nobody uses it.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::config::storage::FileStorage;
use crate::identity::TenantId;
use crate::internal_telemetry::metrics::ExporterMetrics;
use crate::journal::{Journal, OpenError, Options, Place, Recovery, Waiting};
use crate::queue::{self, Bounds, Queue, Wanted};
use crate::tenant::Directory;

/// How often a folder that somebody else has is asked for again.
const LOOK: Duration = Duration::from_millis(50);
/// Dead letters are for inspection, not for keeping.
const MAX_DEAD_LETTERS: u64 = 16 * 1024 * 1024;
/// How long an earlier configuration may take to close its files.
const CLOSING: Duration = Duration::from_secs(10);

/// Where an exporter keeps its queue.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The id of the extension.
    pub extension: Arc<str>,
    /// The exporter's own folder.
    pub folder: PathBuf,
    /// The keys of the extension.
    pub keys: FileStorage,
}

impl Storage {
    /// Of the disk, what is left for batches that wait: the files that are begun and in reserve, and dead
    /// letters, take the rest.
    pub(super) fn live_bytes(&self) -> u64 {
        let FileStorage { max_size, segment_size, .. } = &self.keys;
        max_size.0.saturating_sub(2 * segment_size.0 + self.dead_letter_bytes()).max(segment_size.0)
    }

    fn dead_letter_bytes(&self) -> u64 {
        (self.keys.max_size.0 / 8).min(MAX_DEAD_LETTERS)
    }

    fn options(&self) -> Options {
        Options {
            segment_size: self.keys.segment_size.0,
            max_bytes: self.keys.max_size.0,
            max_record: (self.keys.max_size.0 / 4).min(Options::MAX_SEGMENT_SIZE),
            commit_delay: self.keys.commit_delay,
            max_dead_letters: self.dead_letter_bytes(),
        }
    }
}

/// Why a queue on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    /// There is no directory and it may not be made.
    #[error("directory: {} does not exist; make it, or write `create_directory: true`", .0.display())]
    NoDirectory(PathBuf),
    /// A directory cannot be made.
    #[error("directory: {}: {error}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The files cannot be used.
    #[error("directory: {0}")]
    Open(#[from] OpenError),
    /// An earlier configuration does not let go of it.
    #[error("directory: {} is still being closed; try again", .0.display())]
    Closing(PathBuf),
}

/// The queues on disk that are open; clones are the same.
#[derive(Clone)]
pub struct Stores(Arc<Inner>);

struct Inner {
    directory: Arc<ArcSwap<Directory>>,
    held: Mutex<HashMap<PathBuf, Held>>,
}

struct Held {
    queue: Queue,
    options: Options,
    users: usize,
    is_closing: bool,
}

/// What a queue is opened with.
pub(super) struct Opening<'a> {
    pub(super) storage: &'a Storage,
    pub(super) bounds: Bounds,
    pub(super) wanted: Wanted,
    pub(super) metrics: &'a ExporterMetrics,
}

impl Stores {
    /// None is open; `directory` tells whose line recovered batches stand in.
    pub fn new(directory: &Arc<ArcSwap<Directory>>) -> Self {
        Self(Arc::new(Inner { directory: directory.clone(), held: Mutex::default() }))
    }

    /// The queue in a folder: the one that is open, else opened and with what waits there.
    pub(super) async fn take(&self, opening: Opening<'_>) -> Result<Queue, StoreOpenError> {
        let Storage { extension, folder, .. } = opening.storage;
        let deadline = Instant::now() + CLOSING;
        loop {
            match self.held().get_mut(folder) {
                None => break,
                Some(held) if !held.is_closing => {
                    if held.options != opening.storage.options() {
                        tracing::warn!(name: "config.restart_needed", %extension,
                            "keys of the storage changed: sizes and commit_delay of open files stay as they \
                             are until a restart");
                    }
                    held.users += 1;
                    return Ok(held.queue.clone());
                }
                Some(_) if Instant::now() > deadline => return Err(StoreOpenError::Closing(folder.clone())),
                Some(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
        let (journal, recovery) = open(opening.storage).await?;
        let (metrics, storage) = (opening.metrics, (journal, &**extension));
        let queue = Queue::durable(opening.bounds, opening.wanted, metrics, storage);
        self.recover(&queue, recovery, opening.storage);
        let options = opening.storage.options();
        let held = Held { queue: queue.clone(), options, users: 1, is_closing: false };
        self.held().insert(folder.clone(), held);
        Ok(queue)
    }

    /// What waits on disk stands in its tenants' lines, as the policies have them now.
    fn recover(&self, queue: &Queue, recovery: Recovery, storage: &Storage) {
        let Recovery { waiting, damage, took } = recovery;
        let extension = &storage.extension;
        let (records, mut items, mut bytes) = (waiting.len(), 0, 0);
        let directory = self.0.directory.load();
        let mut owners = HashMap::new();
        let batch = |Waiting { place, head, bytes: size }: Waiting| -> (Batch, Place) {
            items += head.items;
            bytes += size;
            let is_of_nobody = queue::is_of_nobody(&head);
            let key: (TenantId, bool) = (head.tenant.clone(), is_of_nobody);
            let owner = owners.entry(key).or_insert_with(|| directory.of_stored(&head.tenant, is_of_nobody));
            let (account, flow) = (owner.account.clone(), owner.flow.clone());
            let batch = Batch::recovered(head.signal, head.tenant, account, (head.items, size));
            let received = SystemTime::UNIX_EPOCH + Duration::from_nanos(head.received_unix_nanos);
            let ago = SystemTime::now().duration_since(received).unwrap_or_default();
            (batch.in_flow(flow).received(ago), place)
        };
        queue.recover(waiting.map(batch));
        let folder = storage.folder.display();
        if records > 0 {
            tracing::info!(name: "queue.recovered", %extension, %folder, records, items, bytes, ?took,
                "queue recovered from disk");
        }
        if damage.records + damage.segments + damage.stretches > 0 {
            tracing::error!(name: "queue.damaged", %extension, %folder, records = damage.records,
                segments = damage.segments, stretches = damage.stretches, set_aside = damage.set_aside,
                "files of the queue are damaged; what could not be read is lost");
        }
    }

    /// Leaves a queue that somebody else uses; otherwise it is the caller's to close with
    /// [`Stores::closed`], and nobody can take it any more.
    pub(super) fn leave(&self, folder: &Path) -> bool {
        let mut all = self.held();
        let Some(held) = all.get_mut(folder) else { return false };
        match held.users {
            0 | 1 => held.is_closing = true,
            _ => held.users -= 1,
        }
        !held.is_closing
    }

    /// Whether somebody else uses a queue too.
    pub(super) fn is_shared(&self, folder: &Path) -> bool {
        self.held().get(folder).is_some_and(|held| held.users > 1)
    }

    /// A queue's files are closed.
    pub(super) fn closed(&self, folder: &Path) {
        self.held().remove(folder);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<PathBuf, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stores")
    }
}

/// Opens the files away from the threads that carry requests.
async fn open(storage: &Storage) -> Result<(Journal, Recovery), StoreOpenError> {
    let deadline = Instant::now() + storage.keys.timeout;
    loop {
        let (folder, options, keys) = (storage.folder.clone(), storage.options(), storage.keys.clone());
        let opening = move || {
            make_directories(&folder, &keys)?;
            Ok(Journal::open(&folder, options)?)
        };
        let opened = tokio::task::spawn_blocking(opening).await.unwrap_or_else(|panicked| {
            let (path, error) = (storage.folder.clone(), io::Error::other(panicked));
            Err(StoreOpenError::Directory { path, error })
        });
        match opened {
            Err(StoreOpenError::Open(OpenError::InUse(_))) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK).await;
            }
            opened => return opened,
        }
    }
}

/// Makes the folder of an exporter, and what is above it if the keys say so. Each is synced in what it
/// stands in: a file is only as durable as the way to it.
fn make_directories(folder: &Path, keys: &FileStorage) -> Result<(), StoreOpenError> {
    if !keys.directory.is_dir() && !keys.create_directory {
        return Err(StoreOpenError::NoDirectory(keys.directory.clone()));
    }
    let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.is_dir()).collect();
    for path in missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
        let failed = |error| StoreOpenError::Directory { path: path.to_owned(), error };
        let made = std::fs::DirBuilder::new().mode(keys.permissions().unwrap_or(0o750)).create(path);
        made.or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) }).map_err(failed)?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(above).and_then(|above| above.sync_all()).map_err(failed)?;
    }
    Ok(())
}

//! The extension `file_storage`, and which queues are kept there.
//!
//! Only the keys and what is wrong with them; `journal` writes the files, `queue` decides what is in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::components::Components;
use super::{ComponentId, Connector, Exporter, Extension, SendingQueue, Service};
use crate::units::ByteSize;
use crate::yaml::{Node, Problems, did_you_mean};

/// Keeps sending queues on disk. Each exporter, and each connector `failover`, whose `sending_queue.storage`
/// names this extension has a folder of its own in `directory`, named after its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileStorage {
    /// Where the folders of the exporters are; one program at a time can use them.
    /// Default: `/var/lib/tollgate/file_storage`.
    pub directory: PathBuf,
    /// Makes `directory` if it is not there. Default: false.
    pub create_directory: bool,
    /// The permissions of what `create_directory` makes, in octal, in quotes. Default: "0750".
    pub directory_permissions: String,
    /// How long to wait for another program to let go of a folder. Default: 1s. Range: up to 1m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// Accepted for the Collector's sake: senders are answered only once their data is synced, whatever is
    /// written here. Default: true.
    pub fsync: bool,
    /// Accepted for the Collector's sake: damaged files are set aside and counted, never in the way of a
    /// start. Default: false.
    pub recreate: bool,
    /// Accepted for the Collector's sake: there is nothing to compact, files are removed as they are done
    /// with. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Json>,
    /// The disk that the queue of one exporter may take, files that are being written included; more is
    /// refused until there is room. Tollgate's own key. Default: 10GiB. Range: at least 4 times
    /// `segment_size`.
    pub max_size: ByteSize,
    /// How many batches may wait in the queue of one exporter: each takes about 10 bytes of memory, 64 at
    /// most, which must fit into the memory limit at start, together with 32MiB. Tollgate's own key.
    /// Default: 500000. Range: 1 to 100000000.
    pub max_records: u64,
    /// The size of one file; a larger batch has a file of its own. Disk is freed file by file. Tollgate's
    /// own key. Default: 64MiB. Range: 64KiB to 1GiB.
    pub segment_size: ByteSize,
    /// How long to collect batches before they are synced together: for disks that are billed by
    /// operation. While one sync runs the next batches collect anyway. Tollgate's own key. Default: 0s.
    /// Range: 0 to 1s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub commit_delay: Duration,
}

impl Default for FileStorage {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/tollgate/file_storage"),
            create_directory: false,
            directory_permissions: "0750".into(),
            timeout: Duration::from_secs(1),
            fsync: true,
            recreate: false,
            compaction: None,
            max_size: ByteSize(10 << 30),
            max_records: 500_000,
            segment_size: ByteSize(64 << 20),
            commit_delay: Duration::ZERO,
        }
    }
}

/// A problem: its path below the extension, its text, whether the program cannot start with it.
type Found = (String, String, bool);

impl FileStorage {
    /// The permissions of directories that are made; none if the text is not octal.
    pub fn permissions(&self) -> Option<u32> {
        let text = &self.directory_permissions;
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
    }

    /// The folder of an exporter's queue; two exporters never share one.
    pub fn folder(&self, exporter: &ComponentId) -> PathBuf {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let mut name = String::new();
        for c in exporter.as_str().chars() {
            match c {
                c if plain(c) => name.push(c),
                c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| name.push_str(&format!("%{b:02X}"))),
            }
        }
        self.directory.join(name)
    }

    /// Every problem, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut error = |wrong: bool, key: &str, message: String| {
            if wrong {
                found.push((key.to_owned(), message, true));
            }
        };
        error(self.directory.as_os_str().is_empty(), "directory", "is required".into());
        let octal = format!("`{}` is not octal; write for example \"0750\"", self.directory_permissions);
        error(self.permissions().is_none(), "directory_permissions", octal);
        let longest = Duration::from_secs(60);
        error(self.timeout > longest, "timeout", "is longer than 1m".into());
        error(self.commit_delay > Duration::from_secs(1), "commit_delay", "is longer than 1s".into());
        let (segment, most) = (self.segment_size, self.max_size);
        let is_sound = (64 << 10..=1 << 30).contains(&segment.0);
        error(!is_sound, "segment_size", format!("{segment} is outside 64KiB to 1GiB"));
        let least = ByteSize(segment.0.saturating_mul(4));
        let small = format!("{most} is less than 4 times segment_size, {least}");
        error(is_sound && most < least, "max_size", small);
        let records = (1..=100_000_000).contains(&self.max_records);
        error(!records, "max_records", format!("{} is outside 1 to 100000000", self.max_records));
        if !self.fsync {
            let message = "has no effect: senders are answered only once their data is synced; a queue that \
                           may be lost needs no storage, and `commit_delay` makes syncs fewer";
            found.push(("fsync".to_owned(), message.to_owned(), false));
        }
        found
    }
}

/// What is declared, for [`check_references`].
pub(super) struct Declared<'c> {
    pub(super) exporters: &'c Components<Exporter>,
    pub(super) connectors: &'c Components<Connector>,
    pub(super) extensions: &'c Components<Extension>,
    pub(super) service: Option<&'c Service>,
}

/// Checks that every `sending_queue.storage` names a storage that runs.
pub(super) fn check_references(tree: &Node, declared: &Declared<'_>, problems: &mut Problems) {
    let exporters = declared.exporters.components.iter();
    let exporters = exporters.map(|(id, exporter)| ("exporters", id, exporter.sending_queue()));
    let connectors = declared.connectors.components.iter();
    let connectors = connectors.map(|(id, connector)| ("connectors", id, connector.sending_queue()));
    for (section, id, queue) in exporters.chain(connectors) {
        let Some(storage) = queue.and_then(SendingQueue::storage) else { continue };
        let entries = tree.get(section).map(Node::entries).unwrap_or_default();
        let entry = entries.iter().find(|entry| ComponentId::parse(&entry.key).as_ref() == Ok(id));
        let Some(node) = entry.and_then(|entry| entry.value.at("sending_queue.storage")) else { continue };
        let path = format!("{section}.{id}.sending_queue.storage");
        if let Some((message, help)) = wrong(storage, declared) {
            problems.error_at(node, &path, message, Some(help));
        }
    }
}

/// What is wrong with the id of a storage, and the way out.
fn wrong(storage: &str, declared: &Declared<'_>) -> Option<(String, String)> {
    let all = &declared.extensions.declared;
    let storages: Vec<&str> =
        all.iter().map(|(id, _)| id).filter(|id| is_storage(id)).map(ComponentId::as_str).collect();
    let defined = match storages.as_slice() {
        [] => {
            "no storage is defined in `extensions`; define `file_storage: { directory: … }` there".to_owned()
        }
        names => format!("storages that are defined: {}", names.join(", ")),
    };
    let id = ComponentId::parse(storage).ok();
    let Some(id) = id.filter(|id| all.iter().any(|(known, _)| known == id)) else {
        let help = match did_you_mean(storage, storages.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?\n{defined}"),
            None => defined,
        };
        return Some((format!("storage `{storage}` is not defined in `extensions`"), help));
    };
    if !is_storage(&id) {
        return Some((format!("extension `{id}` is no storage; `file_storage` is"), defined));
    }
    let runs = declared.service.is_none_or(|service| service.extensions.contains(&id));
    let help = format!("write `service: {{ extensions: [{id}] }}`, beside those that are listed");
    (!runs).then(|| (format!("`{id}` is not listed in `service.extensions`, so it does not run"), help))
}

fn is_storage(id: &ComponentId) -> bool {
    id.type_name() == "file_storage"
}

/// The storage of a queue and the id it goes by; none for a queue in memory.
pub(super) fn of<'c>(
    queue: &SendingQueue,
    extensions: &'c BTreeMap<ComponentId, Extension>,
) -> Option<(&'c ComponentId, &'c FileStorage)> {
    let storage = ComponentId::parse(queue.storage()?).ok()?;
    match extensions.get_key_value(&storage) {
        Some((id, Extension::FileStorage(keys))) => Some((id, keys)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exporter_has_a_folder_of_its_own() {
        let storage = FileStorage { directory: "/q".into(), ..FileStorage::default() };
        let check = |id: &str, expected: &str| {
            assert_eq!(storage.folder(&ComponentId::parse(id).unwrap()), PathBuf::from(expected));
        };
        check("otlp_grpc", "/q/otlp_grpc");
        check("otlp_grpc/a", "/q/otlp_grpc%2Fa");
        check("otlp_grpc/a/../b", "/q/otlp_grpc%2Fa%2F..%2Fb");
        check("otlp_grpc/a%2Fä", "/q/otlp_grpc%2Fa%252F%C3%A4");
    }

    #[test]
    fn permissions_are_octal() {
        let of = |text: &str| FileStorage { directory_permissions: text.into(), ..FileStorage::default() };
        assert_eq!(of("0750").permissions(), Some(0o750));
        assert_eq!(of("700").permissions(), Some(0o700));
        for bad in ["", "0o750", "+750", "0790", "17777"] {
            assert_eq!(of(bad).permissions(), None, "{bad}");
        }
    }
}

//! API keys: a file of names and SHA-256 hashes, followed as it changes.
//!
//! Only hashes are known here. A key is found by the first bytes of its hash and then compared in constant
//! time; keys are long and random, so a plain hash is enough (passwords are not keys). Invariant: a bad
//! file never replaces a good one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderName;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::{StartError, next_stamp};
use crate::config::verifiers as config;
use crate::tasks::Scope;
use crate::tls::{SETTLE, watch_directories};

/// The most keys of one file.
const MAX_KEYS: usize = 100_000;
/// The longest name.
const MAX_NAME: usize = 150;
/// The largest file.
const MAX_BYTES: u64 = 64 << 20;

/// One verifier of API keys.
#[derive(Debug)]
pub(super) struct ApiKeys {
    file: PathBuf,
    header: HeaderName,
    poll_interval: std::time::Duration,
    current: ArcSwapOption<Keys>,
}

/// The keys of one reading of the file.
#[derive(Debug)]
pub(super) struct Keys {
    /// Tells this reading from all others.
    pub(super) stamp: u64,
    by_prefix: HashMap<u64, Vec<Entry>>,
    text: [u8; 32],
}

/// The hash of a key and the key's name.
type Entry = ([u8; 32], Arc<str>);

/// What is wrong with a file of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// A line that is not one key.
    #[error("line {line}: expected `name: sha256`, with 64 hexadecimal digits")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A name nobody should have.
    #[error("line {line}: a name has 1 to {MAX_NAME} visible ASCII characters")]
    Name {
        /// The line's number, from 1.
        line: usize,
    },
    /// A key that stands there twice.
    #[error("line {line}: this key is on an earlier line too")]
    Twice {
        /// The line's number, from 1.
        line: usize,
    },
    /// Too many.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

impl ApiKeys {
    pub(super) fn new(config: &config::ApiKeys) -> Self {
        let header = HeaderName::try_from(&config.header);
        Self {
            file: config.file.clone().unwrap_or_default(),
            header: header.unwrap_or(http::header::AUTHORIZATION),
            poll_interval: config.poll_interval,
            current: ArcSwapOption::empty(),
        }
    }

    /// The header that carries the key.
    pub(super) fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The keys as they stand; none before the start.
    pub(super) fn current(&self) -> Option<Arc<Keys>> {
        self.current.load_full()
    }

    /// Reads the file and follows it.
    pub(super) fn start(self: &Arc<Self>, scope: &Scope) -> Result<(), StartError> {
        let keys = read(&self.file)?;
        self.current.store(Some(Arc::new(keys)));
        let changed = Arc::new(Notify::new());
        let directory = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let watcher = watch_directories(&[directory.unwrap_or(Path::new("."))], changed.clone());
        let (keys, token) = (self.clone(), scope.token().clone());
        scope.spawn("api-keys", async move {
            let _watcher = watcher;
            let following = async {
                loop {
                    if tokio::time::timeout(keys.poll_interval, changed.notified()).await.is_ok() {
                        tokio::time::sleep(SETTLE).await;
                    }
                    keys.refresh().await;
                }
            };
            token.run_until_cancelled(following).await;
        });
        Ok(())
    }

    fn is_current(&self, keys: &Keys) -> bool {
        self.current.load().as_ref().is_some_and(|known| known.text == keys.text)
    }

    async fn refresh(&self) {
        let file = self.file.display();
        let mut keys = read(&self.file);
        if keys.as_ref().is_ok_and(|keys| !self.is_current(keys)) {
            // A file that is being written in place looks like one whose keys were revoked.
            tokio::time::sleep(SETTLE).await;
            let first = std::mem::replace(&mut keys, read(&self.file));
            if first.ok().map(|keys| keys.text) != keys.as_ref().ok().map(|keys| keys.text) {
                // The next look sees what it came to.
                return;
            }
        }
        match keys {
            Ok(keys) if self.is_current(&keys) => {}
            Ok(keys) => {
                let count = keys.len();
                self.current.store(Some(Arc::new(keys)));
                tracing::info!(name: "api_keys.reloaded", %file, count, "API keys reloaded");
            }
            Err(error) => {
                tracing::warn!(name: "api_keys.reload_failed", %file, %error, "API keys stay as they were");
            }
        }
    }
}

fn read(file: &Path) -> Result<Keys, StartError> {
    use std::io::Read;
    let unreadable = |source| StartError::Read { path: file.to_owned(), source };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    Keys::parse(&text).map_err(|source| StartError::Keys { path: file.to_owned(), source })
}

impl Keys {
    pub(super) fn parse(text: &str) -> Result<Self, BadKeys> {
        let mut keys = Self { stamp: next_stamp(), by_prefix: HashMap::new(), text: super::sha256(text) };
        let mut count = 0;
        for (index, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.rsplit_once(':').ok_or(BadKeys::Line { line: number })?;
            let (name, hash) = (unquoted(name), unquoted(hash));
            let digest = digest(hash).ok_or(BadKeys::Line { line: number })?;
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(BadKeys::Name { line: number });
            }
            if keys.find(&digest).is_some() {
                return Err(BadKeys::Twice { line: number });
            }
            keys.by_prefix.entry(prefix(&digest)).or_default().push((digest, name.into()));
            count += 1;
            if count > MAX_KEYS {
                return Err(BadKeys::TooMany);
            }
        }
        Ok(keys)
    }

    /// The name of the key with this hash.
    pub(super) fn find(&self, digest: &[u8; 32]) -> Option<&Arc<str>> {
        let candidates = self.by_prefix.get(&prefix(digest))?;
        candidates.iter().find(|(known, _)| bool::from(known.ct_eq(digest))).map(|(_, name)| name)
    }

    fn len(&self) -> usize {
        self.by_prefix.values().map(Vec::len).sum()
    }
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn prefix(digest: &[u8; 32]) -> u64 {
    digest[..8].iter().fold(0, |prefix, byte| prefix << 8 | u64::from(*byte))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(key: &str) -> String {
        crate::authentication::sha256(key).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_are_found_by_their_hash() {
        let text = format!(
            "# two\nacme/a: {}\n\n\"b:c\": \"{}\"\nacme/a: {}\n",
            hex("one"),
            hex("two"),
            hex("new").to_uppercase()
        );
        let keys = Keys::parse(&text).unwrap();
        let check = |key: &str, expected: Option<&str>| {
            let found = keys.find(&crate::authentication::sha256(key));
            assert_eq!(found.map(|name| &**name), expected, "{key}");
        };
        check("one", Some("acme/a"));
        check("new", Some("acme/a"));
        check("two", Some("b:c"));
        check("One", None);
        check("", None);
        check(&hex("one"), None);
    }

    #[test]
    fn bad_files_are_refused_with_the_line() {
        let check = |text: String, expected: BadKeys| {
            assert_eq!(Keys::parse(&text).map(|_| ()), Err(expected), "{text}");
        };
        check("acme".into(), BadKeys::Line { line: 1 });
        check("\nacme: abc".into(), BadKeys::Line { line: 2 });
        check(format!("acme: {}é", &hex("a")[2..]), BadKeys::Line { line: 1 });
        check(format!(": {}", hex("a")), BadKeys::Name { line: 1 });
        check(format!("a b: {}", hex("a")), BadKeys::Name { line: 1 });
        check(format!("a: {0}\nb: {0}", hex("a")), BadKeys::Twice { line: 2 });
    }

    #[test]
    fn each_reading_has_its_own_stamp() {
        let (first, second) = (Keys::parse("").unwrap(), Keys::parse("").unwrap());
        assert_ne!(first.stamp, second.stamp);
    }
}

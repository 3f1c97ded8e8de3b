//! Public keys of an issuer (JWKS), from a file or a URL, followed as they change.
//!
//! One task looks: at every interval, when the file's directory changes, and when a token has a key nobody
//! knows, which is how a rotation is noticed. Requests never look themselves, so however many wait, there
//! is one look. Invariant: a bad set never replaces a good one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::fetch::{Client, FetchFailure};
use super::{StartError, next_stamp};
use crate::tasks::Scope;
use crate::tls::{SETTLE, watch_directories};

/// The most keys of one set.
const MAX_KEYS: usize = 100;
/// Unknown keys make the issuer be asked again at most this often, and while there are no keys at all.
const LEAST_INTERVAL: Duration = Duration::from_secs(10);

/// Where the keys are.
#[derive(Debug)]
pub(super) enum Place {
    File(PathBuf),
    Url(Client),
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keyring {
    place: Place,
    interval: Duration,
    current: ArcSwapOption<Keys>,
    wanted: Notify,
    looked: watch::Sender<Option<Instant>>,
}

/// The keys of one reading.
#[derive(Debug)]
pub(super) struct Keys {
    /// Tells this reading from all others.
    pub(super) stamp: u64,
    keys: Vec<Key>,
    text: [u8; 32],
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    decoding: DecodingKey,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookFailure {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Fetch(#[from] FetchFailure),
    #[error("{0}")]
    Keys(#[from] BadKeySet),
}

/// What is wrong with a set of keys.
#[derive(Debug, thiserror::Error)]
pub enum BadKeySet {
    /// Not a JWKS.
    #[error("not a set of keys: {0}")]
    Json(#[from] serde_json::Error),
    /// Nothing in it that verifies signatures.
    #[error("no key that verifies signatures of RSA, P-256, P-384 or Ed25519")]
    Empty,
    /// Too many.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

impl Keyring {
    pub(super) fn new(place: Place, interval: Duration) -> Self {
        let looked = watch::Sender::new(None);
        Self { place, interval, current: ArcSwapOption::empty(), wanted: Notify::new(), looked }
    }

    /// The keys as they stand; none until they were had once.
    pub(super) fn current(&self) -> Option<Arc<Keys>> {
        self.current.load_full()
    }

    /// Reads a file at once and follows the keys; a URL is asked in the background.
    pub(super) async fn start(self: &Arc<Self>, scope: &Scope) -> Result<(), StartError> {
        let changed = Arc::new(Notify::new());
        let watcher = match &self.place {
            Place::Url(client) => {
                client.watch(scope);
                None
            }
            Place::File(path) => {
                self.look()
                    .await
                    .map_err(|source| StartError::KeySet { path: path.clone(), source: Box::new(source) })?;
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                watch_directories(&[directory.unwrap_or(Path::new("."))], changed.clone())
            }
        };
        let (keyring, token) = (self.clone(), scope.token().clone());
        scope.spawn("jwks", async move {
            let _watcher = watcher;
            token.run_until_cancelled(keyring.follow(&changed)).await;
        });
        Ok(())
    }

    async fn follow(&self, changed: &Notify) {
        loop {
            if self.current.load().is_some() || self.looked.borrow().is_some() {
                let interval = match self.current.load().is_some() {
                    true => self.interval,
                    false => self.interval.min(LEAST_INTERVAL),
                };
                tokio::select! {
                    () = tokio::time::sleep(interval) => {}
                    // Asked for while the last look was under way: that one has told.
                    () = self.wanted.notified() => if !self.may_refresh() { continue },
                    () = changed.notified() => tokio::time::sleep(SETTLE).await,
                }
            }
            if let Err(error) = self.look().await {
                tracing::warn!(name: "jwks.failed", %error, "the keys of an issuer stay as they were");
            }
        }
    }

    async fn look(&self) -> Result<(), LookFailure> {
        let result = self.read().await;
        self.looked.send_replace(Some(Instant::now()));
        result
    }

    async fn read(&self) -> Result<(), LookFailure> {
        let text = match &self.place {
            Place::File(path) => Bytes::from(tokio::fs::read(path).await?),
            Place::Url(client) => client.exchange(Request::new(Full::default())).await?,
        };
        let digest = super::sha256(&text);
        if self.current.load().as_ref().is_some_and(|known| known.text == digest) {
            return Ok(());
        }
        let keys = Keys::parse(&text)?;
        let count = keys.keys.len();
        self.current.store(Some(Arc::new(keys)));
        tracing::info!(name: "jwks.loaded", count, "keys of an issuer are in use");
        Ok(())
    }

    /// Waits for a look that begins from now on, unless the last was a moment ago; the answer is what
    /// [`Keyring::current`] says afterwards.
    ///
    /// # Cancel safety
    /// The look goes on.
    pub(super) async fn refreshed(&self) {
        let mut looked = self.looked.subscribe();
        let last = *looked.borrow_and_update();
        if last.is_some_and(|last| last.elapsed() < LEAST_INTERVAL) {
            return;
        }
        self.wanted.notify_one();
        // An error means that the verifier is gone; so is whoever asks, soon.
        let _gone = looked.changed().await;
    }

    /// Whether a token with an unknown key makes sense to wait for.
    pub(super) fn may_refresh(&self) -> bool {
        self.looked.borrow().is_none_or(|last| last.elapsed() >= LEAST_INTERVAL)
    }
}

impl Keys {
    pub(super) fn parse(text: &[u8]) -> Result<Self, BadKeySet> {
        let set: JwkSet = serde_json::from_slice(text)?;
        if set.keys.len() > MAX_KEYS {
            return Err(BadKeySet::TooMany);
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(Key::new).collect();
        match keys.is_empty() {
            true => Err(BadKeySet::Empty),
            false => Ok(Self { stamp: next_stamp(), keys, text: super::sha256(text) }),
        }
    }

    /// The keys that may have signed with this algorithm; all of them if the token does not say which.
    pub(super) fn for_token(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&Key| {
            id.is_none_or(|id| key.id.as_deref() == Some(id))
                && key.algorithm.is_none_or(|own| own == algorithm)
                && key.decoding.family() == algorithm.family()
        };
        self.keys.iter().filter(fits).map(|key| &key.decoding)
    }
}

impl Key {
    /// None for what is not meant for signatures, or shared secrets.
    fn new(jwk: &Jwk) -> Option<Self> {
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        if decoding.family() == jsonwebtoken::AlgorithmFamily::Hmac {
            return None;
        }
        let algorithm = match jwk.common.key_algorithm {
            None => None,
            Some(algorithm) => Some(algorithm.to_string().parse().ok()?),
        };
        Some(Self { id: jwk.common.key_id.clone(), algorithm, decoding })
    }
}

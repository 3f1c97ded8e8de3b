//! Which of two sources is believed: the mounted file, or the API server that is ahead of it. Pure: the time is
//! an argument.
//!
//! A change by the API reaches the mount a minute later. Changes A, B, C by the API, and then B by the mount, is
//! no going back to B: while the API is followed, and [`OVERTAKEN`] longer, the mount says nothing new.

use std::time::Duration;

use tokio::time::Instant;

/// How long after the last sign of the API server the mount may still be catching up with it: kubelets sync a pod
/// every 60 s to 90 s.
pub(super) const OVERTAKEN: Duration = Duration::from_secs(120);

/// What is known of the API server.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The version of the object as it was last told.
    version: Option<u64>,
    follows: bool,
    until: Option<Instant>,
}

impl Sources {
    /// The API server answers: what it tells is up to date.
    pub(super) fn followed(&mut self) {
        self.follows = true;
    }

    /// It does not answer any more.
    pub(super) fn lost(&mut self, now: Instant) {
        if std::mem::take(&mut self.follows) {
            self.until = Some(now + OVERTAKEN);
        }
    }

    /// Whether the mount has nothing to say.
    pub(super) fn is_file_behind(&self, now: Instant) -> bool {
        self.version.is_some() && (self.follows || self.until.is_some_and(|until| now < until))
    }

    /// Whether the object was ever there.
    pub(super) fn knows_object(&self) -> bool {
        self.version.is_some()
    }

    /// Whether a version is news. A list is read from the store itself and always is, even if the store was
    /// set back; an event is only if it is newer than what is known.
    pub(super) fn is_news(&mut self, version: u64, listed: bool) -> bool {
        let news = listed || self.version.is_none_or(|known| version > known);
        if news {
            self.version = Some(version);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_behind_while_the_api_is_followed_and_two_minutes_longer() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        sources.followed();
        assert!(!sources.is_file_behind(now), "an API server that has no such object leads nobody");
        assert!(sources.is_news(7, true));
        assert!(sources.is_file_behind(now));
        sources.lost(now);
        assert!(sources.is_file_behind(now + Duration::from_secs(119)));
        sources.lost(now + Duration::from_secs(100));
        assert!(!sources.is_file_behind(now + Duration::from_secs(120)));
        sources.followed();
        assert!(sources.is_file_behind(now + Duration::from_secs(1000)));
    }

    #[test]
    fn events_come_in_the_order_of_their_versions_and_lists_always_count() {
        let mut sources = Sources::default();
        let told = [(5, true), (6, false), (6, false), (4, false), (4, true), (5, false)];
        let news = told.map(|(version, listed)| sources.is_news(version, listed));
        assert_eq!(news, [true, true, false, false, true, true]);
    }
}

//! Who proved what, as metrics: a closed set of series, whatever senders present.

use super::catalog;
use super::families::Families;
use super::metrics::Counter;
use crate::policies::SourceKind;

/// What became of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticationOutcome {
    /// The sender is known, or may stay unknown.
    Accepted,
    /// What was presented proves nothing; of an unknown sender: it may not stay unknown.
    Invalid,
    /// Whoever could tell was not there.
    Unavailable,
}

impl AuthenticationOutcome {
    /// Every outcome, in the order of the discriminants.
    const ALL: [Self; 3] = [Self::Accepted, Self::Invalid, Self::Unavailable];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How often each source of identity gave each outcome.
#[derive(Debug, Default)]
pub struct AuthenticationMetrics {
    proven: [[Counter; 3]; SourceKind::ALL.len()],
    anonymous: [Counter; 3],
}

impl AuthenticationMetrics {
    /// Counts one request; no source stands for a sender that presents nothing.
    pub fn count(&self, source: Option<SourceKind>, outcome: AuthenticationOutcome) {
        let of_source = source.map_or(&self.anonymous, |source| &self.proven[source as usize]);
        of_source[outcome as usize].add(1);
    }

    pub(super) fn read(&self, families: &mut Families) {
        let proven = SourceKind::ALL.into_iter().map(|kind| (kind.as_str(), &self.proven[kind as usize]));
        for (source, counters) in proven.chain([("anonymous", &self.anonymous)]) {
            for outcome in AuthenticationOutcome::ALL {
                let labels = [source, outcome.as_str()];
                families.add(&catalog::AUTHENTICATIONS, &labels, counters[outcome as usize].get());
            }
        }
    }
}

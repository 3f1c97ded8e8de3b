//! What became of the policies file, as metrics.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::catalog;
use super::families::Families;

/// Which policies are in force and how the last reload went.
#[derive(Debug, Default)]
pub struct PoliciesMetrics(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    in_force: Option<(String, String)>,
    last_success: bool,
    last_took: Duration,
    successes: u64,
    failures: u64,
}

impl PoliciesMetrics {
    /// A revision is in force; `took` runs from reading the file to this moment.
    pub fn loaded(&self, revision: &str, sha256: &str, took: Duration) {
        let mut state = self.state();
        state.in_force = Some((revision.to_owned(), sha256.to_owned()));
        state.last_success = true;
        state.last_took = took;
        state.successes += 1;
    }

    /// A file was refused; what was in force stays.
    pub fn refused(&self, took: Duration) {
        let mut state = self.state();
        state.last_success = false;
        state.last_took = took;
        state.failures += 1;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, families: &mut Families) {
        let state = self.state();
        if let Some((revision, sha256)) = &state.in_force {
            families.add(&catalog::POLICIES_INFO, &[revision, sha256], 1_u64);
        }
        if state.successes + state.failures > 0 {
            families.add(&catalog::POLICIES_LAST_RELOAD_SUCCESS, &[], u64::from(state.last_success));
            families.add(&catalog::POLICIES_RELOAD_SECONDS, &[], state.last_took.as_secs_f64());
        }
        families.add(&catalog::POLICIES_RELOADS, &["success"], state.successes);
        families.add(&catalog::POLICIES_RELOADS, &["failure"], state.failures);
    }
}

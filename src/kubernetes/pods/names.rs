//! Texts that occur many times, kept once: namespaces, nodes, keys and values of labels.

use std::collections::HashSet;
use std::sync::Arc;

/// The texts that somebody holds, and some nobody holds any more.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The one copy of a text.
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.0.insert(new.clone());
        new
    }

    /// Forgets what nobody holds.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|name| Arc::strong_count(name) > 1);
        self.0.shrink_to(self.0.len() * 2);
    }
}

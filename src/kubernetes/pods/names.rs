//! Texts that occur many times, kept once: namespaces, nodes, keys and values of labels.

use std::collections::HashSet;
use std::sync::Arc;

/// As many texts are taken in before those are looked for that nobody holds.
const FEW: usize = 1024;

/// The texts that somebody holds, and at most as many again (or [`FEW`]) that nobody holds any more.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: HashSet<Arc<str>>,
    /// How many were held at the last sweep.
    held: usize,
}

impl Names {
    /// The one copy of a text.
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        // Pods that come and go bring new names as long as a watch lasts, which may be months.
        if self.texts.len() >= 2 * self.held.max(FEW) {
            self.sweep();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// Forgets what nobody holds.
    pub(super) fn sweep(&mut self) {
        self.texts.retain(|name| Arc::strong_count(name) > 1);
        self.held = self.texts.len();
        self.texts.shrink_to(self.held * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_that_are_gone_are_forgotten_while_a_watch_lasts() {
        let mut names = Names::default();
        let kept: Vec<_> = (0..100).map(|number| names.get(&format!("kept-{number}"))).collect();
        for number in 0..100_000 {
            drop(names.get(&format!("gone-{number}")));
            assert!(names.texts.len() <= 2 * FEW);
        }
        for (number, name) in kept.iter().enumerate() {
            assert!(Arc::ptr_eq(name, &names.get(&format!("kept-{number}"))));
        }
    }
}

//! What is kept of pods and namespaces besides their names: only labels and annotations somebody configured.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::Regex;

use super::names::Names;
use super::view::Texts;

/// The longest value that is kept; labels are shorter, long annotations are documents.
const MAX_VALUE: usize = 256;
/// The most labels, and the most annotations, that are kept of one object.
const MAX_KEPT: usize = 64;

/// Keys of labels or annotations.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    exact: BTreeSet<String>,
    patterns: Vec<Regex>,
}

/// Which labels and annotations are kept, and whether containers are.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Labels of pods.
    pub pod_labels: Keys,
    /// Annotations of pods.
    pub pod_annotations: Keys,
    /// Labels of namespaces.
    pub namespace_labels: Keys,
    /// Annotations of namespaces.
    pub namespace_annotations: Keys,
    /// Names and images of containers.
    pub containers: bool,
}

/// What was kept: keys and values.
pub(super) type Kept = Box<[(Arc<str>, Arc<str>)]>;

impl Keys {
    /// Keeps one key more.
    pub fn add(&mut self, key: &str) {
        self.exact.insert(key.to_owned());
    }

    /// Keeps every key that fits.
    pub fn add_pattern(&mut self, pattern: &Regex) {
        if !self.patterns.iter().any(|known| known.as_str() == pattern.as_str()) {
            self.patterns.push(pattern.clone());
        }
    }

    /// Whether a key is kept.
    pub fn has(&self, key: &str) -> bool {
        self.exact.contains(key) || self.patterns.iter().any(|pattern| pattern.is_match(key))
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    fn merge(&mut self, other: &Self) {
        self.exact.extend(other.exact.iter().cloned());
        other.patterns.iter().for_each(|pattern| self.add_pattern(pattern));
    }

    fn covers(&self, other: &Self) -> bool {
        let has_pattern = |wanted: &Regex| self.patterns.iter().any(|own| own.as_str() == wanted.as_str());
        other.exact.is_subset(&self.exact) && other.patterns.iter().all(has_pattern)
    }

    /// What of `texts` is kept.
    pub(super) fn select(&self, texts: &Texts, names: &mut Names) -> Kept {
        let wanted = texts.iter().filter(|(key, value)| value.len() <= MAX_VALUE && self.has(key));
        wanted.take(MAX_KEPT).map(|(key, value)| (names.get(key), names.get(value))).collect()
    }
}

impl Keep {
    /// What either keeps.
    pub(super) fn merged(mut self, other: &Self) -> Self {
        self.pod_labels.merge(&other.pod_labels);
        self.pod_annotations.merge(&other.pod_annotations);
        self.namespace_labels.merge(&other.namespace_labels);
        self.namespace_annotations.merge(&other.namespace_annotations);
        self.containers |= other.containers;
        self
    }

    /// Whether everything `other` keeps is kept.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.pod_labels.covers(&other.pod_labels)
            && self.pod_annotations.covers(&other.pod_annotations)
            && self.namespace_labels.covers(&other.namespace_labels)
            && self.namespace_annotations.covers(&other.namespace_annotations)
            && (self.containers || !other.containers)
    }

    /// Whether namespaces must be watched.
    pub(super) fn wants_namespaces(&self) -> bool {
        !self.namespace_labels.is_empty() || !self.namespace_annotations.is_empty()
    }
}

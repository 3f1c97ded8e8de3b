//! Sources in order, caches, rotation.

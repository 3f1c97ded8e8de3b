//! What the check of a component's keys finds.

/// A problem and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<P> {
    /// Path of keys below the component, `actions[0].value`; empty for the component itself.
    pub at: String,
    /// What is wrong.
    pub problem: P,
}

//! The cluster around: pods and namespaces, as the API server tells them.

pub mod pods;

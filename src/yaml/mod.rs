//! YAML with positions: text to a tree of spanned [`Node`]s, a tree to a typed value, and every
//! problem on the way at once.
//!
//! ```text
//! Source --parse--> Node --(merge, substitute: config)--> Node --read::<T>--> T
//!              \__________________ Problems _________________/
//! ```
//!
//! The shape of `T` comes from its JSON Schema, so that one description serves the check, the
//! published schema and the reference file. Not here: what a key means. Invariant: [`read()`] returns a
//! value only if it reported no error.

mod bounds;
mod check;
mod node;
mod parse;
mod problem;
mod read;
mod scalar;
mod schema;

pub use check::{SECRET_KEYS, did_you_mean};
pub use node::{Entry, Location, Node, Source, Value, join_index, join_key};
pub use parse::{MAX_BYTES, MAX_DEPTH, MAX_NODES, parse, parse_with_aliases};
pub use problem::{Problem, Problems, Severity};
pub use read::{read, read_at};
pub use scalar::resolve_plain;

#[cfg(test)]
mod tests;

//! The reloadable policies file: whose data is whose, and how much of it is kept.
//!
//! ```text
//! text --yaml--> Node --document--> Plan (compiled, immutable) --watch--> the plan in force
//! ```
//!
//! A [`Plan`] comes out of a text that passed every check, or not at all. Not here: how a plan decides
//! about an item (`sampling`), who a request's tenant is (`tenant`). Invariant: a bad file never
//! replaces a good plan.

mod blocks;
pub mod condition;
mod document;
pub mod glob;
mod matching;
mod plan;
mod reader;
mod rule;
mod scalar;
mod test_case;

pub use condition::Lookup;
pub use document::{MAX_BYTES, MAX_RULES, parse};
pub use plan::{
    Action, Active, Anonymous, Block, Claim, DEFAULT_RULE, Enrichment, Mode, ModelField, Origin, Plan, Rule, Upstream,
};
pub use scalar::Scalar;
pub use test_case::{Expect, Given, GivenValue, TestCase};

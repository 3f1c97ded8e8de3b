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
mod identity;
mod limits;
mod matching;
mod pattern;
mod plan;
mod queue_block;
mod reader;
mod rule;
mod scalar;
mod test_case;
pub mod watch;

pub use condition::Lookup;
pub use document::{MAX_BYTES, MAX_RULES, parse, parse_for};
pub use identity::{Identity, Names, OnMismatch, Principal, Source as ProofSource, SourceKind, Who};
pub use limits::{LimitUnit, Limits, RuleLimit};
pub use pattern::{BadPattern, TenantPattern};
pub use plan::{
    Action, Active, Anonymous, Block, Claim, DEFAULT_RULE, Enrichment, MixedRequests, Mode, ModelField,
    Origin, Plan, PodText, Rule, Upstream,
};
pub use scalar::Scalar;
pub use test_case::{Expect, Given, GivenValue, TestCase};
pub use watch::InForce;

use crate::yaml::Source;

/// The text of the policies that hold where no file is given.
pub const DEFAULT_TEXT: &str = include_str!("../../config/policies-default.yaml");

/// The plan of [`DEFAULT_TEXT`]: believes every claim, gives everything else to `unattributed`, keeps
/// everything.
///
/// # Panics
/// Never: the text is part of the program, and a test reads it.
pub fn default_plan() -> Plan {
    let source = Source::new("embedded policies", DEFAULT_TEXT);
    match parse(&source, jiff::Timestamp::UNIX_EPOCH) {
        Ok((plan, _)) => plan,
        Err(problems) => panic!("the embedded policies cannot be read:\n{problems}"),
    }
}

#[cfg(test)]
mod tests;

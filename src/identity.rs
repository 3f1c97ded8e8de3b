//! Who data belongs to and which model made it: names, checked once, cheap to copy.
//!
//! Not here: how a name is proven or found (`tenant`). Invariant: a value of these types is valid.

use std::fmt;
use std::sync::Arc;

/// A tenant's id: 1 to 150 bytes of `A-Z a-z 0-9 ! - _ . * ' ( )`, neither `.` nor `..`.
///
/// Ids with a leading `_` are Tollgate's own and cannot be claimed. The set is the one Grafana Mimir,
/// Loki and Tempo accept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// Why a text is not a tenant id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTenantId {
    /// No bytes at all.
    #[error("a tenant id cannot be empty")]
    Empty,
    /// More than 150 bytes.
    #[error("a tenant id has at most 150 bytes, this one has {0}")]
    TooLong(usize),
    /// A byte outside the allowed set; `.` and `..` count as such.
    #[error("a tenant id is made of A-Z a-z 0-9 ! - _ . * ' ( ) and is neither `.` nor `..`")]
    BadCharacter,
    /// Starts with `_`.
    #[error("tenant ids that start with `_` are reserved")]
    Reserved,
}

impl TenantId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 150;

    /// Checks a name somebody claims or configures.
    ///
    /// # Errors
    /// [`BadTenantId`]: the caller treats the claim as absent or refuses the file.
    pub fn new(text: &str) -> Result<Self, BadTenantId> {
        match Self::check(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(bad) => Err(bad),
        }
    }

    /// Whether `text` could be a tenant id, without making one.
    ///
    /// # Errors
    /// As [`TenantId::new`].
    pub fn check(text: &str) -> Result<(), BadTenantId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!-_.*'()".contains(&b);
        match text {
            "" => Err(BadTenantId::Empty),
            _ if text.len() > Self::MAX_BYTES => Err(BadTenantId::TooLong(text.len())),
            "." | ".." => Err(BadTenantId::BadCharacter),
            _ if !text.bytes().all(allowed) => Err(BadTenantId::BadCharacter),
            _ if text.starts_with('_') => Err(BadTenantId::Reserved),
            _ => Ok(()),
        }
    }

    /// The tenant of data nobody claims: `unattributed`.
    pub fn unattributed() -> Self {
        Self("unattributed".into())
    }

    /// The label that stands for all tenants past the cap: `_overflow`.
    pub fn overflow() -> Self {
        Self("_overflow".into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::borrow::Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        let check = |text: &str, expected: Result<(), BadTenantId>| {
            assert_eq!(TenantId::check(text), expected, "{text:?}");
        };
        check("acme", Ok(()));
        check("A-z_0.9*'()!", Ok(()));
        check(&"x".repeat(150), Ok(()));
        check(&"x".repeat(151), Err(BadTenantId::TooLong(151)));
        check("", Err(BadTenantId::Empty));
        check(".", Err(BadTenantId::BadCharacter));
        check("..", Err(BadTenantId::BadCharacter));
        check("a/b", Err(BadTenantId::BadCharacter));
        check("аcme", Err(BadTenantId::BadCharacter));
        check("_overflow", Err(BadTenantId::Reserved));
    }
}

//! Patterns that find a tenant in a name: `spiffe://prod.example/ns/{tenant}/sa/*`.
//!
//! A name is compared segment by segment, so that a text with a separator in it can never shift what
//! `{tenant}` takes. Invariant: a name has at most one reading under a pattern.

use super::glob::{BadGlob, Glob};

/// What stands for the tenant.
const CAPTURE: &str = "{tenant}";

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPattern {
    separator: char,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Glob(Glob),
    /// What stands before and after the tenant.
    Tenant(String, String),
    Empty,
}

/// The pattern cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// No tenant, or more than one.
    #[error("must have {CAPTURE} exactly once")]
    NotOnce,
    /// Two readings of one name would be possible.
    #[error("`*`, `?` and `\\` cannot stand in one segment with {CAPTURE}")]
    Ambiguous,
    /// A segment is no glob.
    #[error(transparent)]
    Glob(#[from] BadGlob),
}

impl TenantPattern {
    /// Reads a pattern of segments divided by `separator`; `*` and `?` stay within a segment.
    ///
    /// # Errors
    /// [`BadPattern`]: the file is refused.
    pub fn new(pattern: &str, separator: char) -> Result<Self, BadPattern> {
        if pattern.matches(CAPTURE).count() != 1 {
            return Err(BadPattern::NotOnce);
        }
        let segment = |text: &str| match text.split_once(CAPTURE) {
            Some((before, after)) if [before, after].iter().any(|part| part.contains(['*', '?', '\\'])) => {
                Err(BadPattern::Ambiguous)
            }
            Some((before, after)) => Ok(Segment::Tenant(before.to_owned(), after.to_owned())),
            None if text.is_empty() => Ok(Segment::Empty),
            None => Ok(Segment::Glob(Glob::new(text)?)),
        };
        let segments = pattern.split(separator).map(segment).collect::<Result<_, _>>()?;
        Ok(Self { separator, segments })
    }

    /// What stands for the tenant in a name that matches; not checked, and never empty.
    pub fn tenant<'n>(&self, name: &'n str) -> Option<&'n str> {
        let mut parts = name.split(self.separator);
        let mut tenant = None;
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Empty if part.is_empty() => {}
                Segment::Glob(glob) if !part.is_empty() && glob.matches(part) => {}
                Segment::Tenant(before, after) => {
                    let found = part.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
                    tenant = Some(found).filter(|found| !found.is_empty());
                    tenant?;
                }
                _ => return None,
            }
        }
        parts.next().is_none().then_some(tenant)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_found_in_names() {
        let check = |pattern: &str, separator: char, name: &str, expected: Option<&str>| {
            assert_eq!(TenantPattern::new(pattern, separator).unwrap().tenant(name), expected, "{name}");
        };
        let spiffe = "spiffe://prod.example/ns/{tenant}/sa/*";
        check(spiffe, '/', "spiffe://prod.example/ns/acme/sa/agent", Some("acme"));
        check(spiffe, '/', "spiffe://prod.example/ns/acme/sa/", None);
        check(spiffe, '/', "spiffe://prod.example/ns//sa/agent", None);
        check(spiffe, '/', "spiffe://prod.example/ns/acme/sa/a/b", None);
        check(spiffe, '/', "spiffe://prod.example/ns/me/sa/x/ns/victim/sa/y", None);
        check(spiffe, '/', "spiffe://prod.example.evil/ns/acme/sa/agent", None);
        check(spiffe, '/', "spiffe://prod.example/x/ns/acme/sa/agent", None);
        check("{tenant}.agents.example", '.', "acme.agents.example", Some("acme"));
        check("{tenant}.agents.example", '.', "victim.acme.agents.example", None);
        check("agent-{tenant}", '/', "agent-acme", Some("acme"));
        check("agent-{tenant}-x", '/', "agent-x", None);
        check("{tenant}", '/', "acme", Some("acme"));
    }

    #[test]
    fn patterns_with_two_readings_are_refused() {
        let check = |pattern: &str, expected: BadPattern| {
            assert_eq!(TenantPattern::new(pattern, '/'), Err(expected), "{pattern}");
        };
        check("spiffe://prod.example/*", BadPattern::NotOnce);
        check("{tenant}/{tenant}", BadPattern::NotOnce);
        check("*-{tenant}", BadPattern::Ambiguous);
        check("a/{tenant}*", BadPattern::Ambiguous);
        check(r"{tenant}/a\", BadPattern::Glob(BadGlob::LoneEscape));
    }
}

//! Names of components and pipelines: `type[/name]` and `signal[/name]`.
//!
//! Invariant: a value of these types is valid; it shows the text as it was written, blanks aside.

use std::fmt;
use std::sync::Arc;

use crate::otlp::Signal;

/// A component's id, for example `otlp_grpc/backup`: a type and perhaps a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId {
    text: Arc<str>,
    type_bytes: usize,
}

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Nothing before the `/`.
    #[error("a component id begins with its type, as in `otlp` or `otlp/second`")]
    NoType,
    /// A type that no component can have.
    #[error("a type is a letter and up to 62 letters, digits and underscores")]
    Type,
    /// A `/` and nothing after it.
    #[error("nothing follows the `/`; write the type alone, or a name after it")]
    NoName,
    /// A name with blanks, control characters or symbols, or a very long one.
    #[error("a name has at most 1024 characters and no blanks, control characters or symbols")]
    Name,
    /// A pipeline of an unknown signal.
    #[error("unknown signal; a pipeline is named `signal` or `signal/name`")]
    Signal,
    /// A pipeline of profiles.
    #[error("pipelines of profiles are not available in Tollgate")]
    Profiles,
}

impl ComponentId {
    /// The longest name after the `/`, in characters.
    pub const MAX_NAME: usize = 1024;

    /// Reads `type` or `type/name`; blanks around either are ignored.
    ///
    /// # Errors
    /// [`BadId`]: the file is refused.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let (kind, name) = split(text);
        if kind.is_empty() {
            return Err(BadId::NoType);
        }
        let rest_ok = kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !kind.starts_with(|c: char| c.is_ascii_alphabetic()) || !rest_ok || kind.len() > 63 {
            return Err(BadId::Type);
        }
        check_name(name)?;
        let text = name.map_or_else(|| kind.to_owned(), |name| format!("{kind}/{name}"));
        Ok(Self { text: text.into(), type_bytes: kind.len() })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The type: what stands before the `/`.
    pub fn type_name(&self) -> &str {
        &self.text[..self.type_bytes]
    }

    /// The name: what stands after the `/`.
    pub fn name(&self) -> Option<&str> {
        self.text.get(self.type_bytes + 1..)
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((kind, name)) => (kind.trim(), Some(name.trim())),
        None => (text.trim(), None),
    }
}

fn check_name(name: Option<&str>) -> Result<(), BadId> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "$+<=>^`|~".contains(c);
    match name {
        Some("") => Err(BadId::NoName),
        Some(name) if name.chars().count() > ComponentId::MAX_NAME || name.contains(forbidden) => {
            Err(BadId::Name)
        }
        _ => Ok(()),
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pipeline's id, for example `traces/gateway`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipelineId {
    /// What flows in it.
    pub signal: Signal,
    /// What stands after the `/`.
    pub name: Option<Arc<str>>,
}

impl PipelineId {
    /// Reads `signal` or `signal/name`.
    ///
    /// # Errors
    /// [`BadId`]: the file is refused.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let (signal, name) = split(text);
        let known = Signal::ALL.into_iter().find(|known| known.as_str() == signal);
        let signal = match known {
            Some(signal) => signal,
            None if signal == "profiles" => return Err(BadId::Profiles),
            None => return Err(BadId::Signal),
        };
        check_name(name)?;
        Ok(Self { signal, name: name.map(Arc::from) })
    }
}

impl fmt::Display for PipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.signal),
            None => write!(f, "{}", self.signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_type_and_perhaps_a_name() {
        let check = |text: &str, expected: Result<(&str, Option<&str>), BadId>| {
            let id = ComponentId::parse(text);
            let read = id.as_ref().map(|id| (id.type_name(), id.name())).map_err(|bad| *bad);
            assert_eq!(read, expected, "{text:?}");
        };
        check("otlp", Ok(("otlp", None)));
        check(" otlp / a.b-c ", Ok(("otlp", Some("a.b-c"))));
        check("otlp/2/3", Ok(("otlp", Some("2/3"))));
        check("otlp/", Err(BadId::NoName));
        check("/x", Err(BadId::NoType));
        check("2x", Err(BadId::Type));
        check("ot-lp", Err(BadId::Type));
        check("otlp/a b", Err(BadId::Name));
        check("otlp/a$b", Err(BadId::Name));
    }

    #[test]
    fn pipelines_are_named_by_their_signal() {
        let check = |text: &str, expected: Result<&str, BadId>| {
            let read = PipelineId::parse(text).map(|id| id.to_string());
            assert_eq!(read, expected.map(str::to_owned), "{text:?}");
        };
        check("traces", Ok("traces"));
        check("logs/a", Ok("logs/a"));
        check("profiles", Err(BadId::Profiles));
        check("trace", Err(BadId::Signal));
        check("metrics/", Err(BadId::NoName));
    }
}

//! A tracestate as the Collector's `probabilistic_sampler` reads and writes it.
//!
//! Every member is checked, not only `ot`; the whole is written anew, `ot` first. It is not used by the
//! policies' rules, which touch as little as they can. Invariant: what was read without a fault is
//! written back, but for blanks and empty members.

use super::threshold::{Randomness, Threshold};
use super::tracestate::{MAX_OT_VALUE, sub_key, trimmed};

const MAX_BYTES: usize = 1024;
const MAX_KEY: usize = 256;
const MAX_TENANT_KEY: usize = 241;
const MAX_SYSTEM_KEY: usize = 14;
/// The member, counted with empty ones, at which reading stops with a fault.
const TOO_MANY_MEMBERS: usize = 32;

/// A hexadecimal sub-key of `ot`: its spelling and its meaning.
#[derive(Debug, Clone, Copy)]
struct Spelled<'a, T> {
    text: &'a str,
    value: T,
}

/// What a tracestate says, borrowed from its text.
#[derive(Debug, Default)]
pub(super) struct StrictTraceState<'a> {
    randomness: Option<Spelled<'a, Randomness>>,
    threshold: Option<Spelled<'a, Threshold>>,
    sub_keys: Vec<(&'a str, &'a str)>,
    vendors: Vec<&'a str>,
}

impl<'a> StrictTraceState<'a> {
    /// Reads a tracestate; `false` after any fault, with what was read before or beside it.
    pub(super) fn read(text: &'a str) -> (Self, bool) {
        let (mut state, mut ok) = (Self::default(), true);
        if text.is_empty() {
            return (state, true);
        }
        if text.len() > MAX_BYTES || !text.split(',').all(|item| is_member(trimmed(item))) {
            return (state, false);
        }
        let listed = text.strip_suffix(',').unwrap_or(text);
        for (i, item) in listed.split(',').enumerate() {
            if i + 1 >= TOO_MANY_MEMBERS {
                return (state, false);
            }
            let item = trimmed(item);
            let (key, value) = item.split_once('=').unwrap_or_default();
            match key {
                "" => {}
                "ot" => ok &= state.read_ot(value),
                _ if has_long_key(key) => ok = false,
                _ => state.vendors.push(item),
            }
        }
        (state, ok)
    }

    /// Replaces what an earlier `ot` said.
    fn read_ot(&mut self, value: &'a str) -> bool {
        (self.randomness, self.threshold) = (None, None);
        self.sub_keys.clear();
        if value.len() > MAX_OT_VALUE || !value.split(';').all(|sub| sub_key(sub).is_some()) {
            return false;
        }
        let mut ok = true;
        for (key, text) in value.split(';').filter_map(sub_key) {
            match key {
                "rv" => {
                    self.randomness = Randomness::parse(text).map(|value| Spelled { text, value });
                    ok &= self.randomness.is_some();
                }
                "th" => {
                    self.threshold = Threshold::parse(text).map(|value| Spelled { text, value });
                    ok &= self.threshold.is_some();
                }
                _ => self.sub_keys.push((key, text)),
            }
        }
        ok
    }

    pub(super) fn randomness(&self) -> Option<Randomness> {
        self.randomness.map(|spelled| spelled.value)
    }

    pub(super) fn threshold(&self) -> Option<Threshold> {
        self.threshold.map(|spelled| spelled.value)
    }

    /// Writes the whole to `out`; a value given replaces the one that arrived.
    pub(super) fn write(&self, out: &mut String, rv: Option<Randomness>, th: Option<Threshold>) {
        out.clear();
        let (new_rv, new_th) = (rv.map(Randomness::text), th.map(Threshold::text));
        let rv = new_rv.as_ref().map(|text| text.as_str()).or(self.randomness.map(|spelled| spelled.text));
        let th = new_th.as_ref().map(|text| text.as_str()).or(self.threshold.map(|spelled| spelled.text));
        let known = [("rv", rv), ("th", th)].into_iter().filter_map(|(key, text)| Some((key, text?)));
        for (i, (key, text)) in known.chain(self.sub_keys.iter().copied()).enumerate() {
            out.push_str(if i == 0 { "ot=" } else { ";" });
            out.push_str(key);
            out.push(':');
            out.push_str(text);
        }
        for member in &self.vendors {
            if !out.is_empty() {
                out.push(',');
            }
            out.push_str(member);
        }
    }
}

/// Whether an item without its blanks is empty or `key=value` of the allowed characters.
fn is_member(item: &str) -> bool {
    if item.is_empty() {
        return true;
    }
    let Some((key, value)) = item.split_once('=') else { return false };
    is_key(key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(|b| matches!(b, 0x20..=0x7e) && b != b'=')
}

fn is_key(key: &str) -> bool {
    let rest_ok = |text: &str| {
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_*/-".contains(&b))
    };
    let starts_with_letter = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    match key.split_once('@') {
        None => starts_with_letter(key) && rest_ok(key),
        Some((tenant, system)) => {
            tenant.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && rest_ok(tenant)
                && starts_with_letter(system)
                && rest_ok(system)
        }
    }
}

fn has_long_key(key: &str) -> bool {
    key.len() > MAX_KEY
        || key
            .split_once('@')
            .is_some_and(|(tenant, system)| tenant.len() > MAX_TENANT_KEY || system.len() > MAX_SYSTEM_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> (String, bool) {
        let (state, ok) = StrictTraceState::read(text);
        let mut out = String::new();
        state.write(&mut out, None, None);
        (out, ok)
    }

    #[test]
    fn members_are_written_in_order_without_blanks() {
        let check =
            |text: &str, out: &str, ok: bool| assert_eq!(rewritten(text), (out.to_owned(), ok), "{text:?}");
        check("", "", true);
        check(
            " a=1 ,,\tot=k:1;th:8;rv:6E6d1a75832a2f , b@c= x y ",
            "ot=rv:6E6d1a75832a2f;th:8;k:1,a=1,b@c= x y",
            true,
        );
        check("ot=th:8,ot=k:1", "ot=k:1", true);
        check("ot=th:8,ot=bad", "", false);
        check("ot=rv:1;th:8;k:1", "ot=th:8;k:1", false);
        check("A=1", "", false);
        check("a=b=c", "", false);
        check("a=", "", false);
        check("a=é", "", false);
        check("9a=1", "", false);
        check("9a@b=1", "9a@b=1", true);
        check("9a@9=1", "", false);
    }

    #[test]
    fn limits_are_those_of_the_collector() {
        let many = |n: usize| vec!["a=1"; n].join(",");
        assert!(rewritten(&many(31)).1);
        assert!(rewritten(&(many(31) + ",")).1);
        assert!(!rewritten(&many(32)).1);
        assert!(rewritten(&format!("a={}", "x".repeat(256))).1);
        assert!(!rewritten(&format!("a={}", "x".repeat(257))).1);
        assert!(rewritten(&format!("{}=1", "a".repeat(256))).1);
        assert!(!rewritten(&format!("{}=1", "a".repeat(257))).1);
        assert!(!rewritten(&format!("{}@s=1", "a".repeat(242))).1);
        assert!(!rewritten(&format!("a@{}=1", "s".repeat(15))).1);
        assert!(!rewritten(&format!("ot=k:{}", "x".repeat(255))).1);
        assert!(!rewritten(&format!("a={},{}", "x".repeat(256), many(200))).1);
    }
}

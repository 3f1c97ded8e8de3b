//! Any text as `policies.yaml`, its embedded tests included: compiled, or refused. Never a panic.

use tollgate::sampling::prepare;
use tollgate::yaml::Source;

/// Checks one input; true if they are good policies.
pub fn check(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    match prepare(&Source::new("policies.yaml", text), jiff::Timestamp::UNIX_EPOCH, None) {
        Ok((_plan, warnings)) => {
            assert_eq!(warnings.errors(), 0);
            true
        }
        Err(problems) => {
            assert!(problems.errors() > 0 && !problems.to_string().is_empty());
            false
        }
    }
}

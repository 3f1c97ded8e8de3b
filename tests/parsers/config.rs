//! Any text as `collector.yaml`: read, or refused with at least one problem that has a place. Never a panic.

use tollgate::config::Config;
use tollgate::yaml::Source;

/// Checks one input; true if it is a good configuration.
pub fn check(input: &[u8]) -> bool {
    // What is to be read from files and from the environment is not input.
    let text = String::from_utf8_lossy(input).replace("file:", "fil-:");
    let env = |name: &str| name.len().is_multiple_of(2).then(|| name.to_lowercase());
    match Config::parse(&[Source::new("collector.yaml", text)], &[], &env) {
        Ok((config, warnings)) => {
            assert_eq!(warnings.errors(), 0);
            assert!(!config.service.pipelines.is_empty(), "a good configuration has a pipeline");
            true
        }
        Err(problems) => {
            assert!(problems.errors() > 0 && !problems.to_string().is_empty());
            false
        }
    }
}

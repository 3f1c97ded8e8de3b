//! What the program is made of: nothing with a known flaw, and it can be listed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use semver::{Version, VersionReq};
use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The text between the quotes that follow `key`.
fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key)?.1.split('"').nth(1)
}

/// Name and version of every package of a `Cargo.lock`.
fn locked(path: &str) -> Vec<(String, Version)> {
    let lock = read(path);
    let package = |text: &str| {
        (quoted(text, "name =").unwrap().to_owned(), quoted(text, "version =").unwrap().parse().unwrap())
    };
    lock.split("[[package]]").skip(1).map(package).collect()
}

#[test]
fn nothing_is_locked_that_deny_toml_bans() {
    let deny = read("deny.toml");
    let bans: Vec<(&str, VersionReq)> = deny
        .lines()
        .filter_map(|line| quoted(line.trim().strip_prefix("{ crate")?, "="))
        .map(|spec| match spec.split_once(':') {
            Some((name, versions)) => (name, versions.parse().unwrap()),
            None => (spec, VersionReq::STAR),
        })
        .collect();
    assert!(bans.len() >= 15, "{bans:?}");
    let floor = bans.iter().find(|(name, _)| *name == "h2").unwrap();
    assert!(floor.1.matches(&Version::new(0, 4, 19)) && !floor.1.matches(&Version::new(0, 4, 20)));
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let locked = locked(path);
        assert!(locked.iter().any(|(name, _)| name == "h2"), "{path} is read");
        let banned = |(name, version): &&(String, Version)| {
            bans.iter().any(|(ban, versions)| ban == name && versions.matches(version))
        };
        assert_eq!(
            locked.iter().filter(banned).collect::<Vec<_>>(),
            Vec::<&(String, Version)>::new(),
            "{path}"
        );
    }
}

#[test]
fn the_bill_of_materials_lists_what_is_linked_and_nothing_of_the_tests() {
    let sbom = Path::new(env!("CARGO_MANIFEST_DIR")).join("sbom");
    let run = || {
        let output = Command::new(&sbom).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let first = run();
    assert_eq!(first, run(), "the same Cargo.lock gives the same bytes");
    let bom: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bom["metadata"]["component"]["name"], "tollgate");
    assert_eq!(bom["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let components = bom["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    for linked in ["tokio", "hyper", "h2", "rustls", "zstd-sys", "libmimalloc-sys"] {
        assert_eq!(named(linked).unwrap()["scope"], "required", "{linked}");
    }
    assert_eq!(named("serde_derive").unwrap()["scope"], "excluded");
    for of_tests in ["proptest", "turmoil", "rcgen", "tempfile"] {
        assert_eq!(named(of_tests), None);
    }
    for component in components {
        let checksum = component["hashes"][0]["content"].as_str().unwrap();
        assert!(checksum.len() == 64 && component["licenses"][0]["expression"].is_string(), "{component}");
        assert!(component["purl"].as_str().unwrap().starts_with("pkg:cargo/"));
    }
    let known: BTreeSet<_> =
        components.iter().map(|component| &component["bom-ref"]).map(Value::as_str).collect();
    assert_eq!(known.len(), components.len());
    let dependencies = bom["dependencies"].as_array().unwrap();
    assert_eq!(dependencies.len(), components.len() + 1);
    for needed in dependencies.iter().flat_map(|of| of["dependsOn"].as_array().unwrap()) {
        assert!(known.contains(&needed.as_str()), "{needed}");
    }
}

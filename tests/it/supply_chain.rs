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
fn everything_locked_comes_from_the_one_registry_with_a_checksum() {
    let deny = read("deny.toml");
    assert!(deny.contains("unknown-registry = \"deny\"") && deny.contains("unknown-git = \"deny\""));
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        for package in read(path).split("[[package]]").skip(1) {
            let name = quoted(package, "name =").unwrap();
            match quoted(package, "source =") {
                // Ours.
                None => assert!(name.starts_with("tollgate"), "{path}: {name} comes from nowhere"),
                Some(source) => {
                    assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
                    assert_eq!(quoted(package, "checksum =").map(str::len), Some(64), "{path}: {name}");
                }
            }
        }
    }
}

/// Whether an SPDX expression can be met by what is allowed: `OR` binds weaker than `AND`, and there are brackets.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    /// Cuts where `word` stands outside of brackets.
    fn cut<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
        let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
        for (at, c) in text.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 && text[at..].starts_with(word) => {
                    parts.push(&text[from..at]);
                    from = at + word.len();
                }
                _ => {}
            }
        }
        parts.push(&text[from..]);
        parts
    }
    let expression = expression.trim();
    let (any, all) = (cut(expression, " OR "), cut(expression, " AND "));
    match (any.len(), all.len()) {
        (1, 1) => match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
            Some(inner) => is_met(inner, allowed),
            None => allowed.contains(&expression),
        },
        (1, _) => all.iter().all(|part| is_met(part, allowed)),
        _ => any.iter().any(|part| is_met(part, allowed)),
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let deny = read("deny.toml");
    let section = deny.split("[licenses]").nth(1).unwrap().split(']').next().unwrap();
    let allowed: Vec<&str> = section.split('"').skip(1).step_by(2).collect();
    assert!(is_met("MIT OR (GPL-3.0 AND ISC)", &allowed) && is_met("(MIT OR GPL-3.0) AND ISC", &allowed));
    assert!(!is_met("MIT AND GPL-3.0", &allowed) && !is_met("GPL-3.0 OR (MIT AND AGPL-3.0)", &allowed));
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("sbom")).output().unwrap();
    let bom: Value = serde_json::from_slice(&output.stdout).unwrap();
    for component in bom["components"].as_array().unwrap() {
        let licence = component["licenses"][0]["expression"].as_str().unwrap();
        assert!(is_met(licence, &allowed), "{}: {licence}", component["name"]);
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

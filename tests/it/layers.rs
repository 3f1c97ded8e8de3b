//! The shape of the sources: a module imports only from groups above its own (the layers of `src/lib.rs`), and no
//! file is too long to be read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Each top-level module with the number of its layer, read from `lib.rs`.
fn layers() -> HashMap<String, usize> {
    let text = std::fs::read_to_string(source().join("lib.rs")).unwrap();
    let (mut layer, mut layers) = (0, HashMap::new());
    for line in text.lines() {
        if line.starts_with("// layer:") {
            layer += 1;
        } else if let Some(module) = line.strip_prefix("pub mod ") {
            layers.insert(module.trim_end_matches(';').to_owned(), layer);
        }
    }
    layers
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files.extend(rust_files(&entry)),
            false => files.extend(entry.extension().is_some_and(|e| e == "rs").then_some(entry)),
        }
    }
    files
}

/// The top-level modules a source text names by `crate::`, and where.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        for part in code.split("crate::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push((number + 1, name));
        }
    }
    found
}

#[test]
fn a_module_imports_only_from_layers_above_its_own() {
    let layers = layers();
    assert!(layers.len() > 15, "lib.rs lists its modules: {layers:?}");
    let mut wrong = Vec::new();
    for file in rust_files(&source()) {
        let relative = file.strip_prefix(source()).unwrap().to_path_buf();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = layers.get(module) else { continue };
        for (line, imported) in imports(&std::fs::read_to_string(&file).unwrap()) {
            let Some(other) = layers.get(&imported) else {
                wrong.push(format!("{}:{line}: crate::{imported} is no module", relative.display()));
                continue;
            };
            if imported != module && other >= own {
                wrong.push(format!("{}:{line}: {module} imports {imported}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_import_from_below_is_found() {
    let text = "use crate::queue::Queue; // crate::cli\nlet x = crate::units::f(crate::cli::g());";
    let found: Vec<_> = imports(text).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(found, ["1 queue", "2 units", "2 cli"]);
}

/// Lines of a source file without the tests at its end.
fn lines(text: &str) -> usize {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().count()
}

#[test]
fn no_source_file_has_more_than_500_lines_before_its_tests() {
    let is_test = |file: &PathBuf| file.ends_with("tests.rs") || file.iter().any(|part| part == "tests");
    let files = rust_files(&source()).into_iter().filter(|file| !is_test(file));
    let count = |file: &PathBuf| lines(&std::fs::read_to_string(file).unwrap());
    let long: Vec<_> = files.map(|file| (count(&file), file)).filter(|(lines, _)| *lines > 500).collect();
    assert!(long.is_empty(), "split by meaning: {long:#?}");
    assert_eq!(lines("//! a\nfn b() {}\n#[cfg(test)]\nmod tests {\n}\n"), 2);
}

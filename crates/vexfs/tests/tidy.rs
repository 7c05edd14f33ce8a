//! Keeps the house in order: which crate and module may know which, how long a file may be, which names and words
//! stand nowhere. docs/ARCHITECTURE.md has the reasons.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A crate, and the crates of ours that it may name.
const CRATES: &[(&str, &[&str])] = &[
    ("vector", &[]),
    ("core", &["vexfs-vector"]),
    ("mount", &["vexfs-core"]),
    ("server", &["vexfs-core"]),
    (
        "vexfs",
        &["vexfs-vector", "vexfs-core", "vexfs-mount", "vexfs-server"],
    ),
];

/// Modules of the engine by rank: a module may use those of lower ranks. Modules of one rank never meet, but for the
/// first rank, the words of all.
const RANKS: &[&[&str]] = &[
    &["ids", "error", "label", "change", "metrics", "pool"],
    &["store"],
    &["fs", "relation", "semantic"],
    &["txn"],
    &["query", "recovery"],
    &["knowledge"],
    &["control"],
    &["engine"],
];

/// Words that a lower module shares with one above it or beside it: who uses them, and what they are.
const SHARED_WORDS: &[(&str, &str)] = &[
    // What the filesystem tells the index: places to look at again.
    ("semantic", "fs::change"),
];

/// Lines of a file, its unit tests not counted.
const LINES_MAX: usize = 700;
/// Longer all the same: one method for each operation of FUSE, and a model of all of them.
const LONG_FILES: [&str; 2] = ["crates/mount/src/adapter.rs", "crates/core/tests/fs_model.rs"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "misc", "types", "manager",
];

/// What code that is finished does not contain.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace")
}

/// All files below `dir` with one of the endings, but for build products.
fn files(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    left.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fails with all complaints at once.
fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn crates_know_only_those_below_them() {
    let mut complaints = Vec::new();
    for entry in fs::read_dir(root().join("crates")).expect("crates") {
        let dir = entry.expect("readable").path();
        let name = dir.file_name().expect("named").to_string_lossy().into_owned();
        let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!("crates/{name} has no place in the order of crates"));
            continue;
        };
        let manifest = read(&dir.join("Cargo.toml"));
        let dependencies = manifest.split("[dev-dependencies]").next().expect("one part");
        for line in dependencies.lines().filter(|line| line.starts_with("vexfs-")) {
            let other = line.split(['.', ' ', '=']).next().expect("one word");
            if !allowed.contains(&other) {
                complaints.push(format!("crates/{name} must not depend on {other}"));
            }
        }
    }
    assert_none(complaints);
}

#[test]
fn modules_of_the_engine_know_only_those_below_them() {
    let source = root().join("crates/core/src");
    let rank_of: BTreeMap<&str, usize> = RANKS
        .iter()
        .enumerate()
        .flat_map(|(rank, names)| names.iter().map(move |n| (*n, rank)))
        .collect();
    let mut complaints = Vec::new();
    for path in files(&source, &[".rs"]) {
        let below = path.strip_prefix(&source).expect("below");
        let first = below
            .components()
            .next()
            .expect("named")
            .as_os_str()
            .to_string_lossy();
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(&rank) = rank_of.get(module) else {
            complaints.push(format!(
                "{}: the module has no place in the order",
                below.display()
            ));
            continue;
        };
        let mut text = read(&path);
        for (_, words) in SHARED_WORDS.iter().filter(|(user, _)| *user == module) {
            text = text.replace(&format!("crate::{words}"), "");
        }
        for other in used_modules(&text) {
            let Some(&others) = rank_of.get(other.as_str()) else {
                continue;
            };
            if other != module && (others > rank || (others == rank && rank > 0)) {
                complaints.push(format!("{}: {module} must not know {other}", below.display()));
            }
        }
    }
    assert_none(complaints);
}

/// Names that follow `crate::` outside comments, also in braces.
fn used_modules(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    for after in code.join("\n").split("crate::").skip(1) {
        let group = match after.strip_prefix('{') {
            Some(list) => list.split(';').next().expect("one part"),
            None => after
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .expect("one part"),
        };
        found.extend(
            group
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn the_word_list_of_modules_is_read_from_both_forms() {
    let text =
        "use crate::ids::Ino;\nuse crate::{Error, store::dir};\n// crate::engine\nlet x = crate::fs::y();";
    let found = used_modules(text);
    for word in ["ids", "Error", "store", "fs"] {
        assert!(found.iter().any(|f| f == word), "{word} in {found:?}");
    }
    assert!(!found.iter().any(|f| f == "engine"));
}

#[test]
fn files_are_short_and_named_for_what_they_are() {
    let mut complaints = Vec::new();
    for path in files(&root().join("crates"), &[".rs"]) {
        let stem = path.file_stem().expect("named").to_string_lossy().into_owned();
        if EMPTY_NAMES.contains(&stem.as_str()) || stem.ends_with("_v2") || stem.ends_with("_manager") {
            complaints.push(format!("{}: the name says nothing", path.display()));
        }
        let lines = read(&path)
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count();
        if lines > LINES_MAX && !LONG_FILES.iter().any(|long| path.ends_with(long)) {
            complaints.push(format!("{}: {lines} lines, at most {LINES_MAX}", path.display()));
        }
    }
    assert_none(complaints);
}

#[test]
fn nothing_is_left_unfinished() {
    let this_file = Path::new(file!()).file_name().expect("named");
    let mut complaints = Vec::new();
    for path in files(&root().join("crates"), &[".rs"]) {
        if path.file_name() == Some(this_file) {
            continue;
        }
        let text = read(&path);
        for word in UNFINISHED.iter().filter(|word| text.contains(**word)) {
            complaints.push(format!("{}: {word}", path.display()));
        }
        if !text.starts_with("//!") && !path.ends_with("tests.rs") {
            complaints.push(format!("{}: does not say what it is", path.display()));
        }
    }
    assert_none(complaints);
}

#[test]
fn every_dependency_has_its_version_in_the_workspace() {
    let mut complaints = Vec::new();
    for manifest in files(&root().join("crates"), &["Cargo.toml"]) {
        let text = read(&manifest);
        let tables = text.split("\n[").filter(|table| table.contains("dependencies]"));
        for line in tables
            .flat_map(|table| table.lines().skip(1))
            .filter(|line| line.contains('='))
        {
            if !line.contains("workspace = true") {
                complaints.push(format!("{}: {line}", manifest.display()));
            }
        }
    }
    assert_none(complaints);
}

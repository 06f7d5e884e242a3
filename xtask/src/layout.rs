//! Holds the table of crates in ARCHITECTURE.md: it is the first thing that newcomers read, and nothing else would notice that it aged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What every crate in `crates/` is built from, of this repository; not what its tests need.
fn dependencies(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let crates = root.join("crates");
    let folder_in_crates = |path: &str| {
        let folder = Path::new(path).strip_prefix(&crates).ok()?;
        Some(folder.components().next()?.as_os_str().to_str()?.to_owned())
    };
    let mut all = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let Some(name) = folder_in_crates(package["manifest_path"].as_str().unwrap()) else { continue };
        let needed = package["dependencies"].as_array().unwrap().iter();
        let needed = needed.filter(|needed| needed["kind"].is_null());
        let needed = needed.filter_map(|needed| folder_in_crates(needed["path"].as_str()?));
        all.insert(name, needed.collect());
    }
    all
}

/// The same as the table has it.
fn described(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut all = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| `crates/")) {
        let columns: Vec<&str> = row.split('|').collect();
        let [name, _what, needed, ..] = columns[..] else { panic!("{row}: no columns") };
        let needed = needed.trim().split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect();
        all.insert(name.trim().trim_end_matches('`').to_owned(), needed);
    }
    all
}

#[test]
fn the_table_of_crates_says_what_each_is_built_from() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert_eq!(described(root), dependencies(root));
}

//! Generates the Rust types of the schema in proto/ into crates/events/src/generated.
//!
//! They are committed so that building needs neither protoc nor this. `cargo fmt` does not reach them, because they are
//! included and not modules: what is committed is what prost-build writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use protox::Compiler;

/// Where the generated types are committed.
const GENERATED: &str = "crates/events/src/generated";

/// Left out of JSON when not set: the public JSON form does not have these fields.
const OURS: &[&str] = &["MessageEvent.decode_error", "MessageEvent.captured", "log.detail"];

/// Writes the generated types, and removes those that are no more.
pub(crate) fn regenerate(root: &Path) -> Result<()> {
    let committed = root.join(GENERATED);
    let generated = generate(root)?;
    for name in read_files(&committed)?.into_keys().filter(|name| !generated.contains_key(name)) {
        let path = committed.join(name);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    for (name, text) in generated {
        let path = committed.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Fails when what is committed is not what proto/ generates.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (generated, committed) = (generate(root)?, read_files(&root.join(GENERATED))?);
    for name in generated.keys().chain(committed.keys()) {
        if generated.get(name) != committed.get(name) {
            bail!("{GENERATED}/{name} is not what proto/ generates: run `cargo xtask regenerate proto`");
        }
    }
    Ok(())
}

/// The schema, compiled, with its comments.
pub(crate) fn compile(root: &Path) -> Result<Compiler> {
    let schema = root.join("proto");
    let mut files = Vec::new();
    collect(&schema, &mut files)?;
    files.sort();
    let mut compiler = Compiler::new([&schema]).context("opening proto/")?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files).context("compiling proto/")?;
    Ok(compiler)
}

/// File names and texts of the Rust types.
fn generate(root: &Path) -> Result<BTreeMap<String, String>> {
    let out = tempfile::tempdir().context("making a directory for generated code")?;
    let mut config = prost_build::Config::new();
    config
        .out_dir(out.path())
        .include_file("mod.rs")
        .bytes(["."])
        .btree_map(["."])
        .type_attribute(".", "#[derive(serde::Serialize)]");
    for field in OURS {
        config.field_attribute(field, "#[serde(skip_serializing_if = \"Option::is_none\")]");
    }
    config.compile_fds(compile(root)?.file_descriptor_set()).context("generating Rust")?;
    read_files(out.path())
}

fn read_files(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let text = std::fs::read_to_string(entry.path())
            .with_context(|| format!("reading {}", entry.path().display()))?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), text);
    }
    Ok(files)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn committed_types_are_what_the_schema_generates() -> anyhow::Result<()> {
        super::check(&crate::root()?)
    }
}

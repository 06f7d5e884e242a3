//! Generates the Rust types of the schema in proto/ into crates/events/src/generated.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the generated types are committed.
pub(crate) const GENERATED: &str = "crates/events/src/generated";

/// Writes the generated types; with `check`, fails when what is committed differs.
pub(crate) fn regenerate(root: &Path, check: bool) -> Result<()> {
    let schema = root.join("proto");
    let mut files = Vec::new();
    collect(&schema, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [&schema]).context("compiling proto/")?;

    let committed = root.join(GENERATED);
    let out = if check { root.join("target/generated-check") } else { committed.clone() };
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("clearing {}", out.display()))?;
    }
    std::fs::create_dir_all(&out)?;

    let mut config = prost_build::Config::new();
    config
        .out_dir(&out)
        .include_file("mod.rs")
        .bytes(["."])
        .btree_map(["."])
        .type_attribute(".", "#[derive(serde::Serialize)]")
        // Absent from the public JSON, so left out when not set.
        .field_attribute("decode_error", "#[serde(skip_serializing_if = \"Option::is_none\")]")
        .field_attribute("captured", "#[serde(skip_serializing_if = \"Option::is_none\")]");
    config.compile_fds(descriptors).context("generating Rust")?;

    if check {
        for entry in std::fs::read_dir(&out)? {
            let new = entry?.path();
            let old = committed.join(new.file_name().context("file name")?);
            if std::fs::read(&new)? != std::fs::read(&old).unwrap_or_default() {
                bail!("{} is not what proto/ generates: run `cargo xtask regenerate proto`", old.display());
            }
        }
    }
    Ok(())
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

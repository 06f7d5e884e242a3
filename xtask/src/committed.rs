//! Files that are generated and committed: written, or compared.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Files by their path in the repository, and the command that writes them.
pub(crate) struct Files {
    pub(crate) command: &'static str,
    /// Folder whose files of that ending are all generated.
    pub(crate) owned: Option<(&'static str, &'static str)>,
    pub(crate) files: BTreeMap<String, String>,
}

/// Writes the files and removes those that are no more; with `check`, fails instead when that would change something.
pub(crate) fn apply(root: &Path, generated: Files, check: bool) -> Result<()> {
    let Files { command, owned, files } = generated;
    for (path, text) in &files {
        let full = root.join(path);
        if std::fs::read_to_string(&full).is_ok_and(|committed| committed == *text) {
            continue;
        }
        if check {
            bail!("{path} is not what its source generates: run `cargo xtask regenerate {command}`");
        }
        if let Some(folder) = full.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        std::fs::write(&full, text).with_context(|| format!("writing {path}"))?;
    }
    let Some((folder, ending)) = owned else { return Ok(()) };
    for entry in std::fs::read_dir(root.join(folder)).with_context(|| format!("reading {folder}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        if !name.ends_with(ending) || files.contains_key(&path) {
            continue;
        }
        if check {
            bail!("{path} has no source: run `cargo xtask regenerate {command}`");
        }
        std::fs::remove_file(root.join(&path)).with_context(|| format!("removing {path}"))?;
    }
    Ok(())
}

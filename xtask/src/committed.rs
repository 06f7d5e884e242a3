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

impl Files {
    /// Writes them, and removes those that are no more.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        for (path, text) in self.stale(root) {
            let full = root.join(path);
            if let Some(folder) = full.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            }
            std::fs::write(&full, text).with_context(|| format!("writing {path}"))?;
        }
        for path in self.orphans(root)? {
            std::fs::remove_file(root.join(&path)).with_context(|| format!("removing {path}"))?;
        }
        Ok(())
    }

    /// Fails when [`Files::write`] would change something.
    pub(crate) fn check(&self, root: &Path) -> Result<()> {
        let command = self.command;
        if let Some((path, _)) = self.stale(root).next() {
            bail!("{path} is not what its source generates: run `cargo xtask regenerate {command}`");
        }
        if let Some(path) = self.orphans(root)?.first() {
            bail!("{path} has no source: run `cargo xtask regenerate {command}`");
        }
        Ok(())
    }

    /// Those that are not committed as they are generated.
    fn stale<'a>(&'a self, root: &'a Path) -> impl Iterator<Item = (&'a str, &'a str)> {
        let is_committed = |path: &str, text: &str| {
            std::fs::read_to_string(root.join(path)).is_ok_and(|committed| committed == text)
        };
        let files = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        files.filter(move |(path, text)| !is_committed(path, text))
    }

    /// Files where only generated ones belong, that are none of these.
    fn orphans(&self, root: &Path) -> Result<Vec<String>> {
        let Some((folder, ending)) = self.owned else { return Ok(Vec::new()) };
        let mut orphans = Vec::new();
        for entry in std::fs::read_dir(root.join(folder)).with_context(|| format!("reading {folder}"))? {
            let path = format!("{folder}/{}", entry?.file_name().to_string_lossy());
            if path.ends_with(ending) && !self.files.contains_key(&path) {
                orphans.push(path);
            }
        }
        Ok(orphans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_lacks_or_has_no_source_is_refused_until_it_is_written() {
        let root = tempfile::tempdir().unwrap();
        let files = |text: &str| Files {
            command: "things",
            owned: Some(("things", ".txt")),
            files: BTreeMap::from([("things/a.txt".to_owned(), text.to_owned())]),
        };
        std::fs::create_dir(root.path().join("things")).unwrap();
        std::fs::write(root.path().join("things/README.md"), "not generated").unwrap();
        assert!(files("1").check(root.path()).is_err(), "it is not there");
        files("1").write(root.path()).unwrap();
        files("1").check(root.path()).unwrap();
        assert!(files("2").check(root.path()).is_err(), "it is another one");
        std::fs::write(root.path().join("things/b.txt"), "").unwrap();
        let error = files("1").check(root.path()).unwrap_err().to_string();
        assert!(error.contains("things/b.txt") && error.contains("regenerate things"), "{error}");
        files("1").write(root.path()).unwrap();
        files("1").check(root.path()).unwrap();
        assert!(root.path().join("things/README.md").exists());
    }
}

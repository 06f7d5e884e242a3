//! Opens regular files that a user named, and refuses anything else: opening a named pipe blocks until somebody writes to it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file for reading; symbolic links are followed. Never waits.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_refuses_what_is_no_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, file, link) =
            (folder.path().join("fifo"), folder.path().join("file"), folder.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for refused in [&fifo, folder.path(), Path::new("/dev/null")] {
            let error = open(refused).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{}", refused.display());
        }
        assert!(open(&file).is_ok() && open(&link).is_ok());
    }
}

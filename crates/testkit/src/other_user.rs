//! Another user of this machine, who takes all the connections that a server gives, or changes files while they are opened.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::LONG;
use crate::process::{Error, Process};

/// The user `nobody`, on every Linux.
const NOBODY: u32 = 65_534;

/// Opens that many connections, sends `$3` on each, and then opens them anew, one by one, for ever.
const SCRIPT: &str = r#"
trap '' PIPE
fds=()
while true; do
    for ((i = 0; i < $2; i++)); do
        [[ -n ${fds[i]} ]] && exec {fds[i]}>&-
        { exec {fd}<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || continue
        fds[i]=$fd
        printf '%s' "$3" >&"$fd" 2>/dev/null
    done
    [[ -z $held ]] && echo holding && held=yes
done
"#;

/// Holds connections to a server on 127.0.0.1 as user `nobody`, which only root can become, until
/// what is returned is dropped. The server may close them: then they are opened again. It has had
/// as many when this returns.
pub fn hold_connections(server: SocketAddr, connections: usize, request: &str) -> Result<Process, Error> {
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, "bash", &server.port().to_string(), &connections.to_string(), request]);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut process = Process::spawn(command)?;
    process.wait_for_line(|line| line == "holding", LONG)?;
    Ok(process)
}

/// Exchanges two paths as this user, which only root can become, atomically and without a pause, until what is returned is
/// dropped. They have been exchanged at least once when this returns.
pub fn exchange(user: u32, one: &Path, other: &Path) -> Result<Process, Error> {
    let folder = install().map_err(|source| Error::Start { program: "exchange".into(), source })?;
    let mut command = Command::new(folder.path().join("exchange"));
    command.args([one, other]).uid(user).gid(user).current_dir("/");
    let mut process = Process::spawn(command)?.keep(folder);
    process.wait_for_line(|line| line == "exchanging", LONG)?;
    Ok(process)
}

/// Writes the program `exchange` where any user may run it.
fn install() -> io::Result<TempDir> {
    let folder = TempDir::with_prefix("exchange-")?;
    let program = folder.path().join("exchange");
    std::fs::write(&program, include_bytes!(concat!(env!("OUT_DIR"), "/exchange")))?;
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
    }
    Ok(folder)
}

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use peer_observer_testkit::{need, require};

use super::*;

/// A process that waits, with these arguments. It ends with its standard input.
fn waiting(arguments: &[&str]) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "read line", "sh"]).args(arguments).stdin(Stdio::piped());
    command.spawn().unwrap()
}

/// Looks until the process has its command line.
fn look(pid: u32) -> NodeProcess {
    loop {
        match process(pid) {
            Some(node) if node.exe != std::env::current_exe().unwrap() => return node,
            _ => std::thread::yield_now(),
        }
    }
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn starting_process_is_no_node_yet() {
    for _ in 0..100 {
        let child = waiting(&["-regtest", "-datadir=/nowhere"]);
        let node = loop {
            if let Some(node) = process(child.id()) {
                break node;
            }
        };
        end(child);
        assert_eq!((node.datadir.to_str(), node.network), (Some("/nowhere"), Network::Regtest));
    }
}

#[test]
fn replaced_program_keeps_its_name() {
    assert!(has_node_name(Path::new("/usr/bin/bitcoind (deleted)")));
    assert!(!has_node_name(Path::new("/usr/bin/bitcoin-cli")));
}

#[test]
fn datadir_belongs_to_the_user_who_owns_it() {
    let folder = tempfile::tempdir().unwrap();
    let child = waiting(&[&format!("-datadir={}", folder.path().display())]);
    let node = look(child.id());
    assert_eq!((node.datadir_id, node.has_no_datadir), (FileId::of(folder.path()), false));
    assert_eq!(node.owner, fs::metadata("/proc/self").unwrap().uid());
    end(child);
    let child = waiting(&["-datadir=/nowhere"]);
    let node = look(child.id());
    assert_eq!((node.datadir_id, node.has_no_datadir), (None, true));
    end(child);
}

#[test]
fn run_is_the_start_of_the_process_since_the_epoch() {
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let child = waiting(&[]);
    let run = look(child.id()).run_ns / 1_000_000_000;
    end(child);
    // The time of the boot is known in seconds only.
    assert!(run.abs_diff(before.as_secs()) <= 60, "{run} {before:?}");
}

#[test]
fn each_conf_file_is_read_once_within_one_bound() {
    let folder = tempfile::tempdir().unwrap();
    let conf = "includeconf=b.conf\n".repeat(16) + "debug=a\n";
    fs::write(folder.path().join("bitcoin.conf"), conf).unwrap();
    fs::write(folder.path().join("b.conf"), "debug=b\n").unwrap();
    let datadir = format!("-datadir={}", folder.path().display());
    let child = waiting(&[&datadir]);
    let node = look(child.id());
    assert_eq!(node.settings.all("debug", node.network), ["a", "b"]);
    assert_eq!(node.settings.excess(), None);

    // Each is within the bound, both together are not.
    let filler = "=\n".repeat(MAX_CONF as usize * 3 / 8);
    fs::write(folder.path().join("bitcoin.conf"), format!("includeconf=b.conf\n{filler}")).unwrap();
    fs::write(folder.path().join("b.conf"), filler).unwrap();
    let excess = look(child.id()).settings.excess().unwrap();
    assert!(excess.to_string().contains("bitcoin.conf"), "{excess}");
    end(child);
}

#[test]
fn command_lines_and_paths_are_bounded() {
    let long = "x".repeat(MAX_PATH + 1);
    let child = waiting(&[&format!("-datadir=/{long}")]);
    let node = look(child.id());
    assert_eq!(node.settings.excess(), Some(Excess::Value("datadir")));
    assert!(node.datadir.as_os_str().len() <= MAX_PATH);
    end(child);
    let longest = "x".repeat(100_000);
    let child = waiting(&["-regtest", &longest, &longest, &longest]);
    let node = look(child.id());
    assert_eq!(node.settings.excess(), Some(Excess::Length("command line", MAX_ARGUMENTS)));
    end(child);
    // A relative path grows by the folder that it is relative to.
    let folder = tempfile::tempdir().unwrap();
    let datadir = format!("-datadir={}", &long[..MAX_PATH - 1]);
    let mut command = Command::new("sh");
    command.args(["-c", "read line", "sh", &datadir]).stdin(Stdio::piped()).current_dir(folder.path());
    let child = command.spawn().unwrap();
    let node = look(child.id());
    assert_eq!(node.settings.excess(), Some(Excess::Value("datadir")));
    end(child);
}

/// A copy of `program` with the set-user-ID bit, that the user `uid` can execute.
fn set_user_id(folder: &Path, program: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("with-rights-of-root");
    fs::copy(program, &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    path
}

const STRANGER: u32 = 54_321;

#[test]
fn process_with_mixed_user_ids_has_no_user() {
    require!(need::root());
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    open_to_all(folder.path());
    let sleep = set_user_id(folder.path(), "/bin/sleep");
    let mut child = Command::new(&sleep).arg("1000").uid(STRANGER).gid(STRANGER).spawn().unwrap();
    let node = loop {
        match process(child.id()) {
            Some(node) if node.exe == sleep => break node,
            _ => std::thread::yield_now(),
        }
    };
    assert_eq!((node.user, node.owner), (None, STRANGER));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A stranger's process that executes a program with the rights of root as soon as it is told to, at any step of the look.
#[test]
fn exec_at_any_step_of_the_look_is_never_root() {
    require!(need::root());
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    open_to_all(folder.path());
    // A program that changes all of its ids to those of its owner, as su and sudo do.
    let sleep = set_user_id(folder.path(), "/bin/sleep");
    let mut looked = 0;
    for at in 0.. {
        let mut child = Command::new("sh")
            .args(["-c", "read line; exec \"$0\" 1000", sleep.to_str().unwrap(), "-regtest"])
            .stdin(Stdio::piped())
            .uid(STRANGER)
            .gid(STRANGER)
            .spawn()
            .unwrap();
        let process = Arc::new(ProcessDir::open(child.id()).unwrap());
        // The shell, before it is told to become another program.
        let is_shell = |node: &NodeProcess| node.settings.network() == Some(Network::Regtest);
        while !NodeProcess::read(process.clone()).is_ok_and(|node| is_shell(&node)) {
            std::thread::yield_now();
        }
        let mut was_executed = false;
        let node = NodeProcess::read_with(process.clone(), |step| {
            if step == at {
                drop(child.stdin.take());
                while !process.link("exe").is_ok_and(|exe| exe == sleep) {
                    std::thread::yield_now();
                }
                was_executed = true;
            }
        });
        let is_over = !was_executed;
        match node {
            // It was the shell all the time.
            Ok(node) if is_over => assert_eq!(node.user.map(|user| user.uid()), Some(STRANGER)),
            // After everything was read, or before anything was.
            Ok(node) => panic!("step {at}: {node:?}"),
            Err(_) => looked += 1,
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if is_over {
            break;
        }
    }
    assert_eq!(looked, 8);
}

#[test]
fn exec_in_a_loop_is_never_root() {
    require!(need::root());
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    open_to_all(folder.path());
    let sleep = set_user_id(folder.path(), "/bin/sleep");
    let mut seen = 0;
    // A hundred processes that become a program of root while they are looked at all the time.
    for _ in 0..100 {
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" 1000", sleep.to_str().unwrap(), "-regtest"])
            .uid(STRANGER)
            .gid(STRANGER)
            .spawn()
            .unwrap();
        let is_executed = |node: &NodeProcess| node.exe == sleep;
        loop {
            let Some(node) = process(child.id()) else { continue };
            if node.owner == STRANGER {
                seen += 1;
                assert!(node.user.as_ref().is_none_or(|user| user.uid() == STRANGER), "{node:?}");
            }
            if is_executed(&node) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(seen >= 100);
}

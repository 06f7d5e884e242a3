use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use peer_observer_testkit::standin::install_set_id_program;
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

const STRANGER: u32 = 54_321;

/// A folder that everybody may enter, with a program that becomes root and waits, whoever starts it.
fn set_id_program() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("becomes-root");
    install_set_id_program(&program).unwrap();
    (folder, program)
}

/// Starts the shell as a stranger, which executes `program` when its input ends.
fn stranger(program: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "read line; exec \"$0\" -regtest", program.to_str().unwrap(), "-regtest"])
        .stdin(Stdio::piped())
        .uid(STRANGER)
        .gid(STRANGER)
        .spawn()
        .unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// All four of its user ids are root's.
fn is_root(process: &ProcessDir) -> bool {
    let identity = process.identity().ok();
    identity.is_some_and(|identity| identity.credentials.user(true).is_some_and(|user| user.uid() == 0))
}

#[test]
fn program_with_rights_of_its_owner_has_no_user() {
    require!(need::root());
    let (_folder, program) = set_id_program();
    let mut child = stranger(&program);
    drop(child.stdin.take());
    let process = Arc::new(ProcessDir::open(child.id()).unwrap());
    while !is_root(&process) {
        std::thread::yield_now();
    }
    let node = NodeProcess::read(process).unwrap();
    // Its ids are all root's, and its arguments a stranger's.
    assert_eq!((node.owner, node.settings.network()), (0, Some(Network::Regtest)));
    assert_eq!(node.user, None);
    kill(child);
}

/// A stranger's process that becomes a program of root as soon as it is told to, at any step of the look.
#[test]
fn exec_at_any_step_of_the_look_is_never_root() {
    require!(need::root());
    let (_folder, program) = set_id_program();
    let mut looked = 0;
    for at in 0.. {
        let mut child = stranger(&program);
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
                while !is_root(&process) {
                    std::thread::yield_now();
                }
                was_executed = true;
            }
        });
        match node {
            // It was the shell all the time.
            Ok(node) if !was_executed => {
                assert_eq!(node.user.map(|user| user.uid()), Some(STRANGER));
                kill(child);
                break;
            }
            Ok(node) => panic!("step {at}: {node:?}"),
            Err(_) => looked += 1,
        }
        kill(child);
    }
    assert_eq!(looked, 8);
}

#[test]
fn exec_in_a_loop_is_never_root() {
    require!(need::root());
    let (_folder, program) = set_id_program();
    let mut seen = 0;
    // A hundred processes that become a program of root while they are looked at all the time.
    for _ in 0..100 {
        let mut child = stranger(&program);
        drop(child.stdin.take());
        loop {
            let Some(node) = process(child.id()) else { continue };
            // Before its first exec it is this test.
            if node.settings.network() != Some(Network::Regtest) {
                continue;
            }
            seen += 1;
            assert!(node.user.as_ref().is_none_or(|user| user.uid() == STRANGER), "{node:?}");
            if node.exe == program {
                break;
            }
        }
        kill(child);
    }
    assert!(seen >= 100);
}

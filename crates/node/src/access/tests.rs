use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use peer_observer_testkit::{need, require};
use rustix::fs::RenameFlags;

use super::*;

const STRANGER: u32 = 12_345;

fn stranger() -> User {
    User::new(STRANGER, vec![STRANGER])
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

fn read(mut file: File) -> String {
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).unwrap();
    text
}

#[test]
fn access_opens_only_what_the_user_may_read() {
    let folder = tempfile::tempdir().unwrap();
    let owner = fs::metadata(folder.path()).unwrap();
    // Root may do anything; as somebody else, group and others count.
    let user = match owner.uid() {
        0 => User::new(STRANGER, vec![owner.gid()]),
        uid => User::new(uid, vec![owner.gid()]),
    };
    let (inner, file) = (folder.path().join("inner"), folder.path().join("inner/file"));
    fs::create_dir(&inner).unwrap();
    fs::write(&file, "x").unwrap();
    symlink("inner/file", folder.path().join("relative")).unwrap();
    symlink("/inner/file", folder.path().join("absolute")).unwrap();
    symlink("/loop", folder.path().join("loop")).unwrap();
    set(folder.path(), 0o755);
    let access = Access::new(user.clone(), folder.path().into());
    for (folder_mode, file_mode, expected) in [
        (0o755, 0o644, true),
        (0o700, 0o600, false),
        (0o750, 0o640, true),
        (0o755, 0o000, false),
        (0o000, 0o644, false),
    ] {
        set(&file, file_mode);
        set(&inner, folder_mode);
        // Of an own file the owner's bits count.
        let expected = expected || (user.uid() != STRANGER && folder_mode == 0o700);
        for name in ["/inner/file", "relative", "/absolute", "/inner/../inner/file", "/../inner/file"] {
            let opened = access.open(Path::new(name));
            let denied = opened.as_ref().is_err_and(is_denied_to_node);
            assert_eq!(
                (opened.is_ok(), denied),
                (expected, !expected),
                "{name} {folder_mode:o} {file_mode:o}"
            );
        }
    }
    set(&inner, 0o755);
    for name in
        ["/loop", "/inner", "/missing", "/inner/missing/file", "/../..", "/inner/file/x", "/etc/passwd"]
    {
        assert!(access.open(Path::new(name)).is_err(), "{name}");
    }
    let long = format!("/{}inner/file", "./".repeat(MAX_PATH));
    assert!(access.open(Path::new(&long)).is_err());
}

#[test]
fn files_of_proc_and_sys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("debug.log");
    let root = Access::new(User::new(0, vec![0]), "/".into());
    for target in
        ["/proc/self/maps", "/proc/1/environ", "/sys/kernel/uevent_seqnum", "/proc/self/root/etc/passwd"]
    {
        let _ = fs::remove_file(&link);
        symlink(target, &link).unwrap();
        for path in [Path::new(target), &link] {
            let error = root.open(path).unwrap_err();
            assert!(error.to_string().contains("no files of nodes"), "{target}: {error}");
        }
    }
}

#[test]
fn fifo_is_refused_without_waiting_for_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from(0o644), 0).unwrap();
    let access = Access::new(User::new(0, vec![0]), folder.path().into());
    assert!(access.open(Path::new("/fifo")).is_err());
    let listed = access.list(Path::new("/"), 10).unwrap();
    assert_eq!(
        listed.iter().map(|entry| (entry.name.to_str(), entry.is_file)).collect::<Vec<_>>(),
        [(Some("fifo"), false)]
    );
}

/// A folder of a stranger with a file that everybody may read, and a closed folder with files of root.
struct Swap {
    folder: tempfile::TempDir,
}

impl Swap {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        set(folder.path(), 0o755);
        let path = |name: &str| folder.path().join(name);
        for (closed, mode, text) in [("mine", 0o755, "mine"), ("closed", 0o700, "secret")] {
            fs::create_dir_all(path(closed).join("a/b")).unwrap();
            fs::write(path(closed).join("a/b/debug.log"), text).unwrap();
            set(&path(closed), mode);
        }
        // What the stranger exchanges a component with: a link into the closed folder, at the same depth.
        symlink("../closed", path("mine-link")).unwrap();
        symlink(path("closed"), path("top-link")).unwrap();
        symlink(path("closed/a"), path("a-link")).unwrap();
        symlink(path("closed/a/b"), path("b-link")).unwrap();
        symlink(path("closed/a/b/debug.log"), path("file-link")).unwrap();
        Swap { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn access(&self) -> Access {
        Access::new(stranger(), "/".into())
    }
}

#[test]
fn swapping_a_component_at_any_step_opens_nothing_closed() {
    let swap = Swap::new();
    let log = swap.path("mine/a/b/debug.log");
    let components = [
        ("mine", "top-link"),
        ("mine/a", "a-link"),
        ("mine/a/b", "b-link"),
        ("mine/a/b/debug.log", "file-link"),
    ];
    let steps = log.components().count() - 1;
    let access = swap.access();
    for (component, link) in components {
        for at in 0..=steps {
            let mut step = 0;
            let mut swapped = false;
            let found = access.walk(&log, &mut |_| {
                if step == at {
                    exchange(&swap.path(component), &swap.path(link));
                    swapped = true;
                }
                step += 1;
            });
            if let Ok(found) = found {
                let text = access.open_found(found).map(read);
                assert!(text.as_ref().is_ok_and(|text| text == "mine"), "{component} at {at}: {text:?}");
            }
            if swapped {
                exchange(&swap.path(component), &swap.path(link));
            }
        }
    }
    assert_eq!(read(access.open(&log).unwrap()), "mine");
}

#[test]
fn swapping_components_in_a_loop_opens_nothing_closed() {
    let swap = Swap::new();
    let log = swap.path("mine/a/b/debug.log");
    let access = swap.access();
    let over = AtomicBool::new(false);
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                exchange(&swap.path("mine/a"), &swap.path("a-link"));
            }
        });
        while opened < 200 || refused < 200 {
            match access.open(&log) {
                Ok(file) => {
                    assert_eq!(read(file), "mine");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn absolute_links_of_a_container_stay_in_the_container() {
    let outside = tempfile::tempdir().unwrap();
    let container = outside.path().join("container");
    fs::create_dir_all(container.join("data")).unwrap();
    fs::write(outside.path().join("secret"), "of the host").unwrap();
    let access = Access::new(User::new(0, vec![0]), container.clone());
    let log = container.join("data/debug.log");
    for target in [outside.path().join("secret"), "../../../secret".into(), "/../../secret".into()] {
        symlink(&target, &log).unwrap();
        assert!(access.open(Path::new("/data/debug.log")).is_err(), "{}", target.display());
        fs::remove_file(&log).unwrap();
    }
    symlink("/inside", &log).unwrap();
    fs::write(container.join("inside"), "of the container").unwrap();
    assert_eq!(read(access.open(Path::new("/data/debug.log")).unwrap()), "of the container");
}

#[test]
fn root_of_a_process_ends_with_the_process() {
    require!(need::root());
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let process = Arc::new(ProcessDir::open(child.id()).unwrap());
    let root = Root::of_process(process);
    let access = Access::beneath(User::new(0, vec![0]), root.clone());
    assert!(access.is_elsewhere());
    assert!(access.open(Path::new("/etc/passwd")).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(access.open(Path::new("/etc/passwd")).unwrap_err().kind(), io::ErrorKind::NotFound);
    root.move_to(&Root::folder("/"));
    assert!(access.open(Path::new("/etc/passwd")).is_ok(), "all clones follow");
}

#[test]
fn folder_counts_as_own_only_for_its_owner() {
    let swap = Swap::new();
    let (mine, other) = (swap.path("mine"), swap.path("closed"));
    assert_eq!(swap.access().own_folder(&mine).unwrap(), None);
    set(&mine, 0o777);
    assert_eq!(swap.access().own_folder(&mine).unwrap(), FileId::of(&mine));
    let owner = fs::metadata(&other).unwrap().uid();
    let access = Access::new(User::new(owner, vec![]), "/".into());
    assert_eq!(access.own_folder(&other).unwrap(), FileId::of(&other));
    assert_eq!(access.own_folder(&other.join("a/b/debug.log")).unwrap(), None);
}

#[test]
fn deep_paths_take_few_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::new(User::new(0, vec![0]), folder.path().into());
    let deep = |depth: usize| PathBuf::from(format!("/{}log", "d/".repeat(depth)));
    fs::create_dir_all(folder.path().join("d/".repeat(100))).unwrap();
    for depth in [60, 100] {
        fs::write(folder.path().join(format!("{}log", "d/".repeat(depth))), "x").unwrap();
    }
    assert!(access.open(&deep(60)).is_ok());
    let error = access.open(&deep(100)).unwrap_err();
    assert!(error.to_string().contains("too many folders"), "{error}");
    // Down and up again, through links that multiply.
    symlink("d/../d/../d/../d/..", folder.path().join("l0")).unwrap();
    for i in 1..30 {
        symlink(format!("l{0}/l{0}/l{0}", i - 1), folder.path().join(format!("l{i}"))).unwrap();
    }
    assert!(access.open(Path::new("/l29/log")).is_err());
}

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use peer_observer_testkit::{need, require};

use super::*;

/// Programs that are called `bitcoind` and wait, in a folder of their own.
struct Nodes {
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Nodes {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/sleep", folder.path().join("bitcoind")).unwrap();
        Nodes { folder, children: Vec::new() }
    }

    fn program(&self) -> std::path::PathBuf {
        self.folder.path().join("bitcoind")
    }

    fn start(&mut self, uid: Option<u32>) -> u32 {
        let mut command = Command::new(self.program());
        command.arg("1000").env("HOME", self.folder.path()).current_dir("/");
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        self.children.push(command.spawn().unwrap());
        self.children.last().unwrap().id()
    }

    fn kill(&mut self, pid: u32) {
        let child = self.children.iter_mut().find(|child| child.id() == pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A tracker of these programs and no others, which run at the same time.
    fn tracker(&self) -> Tracker {
        let selection = Selection { programs: vec![self.program()], ..Selection::default() };
        Tracker::new(selection, Arc::default())
    }
}

fn subscription(tracker: &Tracker) -> Subscription {
    Subscription { shared: tracker.shared.clone(), version: 0, reported: HashMap::new() }
}

/// Looks until something is reported.
fn events(tracker: &mut Tracker, subscription: &mut Subscription) -> Vec<NodeEvent> {
    loop {
        tracker.look();
        let events = subscription.poll();
        if !events.is_empty() {
            return events;
        }
    }
}

#[test]
fn subscribers_hear_of_start_and_end_of_a_node() {
    let mut nodes = Nodes::new();
    let mut tracker = nodes.tracker();
    let mut subscription = subscription(&tracker);
    tracker.look();
    assert!(subscription.poll().is_empty());
    let pid = nodes.start(None);
    let appeared = events(&mut tracker, &mut subscription);
    let [NodeEvent::Appeared(node)] = appeared.as_slice() else { panic!("{appeared:?}") };
    assert_eq!((node.pid, node.file), (pid, FileId::of(&nodes.program()).unwrap()));
    tracker.look();
    assert!(subscription.poll().is_empty(), "nothing changed");
    nodes.kill(pid);
    let gone = events(&mut tracker, &mut subscription);
    let [NodeEvent::Gone(node, Ended::Unknown)] = gone.as_slice() else { panic!("{gone:?}") };
    assert_eq!(node.pid, pid);
    assert!(tracker.tracked.is_empty() && subscription.reported.is_empty());
}

#[test]
fn late_subscriber_hears_only_of_what_is_there() {
    let mut nodes = Nodes::new();
    let mut tracker = nodes.tracker();
    let (mut early, mut late) = (subscription(&tracker), subscription(&tracker));
    let first = nodes.start(None);
    events(&mut tracker, &mut early);
    nodes.kill(first);
    events(&mut tracker, &mut early);
    let second = nodes.start(None);
    events(&mut tracker, &mut early);
    let events = late.poll();
    let [NodeEvent::Appeared(node)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(node.pid, second);
}

#[test]
fn unreaped_process_ended_with_its_status() {
    let mut nodes = Nodes::new();
    let mut tracker = nodes.tracker();
    let mut subscription = subscription(&tracker);
    let pid = nodes.start(None);
    events(&mut tracker, &mut subscription);
    // Nobody waits for it, so it stays as a zombie.
    nodes.children[0].kill().unwrap();
    let gone = events(&mut tracker, &mut subscription);
    let [NodeEvent::Gone(node, Ended::Signal(9))] = gone.as_slice() else { panic!("{gone:?}") };
    assert_eq!(node.pid, pid);
}

#[test]
fn wait_status_is_an_exit_or_a_signal() {
    assert_eq!(Ended::from_wait_status(0), Ended::Exit(0));
    assert_eq!(Ended::from_wait_status(1 << 8), Ended::Exit(1));
    assert_eq!(Ended::from_wait_status(9), Ended::Signal(9));
    // With a core dump.
    assert_eq!(Ended::from_wait_status(11 | 0x80), Ended::Signal(11));
    assert_eq!(Ended::Exit(1).to_string(), "exit status 1");
    assert_eq!(Ended::Signal(9).to_string(), "signal 9");
}

struct Source(Mutex<Vec<(&'static str, u32)>>);

impl ExitSource for Source {
    fn expect(&self, pid: u32) {
        locked(&self.0).push(("expect", pid));
    }

    fn ended(&self, pidfd: Option<BorrowedFd<'_>>, pid: u32) -> Option<Ended> {
        assert!(pidfd.is_some());
        locked(&self.0).push(("ended", pid));
        Some(Ended::Exit(3))
    }

    fn forget(&self, pid: u32) {
        locked(&self.0).push(("forget", pid));
    }
}

#[test]
fn exit_sources_are_asked_for_nodes_that_are_gone() {
    let mut nodes = Nodes::new();
    let mut tracker = nodes.tracker();
    let source = Arc::new(Source(Mutex::default()));
    tracker.exits.push(source.clone());
    let mut subscription = subscription(&tracker);
    let pid = nodes.start(None);
    events(&mut tracker, &mut subscription);
    nodes.kill(pid);
    let gone = events(&mut tracker, &mut subscription);
    assert!(matches!(gone.as_slice(), [NodeEvent::Gone(_, Ended::Exit(3))]), "{gone:?}");
    assert_eq!(*locked(&source.0), [("expect", pid), ("ended", pid), ("forget", pid)]);
}

#[test]
fn renamed_program_is_followed_and_another_is_not() {
    let mut nodes = Nodes::new();
    // By name, as `run` does.
    let mut tracker = Tracker::new(Selection::default(), Arc::default());
    let pid = nodes.start(None);
    let is_there = |tracker: &mut Tracker| {
        tracker.look();
        tracker.tracked.contains_key(&pid)
    };
    while !is_there(&mut tracker) {}
    fs::rename(nodes.program(), nodes.folder.path().join("bitcoind.old")).unwrap();
    fs::copy("/bin/true", nodes.program()).unwrap();
    assert!(is_there(&mut tracker));
    assert!(!is_there(&mut Tracker::new(Selection::default(), Arc::default())), "its name is another");
}

#[test]
fn node_that_executes_another_program_is_none_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let shell = folder.path().join("bitcoind");
    fs::copy("/bin/sh", &shell).unwrap();
    let mut child = Command::new(&shell)
        .args(["-c", "read line; exec sleep 1000"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let selection = Selection::default();
    let mut tracker = Tracker::new(selection, Arc::default());
    let pid = child.id();
    let is_there = |tracker: &mut Tracker| {
        tracker.look();
        tracker.tracked.contains_key(&pid)
    };
    while !is_there(&mut tracker) {}
    drop(child.stdin.take());
    while is_there(&mut tracker) {}
    let ends = locked(&tracker.shared.published).ends.clone();
    assert!(
        ends.iter().any(|((ended_pid, _), ended)| *ended_pid == pid && *ended == Ended::Replaced),
        "{ends:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn process_is_selected_by_id_or_pid_file() {
    let mut nodes = Nodes::new();
    let (one, other) = (nodes.start(None), nodes.start(None));
    let found =
        |selection: &Selection| -> Vec<u32> { running(selection).iter().map(|node| node.pid).collect() };
    let by_pid = Selection { pid: Some(one), ..Selection::default() };
    // It is a node once it has its command line.
    while found(&by_pid) != [one] {}
    let file = nodes.folder.path().join("bitcoind.pid");
    let by_file = Selection { pid_file: Some(file.clone()), ..Selection::default() };
    assert_eq!(found(&by_file), [0_u32; 0], "there is no such file");
    fs::write(&file, format!("{other}\n")).unwrap();
    while found(&by_file) != [other] {}
    let by_program = Selection { programs: vec![nodes.program()], ..Selection::default() };
    let mut both = [one, other];
    both.sort_unstable();
    assert_eq!(found(&by_program), both);
}

/// Two users with a hundred nodes each, and root with one that starts last.
#[test]
fn user_with_many_nodes_takes_no_place_of_others() {
    require!(need::root());
    let mut nodes = Nodes::new();
    for uid in [54_321, 54_322, 54_323, 54_324] {
        for _ in 0..MAX_NODES_OF_USER + 6 {
            nodes.start(Some(uid));
        }
    }
    let of_root = nodes.start(None);
    let mut tracker = nodes.tracker();
    // What takes long is looked at later.
    for _ in 0..100 {
        tracker.look();
    }
    let of = |tracker: &Tracker, uid: u32| tracker.tracked.values().filter(|t| t.node.owner == uid).count();
    assert!(tracker.tracked.contains_key(&of_root));
    assert_eq!(of(&tracker, 54_321), MAX_NODES_OF_USER);
    assert_eq!(tracker.tracked.len(), MAX_NODES_OF_USERS + 1);
    // A place that is left is given to the next one.
    let pid = *tracker.tracked.iter().find(|(_, t)| t.node.owner == 54_321).unwrap().0;
    nodes.kill(pid);
    for _ in 0..3 {
        tracker.look();
    }
    assert_eq!(tracker.tracked.len(), MAX_NODES_OF_USERS + 1);
    assert!(!tracker.tracked.contains_key(&pid));
    // Everything is forgotten with its node.
    drop(nodes);
    while !tracker.tracked.is_empty() {
        tracker.look();
    }
    assert!(tracker.incomplete.is_empty() && locked(&tracker.shared.published).nodes.is_empty());
}

#[test]
fn watcher_looks_until_it_is_dropped() {
    let mut nodes = Nodes::new();
    let pid = nodes.start(None);
    let selection = Selection { programs: vec![nodes.program()], ..Selection::default() };
    let watcher = NodeWatcher::start(selection).unwrap();
    let mut subscription = watcher.subscribe();
    let first = loop {
        if let [NodeEvent::Appeared(node)] = subscription.poll().as_slice() {
            break node.clone();
        }
    };
    assert!(watcher.has_looked());
    assert_eq!((first.pid, watcher.nodes().len()), (pid, 1));
    assert_eq!(watcher.process(pid).unwrap().pid, pid);
    assert_eq!(watcher.process(std::process::id()).unwrap().pid, std::process::id(), "whatever it runs");
    let tracker = Arc::downgrade(&watcher.tracker);
    drop(watcher);
    while tracker.upgrade().is_some() {
        std::thread::yield_now();
    }
}

/// Executes its own shell in the one of two files that it does not run, for ever.
const EXEC_LOOP: &str = "exec \"$0\" -c \"$1\" \"$2\" \"$1\" \"$0\"";

#[test]
fn process_that_executes_all_the_time_costs_few_looks() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| {
        fs::create_dir(folder.path().join(name)).unwrap();
        folder.path().join(name).join("bitcoind")
    });
    fs::copy("/bin/sh", &one).unwrap();
    fs::copy("/bin/sh", &other).unwrap();
    let mut child =
        Command::new(&one).args(["-c", EXEC_LOOP]).arg(&other).arg(EXEC_LOOP).arg(&one).spawn().unwrap();
    let selection = Selection { programs: vec![one.clone(), other], ..Selection::default() };
    let mut tracker = Tracker::new(selection, Arc::default());
    tracker.patience = 0;
    while tracker.unsteady.get(&child.id()).is_none_or(|unsteady| unsteady.failures < 3) {
        tracker.look();
    }
    let before = tracker.shared.version.load(Ordering::Relaxed);
    for _ in 0..20 {
        tracker.look();
    }
    let changes = tracker.shared.version.load(Ordering::Relaxed) - before;
    assert!(changes <= 2, "it is left alone: {changes}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn concurrent_subscriber_misses_nothing() {
    const NODES: u32 = 2000;
    let shared = Arc::<Shared>::default();
    let mut subscription = Subscription { shared: shared.clone(), version: 0, reported: HashMap::new() };
    let own = crate::discover::process(std::process::id()).unwrap();
    let publisher = thread::spawn(move || {
        for pid in 1..=NODES {
            shared.publish(Arc::new(NodeProcess { pid, ..own.clone() }));
        }
    });
    let mut appeared = 0;
    while appeared < NODES || !publisher.is_finished() {
        appeared += u32::try_from(subscription.poll().len()).unwrap();
        if publisher.is_finished() && appeared < NODES {
            appeared += u32::try_from(subscription.poll().len()).unwrap();
            assert_eq!(appeared, NODES, "the last ones are not seen");
        }
    }
    publisher.join().unwrap();
}

#[test]
fn lookups_between_two_looks_are_bounded() {
    let nobody = Selection { pid_file: Some("/nonexistent".into()), ..Selection::default() };
    let watcher = NodeWatcher::start(nobody).unwrap();
    while !watcher.has_looked() {}
    // Whatever the thread that looks does meanwhile.
    let _looking = locked(&watcher.tracker);
    let own = std::process::id();
    let found = (0..10 * LOOKUPS).filter(|_| watcher.process(own).is_some()).count();
    assert!((1..=LOOKUPS as usize).contains(&found), "{found}");
}

#[test]
fn look_on_demand_finds_what_was_just_started() {
    let mut nodes = Nodes::new();
    // With a data directory, as one that dials has it.
    fs::create_dir(nodes.folder.path().join(".bitcoin")).unwrap();
    let selection = Selection { programs: vec![nodes.program()], ..Selection::default() };
    let watcher = NodeWatcher::start(selection).unwrap();
    while !watcher.has_looked() {}
    let looks = watcher.shared.looks.load(Ordering::Relaxed);
    let pid = nodes.start(None);
    // A process has its command line only after a moment.
    while crate::discover::process(pid).is_none_or(|node| Some(node.file) != FileId::of(&nodes.program())) {}
    watcher.look_now();
    assert!(watcher.nodes().iter().any(|node| node.pid == pid));
    assert!(watcher.shared.looks.load(Ordering::Relaxed) >= looks + 2);
    let asked = *locked(&watcher.asked);
    watcher.look_now();
    assert_eq!(*locked(&watcher.asked), asked, "not so soon again");
}

//! Nodes that were found, and which login they are sent.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_were_found_share_a_page_and_a_login_of_the_settings_goes_before_theirs() {
    let bus = Bus::in_process();
    let mut events = bus.subscriber("test", &[Subject::Rpc], QueueLimits::default());
    let page = Page::default();
    let stop = CancellationToken::new();
    let (first, second) = (server(), server());
    let own = Login::Password { user: "u".into(), password: "p".into() };
    let wrong = Login::Password { user: "u".into(), password: "wrong".into() };
    let with_login = config_for(&second);
    let without = Config { rpc_user: None, rpc_password: None, ..with_login.clone() };
    let cases = [("alice", &first, own, without), ("bob", &second, wrong, with_login)];
    let mut tasks = Vec::new();
    for (node, server, login, config) in cases {
        let config = Config { rpc_node: node.into(), ..config };
        let found = node_at(server, Some(login), of_user(0));
        let (page, publisher, stop) = (page.clone(), bus.publisher(Source::Rpc, "rpc"), stop.clone());
        tasks.push(tokio::spawn(async move { run_found(&page, config, found, publisher, stop).await }));
    }
    let mut missing = BTreeSet::from(["alice".to_owned(), "bob".to_owned()]);
    let mut batch = Vec::new();
    while !missing.is_empty() {
        let received = tokio::time::timeout(PATIENCE, events.recv_many(&mut batch, 100)).await;
        assert!(received.is_ok(), "nothing of {missing:?}");
        for delivery in batch.drain(..).filter(is_uptime) {
            missing.remove(&delivery.event.origin.as_ref().unwrap().node);
        }
    }
    let rendered = page.render();
    for node in ["alice", "bob"] {
        let sample = format!("\nrpcextractor_events_total{{node=\"{node}\",rpc_method=\"uptime\"}} 1\n");
        assert!(rendered.contains(&sample), "{sample}{rendered}");
    }
    assert_eq!(rendered.matches("# TYPE rpcextractor_events_total counter\n").count(), 1);
    stop.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(page.render(), "");
}

/// A node whose server is this one, whoever runs these tests.
fn node_at(server: &FakeRpc, login: Option<Login>, access: Access) -> RpcWindow {
    RpcWindow { host: server.addr().to_string(), in_our_network: false, login, access }
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_in_place_of_a_found_node_is_reported_and_sent_nothing() {
    require!(need::root());
    const NODE: u32 = 54_321;
    const NOBODY: u32 = 65_534;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::os::unix::fs::fchown(&taken, Some(NOBODY), None).unwrap();
    let addr = taken.local_addr().unwrap();
    let login = Some(Login::Password { user: "u".into(), password: "p".into() });
    let found = RpcWindow { host: addr.to_string(), in_our_network: true, login, access: of_user(NODE) };
    let finding = check_found(&Config::default(), &found);
    assert!(!finding.ok && finding.what.contains("user 65534 listens"), "{finding:?}");
    assert!(finding.fix.unwrap().contains("start the node"));

    let bus = Bus::in_process();
    let (page, stop) = (Page::default(), CancellationToken::new());
    let config = Config { rpc_node: "alice".into(), ..Config::default() };
    let publisher = bus.publisher(Source::Rpc, "rpc");
    let run = {
        let (page, stop, found) = (page.clone(), stop.clone(), found.clone());
        tokio::spawn(async move { run_found(&page, config, found, publisher, stop).await })
    };
    let failed = "rpcextractor_rpc_fetch_errors_total{node=\"alice\",rpc_method=\"uptime\"} 1\n";
    let wait = async {
        while !page.render().contains(failed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("a failed call");
    stop.cancel();
    run.await.unwrap().unwrap();
    // At least the connection of the check and one of the run are waiting.
    for _ in 0..2 {
        let (mut stream, _) = taken.accept().unwrap();
        let mut received = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut received).unwrap();
        assert_eq!(received, b"");
    }
}

/// What a user of this machine may read.
fn of_user(uid: u32) -> Access {
    Access::new(User::new(uid, vec![uid]), "/".into())
}

/// A login that is refused is counted by the server, so it sees all that it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_the_settings_is_sent_only_to_nodes_whose_user_may_know_it() {
    type Set = fn(Config, PathBuf) -> Config;
    const STRANGER: u32 = 54_321;
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join("private");
    let open = folder.path().join("open");
    set_mode(folder.path(), 0o755);
    for (file, mode) in [(&private, 0o600), (&open, 0o644)] {
        std::fs::write(file, "u:p").unwrap();
        set_mode(file, mode);
    }
    let server = server();
    let settings = |set: Set, file: &PathBuf| {
        let none = Config { rpc_user: None, rpc_password: None, ..config_for(&server) };
        set(none, file.clone())
    };
    let cookie = |config, file| Config { rpc_cookie_file: Some(file), ..config };
    let password_file =
        |config, file| Config { rpc_user: Some("u".into()), rpc_password_file: Some(file), ..config };
    let password =
        |config, _| Config { rpc_user: Some("u".into()), rpc_password: Some("p".into()), ..config };
    let own = User::own().unwrap().uid();
    let elsewhere = Access::new(User::new(0, vec![0]), folder.path().join("container"));
    let cases: [(Set, _, _, bool); 9] = [
        (cookie, &private, of_user(STRANGER), false),
        (cookie, &open, of_user(STRANGER), true),
        (cookie, &private, of_user(own), true),
        (cookie, &private, elsewhere.clone(), false),
        (password_file, &private, of_user(STRANGER), false),
        (password, &private, of_user(STRANGER), false),
        (password, &private, elsewhere, false),
        (password, &private, of_user(own), true),
        (password, &private, of_user(0), true),
    ];
    for (i, (set, file, access, is_sent)) in cases.into_iter().enumerate() {
        let config = settings(set, file);
        let host = server.addr().to_string();
        // The login that was found is another one, so that the server says which of them was sent.
        let found = Login::Password { user: "found".into(), password: "found".into() };
        let found = RpcWindow { host, in_our_network: false, login: Some(found), access };
        let at = |server: &FakeRpc| RpcWindow { host: server.addr().to_string(), ..found.clone() };
        for login in ["u:p", "found:found"] {
            server.set_login(login);
            let (asked, refused) = (server.calls("uptime"), server.refused_logins());
            let finding = check_found(&config, &found);
            let answers = is_sent == (login == "u:p");
            assert_eq!(finding.ok, answers, "case {i}: {finding:?}");
            let seen = (server.calls("uptime") - asked, server.refused_logins() - refused);
            assert_eq!(seen, if answers { (1, 0) } else { (0, 1) }, "case {i}");
            // Where a node answers without it, that it is not used is said, and what to do.
            assert_eq!(answers && !is_sent, finding.ok && finding.fix.is_some(), "case {i}: {finding:?}");
        }
        let another = FakeRpc::start(if is_sent { "u:p" } else { "found:found" }).unwrap();
        another.play(&data_dir().join("rpc-samples")).unwrap();
        let answered = run_until_answered(config.clone(), at(&another)).await;
        assert_eq!((answered, another.refused_logins()), (Ok(()), 0), "case {i}");
        if is_sent {
            continue;
        }
        // With no other login, nothing is sent.
        let another = FakeRpc::start("u:p").unwrap();
        let without = RpcWindow { login: None, ..at(&another) };
        let finding = check_found(&config, &without);
        assert!(!finding.ok && finding.fix.is_some(), "case {i}: {finding:?}");
        assert_eq!((another.calls("uptime"), another.refused_logins()), (0, 0), "case {i}");
    }
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs the extractor until the node has answered.
async fn run_until_answered(config: Config, found: RpcWindow) -> Result<(), String> {
    let bus = Bus::in_process();
    let mut events = bus.subscriber("test", &[Subject::Rpc], QueueLimits::default());
    let (page, stop) = (Page::default(), CancellationToken::new());
    let run = run_found(&page, config, found, bus.publisher(Source::Rpc, "rpc"), stop.clone());
    let heard = async {
        let heard = tokio::time::timeout(PATIENCE, events.recv_many(&mut Vec::new(), 1)).await;
        stop.cancel();
        heard.map(|_| ()).map_err(|_| "it is not answered".to_owned())
    };
    let (run, heard) = tokio::join!(run, heard);
    run.map_err(|error| error.to_string()).and(heard)
}

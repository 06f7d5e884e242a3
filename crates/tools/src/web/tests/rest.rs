//! Pages and the REST API.

use super::*;
use crate::web::views::TOPICS;

#[tokio::test]
async fn every_file_of_the_page_is_served_and_told_to_run_nothing_else() {
    let running = Running::start(Config::default()).await;
    let (_, index) = running.get("/").await;
    let (_, app) = running.get("/app.js").await;
    let (_, views) = running.get("/views.js").await;
    let quoted = |text: &str, from: &str| -> Vec<String> {
        let all = text.match_indices(from).filter_map(|(at, _)| {
            let rest = &text[at + from.len()..];
            rest.split_once('"')
                .map(|(path, _)| path.trim_start_matches("./").trim_start_matches('/').to_owned())
        });
        all.collect()
    };
    let mut paths = quoted(&index, "src=\"");
    paths.extend(quoted(&index, "rel=\"stylesheet\" href=\""));
    paths.extend(quoted(&app, "from \"./"));
    paths.extend(quoted(&views, "import(\"./"));
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let (head, body) = running.get(&format!("/{path}")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert!(!body.is_empty(), "{path}");
        let head = head.to_ascii_lowercase();
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'",
            "require-trusted-types-for 'script'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cross-origin-resource-policy: same-origin",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
        // Nothing that the policy would refuse, and nothing from elsewhere.
        for forbidden in ["innerHTML", "document.write", "eval(", "https://", "onclick=\"", "style=\""] {
            assert!(!body.contains(forbidden), "{path} has {forbidden}");
        }
    }
    running.end().await;
}

#[tokio::test]
async fn every_topic_answers_with_what_its_description_says() {
    let running = Running::with_tour(Config::default()).await;
    let openapi = running.json("/api/v1/openapi.json").await;
    let peers = running.json("/api/v1/peers").await;
    let id = peers["peers"][0]["id"].as_u64().or(peers["left"][0]["id"].as_u64()).expect("a peer");
    for topic in TOPICS {
        let path = format!("/api/v1/{}", topic.name);
        let query = if topic.name == "peer" { format!("?id={id}") } else { String::new() };
        let answer = running.json(&format!("{path}{query}")).await;
        let described = openapi["paths"][&path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            ["properties"]
            .as_object()
            .unwrap();
        let (mut has, mut says): (Vec<_>, Vec<_>) =
            (answer.as_object().unwrap().keys().collect(), described.keys().collect());
        has.sort();
        says.sort();
        assert_eq!(has, says, "{path}");
    }
    running.end().await;
}

#[tokio::test]
async fn the_tour_is_counted_to_the_last_message() {
    let running = Running::with_tour(Config::default()).await;
    let overview = running.json("/api/v1/overview?range=3600").await;
    let sum = |way: &str| -> u64 {
        let types = overview["history"][way].as_array().unwrap();
        types.iter().flat_map(|values| values.as_array().unwrap()).map(|n| n.as_u64().unwrap()).sum()
    };
    // data/regtest-tour/README.md: messages received and sent, without the five that the public extractor leaves out.
    assert_eq!((sum("in"), sum("out")), (383, 1_005));
    assert_eq!(overview["node"], "alice");
    assert_eq!(overview["live"], false, "the tour was recorded long ago");
    let messages = running.json("/api/v1/messages?limit=2000").await;
    assert_eq!(messages["messages"].as_array().unwrap().len(), 1_388);
    assert_eq!((&messages["skipped"], &messages["next"]), (&0.into(), &1_388.into()));
    let pings = running.json("/api/v1/messages?command=ping&direction=in&limit=3").await;
    let pings = pings["messages"].as_array().unwrap();
    assert_eq!(pings.len(), 3);
    assert!(pings.iter().all(|message| message["type"] == "ping" && message["in"] == true));
    let blocks = running.json("/api/v1/blocks").await;
    assert!(blocks["blocks"].as_array().unwrap().iter().any(|block| block["connected"]["height"].is_u64()));
    let addresses = running.json("/api/v1/addresses").await;
    let networks: Vec<_> = addresses["networks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["network"].as_str().unwrap())
        .collect();
    assert_eq!(networks, ["ipv4", "ipv6", "onion", "i2p", "cjdns", "unknown"]);
    running.end().await;
}

#[tokio::test]
async fn what_files_tell_of_addresses_is_shown_unless_addresses_are_not() {
    use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
    use peer_observer_events::proto::rpc_extractor::{Addrman, AddrmanBucket, AddrmanEntry, Rpc};

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let list = format!("mine={}", write("list", b"127.0.0.0/8\n").display()).parse().unwrap();
    let config = Config {
        ip_lists: vec![list],
        // Every address is in AS 1.
        asmap_file: Some(write("map", &[0; 3])),
        as_names_file: Some(write("names", b"AS1 Example Net\n")),
        ..Config::default()
    };
    for web_limited in [false, true] {
        let mut running = Running::with_tour(Config { web_limited, ..config.clone() }).await;
        let peers = running.json("/api/v1/peers").await;
        let rows: Vec<_> = ["peers", "left"].iter().flat_map(|all| peers[all].as_array().unwrap()).collect();
        let of =
            |ip: &str| rows.iter().find(|row| row["addr"].as_str().is_some_and(|addr| addr.starts_with(ip)));
        if web_limited {
            assert!(rows.iter().all(|row| row["as"].is_null() && row["lists"] == Value::Array(Vec::new())));
        } else {
            let row = of("127.0.0.1:").expect("a peer of this machine");
            assert_eq!((&row["as"], &row["lists"]), (&"AS1 Example Net".into(), &vec!["mine"].into()));
        }
        let entry = AddrmanEntry { address: "192.0.2.1".into(), ..AddrmanEntry::default() };
        let bucket = AddrmanBucket { entries: [(0, entry)].into() };
        let addrman = Addrman { new: [(0, bucket)].into(), ..Addrman::default() };
        running
            .publish(1, PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(RpcEvent::Addrman(addrman)) }));
        if web_limited {
            // What is published after it has been taken when it was.
            running.publish_tour();
            running.wait_for("/api/v1/health", |health| health["events"] == 2 * TOUR_EVENTS + 1).await;
            assert!(running.json("/api/v1/addrman").await["tables"].is_null());
        } else {
            let told = running.wait_for("/api/v1/addrman", |answer| answer["tables"].is_object()).await;
            assert_eq!(told["tables"]["systems"][0]["name"], "AS1 Example Net");
        }
        running.end().await;
    }
    let missing = Config { as_names_file: None, asmap_file: Some(folder.path().join("gone")), ..config };
    assert!(check(&missing).iter().any(|finding| !finding.ok));
}

#[tokio::test]
async fn a_wrong_question_is_told_why() {
    let running = Running::with_tour(Config::default()).await;
    let cases = [
        ("/api/v1/nothing", "404", "openapi.json"),
        ("/api/v1/peers?node=bob", "404", "no such node"),
        ("/api/v1/peer", "400", "id="),
        ("/api/v1/peer?id=99999", "404", "no such peer"),
        ("/api/v1/peer?id=x", "400", "number"),
        ("/api/v1/peers?colour=red", "400", "takes: node"),
    ];
    for (path, status, words) in cases {
        let (head, body) = running.get(path).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(error["error"].as_str().unwrap().contains(words), "{path}: {error}");
    }
    running.end().await;
}

#[tokio::test]
async fn before_anything_came_it_says_so() {
    let running = Running::start(Config::default()).await;
    assert_eq!(running.json("/api/v1/health").await["status"], "empty");
    assert_eq!(running.json("/api/v1/nodes").await["nodes"], Value::Array(Vec::new()));
    assert!(running.get("/api/v1/overview").await.0.starts_with("HTTP/1.1 404"));
    running.end().await;
}

#[tokio::test]
async fn a_loss_is_told_and_health_says_so() {
    use peer_observer_events::proto::observer::Loss;
    let mut running = Running::start(Config::default()).await;
    let loss = Loss { stage: 2, cause: "full".into(), count: 7, component: "ebpf".into(), ..Loss::default() };
    running.publish(1, PeerObserverEvent::Loss(loss));
    let told = running.wait_for("/api/v1/loss", |answer| answer["total"] == 7).await;
    assert_eq!(told["lost"][0]["stage"], "ring buffer");
    // What another tool loses is none of this page's.
    let other =
        Loss { stage: 6, cause: "full".into(), count: 5, component: "metrics".into(), ..Loss::default() };
    running.publish(1, PeerObserverEvent::Loss(other));
    let pipeline =
        running.wait_for("/api/v1/pipeline", |all| all["lost"].as_array().unwrap().len() == 2).await;
    assert_eq!(pipeline["total"], 7);
    running.publish_tour();
    running.wait_for("/api/v1/health", |health| health["status"] == "lossy" && health["lost"] == 7).await;
    assert_eq!(running.json("/api/v1/overview").await["lost"], 7);
    running.end().await;
}

#[tokio::test]
async fn the_height_of_a_peer_is_what_rpc_says_and_not_what_it_said_when_it_came() {
    use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
    use peer_observer_events::proto::rpc_extractor::{PeerInfo, PeerInfos, Rpc};

    let mut running = Running::with_tour(Config::default()).await;
    let peers = running.json("/api/v1/peers").await;
    let peers = peers["peers"].as_array().unwrap();
    assert!(peers.iter().all(|peer| peer["height"].is_null()), "{peers:?}");
    let (peer, came_with) =
        peers.iter().find_map(|peer| Some((peer, peer["start_height"].as_i64()?))).expect("a handshake");
    let info = PeerInfo {
        id: peer["id"].as_u64().unwrap() as u32,
        address: peer["addr"].as_str().unwrap().into(),
        synced_blocks: came_with + 9,
        ..PeerInfo::default()
    };
    let event = RpcEvent::PeerInfos(PeerInfos { infos: vec![info] });
    let now_ns = time_ns(&tour().last().unwrap().event);
    running.publish(now_ns, PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) }));
    let row = |answer: &Value| {
        answer["peers"].as_array().unwrap().iter().find(|row| row["id"] == peer["id"]).unwrap().clone()
    };
    let told = running.wait_for("/api/v1/peers", |answer| answer["rpc"] == true).await;
    assert_eq!(
        (&row(&told)["height"], &row(&told)["start_height"]),
        (&(came_with + 9).into(), &came_with.into())
    );
    running.end().await;
}

#[tokio::test]
async fn it_ends_with_the_bus() {
    let running = Running::start(Config::default()).await;
    running.bus.close(Duration::ZERO).await;
    tokio::time::timeout(LONG, running.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_and_an_open_address_are_errors_that_say_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = |config: Config| async {
        let subscriber = Bus::in_process().subscriber("web", &subjects(&config), Limits::default());
        run(config, subscriber, CancellationToken::new()).await.unwrap_err().to_string()
    };
    let config = Config { web_address: address.clone(), ..Config::default() };
    assert!(!check(&config)[0].ok);
    let error = run(config).await;
    assert!(error.contains(&address) && error.contains("--web-address"), "{error}");
    let open = Config { web_address: "0.0.0.0:0".into(), ..Config::default() };
    assert!(!check(&open)[0].ok);
    assert!(run(open).await.contains("--web-token-file"));
}

#[test]
fn settings_without_flags_are_those_without_a_file() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }
    let from_flags = |flags: &[&str]| <Cli as clap::Parser>::parse_from(flags).config;
    assert_eq!(from_flags(&["web"]), Config::default());
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    assert_eq!(from_flags(&["web", "--websocket-address", "127.0.0.1:1"]).web_address, "127.0.0.1:1");
    assert!(serde_json::from_str::<Config>("{\"color\": true}").is_err());
}

#[tokio::test]
async fn clients_that_nobody_can_be_or_that_are_too_many_are_refused() {
    for web_max_clients in [0, 65_537, usize::MAX] {
        let config = Config { web_max_clients, web_address: "127.0.0.1:0".into(), ..Config::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("--web-max-clients") && error.contains("1 to 65536"), "{error}");
        assert!(!check(&config)[0].ok);
        let subscriber = Bus::in_process().subscriber("web", &subjects(&config), Limits::default());
        assert_eq!(run(config, subscriber, CancellationToken::new()).await.unwrap_err().to_string(), error);
    }
    for web_max_clients in [1, 65_536] {
        Config { web_max_clients, ..Config::default() }.validate().unwrap();
    }
}

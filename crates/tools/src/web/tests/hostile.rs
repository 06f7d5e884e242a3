//! Who must not come in, and what must not come out.

use peer_observer_events::proto::bitcoin_primitives::{Address, ConnType};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::connection::connection_event;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{MessageEvent, Metadata, Version};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{
    Addrman, AddrmanBucket, AddrmanEntry, PeerInfo, PeerInfos, Rpc,
};

use super::*;
use crate::web::views::TOPICS;

const TOKEN: &str = "0123456789abcdef";

#[tokio::test]
async fn no_path_leads_out_of_the_page() {
    let running = Running::start(Config::default()).await;
    for path in [
        "/../Cargo.toml",
        "/..%2fCargo.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/views/../app.js",
        "/views/..%2fapp.js",
        "//etc/passwd",
        "/page/app.js",
        "/app.js/",
        "/app.js%00",
        "/views/",
        "/api/v1/../../app.js",
        "/api/v1/peers/../health",
    ] {
        let (head, _) = running.get(path).await;
        assert!(head.starts_with("HTTP/1.1 4"), "{path}: {head}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_name_that_was_made_to_point_here_finds_nothing() {
    let running = Running::with_tour(Config::default()).await;
    for path in ["/", "/app.js", "/api/v1/peers", "/ws", "/api/v1/stream"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: rebound.example:47482\r\nConnection: close\r\n\r\n");
        let (head, body) = running.ask(&request).await;
        assert!(head.starts_with("HTTP/1.1 421"), "{path}: {head}");
        assert!(!body.contains("peers"), "{body}");
    }
    for path in ["/", "/ws", "/api/v1/stream"] {
        let refused = running.connect_with(path, Some(("host", "rebound.example"))).await;
        assert!(matches!(refused, Err(SocketError::Http(response)) if response.status() == 421), "{path}");
    }
    running.end().await;
}

#[tokio::test]
async fn pages_of_other_sites_cannot_connect_unless_they_are_allowed() {
    let config = Config { web_origin: vec!["http://pages.example".into()], ..Config::default() };
    let running = Running::start(config).await;
    for path in ["/", "/ws", "/api/v1/stream"] {
        for origin in ["http://evil.example", "null", "http://localhost:1"] {
            let refused = running.connect_with(path, Some(("origin", origin))).await;
            assert!(
                matches!(refused, Err(SocketError::Http(response)) if response.status() == 403),
                "{path} {origin}"
            );
        }
        let own = format!("http://{}", running.address);
        for origin in ["http://pages.example", &own] {
            assert!(running.connect_with(path, Some(("origin", origin))).await.is_ok(), "{path} {origin}");
        }
    }
    let (head, _) = running.get_with("/api/v1/peers", "Origin: http://evil.example\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("access-control-allow"), "{head}");
    running.end().await;
}

#[tokio::test]
async fn only_reading_is_possible_and_requests_are_bounded() {
    let running = Running::start(Config::default()).await;
    let host = running.address;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert!(running.ask(&request).await.0.starts_with("HTTP/1.1 405"), "{method}");
    }
    let (head, _) = running.get_with("/", &format!("X-Long: {}\r\n", "x".repeat(64 << 10))).await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 431"), "{head}");
    let (head, _) = running.get(&format!("/api/v1/peers?node={}", "x".repeat(64 << 10))).await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 4"), "{head}");
    let body = "x".repeat(1 << 20);
    let login = format!(
        "POST /login HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (head, _) = running.ask(&login).await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 413"), "{head}");
    let (head, _) = running.ask("\x16\x03\x01 what a browser says to https\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    running.end().await;
}

#[tokio::test]
async fn a_silent_connection_is_ended_in_time() {
    let running = Running::start(Config::default()).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let mut half = TcpStream::connect(running.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    assert!(running.get("/").await.0.starts_with("HTTP/1.1 200"), "nobody is held up");
    tokio::time::pause();
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(90), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok());
    }
}

#[tokio::test]
async fn without_the_token_there_is_only_a_door() {
    let running = Running::with_tour_behind(TOKEN).await;
    for path in ["/app.js", "/api/v1/peers", "/api/v1/openapi.json", "/views.js"] {
        assert!(running.get(path).await.0.starts_with("HTTP/1.1 401"), "{path}");
    }
    let (head, body) = running.get("/").await;
    assert!(head.starts_with("HTTP/1.1 401") && body.contains("action=\"/login\""), "{head}");
    for path in ["/", "/ws", "/api/v1/stream"] {
        let refused = running.connect_with(path, None).await;
        assert!(matches!(refused, Err(SocketError::Http(response)) if response.status() == 401), "{path}");
        assert!(running.connect_with(&format!("{path}?token={TOKEN}"), None).await.is_ok(), "{path}");
    }
    let post = |token: &str| {
        let body = format!("token={token}");
        let host = running.address;
        format!(
            "POST /login HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert!(running.ask(&post("wrong")).await.0.starts_with("HTTP/1.1 401"));
    let (head, _) = running.ask(&post(TOKEN)).await;
    assert!(head.starts_with("HTTP/1.1 303"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let (head, _) = running.get_with("/api/v1/peers", &format!("Cookie: {cookie}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // A link with the token leads to the page, and the token out of the address line.
    let (head, _) = running.get(&format!("/?token={TOKEN}")).await;
    assert!(head.starts_with("HTTP/1.1 303") && head.contains("location: /\r\n"), "{head}");
    running.end().await;
}

impl Running {
    async fn with_tour_behind(token: &str) -> Self {
        let mut running = Self::start(Config { web_token: Some(token.into()), ..Config::default() }).await;
        running.publish_tour();
        running
    }
}

/// Every address that the tour's events tell.
fn addresses() -> std::collections::BTreeSet<String> {
    use crate::web::model::message::{address_text, host_of};
    let mut all = std::collections::BTreeSet::new();
    let mut gossip = |addresses: &[Address]| {
        all.extend(addresses.iter().filter_map(address_text).map(str::to_owned));
    };
    let mut own = Vec::new();
    for delivery in tour() {
        let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &delivery.event.peer_observer_event else {
            continue;
        };
        match &ebpf.ebpf_event {
            Some(EbpfEvent::Message(message)) => {
                own.push(message.meta.addr.clone());
                match &message.msg {
                    Some(Msg::Addr(addr)) => gossip(&addr.addresses),
                    Some(Msg::Addrv2(addr)) => gossip(&addr.addresses),
                    _ => {}
                }
            }
            Some(EbpfEvent::Connection(event)) => {
                if let Some(connection_event::Event::Inbound(event)) = &event.event {
                    own.push(event.conn.addr.clone());
                }
            }
            _ => {}
        }
    }
    all.extend(own.iter().map(|addr| host_of(addr).to_owned()));
    all.retain(|addr| addr.len() > 6);
    all
}

#[tokio::test]
async fn in_limited_mode_no_address_comes_out() {
    let mut addresses = addresses();
    assert!(addresses.len() > 10, "{addresses:?}");
    // Of the address manager, and of a peer as getpeerinfo tells it.
    let told_over_rpc = [77, 78, 79, 80].map(|i| format!("203.0.113.{i}"));
    addresses.extend(told_over_rpc.clone());
    addresses.insert("203.0.0.0/16".into());
    for limited in [false, true] {
        let mut running = Running::with_tour(Config { web_limited: limited, ..Config::default() }).await;
        let entry = AddrmanEntry { address: told_over_rpc[0].clone(), ..AddrmanEntry::default() };
        let bucket = AddrmanBucket { entries: [(0, entry)].into() };
        let addrman = Addrman { new: [(0, bucket)].into(), ..Addrman::default() };
        let info = PeerInfo {
            id: 5_000,
            address: format!("{}:8333", told_over_rpc[1]),
            address_bind: format!("{}:8333", told_over_rpc[2]),
            address_local: format!("{}:8333", told_over_rpc[3]),
            ..PeerInfo::default()
        };
        for event in [RpcEvent::Addrman(addrman), RpcEvent::PeerInfos(PeerInfos { infos: vec![info] })] {
            running.publish(1, PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) }));
        }
        let is_told = |peers: &Value| peers["peers"].as_array().unwrap().iter().any(|row| row["id"] == 5_000);
        running.wait_for("/api/v1/peers", is_told).await;
        let peers = running.json("/api/v1/peers").await;
        let rows = [&peers["peers"], &peers["left"]].into_iter().flat_map(|rows| rows.as_array().unwrap());
        let mut paths: Vec<_> = rows.map(|row| format!("/api/v1/peer?id={}", row["id"])).collect();
        paths.extend(TOPICS.iter().map(|topic| format!("/api/v1/{}", topic.name)));
        let mut told = 0;
        let mut over_rpc = std::collections::BTreeSet::new();
        for path in paths {
            let (_, body) = running.get(&path).await;
            // Digits with dots may also be a user agent's version.
            let found: Vec<_> = addresses.iter().filter(|addr| body.contains(&***addr)).collect();
            told += found.len();
            over_rpc.extend(
                found.iter().filter(|addr| addr.starts_with("203.0.113.")).map(|addr| (*addr).clone()),
            );
            assert!(!limited || found.is_empty(), "{path} tells {found:?}");
        }
        assert!(limited || told > 10, "the search finds what is there: {told}");
        // Of the entries of the address manager, only the groups of networks are told.
        assert!(limited || over_rpc.len() == 3, "{over_rpc:?}");
        let log = running.get("/api/v1/log").await.0;
        assert!(log.starts_with(if limited { "HTTP/1.1 403" } else { "HTTP/1.1 200" }), "{log}");
        for path in ["/", "/ws"] {
            let public = running.connect_with(path, None).await;
            assert_eq!(public.is_err(), limited, "{path}");
        }
        running.end().await;
    }
}

#[tokio::test]
async fn what_a_peer_calls_itself_stays_text() {
    let mut running = Running::start(Config::default()).await;
    let agent = "/<script>alert(1)</script>\"'&\u{2028}\u{202e}/";
    let meta = Metadata {
        peer_id: 1,
        addr: "192.0.2.1:1".into(),
        conn_type: ConnType::Inbound as i32,
        command: "version".into(),
        inbound: true,
        size: 100,
    };
    let msg = Some(Msg::Version(Version { user_agent: agent.into(), ..Version::default() }));
    let event = MessageEvent { meta, decode_error: None, captured: None, msg };
    running
        .publish(1, PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(event)) }));
    let peers = running.wait_for("/api/v1/nodes", |answer| answer["nodes"][0]["peers"] == 1).await;
    assert_eq!(peers["nodes"][0]["name"], "alice");
    let peers = running.json("/api/v1/peers").await;
    assert_eq!(peers["peers"][0]["user_agent"], agent);
    let (head, _) = running.get("/api/v1/peers").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    running.end().await;
}

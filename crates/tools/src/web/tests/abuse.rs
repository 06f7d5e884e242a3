//! Clients that want more than their share, or break the protocol.

use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{MessageEvent, Metadata, Unknown};
use peer_observer_testkit::{need, other_user, require};

use super::*;

const TOKEN: &str = "0123456789abcdef";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

impl Running {
    /// Sends bytes and returns all there is until the server closes.
    async fn send_raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that has enough of a request may cut it off.
        let _ = stream.write_all(bytes).await;
        read_to_close(&mut stream).await
    }

    /// A websocket whose frames the test makes itself.
    async fn raw_socket(&self, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{UPGRADE}{headers}\r\n", self.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(!head.contains("sec-websocket-extensions"), "nothing is negotiated: {head}");
        stream
    }
}

async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it is closed");
    answer
}

/// A frame of a client, masked with zeros unless that is left out (RFC 6455, 5.2).
fn frame(head: u8, masked: bool, length: u64, payload: &[u8]) -> Vec<u8> {
    let mask = u8::from(masked) << 7;
    let mut frame = vec![head];
    match length {
        0..126 => frame.push(mask | length as u8),
        126..65_536 => {
            frame.push(mask | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(masked.then_some([0; 4]).into_iter().flatten());
    frame.extend(payload);
    frame
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(0x81, true, payload.len() as u64, payload)
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let running = Running::start(Config::default()).await;
    let endless: Vec<u8> = (0..100).flat_map(|i| frame(u8::from(i == 0), true, 100, &[b'a'; 100])).collect();
    let cases: [(&str, Vec<u8>); 13] = [
        ("unmasked", frame(0x81, false, 2, b"{}")),
        ("reserved bit, as with compression", frame(0xc1, true, 2, b"{}")),
        ("reserved opcode", frame(0x8b, true, 1, b"x")),
        ("2^63 - 1 bytes", frame(0x81, true, (1 << 63) - 1, b"")),
        ("2^64 - 1 bytes", frame(0x81, true, u64::MAX, b"")),
        ("3000 bytes", text(&[b'a'; 3_000])),
        ("fragments without end", endless),
        ("continuation of nothing", frame(0x80, true, 2, b"{}")),
        ("long ping", frame(0x89, true, 126, &[b'a'; 126])),
        ("fragmented ping", frame(0x09, true, 1, b"a")),
        ("ping flood", frame(0x89, true, 1, b"a").repeat(200)),
        ("not UTF-8", text(b"\xff\xfe")),
        ("close with a code that is none", frame(0x88, true, 2, &1_u16.to_be_bytes())),
    ];
    for path in ["/ws", "/api/v1/stream"] {
        for (name, bytes) in &cases {
            let mut stream = running.raw_socket(path, "").await;
            let _ = stream.write_all(bytes).await;
            read_to_close(&mut stream).await;
            assert_eq!(running.json("/api/v1/health").await["status"], "empty", "{path}, after {name}");
        }
    }
    for (path, depth) in
        [("/api/v1/stream", "[".repeat(2_000)), ("/ws", "{\"ebpf\":".to_owned() + &"[".repeat(400))]
    {
        let mut stream = running.raw_socket(path, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
        stream.write_all(&text(depth.as_bytes())).await.unwrap();
        read_to_close(&mut stream).await;
    }
    let mut socket = running.connect("/api/v1/stream").await;
    hear_json(&mut socket).await;
    let largest = format!(
        "{{\"open\":{},\"topic\":\"messages\",\"every\":{max},\"query\":{{\"after\":{max},\"limit\":{max}}}}}",
        u32::MAX,
        max = u64::MAX
    );
    say(&mut socket, &largest).await;
    assert!(hear_json(&mut socket).await["error"].is_string());
    running.end().await;
}

#[tokio::test]
async fn requests_that_break_the_protocol_are_refused() {
    let running = Running::start(Config::default()).await;
    let host = format!("Host: {}\r\n", running.address);
    let large = [
        format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(100_000)),
        format!("GET / HTTP/1.1\r\n{host}{}\r\n", "A: b\r\n".repeat(2_000)),
        format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(70_000)),
        format!("POST /login HTTP/1.1\r\n{host}Content-Length: 99999999999\r\n\r\n{}", "a".repeat(2_000)),
        format!(
            "POST /login HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n{}",
            "a".repeat(2_000)
        ),
        format!("POST /login HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n"),
        format!("POST /login HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "GET http://[ HTTP/1.1\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\n{host}Bad Name: x\r\nConnection: close\r\n\r\n"),
    ];
    for request in large {
        let answer = String::from_utf8_lossy(&running.send_raw(request.as_bytes()).await).into_owned();
        let refused =
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
        assert!(refused, "{:.100}: {answer:.200}", request);
    }
    // One answer, however many requests it may be for others on the way.
    let two = format!(
        "GET / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /x \
         HTTP/1.1\r\n{host}\r\n"
    );
    let answer = String::from_utf8_lossy(&running.send_raw(two.as_bytes()).await).into_owned();
    assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{answer:.300}");
    let noise: Vec<u8> = (0..5_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(!running.send_raw(&noise).await.starts_with(b"HTTP/1.1 2"));
    assert!(running.get("/").await.0.starts_with("HTTP/1.1 200"));
    running.end().await;
}

#[tokio::test]
async fn upgrade_needs_its_headers() {
    let running = Running::start(Config::default()).await;
    for (left_out, status) in [
        ("Upgrade: websocket\r\n", "426"),
        ("Sec-WebSocket-Version: 13\r\n", "400"),
        ("Connection: Upgrade\r\n", "400"),
    ] {
        let headers = UPGRADE.replace(left_out, "");
        let request = format!("GET /ws HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", running.address);
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "without {left_out}");
    }
    running.end().await;
}

#[tokio::test]
async fn numbers_out_of_range_are_refused() {
    let running = Running::with_tour(Config::default()).await;
    for number in ["-1", "18446744073709551616", "1e9", "0x1", "", "%00", "%ff", "1;drop"] {
        for key in ["after", "limit"] {
            let (head, _) = running.get(&format!("/api/v1/messages?{key}={number}")).await;
            assert!(head.starts_with("HTTP/1.1 400"), "{key}={number}: {head}");
        }
    }
    assert!(running.get("/api/v1/messages?limit=18446744073709551615").await.0.starts_with("HTTP/1.1 200"));
    assert!(running.get("/api/v1/messages?after=18446744073709551615").await.0.starts_with("HTTP/1.1 200"));
    running.end().await;
}

#[tokio::test]
async fn rest_requests_without_end_are_slowed_down() {
    let running = Running::with_tour(Config::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut limited = None;
    let began = std::time::Instant::now();
    // No two of them have the same answer, so each is rendered.
    for i in 0..2_000 {
        let path = format!("/api/v1/messages?limit={}&after={i}", i % 10 + 1);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", running.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length =
            head.split_once("content-length: ").and_then(|(_, rest)| rest.split_once("\r\n")).unwrap().0;
        stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
        if head.starts_with("http/1.1 429") {
            limited = Some(head);
            break;
        }
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    match limited {
        Some(head) => assert!(head.contains("retry-after: 1\r\n"), "{head}"),
        // 200 at once and 50 a second are allowed.
        None => assert!(began.elapsed() >= Duration::from_secs((2_000 - 200) / 50), "there is no limit"),
    }
    // What others asked for as well is cheap, and after a while it goes on.
    running.wait_for_status("/api/v1/health", "200").await;
    running.end().await;
}

#[tokio::test]
async fn connection_without_the_token_is_closed_after_the_answer() {
    let running = Running::start(Config { web_token: Some(TOKEN.into()), ..Config::default() }).await;
    let host = running.address;
    let post = "POST /login HTTP/1.1\r\nContent-Length: 11\r\n";
    for start in
        ["GET / HTTP/1.1\r\n", "GET /api/v1/health HTTP/1.1\r\n", "GET /style.css HTTP/1.1\r\n", post]
    {
        let request = format!("{start}Host: {host}\r\n\r\ntoken=wrong");
        let answer = running.send_raw(request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.contains("connection: close"), "{start}: {answer:.300}");
    }
    // With it, the connection may be kept.
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("GET /icon.svg HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let mut answer = vec![0; 4];
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
    }
    running.end().await;
}

#[tokio::test]
async fn connection_has_little_time_for_its_login() {
    let running = Running::start(Config { web_token: Some(TOKEN.into()), ..Config::default() }).await;
    let mut dripping = TcpStream::connect(running.address).await.unwrap();
    dripping
        .write_all(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nto")
        .await
        .unwrap();
    let mut known = TcpStream::connect(running.address).await.unwrap();
    let request =
        format!("GET /icon.svg HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    known.write_all(request.as_bytes()).await.unwrap();
    known.read_exact(&mut [0; 12]).await.unwrap();
    assert!(running.get("/").await.0.starts_with("HTTP/1.1 401"), "both are served by now");
    tokio::time::pause();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(6), dripping.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it is still connected");
    let mut rest = [0; 65_536];
    while let Ok(read) = known.try_read(&mut rest) {
        assert_ne!(read, 0, "the one with the login is closed, too");
    }
}

#[tokio::test]
async fn idle_connections_keep_nobody_out_of_the_page() {
    let running = Running::start(Config::default()).await;
    let mut idle = Vec::new();
    for i in 0..300 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // Half of them have asked for something, or for half of it.
        match i % 4 {
            0 => stream.write_all(b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap(),
            1 => stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await.unwrap(),
            _ => {}
        }
        idle.push(stream);
        if i % 20 == 0 {
            assert!(running.get("/").await.0.starts_with("HTTP/1.1 200"), "after {i}");
        }
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_cannot_keep_readers_out() {
    require!(need::root());
    for (config, login) in [
        (Config::default(), String::new()),
        (
            Config { web_token: Some(TOKEN.into()), ..Config::default() },
            format!("Authorization: Bearer {TOKEN}\r\n"),
        ),
    ] {
        let running = Running::start(config).await;
        let request = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _attacker = other_user::hold_connections(running.address, 128, request).unwrap();
        for i in 0..50 {
            let (head, _) = running.get_with("/api/v1/health", &login).await;
            assert!(head.starts_with("HTTP/1.1 200"), "request {i}: {head}");
        }
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_cannot_take_all_websockets() {
    require!(need::root());
    let running = Running::start(Config { web_max_clients: 8, ..Config::default() }).await;
    let request = format!("GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n");
    let _attacker = other_user::hold_connections(running.address, 16, &request).unwrap();
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut socket = running.connect("/api/v1/stream").await;
        assert!(hear_json(&mut socket).await["hello"].is_object());
        sockets.push(socket);
    }
    for socket in &mut sockets {
        say(socket, r#"{"open":1,"topic":"health"}"#).await;
        assert_eq!(hear_json(socket).await["sub"], 1);
    }
    running.end().await;
}

/// A message of a type that nobody knows, as any peer of the node can send it.
fn unknown_message(bytes: usize) -> PeerObserverEvent {
    let meta = Metadata {
        peer_id: 1,
        addr: "192.0.2.1:8333".into(),
        conn_type: 1,
        command: "x".into(),
        inbound: true,
        size: bytes as u64,
    };
    let msg = Some(Msg::Unknown(Unknown { command: "x".into(), payload: vec![0xab; bytes].into() }));
    let event = MessageEvent { meta, decode_error: None, captured: None, msg };
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(event)) })
}

#[tokio::test]
async fn large_event_arrives_whole() {
    let mut running = Running::start(Config::default()).await;
    let mut socket = running.connect("/ws").await;
    say(&mut socket, r#"{"ebpf":{"messages":true}}"#).await;
    socket.send(Message::Ping(Default::default())).await.unwrap();
    while !matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)) {}
    let sizes = [1_000_000, 1, 100_000];
    for bytes in sizes {
        running.publish(1, unknown_message(bytes));
    }
    for bytes in sizes {
        let text = hear(&mut socket).await.expect("an event");
        let payload = format!("\"payload\":[{}171]", "171,".repeat(bytes - 1));
        assert!(text.contains(&payload), "{bytes}: {text:.300}");
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }
    running.end().await;
}

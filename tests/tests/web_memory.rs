//! Memory of the live page's server, in a process of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use peer_observer_e2e::stage::Stage;
use peer_observer_e2e::told::message;
use peer_observer_e2e::{LONG, until};
use peer_observer_events::proto::ebpf_extractor::message::Unknown;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;

/// Clients of the public websocket.
const CLIENTS: usize = 80;
/// Messages of 4 MB, which become JSON of 16 MB. The server keeps 64 MiB of them for clients that
/// are slow.
const MESSAGES: u64 = 4;
const MESSAGE: usize = 4_000_000;
/// What the process may grow by, bytes. A copy of one message for each client would be 1.3 GB.
const MAX_GROWTH: u64 = 150 << 20;

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A client that asks for messages and is not read from any more then.
fn subscribe(server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let wanted = br#"{"ebpf":{"messages":true}}"#;
    let mut frame = vec![0x81, 0x80 | wanted.len() as u8, 0, 0, 0, 0];
    frame.extend(wanted);
    // A ping after it: its answer means that the server knows what is wanted.
    frame.extend([0x89, 0x80, 0, 0, 0, 0]);
    stream.write_all(&frame).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_take_little_memory() {
    let mut stage = Stage::start(None).await;
    let address = stage.address();
    let open = move || (0..CLIENTS).map(|_| subscribe(address)).collect::<Vec<_>>();
    let clients = tokio::task::spawn_blocking(open).await.unwrap();
    let before = resident();
    for _ in 0..MESSAGES {
        let payload = vec![0xab; MESSAGE].into();
        stage.tell(message(1, "x", Msg::Unknown(Unknown { command: "x".into(), payload })));
    }
    until("every client is sent something", || {
        clients.iter().all(|client| client.peek(&mut [0; 4096]).is_ok_and(|n| n == 4096))
    })
    .await;
    let health = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let request = format!("GET /api/v1/health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.contains(&format!("\"events\":{MESSAGES}"))
    };
    let seen = tokio::task::spawn_blocking(move || peer_observer_testkit::wait_until(LONG, health));
    assert!(seen.await.unwrap(), "it has seen all of them");
    let growth = resident().saturating_sub(before);
    assert!(growth < MAX_GROWTH, "{CLIENTS} clients take {} MiB", growth >> 20);
    drop(clients);
    stage.end().await;
}

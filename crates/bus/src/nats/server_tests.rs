//! Against servers that lie or fail.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;

use peer_observer_testkit::nats::{Config, NatsServer, Transport};
use peer_observer_testkit::{LONG, need, require};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::Bus;

/// What a server says first, without TLS.
fn info(address: SocketAddr) -> String {
    let port = address.port();
    format!(
        "INFO {{\"server_id\":\"x\",\"version\":\"2.9.0\",\"proto\":1,\"go\":\"1\",\
         \"host\":\"127.0.0.1\",\"port\":{port},\
         \"headers\":true,\"max_payload\":1048576,\"tls_required\":false}}\r\n"
    )
}

/// Says that it wants no TLS, and sends on what the client says then.
async fn serve_plain(listener: TcpListener, heard: mpsc::Sender<Vec<u8>>) {
    let address = listener.local_addr().unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(info(address).as_bytes()).await.unwrap();
        let mut said = vec![0; 4096];
        if let Ok(n) = stream.read(&mut said).await {
            said.truncate(n);
            let _ = heard.send(said).await;
        }
    }
}

#[tokio::test]
async fn every_tls_setting_refuses_a_plain_server() {
    require!(need::nats_server(), need::openssl());
    // It has the certificates.
    let server = NatsServer::start_with(Config { transport: Transport::Tls, ..Config::default() }).unwrap();
    let (ca, file) = (server.ca_file(), |name| server.ca_file().with_file_name(name));
    let plain = NatsConfig {
        nats_username: Some("alice".into()),
        nats_password: Some("hunter2".into()),
        ..NatsConfig::default()
    };
    let cases = [
        (plain.clone(), false),
        (NatsConfig { nats_tls: true, ..plain.clone() }, true),
        (NatsConfig { nats_tls_ca: Some(ca), ..plain.clone() }, true),
        (
            NatsConfig {
                nats_tls_cert: Some(file("server.pem")),
                nats_tls_key: Some(file("server.key")),
                ..plain
            },
            true,
        ),
    ];
    for (config, is_tls) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (send, mut heard) = mpsc::channel(8);
        let serving = tokio::spawn(serve_plain(listener, send));
        let bus = Bus::nats(NatsConfig { nats_address: Some(address), ..config.clone() }).unwrap();
        let publisher = bus.publisher(Source::Ebpf, "test");
        let said = tokio::time::timeout(LONG, heard.recv()).await.expect("a connection").unwrap();
        // 22 is a handshake record of TLS.
        assert_eq!(said.first() == Some(&22), is_tls, "{config:?}: {}", said.escape_ascii());
        assert_eq!(said.escape_ascii().to_string().contains("hunter2"), !is_tls, "{config:?}");
        drop(publisher);
        serving.abort();
    }
}

/// Shakes hands, and then says what makes no sense.
async fn fail(mut stream: TcpStream, address: SocketAddr) {
    let _ = stream.write_all(info(address).as_bytes()).await;
    let mut said = Vec::new();
    while !said.windows(4).any(|word| word == b"PING") {
        if !matches!(stream.read_buf(&mut said).await, Ok(n) if n > 0) {
            return;
        }
    }
    let _ = stream.write_all(b"PONG\r\nMSG a b c d e f\r\n").await;
    let _ = stream.read_to_end(&mut said).await;
}

#[tokio::test]
async fn connections_that_fail_at_once_back_off() {
    const CONNECTIONS: u32 = 6;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicU32::new(0));
    let counted = accepted.clone();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(fail(stream, address));
        }
    });
    let nats =
        Nats::new(NatsConfig { nats_address: Some(address.to_string()), ..Default::default() }).unwrap();
    let backoff = Arc::<Backoff>::default();
    let (options, _is_up) = nats.connection_with("test", backoff.clone());
    let client = options.connect(address.to_string()).await.unwrap();
    let deadline = Instant::now() + LONG;
    while accepted.load(Ordering::SeqCst) < CONNECTIONS {
        assert!(Instant::now() < deadline, "it connects again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Each had its pause, although all before succeeded.
    assert!(backoff.attempts() >= accepted.load(Ordering::SeqCst), "{backoff:?}");
    assert_eq!(backoff.pause(Instant::now()), Duration::from_secs(1));
    drop(client);
    serving.abort();
}

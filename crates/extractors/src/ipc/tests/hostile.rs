//! Nodes that send what no node sends.

use bitcoin_capnp_types::capnp::message::Builder;
use bitcoin_capnp_types::capnp::serialize;
use bitcoin_capnp_types::capnp_rpc::rpc_capnp;
use peer_observer_testkit::ipc_node::serve;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::super::client::{Client, Error as ClientError, Tip, speak};
use super::super::metrics::{Method, Metrics};
use super::*;

/// Connections with damaged answers.
const DAMAGED: u64 = 300;

/// Asks for the tip, once.
async fn ask(stream: UnixStream) -> Result<Option<Tip>, ClientError> {
    let (system, init) = speak(stream);
    let metrics = Metrics::new();
    let tip = async {
        let client = Client::open(init, Duration::from_millis(100), &metrics).await?;
        client.tip().await
    };
    tokio::select! {
        tip = tip => tip,
        _ = system => Err(ClientError::Closed { method: Method::Connect }),
    }
}

/// Hands bytes on, with one to four of them changed, or some left out.
async fn damage(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let mut bytes = buffer[..n].to_vec();
        if rng.random_bool(0.4) {
            for _ in 0..rng.random_range(1..=4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = if rng.random() { rng.random() } else { bytes[at] ^ 1 << rng.random_range(0..8) };
            }
            if rng.random_bool(0.05) {
                bytes.truncate(rng.random_range(0..n));
            }
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// A message that the other side did not ask for.
fn message(fill: impl FnOnce(rpc_capnp::message::Builder<'_>)) -> Vec<u8> {
    let mut builder = Builder::new_default();
    fill(builder.init_root());
    serialize::write_message_to_words(&builder)
}

#[tokio::test]
async fn garbage_ends_a_connection_and_not_the_extractor() {
    let answer_to_nothing = message(|message| message.init_return().set_answer_id(1000));
    let segments = |count: u32, words: u32| [(count - 1).to_le_bytes(), words.to_le_bytes()].concat();
    let cases = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "construct"),
        (vec![0xff; 100_000], "construct"),
        // 32 GiB in one segment, and as many segments as there can be.
        (segments(1, u32::MAX), "construct"),
        (segments(512, 1 << 20), "construct"),
        (answer_to_nothing[..9].to_vec(), "construct"),
        (answer_to_nothing, "crashes"),
    ];
    let (_folder, socket) = place();
    let mut running = start(&socket, NEVER, Duration::from_millis(100)).await;
    for (bytes, expected) in cases {
        let name = match expected {
            "crashes" => "crashes_total".to_owned(),
            method => format!("ipc_fetch_errors_total{{ipc_method=\"{method}\"}}"),
        };
        let before = running.metric(&name).await;
        let listener = UnixListener::bind(&socket).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(&bytes).await;
        wait_for!(running.metric(&name).await > before);
        std::fs::remove_file(&socket).unwrap();
        let _node = FakeNode::start(&socket, Control::new(Kind::Core31));
        assert_eq!(running.next().await.0, 1);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_sends_without_end_is_cut_off() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let flood = async {
        let mut sent = 0;
        for question in 0.. {
            let bytes = message(|message| message.init_bootstrap().set_question_id(question));
            if theirs.write_all(&bytes).await.is_err() {
                break;
            }
            sent += bytes.len();
        }
        sent
    };
    let (sent, outcome) = tokio::join!(flood, ask(ours));
    assert!(outcome.is_err());
    // What was read, and what the kernel had taken.
    assert!(sent < 2 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn damaged_answers_end_their_connection_or_nothing() {
    let local = LocalSet::new();
    let all = async {
        let mut tips = 0;
        for seed in 0..DAMAGED {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (node, proxy) = UnixStream::pair().unwrap();
            let (mut from_client, to_client) = theirs.into_split();
            let (from_node, mut to_node) = proxy.into_split();
            let tasks = [
                tokio::task::spawn_local(serve(node, Control::new(Kind::Core31))),
                tokio::task::spawn_local(damage(from_node, to_client, seed)),
                tokio::task::spawn_local(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_node).await;
                }),
            ];
            // A panic of the library is caught here, as it is by the extractor.
            let asked = tokio::time::timeout(PATIENCE, tokio::task::spawn_local(ask(ours))).await;
            if asked.unwrap_or_else(|_| panic!("no end with seed {seed}")).is_ok_and(|tip| tip.is_ok()) {
                tips += 1;
            }
            tasks.into_iter().for_each(|task| task.abort());
        }
        assert!(tips > 0);
    };
    local.run_until(all).await;
}

//! What a SOCKS5 proxy answers: nothing panics, nothing is waited for that cannot come, and what follows a success is left alone.
#![no_main]

use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use peer_observer_node::socks5::connect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs what never waits for anything but itself.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits for ever");
}

// The first byte is the length of the name, the second the port, the rest is what the proxy says.
fuzz_target!(|input: &[u8]| {
    let [length, port, answer @ ..] = input else { return };
    let name = "x".repeat(usize::from(*length));
    run(async {
        let (mut ours, mut proxy) = tokio::io::duplex(1 << 17);
        proxy.write_all(answer).await.expect("open");
        proxy.shutdown().await.expect("open");
        let connected = connect(&mut ours, &name, (*port).into()).await;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.expect("open");
        assert!(answer.ends_with(&rest));
        if connected.is_ok() {
            assert!(answer.starts_with(&[5, 0, 5, 0]) && rest.len() + 8 < answer.len());
        }
    });
});

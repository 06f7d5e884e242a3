//! Where it listens, and what it says when it cannot.

use peer_observer_testkit::free_port;

use super::*;

#[tokio::test]
async fn what_cannot_work_is_told_at_the_start() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let taken = std::net::TcpListener::bind(addr).unwrap();
    let config = Config { p2p_address: vec![Listen { name: None, addr }], ..regtest() };
    let bus = Bus::in_process();
    let started = |config| run(config, bus.publisher(Source::P2p, "p2p"), CancellationToken::new());
    assert!(!check(&config)[0].ok);
    assert!(matches!(started(config.clone()).await, Err(Error::Listen { .. })));
    drop(taken);
    assert!(check(&config)[0].ok);
    assert!(check(&config)[0].what.contains("addnode=127.0.0.1:"));

    let config = Config { p2p_address: vec![], ..config };
    assert!(!check(&config)[0].ok);
    assert!(matches!(started(config).await, Err(Error::NoAddress)));
}

#[test]
fn it_can_listen_on_any_address() {
    let config = Config {
        p2p_address: vec![Listen { name: None, addr: (Ipv4Addr::LOCALHOST, 0).into() }],
        ..regtest()
    };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let publisher = Bus::in_process().publisher(Source::P2p, "p2p");
        stop.cancel();
        run(config, publisher, stop).await.unwrap();
    });
}

//! Asking: side by side, over faults, restarts and methods that a node lacks.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_asked_for_and_published_under_the_node_s_name() {
    let server = server();
    let mut running = start(config_for(&server)).await;
    let mut missing: Vec<&str> = vec![
        "PeerInfos",
        "MempoolInfo",
        "Uptime",
        "NetTotals",
        "MemoryInfo",
        "AddrmanInfo",
        "ChainTxStats",
        "NetworkInfo",
        "BlockchainInfo",
        "OrphanTxs",
        "Addrman",
        "EstimateSmartFee",
        "ChainTips",
        "Banned",
    ];
    while !missing.is_empty() {
        let delivery = running.next(|_| true).await;
        let origin = delivery.event.origin.as_ref().unwrap();
        assert_eq!((origin.node.as_str(), origin.extractor), ("alice", Source::Rpc as i32));
        let (name, _) = content(delivery.event.peer_observer_event.as_ref().unwrap());
        let ours = ["ChainTips", "Banned"].contains(&name.as_str());
        assert_eq!(delivery.subject, if ours { Subject::RpcExtra } else { Subject::Rpc }, "{name}");
        missing.retain(|m| *m != name);
    }
    for method in Method::NAMES {
        assert!(running.metric("events_total", method).await >= 1.0, "{method}");
        assert!(running.metric("rpc_fetch_duration_seconds_count", method).await >= 1.0, "{method}");
        assert_eq!(running.metric("rpc_fetch_errors_total", method).await, 0.0, "{method}");
        assert_eq!(running.metric("unknown_fields_total", method).await, 0.0, "{method}");
        assert_eq!(server.most_in_flight(method), 1, "{method}");
    }
    assert!(server.most_connections() <= 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_method_delays_no_other_and_is_not_asked_for_twice_at_a_time() {
    let server = server();
    server.behave("getpeerinfo", Behaviour::Slow(Duration::from_secs(3600)));
    let mut running = start(config_for(&server)).await;
    for _ in 0..3 {
        running.next(is_uptime).await;
    }
    assert_eq!(server.calls("getpeerinfo"), 1);
    server.heal();
    running.next(|d| content(d.event.peer_observer_event.as_ref().unwrap()).0 == "PeerInfos").await;
    running.wait_for("missed_rounds_total", "getpeerinfo", 1.0).await;
    assert_eq!(server.most_in_flight("getpeerinfo"), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_hang_leave_a_connection_to_the_others() {
    const EVERY: Duration = Duration::from_secs(1);
    let hung = [Method::GetPeerInfo, Method::GetRawAddrman, Method::GetChainTips];
    let server = server();
    for method in hung {
        server.behave(method.name(), Behaviour::Slow(Duration::from_secs(3600)));
    }
    let mut methods = vec![(Method::Uptime, EVERY)];
    methods.extend(hung.map(|method| (method, OFTEN)));
    let config = Config { rpc_timeout: 4, ..config_for(&server) };
    let running = start_with(config, methods).await;
    // Before, it is not known that they are slow.
    for method in hung {
        running.wait_for("rpc_fetch_errors_total", method.name(), 1.0).await;
    }
    let events = running.metric("events_total", "uptime").await;
    running.wait_for("events_total", "uptime", events + 2.0).await;
    let missed = running.metric("missed_rounds_total", "uptime").await;
    running.wait_for("events_total", "uptime", events + 10.0).await;
    // Behind the others, each of these would take as long as four rounds. A busy machine may miss one.
    let missed = running.metric("missed_rounds_total", "uptime").await - missed;
    assert!(missed < 10.0, "{missed} rounds missed for 10 that were not");
    // One that is quick again is treated as such.
    server.heal();
    for method in hung {
        running.wait_for("events_total", method.name(), 3.0).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_is_counted_and_survived() {
    let server = server();
    let config = Config { rpc_timeout: 1, rpc_max_answer_bytes: 100_000, ..config_for(&server) };
    let mut running = start_with(config, vec![(Method::Uptime, OFTEN)]).await;
    running.next(is_uptime).await;
    let faults = [
        (Behaviour::Slow(Duration::from_secs(3600)), "rpc_fetch_errors_total"),
        (Behaviour::Partial, "rpc_fetch_errors_total"),
        (Behaviour::Oversized(100_000), "rpc_fetch_errors_total"),
        (Behaviour::Garbage, "rpc_fetch_errors_total"),
        (Behaviour::Noise, "rpc_fetch_errors_total"),
        (Behaviour::Close, "rpc_fetch_errors_total"),
        (Behaviour::Status(503), "rpc_fetch_errors_total"),
        (Behaviour::Refuse(-28, "Verifying blocks…"), "rpc_fetch_errors_total"),
        (Behaviour::Answer("\"not a number\"".into()), "rpc_model_errors_total"),
    ];
    for (fault, metric) in faults {
        let before = running.metric(metric, "uptime").await;
        server.behave("uptime", fault.clone());
        running.wait_for(metric, "uptime", before + 1.0).await;
        server.heal();
        let events = running.metric("events_total", "uptime").await;
        running.wait_for("events_total", "uptime", events + 1.0).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_answers_are_counted_and_survived() {
    const DEPTH: usize = 5_000_000;
    let server = server();
    let other = FakeRpc::start("u:p").unwrap();
    let config = Config { rpc_max_answer_bytes: 20_000_000, ..config_for(&server) };
    let methods = vec![(Method::Uptime, OFTEN), (Method::GetPeerInfo, OFTEN)];
    let running = start_with(config, methods).await;
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let peers = |number: usize| {
        let peers = vec![r#"{"addr":"192.0.2.1:8333","subver":"/Satoshi:30.0.0/"}"#; number];
        format!("[{}]", peers.join(","))
    };
    let faults = [
        (Behaviour::Answer(deep), "rpc_model_errors_total"),
        // Too many for one event, and too many to be read.
        (Behaviour::Answer(peers(60_000)), "nats_publish_errors_total"),
        (Behaviour::Answer(peers(100_001)), "rpc_model_errors_total"),
        (Behaviour::Endless(1 << 20, Duration::ZERO), "rpc_fetch_errors_total"),
        (Behaviour::Redirect(307, format!("http://{}/", other.addr())), "rpc_fetch_errors_total"),
    ];
    for (fault, metric) in faults {
        let before = running.metric(metric, "getpeerinfo").await;
        server.behave("getpeerinfo", fault);
        running.wait_for(metric, "getpeerinfo", before + 1.0).await;
        let uptimes = running.metric("events_total", "uptime").await;
        running.wait_for("events_total", "uptime", uptimes + 1.0).await;
        server.heal();
        let events = running.metric("events_total", "getpeerinfo").await;
        running.wait_for("events_total", "getpeerinfo", events + 1.0).await;
    }
    assert_eq!(other.most_connections(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_the_node_does_not_have_is_off_until_the_node_is_another() {
    let first = server();
    let addr = first.addr();
    first.behave("getorphantxs", Behaviour::Refuse(-32601, "Method not found"));
    first.behave("uptime", Behaviour::Answer("5000".into()));
    let mut running = start(config_for(&first)).await;
    running.wait_for("switched_off_total", "getorphantxs", 1.0).await;
    for _ in 0..3 {
        running.next(is_uptime).await;
    }
    assert_eq!(first.calls("getorphantxs"), 1);

    // The same process as far as can be seen, but that it runs for less long than before.
    first.behave("uptime", Behaviour::Answer("1".into()));
    running.wait_for("switched_off_total", "getorphantxs", 2.0).await;
    assert_eq!(first.calls("getorphantxs"), 2);

    drop(first);
    running.wait_for("rpc_fetch_errors_total", "uptime", 1.0).await;
    let second = FakeRpc::start_at(addr, "u:p").unwrap();
    second.play(&data_dir().join("rpc-samples")).unwrap();
    running.next(|d| content(d.event.peer_observer_event.as_ref().unwrap()).0 == "OrphanTxs").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_later_or_again_with_another_cookie_needs_no_help() {
    let dir = tempfile::tempdir().unwrap();
    let cookie = dir.path().join(".cookie");
    let first = server();
    let addr = first.addr();
    drop(first);
    let config =
        Config { rpc_host: addr.to_string(), rpc_cookie_file: Some(cookie.clone()), ..Config::default() };
    let mut running = start_with(config, vec![(Method::Uptime, OFTEN)]).await;
    running.wait_for("rpc_fetch_errors_total", "uptime", 1.0).await;
    for login in ["__cookie__:one", "__cookie__:two"] {
        std::fs::write(&cookie, login).unwrap();
        let node = FakeRpc::start_at(addr, login).unwrap();
        node.behave("uptime", Behaviour::Answer("3".into()));
        running.next(is_uptime).await;
        let errors = running.metric("rpc_fetch_errors_total", "uptime").await;
        drop(node);
        running.wait_for("rpc_fetch_errors_total", "uptime", errors + 1.0).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_not_known_are_counted() {
    let server = server();
    server.behave("getnettotals", Behaviour::Answer(r#"{"totalbytesrecv":1,"brand_new":2}"#.into()));
    let running = start_with(config_for(&server), vec![(Method::GetNetTotals, OFTEN)]).await;
    running.wait_for("unknown_fields_total", "getnettotals", 2.0).await;
    assert_eq!(running.metric("rpc_model_errors_total", "getnettotals").await, 0.0);
    running.stop().await;
}

//! Both websockets.

use peer_observer_events::{Subject, json};

use super::*;

/// Waits until the server knows that a client wants something: events are sent from then on only.
async fn until_wanted(running: &mut Running, socket: &mut Socket) {
    use peer_observer_events::proto::p2p_extractor::{P2p, PingDuration, p2p::P2pEvent};
    say(socket, "{\"p2p\":true}").await;
    let knock = || {
        PeerObserverEvent::P2pExtractor(P2p {
            p2p_event: Some(P2pEvent::PingDuration(PingDuration { duration: 1 })),
        })
    };
    let deadline = std::time::Instant::now() + LONG;
    while std::time::Instant::now() < deadline {
        running.publish(1, knock());
        if tokio::time::timeout(Duration::from_millis(50), socket.next()).await.is_ok() {
            return;
        }
    }
    panic!("the server sends nothing that was asked for");
}

#[tokio::test]
async fn a_client_that_knows_only_the_public_protocol_gets_every_event_it_asked_for() {
    for path in ["/", "/ws", ""] {
        let mut running = Running::start(Config::default()).await;
        let mut socket = running.connect(path).await;
        until_wanted(&mut running, &mut socket).await;
        let wanted = r#"{"ebpf":{"messages":true,"connections":true,"mempool":false,"validation":true},"p2p":false,"log":true,"rpc":true}"#;
        say(&mut socket, wanted).await;
        // What is said is taken in order: an answer to a ping means that it was.
        socket.send(Message::Ping(Default::default())).await.unwrap();
        while !matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)) {}
        running.publish_tour();
        let expected: Vec<_> = tour()
            .into_iter()
            .filter(|delivery| delivery.subject != Subject::Mempool)
            .filter_map(|delivery| json::to_json(&delivery.event))
            .collect();
        assert!(expected.len() > 1_400);
        for (i, expected) in expected.iter().enumerate() {
            let got = hear(&mut socket).await.unwrap();
            assert!(got == *expected, "event {i} of {path:?}: {got}");
        }
        running.end().await;
    }
}

#[tokio::test]
async fn a_subscription_that_is_none_ends_the_connection() {
    let running = Running::start(Config::default()).await;
    let long = format!("{{\"p2p\":true{}}}", " ".repeat(511));
    for bad in ["", "hello", "[1]", "{\"p2p\":\"yes\"}", &long] {
        let mut socket = running.connect("/ws").await;
        say(&mut socket, bad).await;
        end_of(&mut socket).await;
    }
    let mut socket = running.connect("/ws").await;
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(end_of(&mut socket).await, Some(1008));
    // One byte less is taken.
    let mut socket = running.connect("/ws").await;
    say(&mut socket, &format!("{{\"p2p\":true{}}}", " ".repeat(511 - 12))).await;
    socket.send(Message::Ping(Default::default())).await.unwrap();
    assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)));
    running.end().await;
}

#[tokio::test]
async fn the_stream_says_what_the_rest_api_says_and_goes_on_by_itself() {
    let mut running = Running::with_tour(Config::default()).await;
    let mut socket = running.connect("/api/v1/stream").await;
    let hello = hear_json(&mut socket).await;
    assert_eq!(hello["hello"]["limited"], false);
    assert!(hello["hello"]["topics"].as_array().unwrap().contains(&"peers".into()));
    say(&mut socket, r#"{"open":7,"topic":"peers","every":200,"query":{"node":"alice"}}"#).await;
    let first = hear_json(&mut socket).await;
    assert_eq!((&first["sub"], &first["missed"]), (&7.into(), &0.into()));
    let rest = running.json("/api/v1/peers?node=alice").await;
    assert_eq!(first["data"]["peers"].as_array().unwrap().len(), rest["peers"].as_array().unwrap().len());
    assert_eq!(hear_json(&mut socket).await["sub"], 7);
    say(&mut socket, r#"{"close":7}"#).await;

    // A list without end: the last ones first, then what is new.
    say(&mut socket, r#"{"open":8,"topic":"messages","query":{"limit":10}}"#).await;
    let backfill = loop {
        let message = hear_json(&mut socket).await;
        if message["sub"] == 8 {
            break message;
        }
    };
    assert_eq!(backfill["data"]["messages"].as_array().unwrap().len(), 10);
    running.publish_tour();
    let mut seen = 0;
    while seen < 1_388 {
        let message = hear_json(&mut socket).await;
        let data = &message["data"];
        seen += data["messages"].as_array().unwrap().len() + data["skipped"].as_u64().unwrap() as usize;
    }
    assert_eq!(seen, 1_388, "every message is there, or told as left out");
    running.end().await;
}

#[tokio::test]
async fn what_is_not_there_yet_is_told_once_and_comes_when_it_is_there() {
    let mut running = Running::start(Config::default()).await;
    let mut socket = running.connect("/api/v1/stream").await;
    hear_json(&mut socket).await;
    say(&mut socket, r#"{"open":1,"topic":"overview"}"#).await;
    assert!(hear_json(&mut socket).await["error"].as_str().unwrap().contains("no such node"));
    running.publish_tour();
    assert_eq!(hear_json(&mut socket).await["data"]["node"], "alice");
    running.end().await;
}

#[tokio::test]
async fn a_request_that_is_none_ends_the_stream() {
    let running = Running::start(Config::default()).await;
    let long = format!("{{\"close\":1{}}}", " ".repeat(3000));
    let cases = [
        ("", Some(1008)),
        ("{}", Some(1008)),
        ("{\"open\":1,\"topic\":\"nothing\"}", Some(1008)),
        ("{\"open\":1,\"topic\":\"peers\",\"query\":{\"colour\":1}}", Some(1008)),
        ("{\"open\":-1,\"topic\":\"peers\"}", Some(1008)),
        (&long, None),
    ];
    for (bad, code) in cases {
        let mut socket = running.connect("/api/v1/stream").await;
        say(&mut socket, bad).await;
        let got = end_of(&mut socket).await;
        assert!(code.is_none() || got == code, "{bad}: {got:?}");
    }
    let mut socket = running.connect("/api/v1/stream").await;
    for id in 0..17 {
        say(&mut socket, &format!("{{\"open\":{id},\"topic\":\"health\",\"every\":60000}}")).await;
    }
    assert_eq!(end_of(&mut socket).await, Some(1008), "sixteen topics are enough");
    running.end().await;
}

#[tokio::test]
async fn a_frame_that_will_be_too_long_is_not_waited_for() {
    let running = Running::start(Config::default()).await;
    for path in ["/ws", "/api/v1/stream"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            running.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        // A masked text of 1 MiB, of which nothing comes (RFC 6455, 5.2).
        let mut head = vec![0x81, 0x80 | 127];
        head.extend((1_u64 << 20).to_be_bytes());
        head.extend([0; 4]);
        stream.write_all(&head).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{path} waits for it");
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{path}: {}", String::from_utf8_lossy(&answer));
    }
    running.end().await;
}

#[tokio::test]
async fn a_flood_of_requests_ends_the_connection_of_who_sends_it() {
    let running = Running::start(Config::default()).await;
    for (path, request) in [("/ws", "{\"p2p\":true}"), ("/api/v1/stream", "{\"close\":1}")] {
        let mut other = running.connect(path).await;
        let mut socket = running.connect(path).await;
        for _ in 0..500 {
            // It may be over before all of them are sent.
            if socket.send(Message::text(request)).await.is_err() {
                break;
            }
        }
        end_of(&mut socket).await;
        say(&mut other, request).await;
        other.send(Message::Ping(Default::default())).await.unwrap();
        while !matches!(other.next().await.unwrap().unwrap(), Message::Pong(_)) {}
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_slows_nobody_and_is_told_what_it_missed() {
    let mut running = Running::with_tour(Config::default()).await;
    // It takes what the sockets' buffers take, then no more.
    let mut stalled = running.connect("/").await;
    until_wanted(&mut running, &mut stalled).await;
    say(&mut stalled, r#"{"ebpf":{"messages":true}}"#).await;
    let mut stalled_stream = running.connect("/api/v1/stream").await;
    say(&mut stalled_stream, r#"{"open":1,"topic":"messages","query":{"limit":2000}}"#).await;
    let mut good = running.connect("/api/v1/stream").await;
    hear_json(&mut good).await;
    say(&mut good, r#"{"open":1,"topic":"health","every":200}"#).await;
    let mut events = TOUR_EVENTS as u64;
    for _ in 0..12 {
        running.publish_tour();
        events += TOUR_EVENTS as u64;
        while hear_json(&mut good).await["data"]["events"].as_u64().unwrap() < events {}
    }
    let health = running.json("/api/v1/health").await;
    assert_eq!(health["lost"], 0, "nothing was lost for others");
    // Now it reads what is there for it, or it was given up on.
    let reading =
        tokio::spawn(async move { while stalled.next().await.is_some_and(|message| message.is_ok()) {} });
    running.wait_for("/api/v1/health", |health| health["own"]["skipped_events"].as_u64().unwrap() > 0).await;
    reading.abort();
    let mut left_out = 0;
    while left_out == 0 {
        // More at once than an update takes, unless the machine is so busy that they come in several.
        for _ in 0..4 {
            running.publish_tour();
        }
        let update = hear_json(&mut stalled_stream).await;
        left_out = update["missed"].as_u64().unwrap_or(0);
        for what in ["skipped", "forgotten"] {
            left_out += update["data"][what].as_u64().unwrap_or(0);
        }
    }
    running.end().await;
}

#[tokio::test]
async fn one_client_too_many_is_turned_away_and_comes_in_when_another_leaves() {
    let running = Running::start(Config { web_max_clients: 2, ..Config::default() }).await;
    let first = running.connect("/ws").await;
    let _second = running.connect("/api/v1/stream").await;
    match running.connect_with("/ws", None).await {
        Err(SocketError::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other:?}"),
    }
    drop(first);
    let deadline = tokio::time::Instant::now() + LONG;
    while running.connect_with("/ws", None).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the place does not become free");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.end().await;
}

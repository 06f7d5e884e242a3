//! The live page in a real browser: what changes, keys, nodes, tokens, a server that goes and comes back. `web_look.rs` looks at it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use peer_observer_e2e::browser::{Browser, Scheme};
use peer_observer_e2e::stage::Stage;
use peer_observer_e2e::told::{log, message, tell_all};
use peer_observer_e2e::{LONG, page, program};
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{Ping, Version};
use peer_observer_testkit::process::Process;
use peer_observer_testkit::{need, require, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_shows_by_itself_and_views_answer_to_keys_and_clicks() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("")).await;
    browser.until_shown("No node yet").await;
    stage.play(0.5);
    browser.until_shown("Messages in").await;
    browser.until("!document.querySelector('.state.empty')").await;

    browser.press("2").await;
    browser.until("location.hash.startsWith('#/peers')").await;
    browser.until_shown("/Satoshi:30.0.0/").await;
    stage.tell(message(900, "ping", Msg::Ping(Ping { value: 1 })));
    browser.until_shown("192.0.2.900:8333").await;

    // Filtering, and a link that brings it back.
    browser.press("/").await;
    browser.until("document.activeElement.type === 'search'").await;
    for key in ["2", ".", "9", "0", "0", ":"] {
        browser.press(key).await;
    }
    browser.until("document.querySelectorAll('main table')[0].tBodies[0].rows.length === 1").await;
    browser.until("location.hash.includes('filter=2.900')").await;
    browser.reload().await;
    browser.until("document.querySelectorAll('main table')[0]?.tBodies[0].rows.length === 1").await;

    // Sorting is kept for the next time.
    browser.go(&stage.url("peers?filter=")).await;
    // What is left is still there for a moment.
    browser.until("document.querySelector('main input[type=search]')?.value === ''").await;
    browser
        .click("[...document.querySelectorAll('main th button')].find((b) => b.textContent === 'Out')")
        .await;
    browser.until("document.querySelector('th[aria-sort]').textContent === 'Out'").await;
    browser.reload().await;
    browser.until("document.querySelector('th[aria-sort]')?.textContent === 'Out'").await;

    // From the list to a peer, whose conversation goes on.
    browser
        .click("[...document.querySelectorAll('main a.row')].find((a) => a.textContent === 'peer 900')")
        .await;
    browser.until_shown("Conversation").await;
    browser.until_shown("nonce 0000000000000001").await;
    stage.tell(message(900, "ping", Msg::Ping(Ping { value: 0xabcd })));
    browser.until_shown("nonce 000000000000abcd").await;

    // Paused, nothing changes; then it goes on.
    browser.press("p").await;
    browser.until("document.querySelector('#status').innerText.includes('paused')").await;
    stage.tell(message(900, "ping", Msg::Ping(Ping { value: 0x1234 })));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let text = browser.eval("document.querySelector('main').innerText").await;
    assert!(!text.as_str().unwrap().contains("1234"), "{text}");
    browser.press("p").await;
    browser.until_shown("nonce 0000000000001234").await;

    // A view that is opened in a pause is that of then.
    browser.press("p").await;
    browser.press("1").await;
    browser.until_shown("Messages in").await;
    browser.press("p").await;

    browser.press("t").await;
    browser.until("document.querySelector('#theme').innerText.includes('light')").await;
    browser.press("?").await;
    browser.until("document.querySelector('#help-dialog').open").await;
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "help: {found:#?}");
    browser.press("Escape").await;
    assert_eq!(browser.problems().await, Vec::<String>::new());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_is_said_so_and_one_that_comes_back_is_found_again() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.3);
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("peers")).await;
    browser.until_shown("/Satoshi:").await;
    let address = stage.address();
    stage.end().await;
    browser.until("document.querySelector('.banner.bad')?.innerText.includes('connection is lost')").await;
    browser.until("document.querySelector('#status').innerText.includes('disconnected')").await;
    browser.until_shown("/Satoshi:").await;
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "disconnected: {found:#?}");
    let mut stage = Stage::start(Some(address)).await;
    stage.tell(message(901, "ping", Msg::Ping(Ping { value: 1 })));
    browser.until("!document.querySelector('.banner.bad')").await;
    browser.until_shown("192.0.2.901:8333").await;
    // That it could not connect is all there was to complain about.
    let problems = browser.problems().await;
    let expected = |problem: &String| {
        ["WebSocket", "/api/v1/health", "/icon.svg"].iter().any(|what| problem.contains(what))
    };
    assert!(problems.iter().all(expected), "{problems:#?}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_a_new_server_does_not_know_is_said_so_until_it_is_heard_of_again() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.3);
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("peer?id=0")).await;
    browser.until_shown("verack").await;
    let address = stage.address();
    stage.end().await;
    browser.until("document.querySelector('.banner.bad')?.innerText.includes('connection is lost')").await;
    let mut stage = Stage::start(Some(address)).await;
    stage.tell(message(901, "ping", Msg::Ping(Ping { value: 1 })));
    browser.until_shown("Peer 0 is not known any more").await;
    browser.until_shown("verack").await;
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "not known any more: {found:#?}");
    stage.tell(message(0, "ping", Msg::Ping(Ping { value: 0xfeed })));
    browser.until_shown("nonce 000000000000feed").await;
    browser.until("!document.querySelector('main').innerText.includes('not known any more')").await;

    // The same of one who was never there, and of a node.
    browser.go(&stage.url("peer?id=77")).await;
    browser.until_shown("Peer 77 is not known").await;
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "not known: {found:#?}");
    stage.tell(message(77, "ping", Msg::Ping(Ping { value: 0xbeef })));
    browser.until_shown("nonce 000000000000beef").await;
    browser.until("!document.querySelector('main').innerText.includes('is not known')").await;
    browser.go(&stage.url("peers?node=bob")).await;
    browser.until("document.querySelector('main .refused')?.innerText.includes('no such node')").await;
    browser.until("document.querySelector('#node').selectedOptions[0].text === 'bob (not seen)'").await;
    stage.tell_as("bob", message(902, "ping", Msg::Ping(Ping { value: 1 })));
    browser.until_shown("192.0.2.902:8333").await;
    browser.until("!document.querySelector('main .refused')").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_of_the_node_that_is_named_and_a_link_keeps_it() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    // The first by name, of which nothing is heard but a line.
    stage.tell_as("aaron", log("nobody talks to me"));
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("peers")).await;
    browser.until("document.querySelector('#node').value === 'aaron'").await;
    stage.tell(message(903, "ping", Msg::Ping(Ping { value: 1 })));
    stage.tell_as("bob", message(902, "ping", Msg::Ping(Ping { value: 1 })));
    browser.until_shown("192.0.2.903:8333").await;
    browser.until("document.querySelector('#node').value === 'alice'").await;
    browser.until("location.hash.includes('node=alice')").await;

    browser.choose("#node", "bob").await;
    browser.until_shown("192.0.2.902:8333").await;
    browser.until("!document.querySelector('main').innerText.includes('192.0.2.903')").await;
    browser.until("location.hash.includes('node=bob')").await;
    browser.reload().await;
    browser.until_shown("192.0.2.902:8333").await;
    browser.until("document.querySelector('#node').value === 'bob'").await;
    for step in ["document.querySelector('#menu a[data-view=overview]')", "document.querySelector('#brand')"]
    {
        browser.go(&stage.url("peers?node=bob")).await;
        browser.until_shown("192.0.2.902:8333").await;
        browser.click(step).await;
        browser.until_shown("Messages in").await;
        browser.until("location.hash.includes('node=bob')").await;
        browser.until("document.querySelector('#node').value === 'bob'").await;
    }
    // Who chooses the silent one gets it.
    browser.choose("#node", "aaron").await;
    browser.go(&stage.url("log?node=aaron")).await;
    browser.until_shown("nobody talks to me").await;
    browser.until("document.querySelector('#node').value === 'aaron'").await;
    assert_eq!(browser.problems().await, Vec::<String>::new());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_skips_the_menu_stays_in_the_view() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.3);
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("peers?filter=Satoshi")).await;
    browser.until_shown("/Satoshi:").await;
    let before = browser.eval("location.hash").await;
    browser.eval("document.querySelector('.skip').focus()").await;
    browser.press("Enter").await;
    browser.until("document.activeElement.id === 'main'").await;
    browser.until_shown("/Satoshi:").await;
    assert_eq!(browser.eval("location.hash").await, before);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_grouped_as_one_likes() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.8);
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("peers")).await;
    browser.until_shown("/Satoshi:").await;
    let rows = "[...document.querySelectorAll('main tr.group')].map((row) => row.innerText)";
    for (group, pattern) in [
        ("type", r"^inbound \(\d+\)$"),
        ("network", r"^ipv4 \(\d+\)$"),
        ("netgroup", r"^[\d.]+/16 \(\d+\)$"),
        ("as", r"^AS"),
        ("agent", r"^/Satoshi:.*/ \(\d+\)$"),
        ("list", r"^watched \(\d+\)$"),
    ] {
        browser.choose("select[aria-label='Group peers']", group).await;
        browser
            .until(&format!("{rows}.some((row) => /{}/.test(row.trim()))", pattern.replace('/', r"\/")))
            .await;
        browser.until(&format!("location.hash.includes('group={group}')")).await;
    }
    browser.reload().await;
    browser.until(&format!("{rows}.some((row) => row.includes('watched ('))")).await;
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(browser.problems().await, Vec::<String>::new());
    stage.end().await;
}

/// Tells lines of the log after two others, and waits until the server has them.
async fn tell_lines(stage: &mut Stage, browser: &mut Browser, numbers: std::ops::Range<u32>) {
    let all = numbers.end + 2;
    for number in numbers {
        stage.tell(log(&format!("line {number}")));
    }
    let came = format!(
        "(async () => {{ while ((await (await fetch('/api/v1/log?limit=1')).json()).next < {all}) {{ /* again */ }} }})()"
    );
    browser.eval(&came).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_came_while_nobody_looked_are_shown_or_counted() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    let mut browser = Browser::start(1360, 850).await;
    stage.tell(log("the first line"));
    browser.go(&stage.url("log")).await;
    browser.until_shown("the first line").await;

    browser.press("p").await;
    browser.until("document.querySelector('#status').innerText.includes('paused')").await;
    stage.tell(log("said in a pause"));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let text = browser.eval("document.querySelector('main').innerText").await;
    assert!(!text.as_str().unwrap().contains("said in a pause"), "{text}");
    browser.press("p").await;
    browser.until_shown("said in a pause").await;

    // A page that nobody sees asks for nothing, and what the server sends at once is bounded.
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}), \
             document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    browser.eval(&hide(true)).await;
    tell_lines(&mut stage, &mut browser, 0..1_500).await;
    browser.eval(&hide(false)).await;
    browser.until_shown("1,502 lines kept here").await;
    let text = browser.eval("document.querySelector('main').innerText").await;
    let text = text.as_str().unwrap();
    assert!(!text.contains("left out"), "{text:.200}");
    let order = "((numbers) => numbers.length === 1_500 && numbers.every((number, at) => number === at)) \
                 ([...document.querySelectorAll('.log div')].map((line) => /line (\\d+)$/.exec(line.innerText)) \
                 .filter(Boolean).map(([, number]) => Number(number)).slice(-1_500))";
    browser.until(order).await;
    // The server keeps 4,000.
    browser.eval(&hide(true)).await;
    tell_lines(&mut stage, &mut browser, 1_500..6_000).await;
    browser.eval(&hide(false)).await;
    browser.until_shown("line 5999").await;
    browser.until_shown(" 500 left out").await;

    browser.go(&stage.url("log?filter=needle")).await;
    browser.until_shown("No line matches").await;
    stage.tell(log("a needle"));
    browser.until_shown("a needle").await;
    browser.until("!document.querySelector('main').innerText.includes('No line matches')").await;
    assert_eq!(browser.problems().await, Vec::<String>::new());
    stage.end().await;
}

/// What a server says only when public extractors, an address manager in parts or a slow page are there.
const RARE: &str = "const data = message?.data; \
    if (data && ('without_origin' in data || 'status' in data)) data.without_origin = 3; \
    if (data?.tables) data.tables.parts = [1, 3]; \
    for (const [at, row] of (data?.transactions ?? []).entries()) { row.rejected = true; row.gone = at % 2 === 1; } \
    if (data && window.slow) message.missed = 30";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_for_sure_is_not_said_so() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.8);
    stage.open_windows();
    let mut browser = Browser::start(1360, 850).await;
    browser.pretend(RARE).await;
    for (view, words) in [
        ("overview", "losses cannot be seen"),
        ("pipeline", "Nothing was lost that can be seen: losses cannot be seen."),
        ("addrman", "part 1 of 3"),
        ("transactions", "mined or removed"),
    ] {
        browser.go(&stage.url(view)).await;
        browser.until_shown(words).await;
        let text = browser.eval("document.querySelector('main').innerText").await;
        assert!(!text.as_str().unwrap().contains("exact"), "{view}: {text}");
    }
    // What was accepted is so, whatever was thought of it before.
    browser.until_shown("in the mempool").await;
    let wrong = "[...document.querySelectorAll('main table')[1].tBodies[0].rows].filter((row) => \
                 row.lastChild.innerText === 'rejected' && row.cells[5].innerText !== '–').length";
    assert_eq!(browser.eval(wrong).await, 0);

    // A page that does not keep up says so for as long as it is true, without numbers to be read out.
    browser.eval("window.slow = true").await;
    browser.until("document.querySelector('#banners').innerText.includes('does not keep up')").await;
    assert_eq!(browser.eval("/[0-9]/.test(document.querySelector('#banners').innerText)").await, false);
    browser.eval("window.slow = false").await;
    browser.eval("((now) => { Date.now = () => now() + 61_000 })(Date.now)").await;
    browser.until("!document.querySelector('#banners').innerText.includes('does not keep up')").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_mode_is_known_from_the_first_view_on() {
    require!(need::chromium());
    let mut stage = Stage::start_with(None, |config| config.web_limited = true).await;
    tell_all(&mut stage);
    let mut browser = Browser::start(1360, 850).await;
    for (view, words) in [
        ("addresses", "Addresses are not shown in limited mode"),
        ("addrman", "What leads to addresses is not shown"),
        ("log", "in limited mode it is not shown"),
        ("peers", "/Satoshi:"),
    ] {
        // As who opens the page with it.
        browser.go("about:blank").await;
        browser.go(&stage.url(view)).await;
        browser.until_shown(words).await;
        browser.until("document.querySelector('#banners').innerText.includes('Limited mode')").await;
        assert_eq!(browser.eval("document.querySelectorAll('main .refused').length").await, 0, "{view}");
        let found = browser.stumbling_blocks().await;
        assert!(found.is_empty(), "{view}: {found:#?}");
        assert_eq!(browser.problems().await, Vec::<String>::new(), "{view}");
    }
    browser.until("!document.querySelector('#menu').innerText.includes('Log')").await;
    // Its key leads nowhere, the next one where it always does.
    browser.press("9").await;
    browser.press("0").await;
    browser.until_shown("net:inbound_message").await;
    browser.eval("history.back()").await;
    browser.until_shown("/Satoshi:").await;
    stage.end().await;
}

/// Types a token into the login page, and sends it.
async fn log_in(browser: &mut Browser, token: &str) {
    browser.until("document.activeElement?.id === 'token'").await;
    for key in token.chars() {
        browser.press(&key.to_string()).await;
    }
    browser.click("document.querySelector('button.primary')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_token_comes_in_and_who_has_not_is_told() {
    require!(need::chromium());
    let start = |address, token: &str| {
        let token = Some(token.to_owned());
        Stage::start_with(address, |config| config.web_token = token)
    };
    let mut stage = start(None, "0123456789abcdef").await;
    stage.play(0.3);
    let mut browser = Browser::start(1360, 850).await;
    let styled = "getComputedStyle(document.querySelector('button.primary')).cursor === 'pointer'";
    for scheme in [Scheme::Dark, Scheme::Light] {
        browser.prefer(scheme).await;
        browser.go(&stage.url("")).await;
        browser.until(styled).await;
        let dark = "getComputedStyle(document.body).backgroundColor === 'rgb(15, 19, 24)'";
        assert_eq!(browser.eval(dark).await, scheme == Scheme::Dark);
        assert_eq!(browser.eval("document.querySelector('img').naturalWidth > 0").await, true);
        let found = browser.stumbling_blocks().await;
        assert!(found.is_empty(), "login in {scheme:?}: {found:#?}");
        log_in(&mut browser, "0123456789abcdeX").await;
        browser.until_shown("That is not the token.").await;
        browser.until(styled).await;
        let found = browser.stumbling_blocks().await;
        assert!(found.is_empty(), "wrong token in {scheme:?}: {found:#?}");
    }
    // Who asks for that address again gets the form again.
    browser.go(&format!("http://{}/login", stage.address())).await;
    browser.until("location.pathname === '/'").await;
    log_in(&mut browser, "0123456789abcdef").await;
    browser.until_shown("Messages in").await;
    browser.until("location.pathname === '/'").await;
    browser.go(&stage.url("peers")).await;
    browser.until_shown("/Satoshi:").await;

    // With another token, a page that is open asks for it.
    let address = stage.address();
    stage.end().await;
    let stage = start(Some(address), "fedcba9876543210").await;
    browser.until("document.querySelector('#token')").await;
    log_in(&mut browser, "fedcba9876543210").await;
    browser.until_shown("No node yet").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_too_many_says_so_and_comes_in_when_there_is_a_place() {
    require!(need::chromium());
    let mut stage = Stage::start_with(None, |config| config.web_max_clients = 1).await;
    stage.play(0.3);
    let stream = format!("ws://{}/api/v1/stream", stage.address());
    let (place, _) = tokio_tungstenite::connect_async(stream).await.unwrap();
    let mut browser = Browser::start(1360, 850).await;
    browser.go(&stage.url("peers")).await;
    browser.until("document.querySelector('.banner.bad')?.innerText.includes('too many clients')").await;
    browser.until("document.querySelector('#status').innerText.includes('waiting for a place')").await;
    browser.until_shown("Connecting").await;
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "{found:#?}");
    drop(place);
    browser.until_shown("/Satoshi:").await;
    browser.until("!document.querySelector('.banner.bad')").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_calls_itself_is_shown_as_it_is_and_does_nothing() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    let agent = "/<img src=x onerror=window.pwned=1><script>window.pwned=1</script>/";
    let version = Version { version: 70_016, user_agent: agent.into(), ..Version::default() };
    stage.tell(message(1, "version", Msg::Version(version)));
    stage.tell(message(1, "<b>evil</b>", Msg::Verack(true)));
    stage.tell(log("peer=1 <img src=x onerror=window.pwned=1>"));
    let mut browser = Browser::start(1360, 850).await;
    for (view, text) in [
        ("peers", agent),
        ("circle", agent),
        ("peer?id=1", agent),
        ("peer?id=1", "<b>evil</b>"),
        ("log?mark=img", "<img src=x"),
    ] {
        browser.go(&stage.url(view)).await;
        browser.until_shown(text).await;
        assert_eq!(
            browser.eval("document.querySelectorAll('main img, main script').length").await,
            0,
            "{view}"
        );
    }
    assert_eq!(browser.eval("typeof window.pwned").await, "undefined");
    // Whatever a view may do one day: markup made of text is refused by the browser.
    let refused = browser.eval(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } })()",
    );
    assert_eq!(refused.await, true);
    stage.end().await;
}

/// Views of the demo, and what each shows only when it has something to show.
const DEMO_VIEWS: [(&str, &str); 10] = [
    ("overview", "inbound"),
    ("peers", "outbound-full-relay"),
    ("circle", "Busiest peers"),
    ("transactions", "By peer"),
    ("addresses", "By age when received"),
    ("blocks", "connected in"),
    ("pings", "Node took"),
    ("addrman", "netgroups"),
    ("log", "[net]"),
    ("pipeline", "netmsg"),
];

#[tokio::test(flavor = "multi_thread")]
async fn spoofed_times_leave_the_page_live_and_right() {
    const SPOOFED: [u64; 3] = [0, 1 << 63, u64::MAX];
    const TOPICS: [&str; 6] = ["overview", "peers", "messages", "pings", "pipeline", "nodes"];
    let mut stage = Stage::start(None).await;
    let address = stage.address();
    let ping = |value| message(900, "ping", Msg::Ping(Ping { value }));
    let mut told = 0;
    stage.tell(ping(0));
    for round in 1..=20 {
        for time_ns in SPOOFED {
            stage.tell_at(time_ns, ping(round));
        }
        stage.tell(ping(round));
        told = 1 + round * (SPOOFED.len() as u64 + 1);
    }
    let seen = move || page::ask(address, "health").is_ok_and(|health| health["events"] == told);
    let seen = tokio::task::spawn_blocking(move || wait_until(LONG, seen));
    assert!(seen.await.unwrap(), "it has seen all {told} events");
    // An event of now, in case that the others took long.
    stage.tell(ping(0));
    let mut overview = None;
    let asked = tokio::task::spawn_blocking(move || {
        let is_live = wait_until(LONG, || {
            overview = page::ask(address, "overview").ok();
            overview.as_ref().is_some_and(|overview| overview["live"] == true)
        });
        assert!(is_live, "{overview:?}");
        let now_us = overview.and_then(|overview| overview["now_us"].as_u64()).unwrap();
        let away = now_us.abs_diff(peer_observer_bus::now_ns() / 1_000);
        assert!(away < 600_000_000, "the node's time is {away} µs away from this machine's");
        for topic in TOPICS {
            let answer = page::ask(address, topic);
            assert!(answer.as_ref().is_ok_and(|answer| answer.is_object()), "{topic}: {answer:?}");
        }
    });
    asked.await.unwrap();
    stage.end().await;
}

/// Starts the demo; its page is at the address that is returned.
fn start_demo() -> (Process, String) {
    let mut demo = program::start(&["demo", "--no-probes", "-m", "127.0.0.1:0", "-w", "127.0.0.1:0"]);
    let line = demo.wait_for_line(|line| line.contains("the live page is at"), LONG).unwrap();
    let address = line.split_once("http://").unwrap().1.trim_end_matches('/').to_owned();
    (demo, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_of_the_demo_shows_what_it_plays() {
    require!(need::chromium());
    let (demo, address) = start_demo();
    let mut browser = Browser::start(1360, 850).await;
    for (view, words) in DEMO_VIEWS {
        browser.go(&format!("http://{address}/#/{view}")).await;
        browser.until_shown(words).await;
        browser.until("document.querySelector('#status').innerText.startsWith('live')").await;
        let found = browser.stumbling_blocks().await;
        assert!(found.is_empty(), "{view}: {found:#?}");
        assert_eq!(browser.problems().await, Vec::<String>::new(), "{view}");
    }
    assert!(program::terminate(demo));
}

#[test]
fn the_demo_has_something_to_watch_within_ten_seconds() {
    let (demo, address) = start_demo();
    let begin = Instant::now();
    let overview = || -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(&address).ok()?;
        let request =
            format!("GET /api/v1/overview HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    };
    let worth_watching = |overview: serde_json::Value| {
        let busy = overview["rates"]["messages_in"].as_f64().is_some_and(|rate| rate > 1.0);
        let peers = overview["peers"].as_array().is_some_and(|peers| !peers.is_empty());
        busy && peers && overview["live"] == true
    };
    assert!(wait_until(LONG, || overview().is_some_and(worth_watching)));
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    assert!(program::terminate(demo));
}

//! How the live page looks, in a real browser: every view in both themes and on a phone, for screen readers, keys, fingers, and those
//! who see few colours.
//!
//! `WEB_PICTURES=docs/web` keeps the pictures of all views that are taken here.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use peer_observer_e2e::browser::{Browser, Scheme};
use peer_observer_e2e::colours::{Sight, contrast, difference, parse};
use peer_observer_e2e::stage::Stage;
use peer_observer_e2e::told::{VIEWS, connected, message, pictures, tell_all, tell_chatter, tell_loss};
use peer_observer_events::proto::ebpf_extractor::message::Ping;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_testkit::{need, require};

#[tokio::test(flavor = "multi_thread")]
async fn every_view_shows_what_happened_without_a_complaint_in_both_themes() {
    require!(need::chromium());
    let mut browser = Browser::start(1440, 900).await;
    for scheme in [Scheme::Dark, Scheme::Light] {
        let mut stage = Stage::start(None).await;
        tell_all(&mut stage);
        browser.prefer(scheme).await;
        for (view, words) in VIEWS {
            if view == "pipeline" {
                tell_loss(&mut stage);
            }
            browser.go(&stage.url(view)).await;
            for word in words {
                browser.until_shown(word).await;
            }
            let theme = format!("document.documentElement.dataset.theme === '{}'", scheme.name());
            browser.until(&theme).await;
            assert_eq!(browser.eval("document.querySelectorAll('h1').length").await, 1, "{view}");
            if let Some(folder) = pictures() {
                // Rates should not be those of silence, something should fly, and lines should have been drawn.
                for _ in 0..3 {
                    tell_chatter(&mut stage);
                    tokio::time::sleep(Duration::from_millis(600)).await;
                }
                if view == "pipeline" {
                    // What was played happened long before it came here. That is over after a minute.
                    let short = r"/Latency\s+[\d.]+ (ms|µs)/.test(document.querySelector('main').innerText)";
                    browser.until(short).await;
                }
                let name = view.split('?').next().unwrap();
                browser.picture(&folder.join(format!("{name}-{}.webp", scheme.name()))).await;
            }
            let found = browser.stumbling_blocks().await;
            assert!(found.is_empty(), "{view} in {scheme:?}: {found:#?}");
            let problems = browser.problems().await;
            assert!(problems.is_empty(), "{view} in {scheme:?}: {problems:#?}");
        }
        browser.go("about:blank").await;
        stage.end().await;
    }
}

/// Text that is less than 9 px high where it is shown, also in a drawing that is made smaller.
const TOO_SMALL: &str = "[...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() && \
    [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => \
    [e.textContent.slice(0, 40), parseFloat(getComputedStyle(e).fontSize) * (e.getScreenCTM?.()?.a ?? 1)]) \
    .filter(([, high]) => high < 9)";

/// The menu's link to what is shown is in sight.
const MENU_SHOWS_WHERE: &str = "((box) => box.left >= 0 && box.right <= innerWidth) \
    (document.querySelector('#menu a[aria-current]').getBoundingClientRect())";

#[tokio::test(flavor = "multi_thread")]
async fn every_view_fits_a_phone() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_all(&mut stage);
    let mut browser = Browser::start(390, 844).await;
    for (view, words) in VIEWS {
        if view == "circle" {
            // From here on, a banner takes room, too.
            tell_loss(&mut stage);
        }
        browser.go(&stage.url(view)).await;
        browser.until_shown(words[0]).await;
        let wide = browser.eval("document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(wide <= 390, "{view} is {wide} wide");
        assert_eq!(browser.eval(TOO_SMALL).await, serde_json::json!([]), "{view} has text that is too small");
        browser.until(MENU_SHOWS_WHERE).await;
        if let Some(folder) = pictures().filter(|_| view == "overview" || view == "peers") {
            tokio::time::sleep(Duration::from_millis(900)).await;
            browser.picture(&folder.join(format!("{view}-phone.webp"))).await;
        }
        let found = browser.stumbling_blocks().await;
        assert!(found.is_empty(), "{view}: {found:#?}");
    }
    assert_eq!(browser.problems().await, Vec::<String>::new());
    stage.end().await;
}

/// What changes in each view every second, and can have the focus.
const FOCUSED: [(&str, &str); 11] = [
    ("overview", "main .feed a"),
    ("peers?group=type", "main td a"),
    ("circle", "main .feed a"),
    ("transactions", "main .tall td a"),
    ("addresses", "main td a"),
    ("blocks", "main h3 a"),
    ("pings", "main td a"),
    ("addrman", "main th button"),
    ("log", "main select"),
    ("pipeline", "main th button"),
    ("peer?id=0", "main .seg button"),
];

/// Counts updates of the list of nodes, which comes once a second as what the views show does.
const COUNT_UPDATES: &str = "if (message?.sub && Array.isArray(message.data?.nodes) && !message.data.node) \
    window.updates = (window.updates ?? 0) + 1";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_focus_keeps_it_while_the_page_changes() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_all(&mut stage);
    let mut browser = Browser::start(1440, 900).await;
    browser.pretend(COUNT_UPDATES).await;
    for (i, (view, selector)) in (0..).zip(FOCUSED) {
        tell_chatter(&mut stage);
        // What the last view showed is not waited for.
        browser.go("about:blank").await;
        browser.go(&stage.url(view)).await;
        browser.until(&format!("document.querySelector('{selector}')")).await;
        let focus = format!(
            "window.focused = document.querySelector('{selector}'), focused.focus(), window.updates = 0, \
             document.activeElement === focused"
        );
        assert_eq!(browser.eval(&focus).await, true, "{view}");
        // Something for every view.
        tell_chatter(&mut stage);
        stage.tell(message(700 + i, "ping", Msg::Ping(Ping { value: 1 })));
        stage.tell(connected([i as u8; 32], 200 + i as i32));
        browser.until("window.updates >= 3").await;
        let focused =
            "document.activeElement === window.focused ? '' : document.activeElement.outerHTML.slice(0, 200)";
        assert_eq!(browser.eval(focused).await, "", "{view} took the focus away");
    }
    assert_eq!(browser.problems().await, Vec::<String>::new());
    stage.end().await;
}

/// The colour of a kind of messages in the legend of the view that is shown; null where it is not there.
fn legend_colour(kind: &str) -> String {
    format!(
        "(([item]) => item ? getComputedStyle(item.querySelector('i')).backgroundColor : null)\
         ([...document.querySelectorAll('main .legend li')].filter((item) => item.innerText.trim() === '{kind}'))"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_of_messages_has_the_same_colour_in_every_view_and_for_all_time() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_chatter(&mut stage);
    let mut browser = Browser::start(1440, 900).await;
    browser.go(&stage.url("overview")).await;
    browser.until(&legend_colour("inv")).await;
    let kinds = ["tx", "inv", "getdata"];
    let mut before = Vec::new();
    for kind in kinds {
        before.push(browser.eval(&legend_colour(kind)).await);
    }
    // What was as frequent as the others is the most frequent one now, and another kind comes before them.
    for i in 0..500 {
        stage.tell(message(i % 9, "tx", Msg::Tx(Default::default())));
        stage.tell(message(i % 9, "ping", Msg::Ping(Ping { value: i })));
        stage.tell(message(i % 9, "ping", Msg::Ping(Ping { value: i })));
    }
    browser.until(&legend_colour("ping, pong")).await;
    for view in ["overview", "circle"] {
        browser.go("about:blank").await;
        browser.go(&stage.url(view)).await;
        browser.until(&legend_colour("ping, pong")).await;
        for (kind, before) in kinds.iter().zip(&before) {
            assert_eq!(browser.eval(&legend_colour(kind)).await, *before, "{kind} in {view}");
        }
    }
    // Who came and whom the node went to: by colour, and by shape.
    browser.until_shown("inbound peer").await;
    browser.until_shown("outbound peer").await;
    let full = |way: &str| {
        format!(
            "getComputedStyle(document.querySelector('.peer-dot.{way}')).backgroundColor !== 'rgba(0, 0, 0, 0)'"
        )
    };
    assert_eq!(browser.eval(&full("in")).await, false);
    assert_eq!(browser.eval(&full("out")).await, true);
    stage.end().await;
}

/// Two series that are nearer to each other than this are taken for one. Those without short-wave cones are one in ten thousand.
const APART: f64 = 20.0;
const APART_TRITAN: f64 = 15.0;

#[test]
fn colours_can_be_told_apart_by_everybody() {
    let style = include_str!("../../crates/tools/src/web/page/style.css");
    let (light, dark) = style.split_once(":root[data-theme=\"dark\"]").unwrap();
    for (theme, rules) in [("light", light), ("dark", dark)] {
        let colour = |name: &str| {
            let (_, rest) = rules.split_once(&format!("--{name}: ")).unwrap();
            parse(&rest[..7])
        };
        let series: Vec<String> = (0..8).map(|at| format!("s{at}")).collect();
        for name in &series {
            let contrast = contrast(colour(name), colour("panel"));
            assert!(contrast >= 3.0, "{theme} --{name} on a panel: {contrast:.1}");
        }
        let pairs = series
            .iter()
            .enumerate()
            .flat_map(|(at, one)| series[at + 1..].iter().map(move |other| (one.as_str(), other.as_str())));
        for (one, other) in pairs.chain([("in", "out")]) {
            for sight in Sight::ALL {
                let apart = difference(colour(one), colour(other), sight);
                let least = if sight == Sight::Tritan { APART_TRITAN } else { APART };
                assert!(apart >= least, "{theme} --{one} and --{other} for {sight:?}: {apart:.1}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finger_that_taps_a_peer_is_told_who_it_is_and_led_there_by_the_second_tap() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.8);
    let mut browser = Browser::start(390, 844).await;
    browser.go(&stage.url("circle")).await;
    browser.until_shown("Busiest peers").await;
    browser.until_shown("peer 0").await;
    let square = "((canvas) => Math.abs(canvas.clientWidth - canvas.clientHeight) < 2)(document.querySelector('#circle'))";
    assert_eq!(browser.eval(square).await, true);
    // The first peer is at the top of the ring.
    let top = browser.eval("34 / document.querySelector('#circle').clientHeight").await.as_f64().unwrap();
    browser.tap("document.querySelector('#circle')", 0.5, top).await;
    browser.until_shown("User agent").await;
    assert_eq!(browser.eval("location.hash.startsWith('#/circle')").await, true);
    browser.tap("document.querySelector('#circle')", 0.5, top).await;
    browser.until("location.hash.startsWith('#/peer?')").await;
    stage.end().await;
}

/// Keeps what is written into the drawings of the page, and where: words and place from the top.
const KEEP_WRITING: &str = "CanvasRenderingContext2D.prototype.clearRect = ((clear) => function (...place) { \
    this.canvas.words = []; clear.apply(this, place) })(CanvasRenderingContext2D.prototype.clearRect); \
    CanvasRenderingContext2D.prototype.fillText = ((fill) => function (words, x, y) { \
    this.canvas.words?.push([words, y]); fill.call(this, words, x, y) })(CanvasRenderingContext2D.prototype.fillText)";

#[tokio::test(flavor = "multi_thread")]
async fn axes_say_how_much_on_both_sides_and_when_in_whole_times() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_all(&mut stage);
    // Much more is sent than received.
    for i in 0..1_000 {
        stage.tell(peer_observer_e2e::told::sent(message(i % 9, "inv", Msg::Inv(Default::default()))));
    }
    stage.tell(message(1, "inv", Msg::Inv(Default::default())));
    let mut browser = Browser::start(1440, 900).await;
    browser.go(&stage.url("overview")).await;
    browser.until_shown("Messages a second").await;
    browser.eval(KEEP_WRITING).await;
    for chart in 0..2 {
        let words = format!("(document.querySelectorAll('main .chart canvas')[{chart}].words ?? [])");
        let zero = format!("{words}.find(([words]) => words === '0')?.[1]");
        let numbers =
            format!("{words}.filter(([words]) => /^[0-9.]+( [kM]?B)?$/.test(words) && words !== '0')");
        browser.until(&format!("{numbers}.some(([, y]) => y < {zero})")).await;
        browser.until(&format!("{numbers}.some(([, y]) => y > {zero})")).await;
        let times = format!("{words}.map(([words]) => words).filter((words) => words.includes(':'))");
        let whole =
            format!("{times}.length > 0 && {times}.every((time) => /^\\d\\d:\\d\\d(:\\d0)?$/.test(time))");
        browser.until(&whole).await;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_named_with_its_unit() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.8);
    let mut browser = Browser::start(1440, 900).await;
    for (view, words) in [
        (
            "overview",
            &["Messages a second", "Bytes a second", "Mempool changes a second", "Mempool, added"][..],
        ),
        ("addresses", &["< 10 min", "< 10 d", "received", "sent"]),
        ("pings", &["Node took"]),
    ] {
        browser.go(&stage.url(view)).await;
        for word in words {
            browser.until_shown(word).await;
        }
    }
    let dots = "[...document.querySelectorAll('main tbody tr')].filter((row) => row.cells[9].innerText === '1') \
                .map((row) => row.querySelector('.spark path').getBoundingClientRect().width > 0)";
    let dots = browser.eval(dots).await;
    let dots = dots.as_array().unwrap();
    assert!(!dots.is_empty() && dots.iter().all(|dot| *dot == true), "one round trip is a dot: {dots:?}");
    stage.open_windows();
    browser.go(&stage.url("addrman")).await;
    browser.until_shown("71 new").await;
    let key = "[...document.querySelectorAll('main .bars-key li')].map((item) => item.innerText.trim())";
    assert_eq!(browser.eval(key).await, serde_json::json!(["new", "tried"]));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_share_one_scale_and_tell_their_times_to_keys_and_fingers() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_all(&mut stage);
    let mut browser = Browser::start(1440, 900).await;
    browser.go(&stage.url("blocks")).await;
    browser.until_shown("Block 138").await;
    let places = "[...document.querySelectorAll('.way:not([hidden]) [data-what=connected]')].map((mark) => \
                  Math.round(mark.getBoundingClientRect().left))";
    let places = browser.eval(places).await;
    let mut distinct: Vec<_> =
        places.as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).collect();
    distinct.truncate(5);
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 5, "blocks that take different times: {places}");
    let scale = browser.eval("document.querySelector('.scale').innerText").await;
    for tick in ["1 ms", "10 ms", "100 ms", "1 s"] {
        assert!(scale.as_str().unwrap().contains(tick), "{scale}");
    }
    // Who did what when is in words, too: a key opens it, and it stays open when more is known.
    browser.eval("document.querySelector('main details:not([hidden]) summary').focus()").await;
    browser.press("Enter").await;
    browser.until("document.querySelector('main details[open]')").await;
    browser.until_shown("was asked for 3 transactions").await;
    stage.tell(connected([0xee; 32], 139));
    browser.until_shown("Block 139").await;
    browser.until_shown("was asked for 3 transactions").await;
    // A block of which one thing is known has no way.
    let ways = "[...document.querySelectorAll('main article')].find((one) => one.innerText.includes('Block 139')) \
                .querySelectorAll('.way:not([hidden])').length";
    assert_eq!(browser.eval(ways).await, 0);
    let found = browser.stumbling_blocks().await;
    assert!(found.is_empty(), "{found:#?}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_reads_downwards() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    stage.play(0.8);
    let mut browser = Browser::start(1440, 900).await;
    browser.go(&stage.url("peer?id=0")).await;
    browser.until_shown("Last messages").await;
    let times = "[...document.querySelectorAll('.seq g text:first-of-type')].map((time) => time.textContent)";
    let sorted = |direction: &str| {
        format!(
            "((times) => times.length > 2 && String(times) === String([...times].sort(){direction}))({times})"
        )
    };
    browser.until(&sorted(".reverse()")).await;
    browser.click("[...document.querySelectorAll('main .seg button')].find((one) => one.innerText === 'How it began')").await;
    browser.until(&sorted("")).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_the_overview_is_in_sight_at_first() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_all(&mut stage);
    let mut browser = Browser::start(1440, 900).await;
    browser.go(&stage.url("overview")).await;
    browser.until_shown("138").await;
    let below = "[...document.querySelectorAll('main .panel')].filter((panel) => \
                 panel.getBoundingClientRect().bottom > innerHeight).map((panel) => panel.innerText.slice(0, 30))";
    assert_eq!(browser.eval(below).await, serde_json::json!([]));
    stage.end().await;
}

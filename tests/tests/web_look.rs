//! How the live page looks, in a real browser: every view in both themes and on a phone, for screen readers, keys, fingers, and those
//! who see few colours.
//!
//! `WEB_PICTURES=docs/web` keeps the pictures of all views that are taken here.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use peer_observer_e2e::browser::{Browser, Scheme};
use peer_observer_e2e::stage::Stage;
use peer_observer_e2e::told::{VIEWS, pictures, tell_all, tell_chatter, tell_loss};
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

#[tokio::test(flavor = "multi_thread")]
async fn every_view_fits_a_phone() {
    require!(need::chromium());
    let mut stage = Stage::start(None).await;
    tell_all(&mut stage);
    tell_loss(&mut stage);
    let mut browser = Browser::start(390, 844).await;
    for (view, words) in VIEWS {
        browser.go(&stage.url(view)).await;
        browser.until_shown(words[0]).await;
        let wide = browser.eval("document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(wide <= 390, "{view} is {wide} wide");
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

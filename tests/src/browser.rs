//! A real browser: Chromium without a window, over the DevTools protocol (<https://chromedevtools.github.io/devtools-protocol/>).
//!
//! One page in one browser, with an own profile: what a test does is all that happened. Whatever the page complains about is kept.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use peer_observer_testkit::need;
use peer_observer_testkit::process::Process;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::LONG;

/// Finds what people with disabilities would stumble over; vendor/axe-core/ has its licence.
const AXE: &str = include_str!("../vendor/axe-core/axe.min.js");

/// What the reader's system prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark letters on a light ground.
    Light,
    /// The other way round.
    Dark,
}

impl Scheme {
    /// As style sheets call it.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        }
    }
}

/// A page in a browser of its own.
pub struct Browser {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    next: u64,
    problems: Vec<String>,
    /// Which document the page shows, as the browser numbers them: another after each navigation that is not within one.
    document: String,
    // These end the browser and remove its profile, in this order.
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty page of that size.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let mut command = Command::new(need::chromium().expect("asked for before"));
        // Its sandbox cannot be had by root, and not in containers; it opens nothing here but what is ours.
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
        ]);
        command.args([
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--remote-debugging-port=0",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut process = Process::spawn(command).expect("cannot run chromium");
        let line =
            process.wait_for_line(|line| line.contains("DevTools listening on"), LONG).expect("chromium");
        let (_, url) = line.split_once("listening on ").expect("its address");
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let connected = tokio_tungstenite::connect_async_with_config(url.trim(), Some(config), true).await;
        let (socket, _) = connected.expect("connecting to chromium");
        let mut browser = Browser {
            socket,
            session: String::new(),
            next: 0,
            problems: Vec::new(),
            document: String::new(),
            _process: process,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        let mobile = width < 600;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        browser.call("Emulation.setDeviceMetricsOverride", size).await;
        browser
    }

    /// Lets the system prefer light or dark.
    pub async fn prefer(&mut self, scheme: Scheme) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme.name() });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
    }

    /// Goes to an address, and returns when what is asked next is asked of the page there.
    ///
    /// # Panics
    /// When there is none.
    pub async fn go(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(answer["errorText"].is_null(), "{url}: {}", answer["errorText"]);
        // None where only what follows the # is another.
        if let Some(document) = answer["loaderId"].as_str() {
            self.until_document(|now| now == document).await;
        }
    }

    /// Loads the page anew, and returns when what is asked next is asked of the new one.
    pub async fn reload(&mut self) {
        let before = self.document.clone();
        self.call("Page.reload", json!({})).await;
        self.until_document(|now| now != before).await;
    }

    /// Waits until the page shows such a document.
    async fn until_document(&mut self, wanted: impl Fn(&str) -> bool) {
        let shown = async {
            while !wanted(&self.document) {
                self.message().await;
            }
        };
        tokio::time::timeout(LONG, shown).await.expect("chromium shows the page");
    }

    /// The value of an expression in the page, waited for if it is a promise.
    ///
    /// # Panics
    /// When it throws.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    ///
    /// # Panics
    /// When it is not for long.
    pub async fn until(&mut self, expression: &str) {
        let deadline = tokio::time::Instant::now() + LONG;
        let asked = json!({ "expression": format!("Boolean({expression})"), "returnByValue": true });
        loop {
            // A page that a click leaves cannot answer; the next one will.
            let answer = self.ask("Runtime.evaluate", asked.clone()).await;
            if answer["result"]["result"]["value"] == true {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                let shown = self.eval("document.body?.innerText ?? ''").await;
                panic!(
                    "{expression} is not so: {answer}; complaints: {:?}; the page says:\n{}",
                    self.problems,
                    shown.as_str().unwrap_or("")
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks what an expression finds, as soon as it finds it.
    ///
    /// # Panics
    /// When it finds nothing for long.
    pub async fn click(&mut self, expression: &str) {
        // In one go, because a page may draw itself anew between two questions.
        self.until(&format!("((found) => found && (found.click(), true))({expression})")).await;
    }

    /// Lets pages that are loaded from now on hear something else than the server says: statements change the `message`.
    pub async fn pretend(&mut self, change: &str) {
        let source = format!(
            "{{ const parse = JSON.parse; JSON.parse = (text) => {{ const message = parse(text); {change}; return message; }}; }}"
        );
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
    }

    /// Chooses an option of a list, as soon as it is there.
    ///
    /// # Panics
    /// When it is not for long.
    pub async fn choose(&mut self, list: &str, value: &str) {
        let (list, value) = (json!(list), json!(value));
        let chosen = format!(
            "((list) => list && [...list.options].some((option) => option.value === {value}) && \
             (list.value = {value}, list.dispatchEvent(new Event('change')), true))(document.querySelector({list}))"
        );
        self.until(&chosen).await;
    }

    /// Waits until the main part of the page shows this text.
    pub async fn until_shown(&mut self, text: &str) {
        let text = json!(text).to_string();
        self.until(&format!("document.querySelector('main')?.innerText.includes({text})")).await;
    }

    /// Presses a key and lets it go.
    pub async fn press(&mut self, key: &str) {
        let text = match key {
            "Enter" => "\r",
            one if one.chars().count() == 1 => one,
            _ => "",
        };
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "text": text })).await;
        }
    }

    /// Touches a place in what an expression finds, and lets it go: so far from its left and its top, as parts of its width and height.
    ///
    /// # Panics
    /// When it finds nothing.
    pub async fn tap(&mut self, expression: &str, across: f64, down: f64) {
        let place = format!(
            "(() => {{ const box = ({expression}).getBoundingClientRect(); \
             return [box.left + box.width * {across}, box.top + box.height * {down}]; }})()"
        );
        let place = self.eval(&place).await;
        self.call("Emulation.setTouchEmulationEnabled", json!({ "enabled": true })).await;
        let point = json!([{ "x": place[0], "y": place[1] }]);
        for (kind, points) in [("touchStart", point), ("touchEnd", json!([]))] {
            self.call("Input.dispatchTouchEvent", json!({ "type": kind, "touchPoints": points })).await;
        }
    }

    /// What the page, or the browser about the page, complained about since the last time.
    pub async fn problems(&mut self) -> Vec<String> {
        // Complaints come before the answer to what is asked after them.
        self.eval("0").await;
        std::mem::take(&mut self.problems)
    }

    /// What those who cannot see, or see few colours, or have no mouse would stumble over (WCAG 2.2 A and AA, and good practice).
    pub async fn stumbling_blocks(&mut self) -> Vec<String> {
        if self.eval("typeof axe").await == "undefined" {
            // The page's policy concerns what the page does, not the debugger.
            let _ = self.call("Runtime.evaluate", json!({ "expression": AXE })).await;
        }
        let found = self
            .eval(
                "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map((v) => \
                 `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => `${n.html.slice(0, 160)} ${n.failureSummary}`).join(' | ')}`))",
            )
            .await;
        let found = found.as_array().expect("a list");
        found.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    }

    /// What the page costs: time that its main thread was busy so far, s, and its heap, bytes.
    ///
    /// # Panics
    /// When the browser does not say.
    pub async fn cost(&mut self) -> (f64, f64) {
        self.call("Performance.enable", json!({})).await;
        let answer = self.call("Performance.getMetrics", json!({})).await;
        let metrics = answer["metrics"].as_array().expect("metrics");
        let value = |name: &str| {
            let metric = metrics.iter().find(|metric| metric["name"] == name);
            metric.and_then(|metric| metric["value"].as_f64()).expect("a metric of that name")
        };
        (value("TaskDuration"), value("JSHeapUsedSize"))
    }

    /// Takes a picture of what is in sight.
    ///
    /// # Panics
    /// When it cannot be written.
    pub async fn picture(&mut self, path: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "webp", "quality": 82 })).await;
        let data = picture["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).expect("a picture");
        std::fs::write(path, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    /// What a command answers.
    ///
    /// # Panics
    /// When it fails.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params).await;
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// The answer to a command: its `result` or its `error`.
    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(request.to_string())).await.expect("talking to chromium");
        let answer = async {
            loop {
                let message = self.message().await;
                if message["id"] == id {
                    return message;
                }
            }
        };
        tokio::time::timeout(LONG, answer)
            .await
            .unwrap_or_else(|_| panic!("chromium does not answer {method}"))
    }

    /// The next message of the browser, after what it says of the page was noted.
    async fn message(&mut self) -> Value {
        loop {
            let message = self.socket.next().await.expect("chromium goes on").expect("listening to chromium");
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).expect("JSON");
            self.problems.extend(problem(&message));
            let frame = &message["params"]["frame"];
            if message["method"] == "Page.frameNavigated" && frame["parentId"].is_null() {
                frame["loaderId"].as_str().unwrap_or("").clone_into(&mut self.document);
            }
            return message;
        }
    }
}

/// What an event complains about, if it does.
fn problem(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if params["type"] == "error" || params["type"] == "warning" => {
            Some(params["args"].to_string())
        }
        "Log.entryAdded" if params["entry"]["level"] == "error" => Some(params["entry"].to_string()),
        _ => None,
    }
}

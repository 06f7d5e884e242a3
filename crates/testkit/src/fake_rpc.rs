//! A node's RPC server that plays recorded answers, and misbehaves when it is told to.
//!
//! It speaks as much HTTP as Bitcoin Core's does: one call after another on a connection that is kept open.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Calls are small, bytes.
const MAX_CALL: usize = 1 << 20;
/// Name for [`FakeRpc::behave`] that stands for all methods.
pub const EVERYTHING: &str = "*";

/// What the server does instead of answering at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers this JSON as the result.
    Answer(String),
    /// Answers as it should, so much later.
    Slow(Duration),
    /// Answers with an error of the method: -28 in warm-up, -32601 for a method that it does not have.
    Refuse(i64, &'static str),
    /// Answers with this HTTP status and no JSON: 503 when the work queue is full, 403 for what is forbidden.
    Status(u16),
    /// Closes the connection in the middle of the answer.
    Partial,
    /// Answers with a result of so many bytes.
    Oversized(usize),
    /// Answers with a body that has no end, in pieces of so many bytes with so much time in between.
    Endless(usize, Duration),
    /// Answers with this HTTP status, and that the client should ask at this URL instead.
    Redirect(u16, String),
    /// Answers with what is no JSON.
    Garbage,
    /// Answers with what is no HTTP.
    Noise,
    /// Closes the connection instead of answering.
    Close,
}

#[derive(Debug, Default)]
struct State {
    login: String,
    answers: HashMap<String, String>,
    behaviours: HashMap<String, Behaviour>,
    calls: HashMap<String, u64>,
    in_flight: HashMap<String, u64>,
    most_in_flight: HashMap<String, u64>,
    refused_logins: u64,
    streams: Vec<TcpStream>,
    open: u64,
    most_open: u64,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct FakeRpc {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl FakeRpc {
    /// Starts a server on a free port of 127.0.0.1 that takes the login `USER:PASSWORD`. No other test gets the port when the
    /// server has ended.
    pub fn start(login: &str) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, crate::free_port()?).into(), login)
    }

    /// Starts a server at an address, such as that of one that was dropped.
    pub fn start_at(addr: SocketAddr, login: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        shared.state().login = login.to_owned();
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Ok(FakeRpc { addr, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers with the files of a folder: METHOD.json, or METHOD-PARAMETER-PARAMETER.json.
    pub fn play(&self, folder: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json")
                && let Some(name) = path.file_stem().and_then(|n| n.to_str())
            {
                self.shared.state().answers.insert(name.to_owned(), std::fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    /// From now on behaves like this when asked for `method`, or for [`EVERYTHING`].
    pub fn behave(&self, method: &str, behaviour: Behaviour) {
        self.shared.state().behaviours.insert(method.to_owned(), behaviour);
        self.shared.changed.notify_all();
    }

    /// From now on answers as it should. Answers that are slow come at once.
    pub fn heal(&self) {
        self.shared.state().behaviours.clear();
        self.shared.changed.notify_all();
    }

    /// From now on takes this login, `USER:PASSWORD`, and no other.
    pub fn set_login(&self, login: &str) {
        self.shared.state().login = login.to_owned();
    }

    /// Calls of a method so far.
    pub fn calls(&self, method: &str) -> u64 {
        self.shared.state().calls.get(method).copied().unwrap_or(0)
    }

    /// The most calls of a method that were in progress at one time.
    pub fn most_in_flight(&self, method: &str) -> u64 {
        self.shared.state().most_in_flight.get(method).copied().unwrap_or(0)
    }

    /// The most connections that were open at one time.
    pub fn most_connections(&self) -> u64 {
        self.shared.state().most_open
    }

    /// Calls so far whose login was refused.
    pub fn refused_logins(&self) -> u64 {
        self.shared.state().refused_logins
    }
}

impl Drop for FakeRpc {
    fn drop(&mut self) {
        let streams = {
            let mut state = self.shared.state();
            state.stopped = true;
            std::mem::take(&mut state.streams)
        };
        self.shared.changed.notify_all();
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        {
            let mut state = shared.state();
            if state.stopped {
                return;
            }
            if let Ok(copy) = stream.try_clone() {
                state.streams.push(copy);
            }
            state.open += 1;
            state.most_open = state.most_open.max(state.open);
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
            shared.state().open -= 1;
        });
    }
}

/// Answers the calls of one connection, until either side has enough.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((login, call)) = read_call(&mut reader)? {
        let call: Value = serde_json::from_slice(&call).map_err(io::Error::other)?;
        let method = call["method"].as_str().unwrap_or_default().to_owned();
        let (behaviour, allowed) = {
            let mut state = shared.state();
            let allowed = login == format!("Basic {}", STANDARD.encode(&state.login));
            state.refused_logins += u64::from(!allowed);
            if allowed {
                *state.calls.entry(method.clone()).or_default() += 1;
                let in_flight = state.in_flight.entry(method.clone()).or_default();
                *in_flight += 1;
                let now = *in_flight;
                let most = state.most_in_flight.entry(method.clone()).or_default();
                *most = now.max(*most);
            }
            let behaviour = state.behaviours.get(&method).or_else(|| state.behaviours.get(EVERYTHING));
            (behaviour.cloned(), allowed)
        };
        if !allowed {
            respond(stream, 401, "")?;
            continue;
        }
        let answered = answer(stream, shared, &method, &call, behaviour);
        *shared.state().in_flight.entry(method).or_default() -= 1;
        answered?;
    }
    Ok(())
}

fn answer(
    stream: &TcpStream,
    shared: &Shared,
    method: &str,
    call: &Value,
    behaviour: Option<Behaviour>,
) -> io::Result<()> {
    let id = &call["id"];
    let result = |json: &str| format!("{{\"result\":{json},\"error\":null,\"id\":{id}}}\n");
    match behaviour {
        None => {}
        Some(Behaviour::Answer(json)) => return respond(stream, 200, &result(&json)),
        Some(Behaviour::Slow(time)) => {
            wait(shared, method, time);
        }
        Some(Behaviour::Refuse(code, message)) => return refuse(stream, id, code, message),
        Some(Behaviour::Status(status)) => return respond(stream, status, "no JSON\n"),
        Some(Behaviour::Partial) => {
            write!(&mut &*stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{{\"result\":")?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Some(Behaviour::Oversized(bytes)) => {
            return respond(stream, 200, &result(&format!("\"{}\"", "x".repeat(bytes))));
        }
        Some(Behaviour::Endless(bytes, pause)) => return drip(stream, shared, method, bytes, pause),
        Some(Behaviour::Redirect(status, url)) => {
            let body = result("77");
            let length = body.len();
            return write!(
                &mut &*stream,
                "HTTP/1.1 {status} X\r\nLocation: {url}\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
        Some(Behaviour::Garbage) => return respond(stream, 200, "<html>\u{0}{{{"),
        Some(Behaviour::Noise) => {
            write!(&mut &*stream, "SSH-2.0-x\r\n\r\n")?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Some(Behaviour::Close) => return Err(io::ErrorKind::ConnectionAborted.into()),
    }
    let with_params =
        call["params"].as_array().into_iter().flatten().fold(method.to_owned(), |name, value| {
            name + "-" + &value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        });
    let played = {
        let state = shared.state();
        state.answers.get(&with_params).or_else(|| state.answers.get(method)).cloned()
    };
    match played {
        Some(json) => respond(stream, 200, &result(json.trim_end())),
        None => refuse(stream, id, -32601, "Method not found"),
    }
}

/// Sends a body until the client hangs up, the method has another behaviour or the server ends.
fn drip(
    mut stream: &TcpStream,
    shared: &Shared,
    method: &str,
    bytes: usize,
    pause: Duration,
) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = format!("{bytes:x}\r\n{}\r\n", " ".repeat(bytes));
    loop {
        stream.write_all(chunk.as_bytes())?;
        if !wait(shared, method, pause) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
}

/// Waits for the time, or until the method has another behaviour or the server ends: then false.
fn wait(shared: &Shared, method: &str, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    let is_slow = |state: &State| {
        let behaviour = state.behaviours.get(method).or_else(|| state.behaviours.get(EVERYTHING));
        !state.stopped && matches!(behaviour, Some(Behaviour::Slow(_) | Behaviour::Endless(..)))
    };
    let mut state = shared.state();
    loop {
        if !is_slow(&state) {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Login and body of the next call; nothing when the client has closed the connection.
fn read_call(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let (mut login, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.take(8192).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
            Some((name, value)) if name == "authorization" => login = value.to_owned(),
            Some((name, value)) if name == "content-length" => {
                length = value.parse().map_err(io::Error::other)?;
            }
            _ => {}
        }
    }
    if length > MAX_CALL {
        return Err(io::Error::other("a call of too many bytes"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((login, body)))
}

/// As Bitcoin Core's HTTP status for errors of methods (httprpc.cpp, JSONErrorReply).
fn refuse(stream: &TcpStream, id: &Value, code: i64, message: &str) -> io::Result<()> {
    let status = if code == -32601 { 404 } else { 500 };
    let body = json!({ "result": null, "error": { "code": code, "message": message }, "id": id });
    respond(stream, status, &body.to_string())
}

fn respond(mut stream: &TcpStream, status: u16, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(server: &FakeRpc, body: &str) -> String {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        let login = STANDARD.encode("u:p");
        let length = body.len();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn recorded_answers_are_played_by_method_and_parameters() {
        let server = FakeRpc::start("u:p").unwrap();
        server.play(&crate::data_dir().join("rpc-samples")).unwrap();
        assert!(post(&server, r#"{"id":5,"method":"uptime","params":[]}"#).contains(r#"{"result":77,"#));
        let call = r#"{"id":5,"method":"estimatesmartfee","params":[1,"economical"]}"#;
        assert!(post(&server, call).contains("feerate"));
        assert!(post(&server, r#"{"id":5,"method":"nothing"}"#).contains("-32601"));
        assert_eq!((server.calls("uptime"), server.calls("other")), (1, 0));
        assert_eq!(server.most_in_flight("uptime"), 1);
    }

    #[test]
    fn it_misbehaves_as_told_and_heals() {
        let server = FakeRpc::start("u:p").unwrap();
        server.play(&crate::data_dir().join("rpc-samples")).unwrap();
        let ask = || post(&server, r#"{"id":5,"method":"uptime","params":[]}"#);
        for (behaviour, expected) in [
            (Behaviour::Answer("1".into()), "\"result\":1,"),
            (Behaviour::Refuse(-28, "Loading"), "500 X"),
            (Behaviour::Status(503), "HTTP/1.1 503"),
            (Behaviour::Partial, "Content-Length: 1000"),
            (Behaviour::Oversized(5000), "xxxx"),
            (Behaviour::Garbage, "<html>"),
            (Behaviour::Noise, "SSH"),
            (Behaviour::Redirect(302, "http://x/".into()), "Location: http://x/\r\n"),
            (Behaviour::Slow(Duration::from_millis(1)), "\"result\":77,"),
        ] {
            server.behave(EVERYTHING, behaviour.clone());
            let answer = ask();
            assert!(answer.contains(expected), "{behaviour:?}: {answer}");
        }
        server.behave("uptime", Behaviour::Close);
        assert_eq!(ask(), "");
        server.heal();
        assert!(ask().contains("\"result\":77,"));
        server.set_login("u:other");
        assert!(ask().contains("HTTP/1.1 401"));
        assert_eq!(server.refused_logins(), 1);
    }

    #[test]
    fn an_end_does_not_wait_for_slow_answers_and_frees_the_address() {
        let server = FakeRpc::start("u:p").unwrap();
        server.behave("uptime", Behaviour::Slow(Duration::from_secs(3600)));
        let addr = server.addr();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| post(&server, r#"{"id":5,"method":"uptime","params":[]}"#));
            assert!(crate::wait_until(crate::LONG, || server.calls("uptime") == 1));
            server.heal();
            asking.join().unwrap();
        });
        drop(server);
        FakeRpc::start_at(addr, "u:p").unwrap();
    }
}

//! A NATS server for tests, which can be stopped, killed, frozen, and started again on the same port.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use thiserror::Error;

use crate::LONG;
use crate::need::{self, Missing};
use crate::process::{self, Process, Signal};

/// The largest payload that peer-observer needs, bytes: a block of 4 MB and what is around it.
pub const MAX_PAYLOAD: u32 = 5_242_880;

/// Written to the log when the server accepts.
const READY: &str = "Server is ready";

/// What can go wrong with a server.
#[derive(Debug, Error)]
pub enum Error {
    /// A program is not installed.
    #[error("{0}")]
    Missing(Missing),
    /// Its files cannot be written.
    #[error("cannot set up the NATS server in {path}: {source}")]
    Setup {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not run as it should.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The certificate cannot be made.
    #[error("cannot make a certificate with openssl: {why}")]
    Certificate {
        /// What openssl says.
        why: String,
    },
}

/// How the server is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Largest payload of a message, bytes.
    pub max_payload: u32,
    /// Name and password that clients need.
    pub login: Option<(String, String)>,
    /// Whether clients have to use TLS, with a certificate of [`NatsServer::ca_file`].
    pub transport: Transport,
    /// Whether it has JetStream.
    pub storage: Storage,
    /// Lines for its configuration file that nothing else here stands for.
    pub lines: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_payload: MAX_PAYLOAD,
            login: None,
            transport: Transport::Plain,
            storage: Storage::None,
            lines: String::new(),
        }
    }
}

/// How clients talk to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Plain,
    /// TLS. The certificate is for `localhost` and 127.0.0.1.
    Tls,
}

/// Whether messages are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// They are not.
    None,
    /// In JetStream, on disk; kept when the server is started again.
    JetStream,
}

/// A NATS server on 127.0.0.1. It is killed when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    config: Config,
    folder: TempDir,
    port: u16,
    process: Process,
}

impl NatsServer {
    /// Starts a server without login and TLS, with [`MAX_PAYLOAD`], and waits until it accepts.
    pub fn start() -> Result<Self, Error> {
        NatsServer::start_with(Config::default())
    }

    /// Starts a server and waits until it accepts.
    pub fn start_with(config: Config) -> Result<Self, Error> {
        let program = need::nats_server().map_err(Error::Missing)?;
        let folder = TempDir::with_prefix("nats-")
            .map_err(|source| Error::Setup { path: std::env::temp_dir(), source })?;
        if config.transport == Transport::Tls {
            make_certificates(folder.path())?;
        }
        let port = crate::free_port()
            .map_err(|source| Error::Setup { path: folder.path().to_path_buf(), source })?;
        let process = run(&program, &config, folder.path(), port)?;
        Ok(NatsServer { program, config, folder, port, process })
    }

    /// `nats://127.0.0.1:4222`, with `tls://` for TLS; without the login.
    pub fn url(&self) -> String {
        let scheme = match self.config.transport {
            Transport::Plain => "nats",
            Transport::Tls => "tls",
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Certificate of the authority that signed the server's, with [`Transport::Tls`].
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join(CA_CERTIFICATE)
    }

    /// Stops it in order, and waits until it is gone.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.process.signal(Signal::Terminate)?;
        self.process.wait(LONG)?;
        Ok(())
    }

    /// Kills it, as `kill -9`.
    pub fn kill(&mut self) -> Result<(), Error> {
        Ok(self.process.kill()?)
    }

    /// Starts it again on the same port, after it was stopped or killed, and waits until it accepts.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill()?;
        self.process = run(&self.program, &self.config, self.folder.path(), self.port)?;
        Ok(())
    }

    /// Freezes it: connections stay, nothing is answered.
    pub fn freeze(&mut self) -> Result<(), Error> {
        Ok(self.process.signal(Signal::Stop)?)
    }

    /// Lets it go on after [`NatsServer::freeze`].
    pub fn thaw(&mut self) -> Result<(), Error> {
        Ok(self.process.signal(Signal::Continue)?)
    }
}

/// Runs a server with its files in `folder`, and waits until it accepts.
fn run(program: &Path, config: &Config, folder: &Path, port: u16) -> Result<Process, Error> {
    let path = folder.join("nats.conf");
    fs::write(&path, config_file(config, folder, port))
        .map_err(|source| Error::Setup { path: path.clone(), source })?;
    let mut command = Command::new(program);
    command.arg("--config").arg(path);
    let mut process = Process::spawn(command)?;
    process.wait_for_line(|line| line.contains(READY), LONG)?;
    Ok(process)
}

fn config_file(config: &Config, folder: &Path, port: u16) -> String {
    let folder = folder.display();
    let mut text = format!("host: \"127.0.0.1\"\nport: {port}\nmax_payload: {}\n", config.max_payload);
    if let Some((user, password)) = &config.login {
        text += &format!("authorization {{ user: {user:?}, password: {password:?} }}\n");
    }
    if config.transport == Transport::Tls {
        text += &format!("tls {{ cert_file: \"{folder}/{CERTIFICATE}\", key_file: \"{folder}/{KEY}\" }}\n");
    }
    if config.storage == Storage::JetStream {
        text += &format!("jetstream {{ store_dir: \"{folder}/jetstream\" }}\n");
    }
    text += &config.lines;
    text
}

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// Makes an authority and a certificate of it: clients refuse a server whose certificate is an authority's itself.
fn make_certificates(folder: &Path) -> Result<(), Error> {
    const NEW_KEY: [&str; 9] =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let authority = ["-subj", "/CN=testkit authority", "-keyout", CA_KEY, "-out", CA_CERTIFICATE];
    let server = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-CA",
        CA_CERTIFICATE,
        "-CAkey",
        CA_KEY,
        "-keyout",
        KEY,
        "-out",
        CERTIFICATE,
    ];
    let openssl = need::openssl().map_err(Error::Missing)?;
    for args in [&authority[..], &server[..]] {
        let output = Command::new(&openssl).args(NEW_KEY).args(args).current_dir(folder).output();
        let output = output.map_err(|err| Error::Certificate { why: err.to_string() })?;
        if !output.status.success() {
            return Err(Error::Certificate { why: String::from_utf8_lossy(&output.stderr).into_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::require;

    /// A client that speaks just enough of the protocol to tell whether the server answers.
    struct Client {
        stream: BufReader<TcpStream>,
        info: serde_json::Value,
    }

    impl Client {
        fn connect(server: &NatsServer) -> Self {
            let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let info = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
            Client { stream, info }
        }

        fn ask(&mut self, line: &str) -> io::Result<String> {
            self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
            let mut answer = String::new();
            self.stream.read_line(&mut answer)?;
            Ok(answer.trim_end().to_owned())
        }
    }

    fn is_closed(client: &mut Client) -> bool {
        matches!(client.stream.read(&mut [0; 1024]), Ok(0) | Err(_))
    }

    #[test]
    fn it_accepts_and_answers_with_the_payload_limit_that_was_asked_for() {
        require!(need::nats_server());
        for (config, max_payload) in
            [(Config::default(), MAX_PAYLOAD), (Config { max_payload: 4_096, ..Config::default() }, 4_096)]
        {
            let server = NatsServer::start_with(config).unwrap();
            let mut client = Client::connect(&server);
            assert_eq!(client.info["max_payload"], max_payload);
            assert_eq!(client.ask("CONNECT {\"verbose\":false}\r\nPING").unwrap(), "PONG");
        }
    }

    #[test]
    fn a_login_is_asked_for() {
        require!(need::nats_server());
        let login = Some(("observer".to_owned(), "a \"quoted\" secret".to_owned()));
        let server = NatsServer::start_with(Config { login, ..Config::default() }).unwrap();
        let cases = [
            (r#"{"user":"observer","pass":"a \"quoted\" secret"}"#, "PONG"),
            (r#"{"user":"observer","pass":"wrong"}"#, "-ERR 'Authorization Violation'"),
        ];
        for (login, expected) in cases {
            let mut client = Client::connect(&server);
            let options = login.replacen('{', r#"{"verbose":false,"#, 1);
            assert_eq!(client.ask(&format!("CONNECT {options}\r\nPING")).unwrap(), expected);
        }
    }

    #[test]
    fn it_comes_back_on_the_same_port() {
        require!(need::nats_server());
        type End = fn(&mut NatsServer) -> Result<(), Error>;
        let ends: [End; 2] = [NatsServer::stop, NatsServer::kill];
        let mut server = NatsServer::start().unwrap();
        let port = server.port();
        for end in ends {
            let mut client = Client::connect(&server);
            end(&mut server).unwrap();
            // What the server says before it goes may come first.
            assert!(crate::wait_until(LONG, || is_closed(&mut client)));
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
            server.restart().unwrap();
            assert_eq!(server.port(), port);
            assert_eq!(Client::connect(&server).ask("PING").unwrap(), "PONG");
        }
    }

    #[test]
    fn a_frozen_server_answers_when_it_is_thawed() {
        require!(need::nats_server());
        let mut server = NatsServer::start().unwrap();
        let mut client = Client::connect(&server);
        server.freeze().unwrap();
        client.stream.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let err = client.ask("PING").unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::WouldBlock);
        server.thaw().unwrap();
        client.stream.get_ref().set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(client.ask("").unwrap(), "PONG");
    }

    #[test]
    fn tls_is_offered_with_a_certificate_that_its_authority_signed() {
        require!(need::nats_server(), need::openssl());
        let server =
            NatsServer::start_with(Config { transport: Transport::Tls, ..Config::default() }).unwrap();
        assert!(server.url().starts_with("tls://127.0.0.1:"));
        assert_eq!(Client::connect(&server).info["tls_required"], true);
        let verify = Command::new(need::openssl().unwrap())
            .args(["verify", "-purpose", "sslserver", "-verify_ip", "127.0.0.1", "-CAfile"])
            .arg(server.ca_file())
            .arg(server.ca_file().with_file_name(CERTIFICATE))
            .output()
            .unwrap();
        assert!(verify.status.success(), "{verify:?}");
    }

    #[test]
    fn jetstream_is_there_when_asked_for() {
        require!(need::nats_server());
        for (storage, there) in [(Storage::JetStream, true), (Storage::None, false)] {
            let server = NatsServer::start_with(Config { storage, ..Config::default() }).unwrap();
            let info = Client::connect(&server).info;
            assert_eq!(info.get("jetstream").and_then(|value| value.as_bool()).unwrap_or(false), there);
        }
    }
}

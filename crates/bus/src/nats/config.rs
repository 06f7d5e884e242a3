//! How to reach a NATS server: the public flags, and what they lack (credentials, TLS, spool, prefix).

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::queue::Limits;

/// Where a server is when nothing is said.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:4222";

/// How to reach a NATS server.
#[derive(Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "NATS")]
pub struct NatsConfig {
    /// Address of the NATS server, HOST:PORT, without user and password; several, separated by
    /// commas, for a cluster. Without it, `run` needs no server, and what runs alone looks for one
    /// at 127.0.0.1:4222
    #[arg(short = 'a', long, value_name = "ADDRESS")]
    pub nats_address: Option<String>,
    /// User name
    #[arg(short = 'u', long, value_name = "NAME")]
    pub nats_username: Option<String>,
    /// Password; other users of this machine can see it, so a file is better
    #[arg(short = 'p', long, value_name = "PASSWORD")]
    pub nats_password: Option<String>,
    /// File with the password; white space around it is ignored
    #[arg(short = 'f', long, value_name = "FILE")]
    pub nats_password_file: Option<PathBuf>,
    /// Credentials file (.creds) with a JWT and an NKey
    #[arg(long, value_name = "FILE", conflicts_with = "nats_username")]
    pub nats_credentials_file: Option<PathBuf>,
    /// Refuse to speak without TLS
    #[arg(long)]
    pub nats_tls: bool,
    /// Certificates (PEM) of the authority that signed the server's, instead of the system's;
    /// implies --nats-tls
    #[arg(long, value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,
    /// Certificate (PEM) that shows the server who we are; implies --nats-tls
    #[arg(long, value_name = "FILE", requires = "nats_tls_key")]
    pub nats_tls_cert: Option<PathBuf>,
    /// Key (PEM) of that certificate
    #[arg(long, value_name = "FILE", requires = "nats_tls_cert")]
    pub nats_tls_key: Option<PathBuf>,
    /// Put PREFIX. in front of every subject; to subscribe, `*` stands for any word
    #[arg(long, value_name = "PREFIX")]
    pub subject_prefix: Option<String>,
    /// Bytes of events that an extractor keeps while the server is away, roughly [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    pub nats_spool_bytes: Option<usize>,
}

/// A checked configuration, files read.
pub(super) struct Prepared {
    pub(super) address: String,
    user: Option<(String, String)>,
    credentials: Option<String>,
    tls: bool,
    ca: Option<PathBuf>,
    client_cert: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NatsConfig {
            nats_address,
            nats_username,
            nats_password,
            nats_password_file,
            nats_credentials_file,
            nats_tls,
            nats_tls_ca,
            nats_tls_cert,
            nats_tls_key,
            subject_prefix,
            nats_spool_bytes,
        } = self;
        let address =
            nats_address.as_deref().map(|address| if has_login(address) { HIDDEN } else { address });
        f.debug_struct("NatsConfig")
            .field("nats_address", &address)
            .field("nats_username", nats_username)
            .field("nats_password", &nats_password.as_ref().map(|_| HIDDEN))
            .field("nats_password_file", nats_password_file)
            .field("nats_credentials_file", nats_credentials_file)
            .field("nats_tls", nats_tls)
            .field("nats_tls_ca", nats_tls_ca)
            .field("nats_tls_cert", nats_tls_cert)
            .field("nats_tls_key", nats_tls_key)
            .field("subject_prefix", subject_prefix)
            .field("nats_spool_bytes", nats_spool_bytes)
            .finish()
    }
}

/// Stands for a secret.
const HIDDEN: &str = "(hidden)";

/// Whether there is a user name, a password or a token in an address. It is refused, and must not
/// be printed.
pub fn has_login(address: &str) -> bool {
    address.contains('@')
}

impl NatsConfig {
    /// The limits of the spool in front of a publisher's connection.
    pub(super) fn spool_limits(&self) -> Limits {
        Limits { events: 1 << 20, bytes: self.nats_spool_bytes.unwrap_or(64 << 20) }
    }

    /// Checks everything that can be checked without a server.
    pub(super) fn prepare(&self) -> Result<Prepared, Error> {
        let address = self.nats_address.clone().unwrap_or_else(|| DEFAULT_ADDRESS.into());
        // Before it is split: a password may have a comma.
        if has_login(&address) {
            return Err(Error::LoginInAddress);
        }
        for one in address.split(',') {
            if one.trim().parse::<async_nats::ServerAddr>().is_err() {
                return Err(Error::Address(one.into()));
            }
        }
        if let Some(prefix) = &self.subject_prefix {
            let word = |w: &str| {
                w == "*"
                    || (!w.is_empty()
                        && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
            };
            if !prefix.split('.').all(word) {
                return Err(Error::Prefix(prefix.clone()));
            }
        }
        let password = match (&self.nats_password, &self.nats_password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(path)) => Some(read("the NATS password file", path)?.trim().to_owned()),
            (None, None) => None,
        };
        let user = match (&self.nats_username, password) {
            (Some(user), Some(password)) => Some((user.clone(), password)),
            (Some(user), None) => return Err(Error::NoPassword(user.clone())),
            // Without the name, nobody would be logged in, and nobody would say so.
            (None, Some(_)) => return Err(Error::NoUser),
            (None, None) => None,
        };
        let credentials = self.nats_credentials_file.as_deref().map(read_credentials).transpose()?;
        for (what, path) in [
            ("the NATS CA file", &self.nats_tls_ca),
            ("the NATS client certificate", &self.nats_tls_cert),
            ("the NATS client key", &self.nats_tls_key),
        ] {
            if let Some(path) = path {
                read(what, path)?;
            }
        }
        let client_cert = match (&self.nats_tls_cert, &self.nats_tls_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            // The server would not be shown who we are, and nobody would say so.
            _ => return Err(Error::HalfCertificate),
        };
        Ok(Prepared {
            address,
            user,
            credentials,
            tls: self.nats_tls || self.nats_tls_ca.is_some() || client_cert.is_some(),
            ca: self.nats_tls_ca.clone(),
            client_cert,
        })
    }
}

fn read(what: &'static str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        what,
        path: path.display().to_string(),
        source,
    })
}

/// Reads a credentials file that can be used. Nothing of it is in the error: it holds a secret.
fn read_credentials(path: &Path) -> Result<String, Error> {
    let text = read("the NATS credentials file", path)?;
    match ConnectOptions::with_credentials(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(Error::Credentials(path.display().to_string())),
    }
}

impl Prepared {
    /// Options of a connection. Whatever is asked for is in there: a connection without its login or without TLS is none.
    pub(super) fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .retry_on_initial_connect()
            .max_reconnects(None)
            // Ours are constants; checking them for every event costs more than it says.
            .skip_subject_validation(true)
            .subscription_capacity(1 << 16)
            .require_tls(self.tls);
        if let Some((user, password)) = &self.user {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(credentials) = &self.credentials {
            options = options.credentials(credentials).expect("they were parsed when they were read");
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &self.client_cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_said_before_connecting() {
        let user = NatsConfig { nats_username: Some("alice".into()), ..Default::default() };
        assert!(matches!(user.prepare(), Err(Error::NoPassword(_))));
        let file = NatsConfig {
            nats_username: Some("alice".into()),
            nats_password_file: Some("/nonexistent".into()),
            ..Default::default()
        };
        assert!(matches!(file.prepare(), Err(Error::File { .. })));
        for (password, file) in [(Some("secret".to_owned()), None), (None, Some("Cargo.toml".into()))] {
            let nobody =
                NatsConfig { nats_password: password, nats_password_file: file, ..Default::default() };
            assert!(matches!(nobody.prepare(), Err(Error::NoUser)));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user.creds");
        let good = include_str!("testdata/user.creds");
        let (jwt, seed) = good.split_at(good.find("-----BEGIN USER").unwrap());
        for malformed in ["", "secret", jwt, seed, &good.replace("\nSU", "\nSX")] {
            std::fs::write(&path, malformed).unwrap();
            let config = NatsConfig { nats_credentials_file: Some(path.clone()), ..Default::default() };
            assert!(matches!(config.prepare(), Err(Error::Credentials(_))), "{malformed:?}");
        }
        let half = NatsConfig { nats_tls_key: Some("Cargo.toml".into()), ..Default::default() };
        assert!(matches!(half.prepare(), Err(Error::HalfCertificate)));
        let prefix = NatsConfig { subject_prefix: Some("a b".into()), ..Default::default() };
        assert!(matches!(prefix.prepare(), Err(Error::Prefix(_))));
    }

    #[test]
    fn the_password_wins_over_the_file_and_the_file_is_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, " secret\n").unwrap();
        let mut config = NatsConfig {
            nats_username: Some("alice".into()),
            nats_password_file: Some(path),
            ..Default::default()
        };
        assert_eq!(config.prepare().unwrap().user, Some(("alice".into(), "secret".into())));
        config.nats_password = Some("other".into());
        assert_eq!(config.prepare().unwrap().user, Some(("alice".into(), "other".into())));
    }

    #[test]
    fn logins_in_addresses_are_refused_and_never_printed() {
        for address in [
            "nats://alice:hunter2@127.0.0.1:4222",
            "alice:hunter2@127.0.0.1",
            "127.0.0.1:1,tls://hunter2@127.0.0.1:4222",
            "nats://alice:x,hunter2@127.0.0.1:4222",
            "nats://alice:hunter2@127.0.0.1:99999999",
        ] {
            let config = NatsConfig { nats_address: Some(address.into()), ..Default::default() };
            let Err(error) = config.prepare() else { panic!("{address} was taken") };
            let printed = format!("{error} {error:?} {config:?}");
            assert!(error.to_string().contains("--nats-password-file"), "{error}");
            assert!(!printed.contains("hunter2") && !printed.contains("alice"), "{printed}");
        }
        let config = NatsConfig { nats_password: Some("hunter2".into()), ..Default::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

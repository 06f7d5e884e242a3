//! Bitcoin Core's JSON-RPC interface, asked without getting in the node's way.
//!
//! A node answers RPC calls with few threads, so a client that watches it has to be modest: few connections, kept open, a limit to
//! how long it waits and to how much it reads. What comes back is read leniently: fields come and go between versions.
//!
//! | module | what it is for |
//! |---|---|
//! | [`answer`] | bytes of a call, and what bytes of an answer mean; no I/O |
//! | [`types`] | answers of the methods; no I/O |
//! | [`login`] | user and password, or a cookie file that changes with every start of the node |
//! | [`client`] | calls methods over HTTP |

pub mod answer;
pub mod client;
pub mod login;
pub mod types;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use answer::Answer;
pub use client::{Client, Connection, FoundNode, LargeAnswers, Limits};
pub use login::{Login, LoginFile};

/// The node is starting (Bitcoin Core rpc/protocol.h, RPC_IN_WARMUP).
const IN_WARMUP: i64 = -28;
/// The node has no such method (Bitcoin Core rpc/protocol.h, RPC_METHOD_NOT_FOUND).
const METHOD_NOT_FOUND: i64 = -32601;

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection to the node.
    #[error("cannot connect to the node's RPC at {host}: {source}; is it running, with server=1?")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Another user listens where the node should. Nothing was sent to him.
    #[error("user {uid} listens at {host}, and not the one that the node runs as")]
    Stranger {
        /// Host and port.
        host: String,
        /// Id of that user.
        uid: u32,
    },
    /// The cookie or password file cannot be read.
    #[error("cannot read the RPC login from {path}: {source}")]
    LoginFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The login cannot be sent as it is.
    #[error("the RPC login from {from} is empty, too long or has a colon in the user name")]
    LoginForm {
        /// Where it is from.
        from: String,
    },
    /// The node refuses the login (HTTP 401).
    #[error("the node at {host} refuses the RPC login: check the user and password, or the cookie file")]
    Unauthorized {
        /// Host and port.
        host: String,
    },
    /// The node refuses the caller or the method (HTTP 403).
    #[error("the node forbids {method}: check rpcallowip and rpcwhitelist in its bitcoin.conf")]
    Forbidden {
        /// The method.
        method: String,
    },
    /// All threads of the node are busy (HTTP 503).
    #[error(
        "the node is too busy for {method} (work queue depth exceeded): ask less often, or raise its rpcworkqueue"
    )]
    Busy {
        /// The method.
        method: String,
    },
    /// The answer did not come in time.
    #[error("no answer to {method} within {} s: if the node is just slow, raise --rpc-timeout (of `run`: --set rpc.rpc_timeout=SECONDS)", limit.as_secs_f64())]
    Timeout {
        /// The method.
        method: String,
        /// The limit.
        limit: Duration,
    },
    /// The answer is larger than what is read.
    #[error(
        "the answer to {method} is larger than {limit} bytes: raise --rpc-max-answer-bytes (of `run`: --set rpc.rpc_max_answer_bytes=BYTES)"
    )]
    TooLarge {
        /// The method.
        method: String,
        /// The limit.
        limit: usize,
    },
    /// The connection broke.
    #[error("the connection broke while {method} was answered: {source}")]
    Broken {
        /// The method.
        method: String,
        /// Why.
        source: hyper::Error,
    },
    /// The answer is none of JSON-RPC.
    #[error("the answer to {method} cannot be understood: {reason}")]
    Malformed {
        /// The method.
        method: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The node answers with an error.
    #[error("the node refuses {method}: {message} (code {code})")]
    Refused {
        /// The method.
        method: String,
        /// Bitcoin Core's error code (rpc/protocol.h).
        code: i64,
        /// Its words, the beginning of them.
        message: String,
    },
}

impl Error {
    /// The node is starting and will answer later.
    pub fn is_warming_up(&self) -> bool {
        matches!(self, Error::Refused { code: IN_WARMUP, .. })
    }

    /// The node, or the version of it, has no such method.
    pub fn is_unknown_method(&self) -> bool {
        matches!(self, Error::Refused { code: METHOD_NOT_FOUND, .. })
    }
}

//! The calls of a connection, and which schema the node has.
//!
//! What is used here differs between releases in the number of `makeMining` and in what a missing `timeout` of `waitTipChanged` means.
//! So one set of types, that of the newest release, does for all: a node that does not know the newest number is asked with
//! the older one, and gets its timeouts in the older form.

use std::time::Duration;

use bitcoin_capnp_types::capnp::capability::{Promise, Request};
use bitcoin_capnp_types::capnp::message::ReaderOptions;
use bitcoin_capnp_types::capnp::traits::HasTypeId;
use bitcoin_capnp_types::capnp::{self, ErrorKind};
use bitcoin_capnp_types::capnp_rpc::RpcSystem;
use bitcoin_capnp_types::capnp_rpc::rpc_twoparty_capnp::Side;
use bitcoin_capnp_types::capnp_rpc::twoparty::VatNetwork;
use bitcoin_capnp_types::common_capnp::block_ref;
use bitcoin_capnp_types::init_capnp::init;
use bitcoin_capnp_types::mining_capnp::mining;
use bitcoin_capnp_types::proxy_capnp::thread;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::metrics::{Method, Metrics, Schema};

/// Larger messages are not read, words of 8 bytes. The answers that are asked for have less than 50.
const MAX_WORDS: usize = 8 << 10;
/// What is read from one connection, bytes: this bounds what a node can make the library keep. An answer has about 100, so it does for
/// the calls of one connection (watch.rs).
const MAX_BYTES: u64 = 256 << 10;
/// Text of a node that is logged, characters.
const MAX_TEXT: usize = 200;
/// Our thread in the node: the name is in its log.
const THREAD_NAME: &str = "peer-observer";
/// The number of `Init.makeMining` in Bitcoin Core 30 (src/ipc/capnp/init.capnp).
const MAKE_MINING_CORE_30: u16 = 2;

/// Why a node is not, or no longer, watched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot connect to the socket: {0}")]
    Connect(std::io::Error),
    #[error("user {uid} listens on the socket, and not the one that the node runs as")]
    Stranger { uid: u32 },
    #[error("the node is starting, or stopping")]
    Starting,
    #[error("the node answers {} with: {what}", method.name())]
    Refused { method: Method, what: String },
    #[error("the node does not know {}; is it Bitcoin Core 30 or later?", method.name())]
    Unknown { method: Method },
    #[error("no answer to {} within {limit:?}, nor to anything else; does the node hang?", method.name())]
    Late { method: Method, limit: Duration },
    #[error("the node has closed the connection")]
    Closed { method: Method },
    #[error("the node is stopping")]
    Stopping,
    #[error("the hash of a tip has {bytes} bytes and not 32; is that the socket of a node?")]
    Hash { method: Method, bytes: usize },
    #[error("what the node sends makes the Cap'n Proto library fail; is that the socket of a node?")]
    Crashed,
}

impl Error {
    /// Makes an error of Cap'n Proto readable, whatever a node puts in it.
    fn of(method: Method, error: &capnp::Error) -> Self {
        match error.kind {
            ErrorKind::Unimplemented => Error::Unknown { method },
            ErrorKind::Disconnected => Error::Closed { method },
            _ => {
                let text = error.to_string();
                let what = text.chars().flat_map(char::escape_debug).take(MAX_TEXT).collect();
                Error::Refused { method, what }
            }
        }
    }

    /// What failed. Nothing when it was no call.
    pub(super) fn method(&self) -> Option<Method> {
        Some(match self {
            Error::Connect(_) | Error::Stranger { .. } | Error::Starting => Method::Connect,
            Error::Refused { method, .. }
            | Error::Unknown { method }
            | Error::Late { method, .. }
            | Error::Closed { method }
            | Error::Hash { method, .. } => *method,
            Error::Stopping => Method::WaitTipChanged,
            Error::Crashed => return None,
        })
    }
}

/// A block at the tip of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tip {
    /// Blocks below it.
    pub(super) height: i32,
    /// Internal byte order.
    pub(super) hash: [u8; 32],
}

impl Tip {
    fn read(method: Method, block: block_ref::Reader<'_>) -> Result<Self, Error> {
        let hash = block.get_hash().map_err(|error| Error::of(method, &error))?;
        let hash = hash.try_into().map_err(|_| Error::Hash { method, bytes: hash.len() })?;
        Ok(Tip { height: block.get_height(), hash })
    }
}

/// Begins to speak with a node. The connection lives while the first of the two is polled.
pub(super) fn speak(stream: UnixStream) -> (RpcSystem<Side>, init::Client) {
    let (reader, writer) = stream.into_split();
    let reader = BufReader::new(reader.take(MAX_BYTES)).compat();
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(MAX_WORDS));
    let network = VatNetwork::new(reader, writer.compat_write(), Side::Client, options);
    let mut system = RpcSystem::new(Box::new(network), None);
    let init = system.bootstrap(Side::Server);
    (system, init)
}

/// A node that can be asked for its tip.
pub(super) struct Client<'a> {
    calls: Calls<'a>,
    thread: thread::Client,
    mining: mining::Client,
    schema: Schema,
}

impl<'a> Client<'a> {
    /// Does what has to come before the first question.
    pub(super) async fn open(
        init: init::Client,
        limit: Duration,
        metrics: &'a Metrics,
    ) -> Result<Self, Error> {
        let mut calls = Calls { alive: None, limit, metrics };
        let method = Method::Construct;
        let answer = calls.answer(method, init.construct_request().send().promise).await?;
        let threads = answer.get().and_then(|a| a.get_thread_map()).map_err(|e| Error::of(method, &e))?;

        let method = Method::MakeThread;
        let mut request = threads.make_thread_request();
        request.get().set_name(THREAD_NAME);
        let answer = calls.answer(method, request.send().promise).await?;
        let thread = answer.get().and_then(|a| a.get_result()).map_err(|e| Error::of(method, &e))?;
        calls.alive = Some(thread.clone());

        let (mining, mut schema) = match calls.make_mining(init.make_mining_request(), &thread).await {
            Ok(mining) => (mining, Schema::Core31),
            Err(Error::Unknown { .. }) => {
                let id = <init::Client as HasTypeId>::TYPE_ID;
                let request = init.client.new_call(id, MAKE_MINING_CORE_30, None);
                (calls.make_mining(request, &thread).await?, Schema::Core30)
            }
            Err(error) => return Err(error),
        };
        if schema == Schema::Core31 && calls.has_transactions_by_txid(&mining, &thread).await? {
            schema = Schema::Core32;
        }
        Ok(Client { calls, thread, mining, schema })
    }

    /// What the node has.
    pub(super) fn schema(&self) -> Schema {
        self.schema
    }

    /// The tip; nothing while the node has none.
    pub(super) async fn tip(&self) -> Result<Option<Tip>, Error> {
        let method = Method::GetTip;
        let failed = |error| Error::of(method, &error);
        let mut request = self.mining.get_tip_request();
        request.get().init_context().set_thread(self.thread.clone());
        let answer = self.calls.answer(method, request.send().promise).await?;
        let answer = answer.get().map_err(failed)?;
        if !answer.get_has_result() {
            return Ok(None);
        }
        Tip::read(method, answer.get_result().map_err(failed)?).map(Some)
    }

    /// The tip, when it is another one than `known` or after `longest`.
    pub(super) async fn changed(&self, known: &Tip, longest: Duration) -> Result<Tip, Error> {
        let method = Method::WaitTipChanged;
        let failed = |error| Error::of(method, &error);
        let mut request = self.mining.wait_tip_changed_request();
        let mut params = request.get();
        params.set_current_tip(&known.hash);
        params.set_timeout(self.schema.timeout(longest));
        params.init_context().set_thread(self.thread.clone());
        let answer = self.calls.answer(method, request.send().promise).await?;
        let answer = answer.get().map_err(failed)?;
        // A node that goes on answering like this does not end while it is asked, so it must not be asked again.
        if !answer.has_result() {
            return Err(Error::Stopping);
        }
        Tip::read(method, answer.get_result().map_err(failed)?)
    }
}

/// How calls are made.
struct Calls<'a> {
    /// A thread whose name the node tells at any time, as that takes no lock of its own.
    alive: Option<thread::Client>,
    limit: Duration,
    metrics: &'a Metrics,
}

impl Calls<'_> {
    /// Waits for an answer for as long as the node answers anything. One that is starting, or busy with blocks, may keep a call for
    /// hours, and to give up and call again would cost it a thread each time.
    async fn answer<T>(&self, method: Method, mut answer: Promise<T, capnp::Error>) -> Result<T, Error> {
        let begin = Instant::now();
        loop {
            match timeout(self.limit, &mut answer).await {
                Ok(Ok(answer)) => {
                    self.metrics.fetched(method, begin.elapsed());
                    return Ok(answer);
                }
                Ok(Err(error)) => return Err(Error::of(method, &error)),
                Err(_) => self.prove_life(method).await?,
            }
        }
    }

    async fn prove_life(&self, method: Method) -> Result<(), Error> {
        let late = Error::Late { method, limit: self.limit };
        let Some(thread) = &self.alive else { return Err(late) };
        match timeout(self.limit, thread.get_name_request().send().promise).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::of(method, &error)),
            Err(_) => Err(late),
        }
    }

    async fn make_mining(
        &self,
        mut request: Request<init::make_mining_params::Owned, init::make_mining_results::Owned>,
        thread: &thread::Client,
    ) -> Result<mining::Client, Error> {
        let method = Method::MakeMining;
        request.get().init_context().set_thread(thread.clone());
        let answer = self.answer(method, request.send().promise).await?;
        answer.get().and_then(|a| a.get_result()).map_err(|e| Error::of(method, &e))
    }

    /// Asks for no transactions: all that matters is whether the node knows the call.
    async fn has_transactions_by_txid(
        &self,
        mining: &mining::Client,
        thread: &thread::Client,
    ) -> Result<bool, Error> {
        let mut request = mining.get_transactions_by_tx_i_d_request();
        request.get().init_context().set_thread(thread.clone());
        request.get().init_txids(0);
        match self.answer(Method::GetTransactionsByTxid, request.send().promise).await {
            Ok(_) | Err(Error::Refused { .. }) => Ok(true),
            Err(Error::Unknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

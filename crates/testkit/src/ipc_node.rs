//! A node that does what a test wants: the calls that the IPC extractor makes, over a Unix socket, for all releases.
#![allow(clippy::unwrap_used, reason = "a node that cannot go on fails the test")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bitcoin_capnp_types::capnp::capability::{
    self, DispatchCallResult, FromClientHook, FromServer, Params, Promise, Results,
};
use bitcoin_capnp_types::capnp::private::capability::ClientHook;
use bitcoin_capnp_types::capnp::{self, any_pointer};
use bitcoin_capnp_types::capnp_rpc::rpc_twoparty_capnp::Side;
use bitcoin_capnp_types::capnp_rpc::twoparty::VatNetwork;
use bitcoin_capnp_types::capnp_rpc::{RpcSystem, new_client};
use bitcoin_capnp_types::common_capnp::block_ref;
use bitcoin_capnp_types::init_capnp::init;
use bitcoin_capnp_types::mining_capnp::mining;
use bitcoin_capnp_types::proxy_capnp::{thread, thread_map};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use tokio_util::sync::CancellationToken;

/// What a timeout is in nodes from Core 31 on that nobody set (src/ipc/capnp/mining.capnp, `maxDouble`).
const MAX_DOUBLE: f64 = f64::MAX;

/// What a node is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bitcoin Core 30.
    Core30,
    /// Bitcoin Core 31.
    Core31,
    /// Bitcoin Core 32.
    Core32,
    /// It has no `waitTipChanged`.
    CannotWait,
    /// It has no `makeMining` of any release.
    CannotMine,
    /// It takes connections, and says nothing.
    Silent,
    /// `waitTipChanged` is answered only when the test says so; everything else at once.
    Busy,
    /// It has no tip to tell: `waitTipChanged` is answered without one, at once.
    Stopping,
    /// Its tip has a hash of another length.
    BadHash,
}

/// What a node and its test share.
#[derive(Debug)]
pub struct Control {
    kind: Mutex<Kind>,
    /// Height of the tip, and every byte of its hash.
    tip: watch::Sender<Option<u8>>,
    is_free: watch::Sender<bool>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

impl Control {
    /// A node at height 1.
    pub fn new(kind: Kind) -> Arc<Self> {
        Arc::new(Control {
            kind: Mutex::new(kind),
            tip: watch::Sender::new(Some(1)),
            is_free: watch::Sender::new(false),
            calls: Mutex::default(),
        })
    }

    /// The node becomes another one for calls that come from now on.
    pub fn become_kind(&self, kind: Kind) {
        *self.kind.lock().unwrap() = kind;
    }

    /// Sets the height of its tip, and every byte of the hash; nothing when it has none.
    pub fn set_tip(&self, tip: Option<u8>) {
        self.tip.send_replace(tip);
    }

    /// Lets a busy node answer.
    pub fn free(&self) {
        self.is_free.send_replace(true);
    }

    /// How often a method was called; `connect` counts connections.
    pub fn calls(&self, method: &str) -> u64 {
        self.calls.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    fn count(&self, method: &'static str) {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
    }

    fn kind(&self) -> Kind {
        *self.kind.lock().unwrap()
    }
}

/// A node that listens. Its connections and its socket end when it is dropped.
#[derive(Debug)]
pub struct FakeNode {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl FakeNode {
    /// Listens at a socket that is not there yet.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start(socket: &Path, control: Arc<Control>) -> Self {
        let stop = CancellationToken::new();
        let (socket, stopped) = (socket.to_path_buf(), stop.clone());
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                let listener = UnixListener::bind(&socket).unwrap();
                ready.send(()).unwrap();
                let _ = stopped.run_until_cancelled(accept(listener, control)).await;
            });
            std::fs::remove_file(&socket).unwrap();
        });
        is_ready.recv().unwrap();
        FakeNode { stop, thread: Some(thread) }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A thread whose name says that this process is a node that has started. It ends when this is dropped.
#[derive(Debug)]
pub struct HasStarted {
    done: Option<std::sync::mpsc::SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for HasStarted {
    fn drop(&mut self) {
        self.done.take();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl HasStarted {
    /// Starts it.
    pub fn start() -> Self {
        let (done, wait) = std::sync::mpsc::sync_channel::<()>(1);
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("b-msghand".into());
        let run = move || {
            ready.send(()).unwrap();
            let _ = wait.recv();
        };
        let thread = thread.spawn(run).unwrap();
        is_ready.recv().unwrap();
        HasStarted { done: Some(done), thread: Some(thread) }
    }
}

async fn accept(listener: UnixListener, control: Arc<Control>) {
    let silent = RefCell::new(Vec::new());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        control.count("connect");
        match control.kind() {
            Kind::Silent => silent.borrow_mut().push(stream),
            _ => drop(tokio::task::spawn_local(serve(stream, control.clone()))),
        }
    }
}

/// Answers whatever comes over a connection.
pub async fn serve(stream: UnixStream, control: Arc<Control>) {
    let (reader, writer) = stream.into_split();
    let node = Node(control.clone());
    let init = match control.kind() {
        Kind::Core30 => new_client::<OldClient, _>(node).0,
        _ => new_client::<init::Client, _>(node).client,
    };
    let network = VatNetwork::new(reader.compat(), writer.compat_write(), Side::Server, Default::default());
    let _ = RpcSystem::new(Box::new(network), Some(init)).await;
}

#[derive(Clone)]
struct Node(Arc<Control>);

impl Node {
    /// A timeout as a node of that release reads it, ms.
    fn timeout_ms(&self, timeout: f64) -> f64 {
        if self.0.kind() != Kind::Core30 {
            return timeout;
        }
        let ms = f64::from_bits(timeout.to_bits() ^ MAX_DOUBLE.to_bits());
        // The longest: no test has this node tell a tip twice.
        assert_eq!(ms, 30_000.0);
        ms
    }

    fn fill(&self, mut block: block_ref::Builder<'_>, tip: u8) {
        block.set_height(tip.into());
        let bytes = if self.0.kind() == Kind::BadHash { 20 } else { 32 };
        block.set_hash(&vec![tip; bytes]);
    }
}

impl init::Server for Node {
    async fn construct(
        self: Rc<Self>,
        _: init::ConstructParams,
        mut results: init::ConstructResults,
    ) -> Result<(), capnp::Error> {
        self.0.count("construct");
        results.get().set_thread_map(new_client((*self).clone()));
        Ok(())
    }

    async fn make_mining(
        self: Rc<Self>,
        params: init::MakeMiningParams,
        mut results: init::MakeMiningResults,
    ) -> Result<(), capnp::Error> {
        if self.0.kind() == Kind::CannotMine {
            return Err(capnp::Error::unimplemented("no such method".into()));
        }
        assert!(params.get()?.get_context()?.has_thread());
        self.0.count("makeMining");
        results.get().set_result(new_client((*self).clone()));
        Ok(())
    }
}

impl thread_map::Server for Node {
    async fn make_thread(
        self: Rc<Self>,
        _: thread_map::MakeThreadParams,
        mut results: thread_map::MakeThreadResults,
    ) -> Result<(), capnp::Error> {
        self.0.count("makeThread");
        results.get().set_result(new_client((*self).clone()));
        Ok(())
    }
}

impl thread::Server for Node {
    async fn get_name(
        self: Rc<Self>,
        _: thread::GetNameParams,
        mut results: thread::GetNameResults,
    ) -> Result<(), capnp::Error> {
        self.0.count("getName");
        results.get().set_result("fake");
        Ok(())
    }
}

impl mining::Server for Node {
    async fn get_tip(
        self: Rc<Self>,
        params: mining::GetTipParams,
        mut results: mining::GetTipResults,
    ) -> Result<(), capnp::Error> {
        assert!(params.get()?.get_context()?.has_thread());
        self.0.count("getTip");
        if let Some(tip) = *self.0.tip.borrow() {
            results.get().set_has_result(true);
            self.fill(results.get().init_result(), tip);
        }
        Ok(())
    }

    async fn wait_tip_changed(
        self: Rc<Self>,
        params: mining::WaitTipChangedParams,
        mut results: mining::WaitTipChangedResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        assert!(params.get_context()?.has_thread());
        let known = params.get_current_tip()?.first().copied();
        let longest = Duration::from_secs_f64(self.timeout_ms(params.get_timeout()) / 1e3);
        self.0.count("waitTipChanged");
        match self.0.kind() {
            Kind::CannotWait => return Err(capnp::Error::unimplemented("no such method".into())),
            Kind::Stopping => return Ok(()),
            Kind::Busy => drop(self.0.is_free.subscribe().wait_for(|is_free| *is_free).await),
            _ => {
                let mut tips = self.0.tip.subscribe();
                let changed = tips.wait_for(|tip| *tip != known);
                drop(tokio::time::timeout(longest, changed).await);
            }
        }
        if let Some(tip) = *self.0.tip.borrow() {
            self.fill(results.get().init_result(), tip);
        }
        Ok(())
    }

    async fn get_transactions_by_tx_i_d(
        self: Rc<Self>,
        params: mining::GetTransactionsByTxIDParams,
        mut results: mining::GetTransactionsByTxIDResults,
    ) -> Result<(), capnp::Error> {
        if self.0.kind() != Kind::Core32 {
            return Err(capnp::Error::unimplemented("no such method".into()));
        }
        assert_eq!(params.get()?.get_txids()?.len(), 0);
        results.get().init_result(0);
        Ok(())
    }
}

/// A node as Bitcoin Core 30 numbers its methods: `makeMining` is 2, and there is none above.
struct OldClient(capability::Client);

impl FromClientHook for OldClient {
    fn new(hook: Box<dyn ClientHook>) -> Self {
        OldClient(capability::Client::new(hook))
    }

    fn into_client_hook(self) -> Box<dyn ClientHook> {
        self.0.hook
    }

    fn as_client_hook(&self) -> &dyn ClientHook {
        self.0.hook.as_ref()
    }
}

impl FromServer<Node> for OldClient {
    type Dispatch = OldNumbers;

    fn from_server(node: Rc<Node>) -> OldNumbers {
        OldNumbers(init::ServerDispatch { server: node })
    }
}

#[derive(Clone)]
struct OldNumbers(init::ServerDispatch<Node>);

impl Deref for OldNumbers {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0.server
    }
}

impl capability::Server for OldNumbers {
    fn dispatch_call(
        self,
        interface_id: u64,
        method_id: u16,
        params: Params<any_pointer::Owned>,
        results: Results<any_pointer::Owned>,
    ) -> DispatchCallResult {
        let method_id = match method_id {
            0 | 1 => method_id,
            2 => 3,
            _ => {
                let error = capnp::Error::unimplemented("no such method".into());
                return DispatchCallResult::new(Promise::err(error), false);
            }
        };
        self.0.dispatch_call(interface_id, method_id, params, results)
    }

    fn as_ptr(&self) -> usize {
        self.0.as_ptr()
    }
}

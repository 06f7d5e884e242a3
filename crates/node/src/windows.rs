//! Where a running node can be looked into besides its tracepoints: its RPC interface, its debug.log and its IPC socket, found from what it was told
//! at its start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::access::{Access, Root};
use crate::discover::{Network, NodeProcess};
use crate::rpc::{Login, LoginFile};
use crate::settings::{Excess, section_of};
use crate::sockets;

/// Why an interface is closed. [`Closed::fix`] says what would open it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// There is no RPC server.
    #[error("the RPC server is off")]
    NoServer,
    /// The RPC server cannot be reached from here.
    #[error("the RPC server listens within the node's container only")]
    InContainer(Network),
    /// The node may be in a container, where another program has the node's address here.
    #[error("its network namespace cannot be read, so its RPC address is unknown")]
    UnknownNetwork,
    /// There is no log.
    #[error("it writes no debug.log")]
    NoLog,
    /// There is no IPC socket.
    #[error("it does not listen for IPC")]
    NoIpc,
    /// It is a program that runs with the rights of its owner, so nobody knows whose files it names.
    #[error("its user or group ids differ")]
    MixedUser,
    /// Its settings are not those of a node that anybody runs.
    #[error("{0}")]
    Excess(Excess),
}

impl Closed {
    /// What would open it.
    pub fn fix(&self) -> String {
        let lines = match self {
            Closed::NoServer => "server=1".into(),
            Closed::InContainer(network) => in_section(
                *network,
                "rpcbind=0.0.0.0 and rpcallowip=ADDRESS OF THIS MACHINE IN THE CONTAINER'S NETWORK",
            ),
            Closed::NoLog => "debuglogfile=debug.log".into(),
            Closed::NoIpc => "ipcbind=unix, of a bitcoin-node of Bitcoin Core 30 or later".into(),
            Closed::UnknownNetwork => return "run peer-observer as root".into(),
            Closed::MixedUser => return "run the node without set-user-ID, as one user".into(),
            Closed::Excess(_) => return "shorten its command line and bitcoin.conf".into(),
        };
        format!("in bitcoin.conf: {lines}")
    }
}

/// A line of bitcoin.conf that counts in the section of a network only, with that section.
pub fn in_section(network: Network, line: &str) -> String {
    match network {
        Network::Mainnet => line.to_owned(),
        network => format!("under [{}]: {line}", section_of(network)),
    }
}

/// The RPC interface of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcWindow {
    /// Address and port.
    pub host: String,
    /// The node is in our network namespace, so the kernel says who listens at `host`.
    pub in_our_network: bool,
    /// How to log in; nothing when the node writes no cookie, and has no rpcpassword that can be read.
    pub login: Option<Login>,
    /// What the node's user may read: a login from elsewhere is for this node only if its user may.
    pub access: Access,
}

impl RpcWindow {
    /// The user who has to listen at `host`, where the kernel says who does. Anybody can listen there
    /// while the node is down, and must not get the login.
    pub fn listener(&self) -> Option<u32> {
        self.in_our_network.then(|| self.access.uid())
    }
}

/// The log of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogWindow {
    /// The file as the node names it.
    pub path: PathBuf,
    /// The same, and its container's root in front where it has one of its own.
    pub known_as: PathBuf,
    /// Who may read it.
    pub access: Access,
}

/// The IPC socket of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpcWindow {
    /// The socket as the node names it.
    pub path: PathBuf,
    /// Who may connect to it. Who listens there as another user is somebody else.
    pub access: Access,
}

/// The windows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// RPC.
    pub rpc: Result<RpcWindow, Closed>,
    /// debug.log.
    pub log: Result<LogWindow, Closed>,
    /// IPC.
    pub ipc: Result<IpcWindow, Closed>,
}

impl Windows {
    /// Looks at a running node, once.
    pub fn of(node: &NodeProcess) -> Self {
        Self::beneath(node, &node.root())
    }

    /// Looks at a running node whose files are beneath `root`: with a root that was moved here from the node's run before,
    /// whoever read the files of that run goes on with this one.
    pub fn beneath(node: &NodeProcess, root: &Root) -> Self {
        let closed = match (node.settings.excess(), node.access(root.clone())) {
            (Some(excess), _) => Closed::Excess(excess),
            (None, None) => Closed::MixedUser,
            (None, Some(access)) => {
                return Windows { rpc: rpc(node, &access), log: log(node, &access), ipc: ipc(node, &access) };
            }
        };
        Windows { rpc: Err(closed.clone()), log: Err(closed.clone()), ipc: Err(closed) }
    }
}

/// The folder of the network in the data directory, as the node sees it (Bitcoin Core chainparamsbase.cpp).
pub fn network_folder(node: &NodeProcess) -> PathBuf {
    match node.network {
        Network::Mainnet => node.datadir.clone(),
        Network::Testnet3 => node.datadir.join("testnet3"),
        network => node.datadir.join(section_of(network)),
    }
}

/// Port of the RPC interface unless rpcport says otherwise (Bitcoin Core chainparamsbase.cpp).
const fn default_rpc_port(network: Network) -> u16 {
    match network {
        Network::Mainnet => 8332,
        Network::Testnet3 => 18332,
        Network::Testnet4 => 48332,
        Network::Signet => 38332,
        Network::Regtest => 18443,
    }
}

fn rpc(node: &NodeProcess, access: &Access) -> Result<RpcWindow, Closed> {
    let network = node.network;
    let settings = &node.settings;
    // Bitcoin Core: bitcoind and bitcoin-node have it on unless they are told otherwise (bitcoind.cpp), those with windows do not.
    let has_server = !node.exe.file_name().is_some_and(|name| name == "bitcoin-qt" || name == "bitcoin-gui");
    if !settings.switch("server", network).unwrap_or(has_server) {
        return Err(Closed::NoServer);
    }
    let port = settings.get("rpcport", network).and_then(|port| port.parse().ok());
    let port = port.unwrap_or(default_rpc_port(network));
    let mut bound: Vec<SocketAddr> = Vec::new();
    if !settings.all("rpcallowip", network).is_empty() {
        bound.extend(
            settings.all("rpcbind", network).into_iter().filter_map(|host| host_and_port(host, port)),
        );
    }
    if bound.is_empty() {
        bound.push(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let in_our_network = sockets::shares_our_network(node.pid).ok_or(Closed::UnknownNetwork)?;
    let host = match in_our_network {
        true => best_here(&bound),
        false => best_in_container(&bound, node.pid).ok_or(Closed::InContainer(network))?,
    };
    let login = login(node, access);
    Ok(RpcWindow { host: host.to_string(), in_our_network, login, access: access.clone() })
}

/// Address and port as `rpcbind` has them: `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT`.
fn host_and_port(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let ip: IpAddr = match text {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        text => text.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

/// Loopback if it is bound to, for nobody else can listen in.
fn best_here(bound: &[SocketAddr]) -> SocketAddr {
    let loopback = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
        _ => *address,
    };
    let all: Vec<SocketAddr> = bound.iter().map(loopback).collect();
    all.iter().find(|address| address.ip().is_loopback()).copied().unwrap_or(all[0])
}

fn best_in_container(bound: &[SocketAddr], pid: u32) -> Option<SocketAddr> {
    let outside = bound.iter().find(|address| !address.ip().is_loopback())?;
    if !outside.ip().is_unspecified() {
        return Some(*outside);
    }
    Some(SocketAddr::new(sockets::address_in_network(pid)?, outside.port()))
}

/// The cookie, unless the node has a password instead (Bitcoin Core httprpc.cpp, `InitRPCAuthentication`).
fn login(node: &NodeProcess, access: &Access) -> Option<Login> {
    let settings = &node.settings;
    if let Some(password) = settings.get("rpcpassword", node.network).filter(|password| !password.is_empty())
    {
        let user = settings.get("rpcuser", node.network).unwrap_or_default().to_owned();
        return Some(Login::Password { user, password: password.to_owned() });
    }
    if settings.is_negated("rpccookiefile", node.network) {
        return None;
    }
    let file = settings.get("rpccookiefile", node.network).filter(|file| !file.is_empty());
    let file = network_folder(node).join(file.unwrap_or(".cookie"));
    Some(Login::Cookie(LoginFile::of_node(file, access.clone())))
}

fn log(node: &NodeProcess, access: &Access) -> Result<LogWindow, Closed> {
    if node.settings.is_negated("debuglogfile", node.network) {
        return Err(Closed::NoLog);
    }
    let file = node.settings.get("debuglogfile", node.network).filter(|file| !file.is_empty());
    let file = network_folder(node).join(file.unwrap_or("debug.log"));
    let known_as = match (&node.datadir_id, node.shares_root) {
        (_, true) | (None, _) => file.clone(),
        // Its path alone is that of other containers, too.
        (Some(id), false) => PathBuf::from(format!("/container-{}-{}", id.device, id.inode))
            .join(file.strip_prefix("/").unwrap_or(&file)),
    };
    Ok(LogWindow { path: file, known_as, access: access.clone() })
}

/// `unix` is node.sock in the folder of the network, `unix:PATH` another (Bitcoin Core src/ipc/process.cpp).
fn ipc(node: &NodeProcess, access: &Access) -> Result<IpcWindow, Closed> {
    let addresses = node.settings.all("ipcbind", node.network);
    let mut sockets = addresses.into_iter().filter_map(|address| match address {
        "unix" | "unix:" => Some("node.sock"),
        address => address.strip_prefix("unix:"),
    });
    let socket = sockets.next().ok_or(Closed::NoIpc)?;
    Ok(IpcWindow { path: network_folder(node).join(socket), access: access.clone() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::access::MAX_PATH;
    use crate::settings::Settings;

    fn node(cmdline: &str, conf: &str) -> NodeProcess {
        let mut settings = Settings::of_command_line(format!("bitcoind\0{cmdline}").as_bytes());
        settings.add_file(conf);
        NodeProcess {
            exe: "/usr/bin/bitcoind".into(),
            datadir: "/nonexistent/data".into(),
            default_datadir: false,
            network: settings.network().unwrap_or(Network::Mainnet),
            settings,
            ..crate::discover::process(std::process::id()).unwrap()
        }
    }

    #[test]
    fn rpc_is_where_bitcoin_core_binds_it() {
        let host = |cmdline: &str, conf: &str| Windows::of(&node(cmdline, conf)).rpc.unwrap().host;
        assert_eq!(host("", ""), "127.0.0.1:8332");
        assert_eq!(host("-testnet", ""), "127.0.0.1:18332");
        assert_eq!(host("-testnet4", ""), "127.0.0.1:48332");
        assert_eq!(host("-signet", ""), "127.0.0.1:38332");
        assert_eq!(host("-regtest", "rpcport=1\n"), "127.0.0.1:18443");
        assert_eq!(host("-regtest", "[regtest]\nrpcport=2\n"), "127.0.0.1:2");
        assert_eq!(
            host("-rpcport=3", "rpcbind=192.0.2.1\n"),
            "127.0.0.1:3",
            "rpcbind counts with rpcallowip only"
        );
        let allowed = |binds: &str| host("", &format!("rpcallowip=192.0.2.0/24\n{binds}"));
        assert_eq!(allowed("rpcbind=192.0.2.1\n"), "192.0.2.1:8332");
        assert_eq!(allowed("rpcbind=192.0.2.1:5\nrpcbind=127.0.0.1:6\n"), "127.0.0.1:6");
        assert_eq!(allowed("rpcbind=0.0.0.0:7\n"), "127.0.0.1:7");
        assert_eq!(allowed("rpcbind=[::]:8\n"), "[::1]:8");
        assert_eq!(allowed("rpcbind=::1\n"), "[::1]:8332");
    }

    #[test]
    fn logins_are_the_cookie_or_the_password() {
        let login = |cmdline: &str, conf: &str| {
            Windows::of(&node(cmdline, conf)).rpc.unwrap().login.map(|login| format!("{login:?}"))
        };
        assert_eq!(login("", "").unwrap(), "/nonexistent/data/.cookie");
        assert_eq!(login("-testnet", "").unwrap(), "/nonexistent/data/testnet3/.cookie");
        assert_eq!(login("-regtest", "rpccookiefile=c\n").unwrap(), "/nonexistent/data/regtest/c");
        assert_eq!(login("-rpccookiefile=/x/c", "").unwrap(), "/x/c");
        assert_eq!(login("", "rpcuser=u\nrpcpassword=p\n").unwrap(), "user \"u\"");
        assert_eq!(login("-norpccookiefile", ""), None);
    }

    #[test]
    fn ipc_is_where_bitcoin_core_binds_it() {
        let socket = |cmdline: &str, conf: &str| Windows::of(&node(cmdline, conf)).ipc.map(|ipc| ipc.path);
        assert_eq!(socket("", ""), Err(Closed::NoIpc));
        assert_eq!(socket("-ipcbind=tcp:1", ""), Err(Closed::NoIpc));
        assert_eq!(socket("-ipcbind=unix", "").unwrap(), Path::new("/nonexistent/data/node.sock"));
        assert_eq!(socket("-ipcbind=unix:", "").unwrap(), Path::new("/nonexistent/data/node.sock"));
        let signet = socket("-signet", "[signet]\nipcbind=unix:a/b.sock\n");
        assert_eq!(signet.unwrap(), Path::new("/nonexistent/data/signet/a/b.sock"));
        assert_eq!(socket("-ipcbind=unix:/x/y", "").unwrap(), Path::new("/x/y"));
    }

    #[test]
    fn what_is_closed_is_said_with_what_would_open_it() {
        let windows = Windows::of(&node("-server=0\0-nodebuglogfile", ""));
        assert_eq!(windows.rpc.unwrap_err().fix(), "in bitcoin.conf: server=1");
        assert_eq!(windows.log, Err(Closed::NoLog));
        let with_windows = NodeProcess { exe: "/usr/bin/bitcoin-qt".into(), ..node("", "") };
        assert_eq!(Windows::of(&with_windows).rpc, Err(Closed::NoServer));
        let with_windows = NodeProcess { exe: "/usr/bin/bitcoin-qt".into(), ..node("", "server=1\n") };
        assert!(Windows::of(&with_windows).rpc.is_ok());
        let in_container = Closed::InContainer(Network::Signet).fix();
        assert!(in_container.starts_with("in bitcoin.conf: under [signet]: rpcbind"), "{in_container}");
    }

    #[test]
    fn the_log_is_in_the_folder_of_the_network_unless_it_is_elsewhere() {
        let path = |cmdline: &str| Windows::of(&node(cmdline, "")).log.unwrap().known_as;
        assert_eq!(path(""), Path::new("/nonexistent/data/debug.log"));
        assert_eq!(path("-regtest"), Path::new("/nonexistent/data/regtest/debug.log"));
        assert_eq!(path("-regtest\0-debuglogfile=x.log"), Path::new("/nonexistent/data/regtest/x.log"));
        assert_eq!(path("-debuglogfile=/var/log/x.log"), Path::new("/var/log/x.log"));
    }

    #[test]
    fn unknown_network_closes_rpc_alone() {
        let windows = Windows::of(&NodeProcess { pid: u32::MAX, ..node("-ipcbind=unix", "") });
        assert_eq!(windows.rpc, Err(Closed::UnknownNetwork));
        assert!(windows.log.is_ok() && windows.ipc.is_ok());
    }

    #[test]
    fn mixed_user_ids_close_every_interface() {
        let windows = Windows::of(&NodeProcess { user: None, ..node("-ipcbind=unix", "") });
        let closed = Closed::MixedUser;
        assert_eq!(windows, Windows { rpc: Err(closed.clone()), log: Err(closed.clone()), ipc: Err(closed) });
    }

    #[test]
    fn excessive_settings_close_every_interface() {
        let windows = Windows::of(&node(&format!("-debuglogfile=/{}", "x".repeat(MAX_PATH)), ""));
        let closed = windows.log.unwrap_err();
        assert!(closed.to_string().contains("-debuglogfile is longer"), "{closed}");
        assert_eq!((windows.rpc.err(), windows.ipc.err()), (Some(closed.clone()), Some(closed)));
    }
}

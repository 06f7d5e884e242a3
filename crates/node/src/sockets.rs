//! Which process is at the other end of a connection: nodes dial us from any port, but the kernel knows whose socket it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Lists of sockets are read up to this, bytes: a hundred thousand sockets.
const MAX_LIST: u64 = 16 << 20;

/// TCP_ESTABLISHED (net/tcp_states.h).
const ESTABLISHED: u8 = 1;
/// TCP_LISTEN (net/tcp_states.h).
const LISTEN: u8 = 10;

/// The one of these processes that has a socket connected from `from` to `to`. In a container the port alone counts, because addresses
/// are translated on the way.
pub fn dialler(pids: &[u32], from: SocketAddr, to: SocketAddr) -> Option<u32> {
    let own = network_of("self");
    pids.iter().copied().find(|pid| {
        let is_here = network_of(&pid.to_string()) == own;
        let inodes: HashSet<String> = ["tcp", "tcp6"]
            .iter()
            .filter_map(|list| fs::File::open(format!("/proc/{pid}/net/{list}")).ok())
            .flat_map(|list| BufReader::new(list.take(MAX_LIST)).lines().map_while(Result::ok))
            .filter_map(|line| parse(&line))
            .filter(|socket| match is_here {
                true => (socket.local, socket.remote) == (canonical(from), canonical(to)),
                false => (socket.local.port(), socket.remote.port()) == (from.port(), to.port()),
            })
            .map(|socket| format!("socket:[{}]", socket.inode))
            .collect();
        !inodes.is_empty() && owns_one(*pid, &inodes)
    })
}

/// The user of the client of each of these connections, from the client's address and ours: those
/// within this network namespace, to a socket that a process still has. The kernel's lists are read
/// once for all of them.
///
/// A socket that its process has closed is left out: the kernel says that it is root's.
pub fn client_users(connections: &[(SocketAddr, SocketAddr)]) -> Vec<Option<u32>> {
    let mut users = HashMap::new();
    let wanted: HashSet<_> =
        connections.iter().map(|(from, to)| (canonical(*from), canonical(*to))).collect();
    for socket in own_sockets().filter(|socket| socket.inode != 0) {
        if wanted.contains(&(socket.local, socket.remote)) {
            users.insert((socket.local, socket.remote), socket.uid);
        }
    }
    connections.iter().map(|(from, to)| users.get(&(canonical(*from), canonical(*to))).copied()).collect()
}

/// The users who may hold the other end of a connection to a server in this network namespace, from
/// our address and the server's; empty when the kernel does not list the connection.
///
/// That is the user of the server's socket. A connection that the server has not accepted yet has no
/// socket, and the kernel lists it as root's: then the users of its listeners hold it. A listener at
/// the address itself takes precedence over one at all addresses, as in the kernel.
pub fn server_users(from: SocketAddr, to: SocketAddr) -> BTreeSet<u32> {
    server_users_in(own_sockets(), canonical(from), canonical(to))
}

fn server_users_in(sockets: impl Iterator<Item = Socket>, from: SocketAddr, to: SocketAddr) -> BTreeSet<u32> {
    let mut listeners: BTreeMap<u8, BTreeSet<u32>> = BTreeMap::new();
    let mut is_queued = false;
    for socket in sockets {
        if socket.state == LISTEN {
            if let Some(rank) = listener_rank(socket.local, to) {
                listeners.entry(rank).or_default().insert(socket.uid);
            }
        } else if (socket.local, socket.remote) == (to, from) {
            if socket.inode != 0 {
                return BTreeSet::from([socket.uid]);
            }
            is_queued |= socket.state == ESTABLISHED;
        }
    }
    // The closest listeners come first.
    listeners.into_values().next().filter(|_| is_queued).unwrap_or_default()
}

/// How far a listener's address is from the one that is connected to; `None` for another address. An
/// IPv6 listener at all addresses may take IPv4 connections, too.
fn listener_rank(listener: SocketAddr, to: SocketAddr) -> Option<u8> {
    match (listener.ip(), to.ip()) {
        _ if listener.port() != to.port() => None,
        (ip, to) if ip == to => Some(0),
        (IpAddr::V4(ip), IpAddr::V4(_)) if ip.is_unspecified() => Some(1),
        (IpAddr::V6(ip), IpAddr::V6(_)) if ip.is_unspecified() => Some(1),
        (IpAddr::V6(ip), IpAddr::V4(_)) if ip.is_unspecified() => Some(2),
        _ => None,
    }
}

/// Whether the process is in the network namespace that this one is in; `None` when that is unknown.
pub fn shares_our_network(pid: u32) -> Option<bool> {
    Some(network_of(&pid.to_string())? == network_of("self")?)
}

/// An address of a process's own network, other than loopback: that of a container.
pub fn address_in_network(pid: u32) -> Option<IpAddr> {
    let list = fs::File::open(format!("/proc/{pid}/net/fib_trie")).ok()?;
    local_address(BufReader::new(list.take(MAX_LIST)).lines().map_while(Result::ok))
}

/// In /proc/net/fib_trie an address is a leaf, `|-- ADDRESS`, and the line below says that it is the machine's own: `/32 host LOCAL`.
fn local_address(lines: impl Iterator<Item = String>) -> Option<IpAddr> {
    let mut leaf = None;
    for line in lines {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok().filter(|address| !address.is_loopback());
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf
        {
            return Some(address.into());
        }
    }
    None
}

/// The TCP sockets of this network namespace, as far as the kernel's lists are read.
fn own_sockets() -> impl Iterator<Item = Socket> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|list| fs::File::open(format!("/proc/self/net/{list}")).ok())
        .flat_map(|list| BufReader::new(list.take(MAX_LIST)).lines().map_while(Result::ok))
        .filter_map(|line| parse(&line))
}

fn network_of(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

fn owns_one(pid: u32, sockets: &HashSet<String>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    uid: u32,
    inode: u64,
}

/// A line of /proc/net/tcp (proc_pid_net(5)): number, local address, remote address, state, the
/// user as the eighth word and the inode as the tenth.
fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace();
    let (local, remote) = (words.nth(1)?, words.next()?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let uid = words.nth(3)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    Some(Socket { local: address(local)?, remote: address(remote)?, state, uid, inode })
}

/// Addresses are u32 in the machine's byte order, in hex; ports are plain hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

/// An IPv4 address in an IPv6 one is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use peer_observer_testkit::{need, require};

    use super::*;

    #[test]
    fn the_process_at_the_other_end_is_found() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            assert_eq!(peer, stream.local_addr().unwrap());
            let me = std::process::id();
            let own = listener.local_addr().unwrap();
            assert_eq!(dialler(&[1, me], peer, own), Some(me), "{listen}");
            assert_eq!(dialler(&[1], peer, own), None);
            assert_eq!(dialler(&[me], SocketAddr::new(peer.ip(), 1), own), None);
        }
    }

    #[test]
    fn client_user_is_that_of_an_open_socket() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let own = listener.local_addr().unwrap();
            let stream = TcpStream::connect(own).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            let closed = TcpStream::connect(own).unwrap();
            let (_half, gone) = listener.accept().unwrap();
            drop(closed);
            let user = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap());
            assert_eq!(client_users(&[(gone, own), (peer, own)]), [None, Some(user)], "{listen}");
            drop(stream);
        }
    }

    #[test]
    fn server_user_is_that_of_the_accepted_socket_or_of_the_listener() {
        require!(need::root());
        const NOBODY: u32 = 65_534;
        for listen in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let port = listener.local_addr().unwrap().port();
            let host = if listen.contains("1]") { "[::1]" } else { "127.0.0.1" };
            let stream = TcpStream::connect(format!("{host}:{port}")).unwrap();
            let (from, to) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            std::os::unix::fs::fchown(&listener, Some(NOBODY), None).unwrap();
            assert_eq!(server_users(from, to), BTreeSet::from([NOBODY]), "{listen}");
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(server_users(from, to), BTreeSet::from([0]), "{listen}");
            // The listener does not count any more: it may be another one than that which accepted.
            std::os::unix::fs::fchown(&listener, Some(0), None).unwrap();
            std::os::unix::fs::fchown(&accepted, Some(NOBODY), None).unwrap();
            assert_eq!(server_users(from, to), BTreeSet::from([NOBODY]), "{listen}");
            drop(accepted);
            assert_eq!(server_users(from, to), BTreeSet::new(), "{listen}");
        }
    }

    #[test]
    fn closest_listener_holds_a_queued_connection() {
        let (from, to): (SocketAddr, SocketAddr) =
            ("127.0.0.1:5".parse().unwrap(), "127.0.0.1:7".parse().unwrap());
        let listener = |local: &str, uid| Socket {
            local: local.parse().unwrap(),
            remote: "0.0.0.0:0".parse().unwrap(),
            state: LISTEN,
            uid,
            inode: 1,
        };
        let queued = || Socket { local: to, remote: from, state: ESTABLISHED, uid: 0, inode: 0 };
        let users = |sockets: Vec<Socket>| server_users_in(sockets.into_iter(), from, to);
        let exact = || listener("127.0.0.1:7", 1);
        let any = || listener("0.0.0.0:7", 2);
        let any_v6 = || listener("[::]:7", 3);
        let others = || vec![listener("127.0.0.2:7", 9), listener("127.0.0.1:8", 9), listener("[::1]:7", 9)];
        let with = |more: Vec<Socket>| users(others().into_iter().chain(more).collect());
        assert_eq!(with(vec![any_v6(), any(), exact(), queued()]), BTreeSet::from([1]));
        assert_eq!(with(vec![any_v6(), any(), queued()]), BTreeSet::from([2]));
        assert_eq!(with(vec![any_v6(), queued()]), BTreeSet::from([3]));
        assert_eq!(with(vec![exact(), listener("127.0.0.1:7", 4), queued()]), BTreeSet::from([1, 4]));
        assert_eq!(with(vec![queued()]), BTreeSet::new());
        assert_eq!(with(vec![exact()]), BTreeSet::new(), "without the connection nothing is known");
        let closing = Socket { state: 8, ..queued() };
        assert_eq!(with(vec![exact(), closing]), BTreeSet::new());
    }

    #[test]
    fn hostile_lines_are_no_sockets() {
        for line in [
            "",
            "sl local_address rem_address st",
            "0: 0100007F 0100007F:0 0 0 0 0 0 0 0 1",
            "0: é:1 é:1 0 0 0 0 0 0 0 1",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_address_of_a_container_is_found() {
        let list = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 172.17.0.0\n        /16 link UNICAST\n     |-- 172.17.0.2\n        /32 host LOCAL\n";
        let lines = |text: &str| local_address(text.lines().map(str::to_owned));
        assert_eq!(lines(list), Some(IpAddr::from([172, 17, 0, 2])));
        assert_eq!(lines("|-- 127.0.0.1\n/32 host LOCAL\n"), None);
        assert_eq!(shares_our_network(std::process::id()), Some(true));
        assert_eq!(shares_our_network(u32::MAX), None);
    }
}

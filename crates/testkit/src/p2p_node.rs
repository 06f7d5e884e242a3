//! Scripted nodes that listen, for whoever dials them: good ones over v1 and v2, and every bad one that the network has.
//!
//! Framing and ciphers are those of [`crate::peer`] and [`crate::p2p_peer`], so that what reads the same bytes elsewhere is not tested
//! against itself. Also a SOCKS5 proxy that knows where names lead.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bip324::{CipherSession, PacketType, Role};

use crate::LONG;
use crate::p2p_peer::agree;
use crate::peer::{self, REGTEST_MAGIC, version_payload};

/// What a node does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Shakes hands in plain, and closes what is not in plain, as nodes without BIP 324 do.
    AnswersV1,
    /// Shakes hands encrypted (BIP 324).
    AnswersV2,
    /// Says its `version` and never its `verack`.
    VersionOnly,
    /// Speaks v1 of mainnet, where regtest is spoken.
    WrongNetwork,
    /// Sends what is no protocol at all.
    Garbage,
    /// Never sends anything.
    Hangs,
    /// Sends a good answer, a byte at a time, and much too slowly.
    Drips,
    /// Closes every connection at once.
    ClosesAtOnce,
    /// Sends without end.
    Floods,
}

/// What a node has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections, since the start.
    pub connections: u64,
    /// User agents of those who said their `version`, in order.
    pub user_agents: Vec<String>,
    /// Connections that the other side ended, after its `verack`.
    pub polite: u64,
}

/// A node that listens.
pub struct ListeningNode {
    addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    server: Server,
}

impl ListeningNode {
    /// Listens at `addr`; port 0 is any.
    pub fn start(addr: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let for_connections = seen.clone();
        let server = Server::start(addr, move |stream| {
            locked(&for_connections).connections += 1;
            // Whatever goes wrong, the other side is to blame for: that is what is tested.
            let _ = behave(&stream, behaviour, &for_connections);
        })?;
        Ok(ListeningNode { addr: server.addr, seen, server })
    }

    /// Listens at a port of 127.0.0.1 that nobody else gets when this has ended.
    pub fn local(behaviour: Behaviour) -> io::Result<Self> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], crate::free_port()?)), behaviour)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has seen until now.
    pub fn seen(&self) -> Seen {
        locked(&self.seen).clone()
    }

    /// Ends it: connections to its address are refused from then on.
    pub fn stop(self) -> SocketAddr {
        drop(self.server);
        self.addr
    }
}

/// A SOCKS5 proxy without a login.
pub struct SocksProxy {
    names: Arc<Mutex<Vec<String>>>,
    server: Server,
}

impl SocksProxy {
    /// Listens at a port of 127.0.0.1, and knows where these names lead. Others are unreachable.
    pub fn start(routes: BTreeMap<String, SocketAddr>) -> io::Result<Self> {
        let names: Arc<Mutex<Vec<String>>> = Arc::default();
        let asked = names.clone();
        let server = Server::start(SocketAddr::from(([127, 0, 0, 1], 0)), move |stream| {
            let _ = relay(stream, &routes, &asked);
        })?;
        Ok(SocksProxy { names, server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// The names that it was asked for, as `name:port`, in order.
    pub fn names(&self) -> Vec<String> {
        locked(&self.names).clone()
    }
}

/// Accepts connections, each on a thread of its own, until it is dropped.
struct Server {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    fn start(addr: SocketAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let serve = Arc::new(serve);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), serve) = (stream, serve.clone()) else { continue };
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(Server { addr, stop, accepting: Some(accepting) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => [127, 0, 0, 1].into(),
                SocketAddr::V6(_) => [0, 0, 0, 0, 0, 0, 0, 1].into(),
            });
        }
        // Accepting ends with the next connection: this one.
        let _ = TcpStream::connect(addr);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn behave(mut stream: &TcpStream, behaviour: Behaviour, seen: &Mutex<Seen>) -> io::Result<()> {
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    match behaviour {
        Behaviour::AnswersV1 => shake_hands(stream, b"verack", seen),
        Behaviour::VersionOnly => shake_hands(stream, b"", seen),
        Behaviour::AnswersV2 => shake_hands_encrypted(stream, seen),
        Behaviour::WrongNetwork => {
            const MAINNET: [u8; 4] = [0xf9, 0xbe, 0xb4, 0xd9];
            stream.write_all(&peer::frame(MAINNET, "version", &version_payload()))?;
            wait_for_end(stream)
        }
        Behaviour::Garbage => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n")?;
            wait_for_end(stream)
        }
        Behaviour::Hangs => wait_for_end(stream),
        Behaviour::Drips => {
            let deadline = Instant::now() + LONG;
            for byte in peer::frame(REGTEST_MAGIC, "version", &version_payload()) {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(300));
                if Instant::now() > deadline {
                    break;
                }
            }
            Ok(())
        }
        Behaviour::ClosesAtOnce => Ok(()),
        Behaviour::Floods => loop {
            stream.write_all(&peer::frame(REGTEST_MAGIC, "a-new-thing", &[0; 60_000]))?;
        },
    }
}

/// Reads until the other side has enough.
fn wait_for_end(mut stream: &TcpStream) -> io::Result<()> {
    let mut buf = [0; 4096];
    while stream.read(&mut buf)? > 0 {}
    Ok(())
}

/// Answers a `version` in plain with one, and with another message if it has a type.
fn shake_hands(mut stream: &TcpStream, then: &[u8], seen: &Mutex<Seen>) -> io::Result<()> {
    let (msg_type, payload) = read_frame(stream)?;
    if msg_type != "version" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    note_user_agent(&payload, seen);
    stream.write_all(&peer::frame(REGTEST_MAGIC, "version", &version_payload()))?;
    if then.is_empty() {
        return wait_for_end(stream);
    }
    stream.write_all(&peer::frame(REGTEST_MAGIC, &String::from_utf8_lossy(then), b""))?;
    while read_frame(stream)?.0 != "verack" {}
    wait_for_end(stream)?;
    locked(seen).polite += 1;
    Ok(())
}

/// A message in plain. What is of no regtest ends the connection.
fn read_frame(mut stream: &TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut header = [0; 24];
    stream.read_exact(&mut header)?;
    if header[..4] != REGTEST_MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
    let mut payload = Vec::new();
    stream.take(length.into()).read_to_end(&mut payload)?;
    Ok((String::from_utf8_lossy(&header[4..16]).trim_end_matches('\0').to_owned(), payload))
}

/// Contents of an encrypted packet.
fn read_packet(mut stream: &TcpStream, cipher: &mut CipherSession) -> io::Result<Vec<u8>> {
    let mut length = [0; 3];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; cipher.inbound().decrypt_packet_len(length)];
    stream.read_exact(&mut packet)?;
    let plain = cipher.inbound().decrypt_in_place(&mut packet, None);
    let (_, plain) = plain.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(plain[1..].to_vec())
}

fn shake_hands_encrypted(mut stream: &TcpStream, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut cipher = agree(stream, Role::Responder)?;
    let long = |msg_type: &[u8]| -> Vec<u8> {
        [0].into_iter().chain(msg_type.iter().copied()).chain([0; 12]).take(13).collect()
    };
    let contents = read_packet(stream, &mut cipher)?;
    if !contents.starts_with(b"\0version\0") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    note_user_agent(&contents[13..], seen);
    for contents in [[long(b"version"), version_payload()].concat(), long(b"verack")] {
        let packet = cipher.outbound().encrypt_to_vec(&contents, PacketType::Genuine, None);
        stream.write_all(&packet)?;
    }
    while !read_packet(stream, &mut cipher)?.starts_with(b"\0verack\0") {}
    wait_for_end(stream)?;
    locked(seen).polite += 1;
    Ok(())
}

/// The user agent is behind 80 bytes of the `version` message.
fn note_user_agent(version: &[u8], seen: &Mutex<Seen>) {
    let agent = version.get(80..).and_then(|rest| rest.split_first());
    let agent = agent.and_then(|(length, rest)| rest.get(..usize::from(*length))).unwrap_or_default();
    locked(seen).user_agents.push(String::from_utf8_lossy(agent).into_owned());
}

/// Connects a client to where the name leads that it asks for (RFC 1928).
fn relay(
    mut client: TcpStream,
    routes: &BTreeMap<String, SocketAddr>,
    names: &Mutex<Vec<String>>,
) -> io::Result<()> {
    client.set_read_timeout(Some(LONG))?;
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting)?;
    client.write_all(&[5, 0])?;
    let mut request = [0; 5];
    client.read_exact(&mut request)?;
    let mut rest = vec![0; usize::from(request[4]) + 2];
    client.read_exact(&mut rest)?;
    let (name, port) = rest.split_at(rest.len() - 2);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let name = format!("{}:{port}", String::from_utf8_lossy(name));
    locked(names).push(name.clone());
    let Some(addr) = routes.get(&name) else {
        // Host unreachable.
        return client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]);
    };
    let mut node = TcpStream::connect(addr)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut from_node, mut to_client) = (node.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut from_node, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut client, &mut node);
    let _ = node.shutdown(std::net::Shutdown::Write);
    let _ = back.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p_peer::{NodePeer, Transport};
    use crate::wait_until;

    #[test]
    fn scripted_peers_shake_hands_with_it_and_it_keeps_count() {
        for (transport, behaviour) in
            [(Transport::V1, Behaviour::AnswersV1), (Transport::V2, Behaviour::AnswersV2)]
        {
            let node = ListeningNode::local(behaviour).unwrap();
            for n in 1..=2 {
                drop(NodePeer::connect(node.addr(), transport, LONG).unwrap());
                assert!(wait_until(LONG, || node.seen().polite == n), "{behaviour:?}: {:?}", node.seen());
            }
            let seen = node.seen();
            assert_eq!(seen.user_agents, ["/testkit:0.1.0/"; 2]);
            assert_eq!(seen.connections, 2);
            let addr = node.stop();
            assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
        }
    }

    #[test]
    fn one_without_encryption_closes_what_is_encrypted() {
        let node = ListeningNode::local(Behaviour::AnswersV1).unwrap();
        assert!(NodePeer::connect(node.addr(), Transport::V2, LONG).is_err());
        assert_eq!(node.seen().user_agents.len(), 0);
    }
}

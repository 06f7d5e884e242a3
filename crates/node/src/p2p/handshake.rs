//! Shaking hands: `version`, features, `verack`. Who dials sends its `version` first; what else may come when is the same for both.
//!
//! Whoever dials us is answered as by a peer that takes transactions by wtxid (BIP 339) and addresses of all networks (BIP 155), so
//! that the node tells us all that it tells such peers.

use super::{Error, Message};

/// Protocol version that is spoken: 70016 has wtxid relay (BIP 339).
pub const PROTOCOL_VERSION: i32 = 70_016;

/// Services that we claim: NODE_NETWORK and NODE_WITNESS (Bitcoin Core protocol.h), as the public extractor does. With these the
/// node asks us for headers, and its question says where its chain ends.
pub const SERVICES: u64 = 1 | 1 << 3;

/// Oldest version that Bitcoin Core speaks to (node/protocol_version.h, `MIN_PEER_PROTO_VERSION`).
const MIN_VERSION: i32 = 31_800;

/// Types that say what a peer can do. They come between `version` and `verack`.
const FEATURES: [&str; 4] = ["wtxidrelay", "sendaddrv2", "sendtxrcncl", "sendpackages"];

/// Types that have no place before `verack`. What is in neither list is unknown: a later feature, perhaps.
const AFTERWARDS: [&str; 27] = [
    "addr",
    "addrv2",
    "block",
    "blocktxn",
    "cmpctblock",
    "feefilter",
    "filteradd",
    "filterclear",
    "filterload",
    "getaddr",
    "getblocks",
    "getblocktxn",
    "getcfcheckpt",
    "getcfheaders",
    "getcfilters",
    "getdata",
    "getheaders",
    "headers",
    "inv",
    "mempool",
    "merkleblock",
    "notfound",
    "ping",
    "pong",
    "sendcmpct",
    "sendheaders",
    "tx",
];

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    AwaitsVersion,
    AwaitsVerack,
    Done,
}

/// What a message means for the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The peer's `version`: send [`answers`], or only `verack` when ours was sent before.
    Answer {
        /// Protocol version that it speaks.
        version: i32,
    },
    /// Nothing to do.
    Nothing,
    /// The handshake ends with this message.
    Done,
    /// The handshake is over: it is a message like any other.
    Over,
}

/// The order of messages until both sides know each other.
#[derive(Debug)]
pub struct Handshake {
    stage: Stage,
}

impl Default for Handshake {
    fn default() -> Self {
        Handshake { stage: Stage::AwaitsVersion }
    }
}

impl Handshake {
    /// It is over.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Takes the peer's next message.
    ///
    /// # Errors
    /// When it comes at the wrong time, or the peer's version is older than what Bitcoin Core speaks to.
    pub fn receive(&mut self, message: &Message) -> Result<Step, Error> {
        let order = |when| Err(Error::Order { msg_type: message.msg_type.to_owned(), when });
        match (self.stage, message.msg_type) {
            (Stage::AwaitsVersion, "version") => {
                let Some(version) = message.payload.first_chunk().copied().map(i32::from_le_bytes) else {
                    return Err(Error::Version(format!("has {} bytes", message.payload.len())));
                };
                if version < MIN_VERSION {
                    return Err(Error::Version(format!(
                        "has protocol version {version}, older than {MIN_VERSION}"
                    )));
                }
                self.stage = Stage::AwaitsVerack;
                Ok(Step::Answer { version })
            }
            (Stage::AwaitsVersion, _) => order("before its version"),
            (_, "version") => order("twice"),
            (Stage::AwaitsVerack, "verack") => {
                self.stage = Stage::Done;
                Ok(Step::Done)
            }
            (Stage::AwaitsVerack, other) if AFTERWARDS.contains(&other) => order("before its verack"),
            (Stage::AwaitsVerack, _) => Ok(Step::Nothing),
            // Bitcoin Core disconnects who changes features later.
            (Stage::Done, feature) if FEATURES.contains(&feature) => order("after its verack"),
            (Stage::Done, "verack") => order("twice"),
            (Stage::Done, _) => Ok(Step::Over),
        }
    }
}

/// Messages that answer a peer's `version`, types and payloads in order. `version` is the peer's protocol version, `now` s since the
/// UNIX epoch, `nonce` random, `user_agent` shorter than 253 bytes.
pub fn answers(version: i32, now: u64, nonce: u64, user_agent: &str) -> Vec<(&'static str, Vec<u8>)> {
    let ours = OurVersion { services: SERVICES, now, nonce, user_agent, relay: Relay::Transactions };
    let mut answers = vec![("version", ours.payload())];
    if version >= PROTOCOL_VERSION {
        answers.extend([("wtxidrelay", Vec::new()), ("sendaddrv2", Vec::new())]);
    }
    answers.push(("verack", Vec::new()));
    answers
}

/// Whether transactions are wanted (BIP 37).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// Announce them.
    Transactions,
    /// Blocks are enough.
    Blocks,
}

/// What we say of ourselves in `version`.
#[derive(Debug, Clone, Copy)]
pub struct OurVersion<'a> {
    /// Services that we claim (Bitcoin Core protocol.h, `ServiceFlags`).
    pub services: u64,
    /// s since the UNIX epoch.
    pub now: u64,
    /// Random.
    pub nonce: u64,
    /// Shorter than 253 bytes.
    pub user_agent: &'a str,
    /// Whether transactions are wanted.
    pub relay: Relay,
}

impl OurVersion<'_> {
    /// Payload of `version` (Bitcoin Core net_processing.cpp, `PushNodeVersion`). Addresses are zeros, which says nothing.
    pub fn payload(&self) -> Vec<u8> {
        let no_addr = [0; 8 + 16 + 2];
        let mut payload = Vec::new();
        payload.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        payload.extend_from_slice(&self.services.to_le_bytes());
        payload.extend_from_slice(&self.now.to_le_bytes());
        payload.extend_from_slice(&no_addr);
        payload.extend_from_slice(&no_addr);
        payload.extend_from_slice(&self.nonce.to_le_bytes());
        payload.push(self.user_agent.len() as u8);
        payload.extend_from_slice(self.user_agent.as_bytes());
        let start_height = 0i32;
        payload.extend_from_slice(&start_height.to_le_bytes());
        payload.push(u8::from(self.relay == Relay::Transactions));
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: i32) -> Vec<u8> {
        version.to_le_bytes().to_vec()
    }

    #[test]
    fn a_node_shakes_hands_and_is_then_listened_to() {
        let ours = version(70_016);
        let messages: [(&str, &[u8], Step); 7] = [
            ("version", &ours, Step::Answer { version: 70_016 }),
            ("wtxidrelay", b"", Step::Nothing),
            ("sendaddrv2", b"", Step::Nothing),
            ("a-new-thing", b"1", Step::Nothing),
            ("verack", b"", Step::Done),
            ("ping", &[0; 8], Step::Over),
            ("a-new-thing", b"1", Step::Over),
        ];
        let mut handshake = Handshake::default();
        for (msg_type, payload, expected) in messages {
            assert_eq!(handshake.receive(&Message { msg_type, payload }).unwrap(), expected, "{msg_type}");
            assert_eq!(handshake.is_done(), matches!(expected, Step::Done | Step::Over), "{msg_type}");
        }
    }

    #[test]
    fn what_comes_at_the_wrong_time_is_refused() {
        let cases: [(&[&str], &str); 8] = [
            (&["verack"], "before its version"),
            (&["ping"], "before its version"),
            (&["a-new-thing"], "before its version"),
            (&["version", "version"], "twice"),
            (&["version", "inv"], "before its verack"),
            (&["version", "verack", "verack"], "twice"),
            (&["version", "verack", "version"], "twice"),
            (&["version", "verack", "wtxidrelay"], "after its verack"),
        ];
        for (messages, why) in cases {
            let (last, before) = messages.split_last().unwrap();
            let payload = version(70_016);
            let mut handshake = Handshake::default();
            for msg_type in before {
                handshake.receive(&Message { msg_type, payload: &payload }).unwrap();
            }
            let err = handshake.receive(&Message { msg_type: last, payload: &payload }).unwrap_err();
            assert!(err.to_string().ends_with(why), "{messages:?}: {err}");
        }
        for payload in [vec![], vec![1, 2, 3], version(31_799), version(-1)] {
            let message = Message { msg_type: "version", payload: &payload };
            assert!(matches!(Handshake::default().receive(&message), Err(Error::Version(_))), "{payload:?}");
        }
    }

    #[test]
    fn features_are_offered_only_to_who_knows_them() {
        let types = |version| answers(version, 0, 0, "/x/").into_iter().map(|(t, _)| t).collect::<Vec<_>>();
        assert_eq!(types(70_016), ["version", "wtxidrelay", "sendaddrv2", "verack"]);
        assert_eq!(types(70_015), ["version", "verack"]);
    }
}

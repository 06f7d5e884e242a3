//! Answers of the methods, as Bitcoin Core gives them.
//!
//! Versions 25 to 31 differ in what they answer, and later ones will, so nothing is required: what is missing has its default, what is
//! not known is passed over and named. Names and units are those of `bitcoin-cli help METHOD`; amounts are BTC, fee rates BTC/kvB.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_ignored::Path;

use super::Answer;

/// Different names of unknown fields that are kept of one answer.
const MAX_NAMES: usize = 32;
/// Characters of such a name that are kept.
const MAX_NAME: usize = 64;
/// Entries of a list or table that are read. An entry takes three bytes of JSON at least, and hundreds of
/// memory. An address manager has 65,536 in a table at most.
const MAX_ENTRIES: usize = 100_000;

/// A value, and what else stood in the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    /// The value.
    pub value: T,
    /// How often a field was seen that is not known here, by its name.
    pub unknown: BTreeMap<String, u64>,
}

/// Why an answer is none of the method.
#[derive(Debug, thiserror::Error)]
#[error("the answer to {method} has another form than expected: {reason}")]
pub struct FormError {
    /// The method.
    pub method: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The answer to a method.
pub trait Answered: DeserializeOwned {
    /// The method.
    const METHOD: &'static str;
    /// How the JSON begins: serde would also take a list for an object.
    const BEGINS: char;
    /// Fields that are known and left out: others say the same, or nobody has asked for them yet.
    const LEFT_OUT: &'static [&'static str] = &[];
}

/// Reads the answer to a method.
///
/// # Errors
/// When a known field is not of its type.
pub fn read<T: Answered>(answer: &Answer) -> Result<Read<T>, FormError> {
    read_json(answer.json())
}

/// Reads the JSON of a result, as [`read`] does.
///
/// # Errors
/// When a known field is not of its type.
pub fn read_json<T: Answered>(json: &str) -> Result<Read<T>, FormError> {
    let error = |reason: String| FormError { method: T::METHOD, reason };
    let json = json.trim_start();
    if T::BEGINS != '0' && !json.starts_with(T::BEGINS) {
        return Err(error(format!("it does not begin with {}", T::BEGINS)));
    }
    let mut unknown = BTreeMap::new();
    let mut pass_over = |path: Path<'_>| {
        let Some(name) = field(&path) else { return };
        if T::LEFT_OUT.contains(&name) {
            return;
        }
        let name: String = name.chars().take(MAX_NAME).collect();
        if unknown.len() < MAX_NAMES || unknown.contains_key(&name) {
            *unknown.entry(name).or_insert(0) += 1;
        }
    };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = serde_ignored::deserialize(&mut deserializer, &mut pass_over)
        .map_err(|e: serde_json::Error| error(e.to_string()))?;
    deserializer.end().map_err(|e| error(e.to_string()))?;
    Ok(Read { value, unknown })
}

/// The last name of a path: what is before it is the same for all, or the number of a peer.
fn field<'a>(path: &'a Path<'a>) -> Option<&'a str> {
    match path {
        Path::Map { key, .. } => Some(key),
        Path::Root => None,
        Path::Seq { parent, .. }
        | Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field(parent),
    }
}

/// Before Bitcoin Core 28 warnings are one text, empty when there are none.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) if text.is_empty() => Vec::new(),
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

/// A list of at most [`MAX_ENTRIES`].
fn bounded_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                check_entries(list.len())?;
                list.push(entry);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}

/// A table of at most [`MAX_ENTRIES`].
fn bounded_table<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    struct Table<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Table<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut table = BTreeMap::new();
            while let Some((name, entry)) = entries.next_entry()? {
                check_entries(table.len())?;
                table.insert(name, entry);
            }
            Ok(table)
        }
    }
    deserializer.deserialize_map(Table(PhantomData))
}

/// Whether there may be one more than so many.
fn check_entries<E: serde::de::Error>(entries: usize) -> Result<(), E> {
    match entries < MAX_ENTRIES {
        true => Ok(()),
        false => Err(E::custom(format_args!("it has more than {MAX_ENTRIES} entries"))),
    }
}

macro_rules! answered {
    ($($type:ty: $method:literal, $begins:literal $(, left out $($left_out:literal)*)?;)*) => {
        $(impl Answered for $type {
            const METHOD: &'static str = $method;
            const BEGINS: char = $begins;
            $(const LEFT_OUT: &'static [&'static str] = &[$($left_out),*];)?
        })*
    };
}

answered! {
    PeerInfos: "getpeerinfo", '[',
        left out "servicesnames" "last_inv_sequence" "presynced_headers" "session_id";
    MempoolInfo: "getmempoolinfo", '{',
        left out "permitbaremultisig" "maxdatacarriersize" "limitclustercount" "limitclustersize" "optimal";
    Uptime: "uptime", '0';
    NetTotals: "getnettotals", '{';
    MemoryInfo: "getmemoryinfo", '{';
    AddrManInfo: "getaddrmaninfo", '{';
    ChainTxStats: "getchaintxstats", '{';
    NetworkInfo: "getnetworkinfo", '{';
    BlockchainInfo: "getblockchaininfo", '{', left out "bits" "target" "automatic_pruning" "signet_challenge";
    OrphanTxs: "getorphantxs", '[', left out "entry" "expiration";
    RawAddrman: "getrawaddrman", '{';
    SmartFee: "estimatesmartfee", '{';
    ChainTips: "getchaintips", '[';
    Banned: "listbanned", '[', left out "ban_duration" "time_remaining";
}

/// getpeerinfo
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PeerInfos(#[serde(deserialize_with = "bounded_list")] pub Vec<PeerInfo>);

/// A peer in getpeerinfo.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct PeerInfo {
    pub id: u32,
    pub addr: String,
    pub addrbind: String,
    pub addrlocal: String,
    pub network: String,
    pub mapped_as: u32,
    pub services: String,
    pub relaytxes: bool,
    pub lastsend: i64,
    pub lastrecv: i64,
    pub last_transaction: i64,
    pub last_block: i64,
    pub bytessent: u64,
    pub bytesrecv: u64,
    pub conntime: i64,
    pub timeoffset: i64,
    pub pingtime: f64,
    pub minping: f64,
    pub pingwait: f64,
    pub version: u32,
    pub subver: String,
    pub inbound: bool,
    pub bip152_hb_to: bool,
    pub bip152_hb_from: bool,
    pub startingheight: i64,
    pub synced_headers: i64,
    pub synced_blocks: i64,
    pub inflight: Vec<u64>,
    pub addr_relay_enabled: bool,
    pub addr_processed: u64,
    pub addr_rate_limited: u64,
    pub permissions: Vec<String>,
    pub minfeefilter: f64,
    pub bytessent_per_msg: BTreeMap<String, u64>,
    pub bytesrecv_per_msg: BTreeMap<String, u64>,
    pub connection_type: String,
    pub transport_protocol_type: String,
    pub inv_to_send: u64,
    pub cpu_load: f64,
}

/// getmempoolinfo
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct MempoolInfo {
    pub loaded: bool,
    pub size: i64,
    pub bytes: i64,
    pub usage: i64,
    pub total_fee: f64,
    pub maxmempool: i64,
    pub mempoolminfee: f64,
    pub minrelaytxfee: f64,
    pub incrementalrelayfee: f64,
    pub unbroadcastcount: i64,
    pub fullrbf: bool,
}

/// uptime, s
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Uptime(pub u32);

/// getnettotals
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct NetTotals {
    pub totalbytesrecv: u64,
    pub totalbytessent: u64,
    pub timemillis: u64,
    pub uploadtarget: UploadTarget,
}

/// The limit of uploads in getnettotals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct UploadTarget {
    pub timeframe: u64,
    pub target: u64,
    pub target_reached: bool,
    pub serve_historical_blocks: bool,
    pub bytes_left_in_cycle: u64,
    pub time_left_in_cycle: u64,
}

/// getmemoryinfo
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct MemoryInfo {
    /// Memory that is kept from being swapped out.
    pub locked: LockedMemory,
}

/// The locked memory in getmemoryinfo.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct LockedMemory {
    pub used: u64,
    pub free: u64,
    pub total: u64,
    pub locked: u64,
    pub chunks_used: u64,
    pub chunks_free: u64,
}

/// getaddrmaninfo, by network
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AddrManInfo(#[serde(deserialize_with = "bounded_table")] pub BTreeMap<String, AddrManInfoNetwork>);

/// A network in getaddrmaninfo.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct AddrManInfoNetwork {
    pub new: u64,
    pub tried: u64,
    pub total: u64,
}

/// getchaintxstats
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct ChainTxStats {
    pub time: u32,
    pub txcount: u32,
    pub window_final_block_hash: String,
    pub window_final_block_height: u32,
    pub window_block_count: u32,
    pub window_tx_count: Option<u32>,
    pub window_interval: Option<u32>,
    pub txrate: Option<f64>,
}

/// getnetworkinfo
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct NetworkInfo {
    pub version: i32,
    pub subversion: String,
    pub protocolversion: i32,
    pub localservices: String,
    pub localservicesnames: Vec<String>,
    pub localrelay: bool,
    pub timeoffset: i32,
    pub connections: u32,
    pub connections_in: u32,
    pub connections_out: u32,
    pub networkactive: bool,
    #[serde(deserialize_with = "bounded_list")]
    pub networks: Vec<NetworkInfoNetwork>,
    pub relayfee: f64,
    pub incrementalfee: f64,
    #[serde(deserialize_with = "bounded_list")]
    pub localaddresses: Vec<LocalAddress>,
    #[serde(deserialize_with = "one_or_many")]
    pub warnings: Vec<String>,
}

/// A network in getnetworkinfo.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct NetworkInfoNetwork {
    pub name: String,
    pub limited: bool,
    pub reachable: bool,
    pub proxy: String,
    pub proxy_randomize_credentials: bool,
}

/// An address of the node in getnetworkinfo.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct LocalAddress {
    pub address: String,
    pub port: u32,
    pub score: u32,
}

/// getblockchaininfo
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct BlockchainInfo {
    pub chain: String,
    pub blocks: u32,
    pub headers: u32,
    pub bestblockhash: String,
    pub difficulty: f64,
    pub time: u32,
    pub mediantime: u32,
    pub verificationprogress: f64,
    pub initialblockdownload: bool,
    pub chainwork: String,
    pub size_on_disk: u64,
    pub pruned: bool,
    pub pruneheight: u32,
    pub prune_target_size: u64,
    #[serde(deserialize_with = "one_or_many")]
    pub warnings: Vec<String>,
}

/// getorphantxs with verbosity 2
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OrphanTxs(#[serde(deserialize_with = "bounded_list")] pub Vec<OrphanTx>);

/// A transaction in getorphantxs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct OrphanTx {
    pub txid: String,
    pub wtxid: String,
    pub bytes: u64,
    pub vsize: u64,
    pub weight: u64,
    pub from: Vec<u64>,
    pub hex: String,
}

/// getrawaddrman: entries of both tables by `BUCKET/POSITION`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct RawAddrman {
    #[serde(deserialize_with = "bounded_table")]
    pub new: BTreeMap<String, RawAddrmanEntry>,
    #[serde(deserialize_with = "bounded_table")]
    pub tried: BTreeMap<String, RawAddrmanEntry>,
}

/// An address in getrawaddrman.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct RawAddrmanEntry {
    pub address: String,
    pub port: u32,
    pub network: String,
    pub services: u64,
    pub time: i64,
    pub source: String,
    pub source_network: String,
    pub mapped_as: Option<u32>,
    pub source_mapped_as: Option<u32>,
}

/// estimatesmartfee
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct SmartFee {
    pub feerate: Option<f64>,
    pub blocks: u32,
    pub errors: Vec<String>,
}

/// getchaintips
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChainTips(#[serde(deserialize_with = "bounded_list")] pub Vec<ChainTip>);

/// A tip in getchaintips.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct ChainTip {
    pub height: u32,
    pub hash: String,
    pub branchlen: u32,
    pub status: String,
}

/// listbanned
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Banned(#[serde(deserialize_with = "bounded_list")] pub Vec<BannedSubnet>);

/// A ban in listbanned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "names and units are Bitcoin Core's")]
pub struct BannedSubnet {
    pub address: String,
    pub ban_created: u64,
    pub banned_until: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_fields_have_their_default_and_unknown_ones_are_counted_by_name() {
        let json = r#"[{"id":3,"session_id":"","new_thing":{"x":[1]}},{"new_thing":null,"other":1}]"#;
        let read = read_json::<PeerInfos>(json).unwrap();
        let expected = PeerInfo { id: 3, ..PeerInfo::default() };
        assert_eq!(read.value.0, [expected, PeerInfo::default()]);
        assert_eq!(read.unknown, BTreeMap::from([("new_thing".into(), 2), ("other".into(), 1)]));
    }

    #[test]
    fn a_known_field_of_another_type_is_an_error_that_names_the_method() {
        for json in [r#"{"size":"x"}"#, "[]", "null", "7", "", r#"{"size":1} x"#, r#"{"size":1"#] {
            let error = read_json::<MempoolInfo>(json).unwrap_err();
            assert!(error.to_string().contains("getmempoolinfo"), "{json}: {error}");
        }
        assert!(read_json::<Uptime>("-1").is_err());
        assert_eq!(read_json::<Uptime>(" 77\n").unwrap().value, Uptime(77));
    }

    #[test]
    fn warnings_are_a_text_in_old_versions_and_a_list_in_new_ones() {
        let warnings = |json| read_json::<NetworkInfo>(json).unwrap().value.warnings;
        assert_eq!(warnings(r#"{"warnings":"look out"}"#), ["look out"]);
        assert!(warnings(r#"{"warnings":""}"#).is_empty());
        assert_eq!(warnings(r#"{"warnings":["a","b"]}"#), ["a", "b"]);
        assert!(warnings("{}").is_empty());
    }

    #[test]
    fn lists_and_tables_have_an_end() {
        let list = |entries: usize| format!("[{}]", vec!["{}"; entries].join(","));
        assert_eq!(read_json::<PeerInfos>(&list(60_000)).unwrap().value.0.len(), 60_000);
        let table = |entries: usize| {
            let entries: Vec<String> = (0..entries).map(|i| format!("\"{i}/0\":{{}}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        assert_eq!(read_json::<AddrManInfo>(&table(MAX_ENTRIES)).unwrap().value.0.len(), MAX_ENTRIES);
        let (list, table) = (list(MAX_ENTRIES + 1), table(MAX_ENTRIES + 1));
        let field = |name: &str, json: &str| format!("{{\"{name}\":{json}}}");
        let errors = [
            read_json::<PeerInfos>(&list).unwrap_err(),
            read_json::<OrphanTxs>(&list).unwrap_err(),
            read_json::<ChainTips>(&list).unwrap_err(),
            read_json::<Banned>(&list).unwrap_err(),
            read_json::<NetworkInfo>(&field("networks", &list)).unwrap_err(),
            read_json::<NetworkInfo>(&field("localaddresses", &list)).unwrap_err(),
            read_json::<AddrManInfo>(&table).unwrap_err(),
            read_json::<RawAddrman>(&field("new", &table)).unwrap_err(),
            read_json::<RawAddrman>(&field("tried", &table)).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("more than 100000 entries"), "{error}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_or_passed_over() {
        const DEPTH: usize = 5_000_000;
        let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        assert!(read_json::<PeerInfos>(&deep).is_err());
        assert!(read_json::<Uptime>(&deep).is_err());
        assert!(read_json::<NetworkInfo>(&format!(r#"{{"warnings":{deep}}}"#)).is_err());
        assert!(read_json::<PeerInfos>(&format!(r#"[{{"permissions":{deep}}}]"#)).is_err());
        let read = read_json::<PeerInfos>(&format!(r#"[{{"new_thing":{deep}}}]"#)).unwrap();
        assert_eq!((read.value.0.len(), read.unknown["new_thing"]), (1, 1));
    }

    #[test]
    fn names_of_unknown_fields_take_bounded_memory() {
        let fields: Vec<String> = (0..1000).map(|i| format!("\"{}{i}\":0", "x".repeat(i))).collect();
        let read = read_json::<MempoolInfo>(&format!("{{{}}}", fields.join(","))).unwrap();
        assert!(read.unknown.len() <= MAX_NAMES);
        assert!(read.unknown.keys().all(|name| name.chars().count() <= MAX_NAME));
    }
}

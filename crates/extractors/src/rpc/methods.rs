//! The methods: what each is asked with, and what becomes of its answer.

use std::collections::BTreeMap;

use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::rpc_extractor::FeeEstimateMode;
use peer_observer_node::rpc::Answer;
use peer_observer_node::rpc::types::{self, Answered, Read};
use serde_json::{Value, json};

use super::convert::{self, Error};

macro_rules! methods {
    ($($variant:ident = $name:literal,)*) => {
        /// A method that the extractor asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Method {
            $($variant,)*
        }

        impl Method {
            /// All of them: `ALL[m as usize] == m`.
            pub(super) const ALL: &[Method] = &[$(Method::$variant,)*];
            /// Their names, in the same order.
            pub(super) const NAMES: &[&str] = &[$($name,)*];
        }
    };
}

methods! {
    GetPeerInfo = "getpeerinfo",
    GetMempoolInfo = "getmempoolinfo",
    Uptime = "uptime",
    GetNetTotals = "getnettotals",
    GetMemoryInfo = "getmemoryinfo",
    GetAddrmanInfo = "getaddrmaninfo",
    GetChainTxStats = "getchaintxstats",
    GetNetworkInfo = "getnetworkinfo",
    GetBlockchainInfo = "getblockchaininfo",
    GetOrphanTxs = "getorphantxs",
    GetRawAddrman = "getrawaddrman",
    EstimateSmartFee = "estimatesmartfee",
    GetChainTips = "getchaintips",
    ListBanned = "listbanned",
}

/// Targets of estimatesmartfee, blocks: the next block, an hour, a day.
const FEE_TARGETS: [u32; 3] = [1, 6, 144];

/// One call of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    /// Of estimatesmartfee, blocks.
    target: u32,
    /// Of estimatesmartfee.
    mode: FeeEstimateMode,
}

impl Method {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The method of that name.
    pub(super) fn parse(name: &str) -> Option<Method> {
        Self::ALL.iter().copied().find(|method| method.name() == name)
    }

    /// It is asked for less often: it says little that is new, or costs the node much. getchaintips looks at every block.
    pub(super) fn is_rare(self) -> bool {
        matches!(
            self,
            Method::GetChainTxStats
                | Method::GetBlockchainInfo
                | Method::GetRawAddrman
                | Method::GetChainTips
                | Method::ListBanned
        )
    }

    /// The calls of one round.
    pub(super) fn calls(self) -> Vec<Call> {
        let plain = Call { method: self, target: 0, mode: FeeEstimateMode::Unset };
        if self != Method::EstimateSmartFee {
            return vec![plain];
        }
        let modes = [FeeEstimateMode::Economical, FeeEstimateMode::Conservative];
        FEE_TARGETS.into_iter().flat_map(|target| modes.map(|mode| Call { target, mode, ..plain })).collect()
    }
}

impl Call {
    /// Its parameters.
    pub(super) fn params(self) -> Value {
        match self.method {
            // Everything that the node knows of the transactions, with their bytes.
            Method::GetOrphanTxs => json!([2]),
            Method::EstimateSmartFee => json!([self.target, self.mode.as_str_name().to_lowercase()]),
            _ => json!([]),
        }
    }

    /// The event of an answer, and the fields in it that are not known.
    pub(super) fn event(self, answer: &Answer) -> Result<(PeerObserverEvent, BTreeMap<String, u64>), Error> {
        match self.method {
            Method::GetPeerInfo => read(answer, |a| Ok(convert::peer_infos(a))),
            Method::GetMempoolInfo => read(answer, |a| Ok(convert::mempool_info(&a))),
            Method::Uptime => read(answer, |a| Ok(convert::uptime(a))),
            Method::GetNetTotals => read(answer, |a| Ok(convert::net_totals(&a))),
            Method::GetMemoryInfo => read(answer, |a| Ok(convert::memory_info(&a))),
            Method::GetAddrmanInfo => read(answer, |a| Ok(convert::addrman_info(a))),
            Method::GetChainTxStats => read(answer, |a| Ok(convert::chain_tx_stats(a))),
            Method::GetNetworkInfo => read(answer, |a| Ok(convert::network_info(a))),
            Method::GetBlockchainInfo => read(answer, |a| Ok(convert::blockchain_info(a))),
            Method::GetOrphanTxs => read(answer, convert::orphan_txs),
            Method::GetRawAddrman => read(answer, convert::addrman),
            Method::EstimateSmartFee => read(answer, |a| Ok(convert::smart_fee(a, self.target, self.mode))),
            Method::GetChainTips => read(answer, |a| Ok(convert::chain_tips(a))),
            Method::ListBanned => read(answer, |a| Ok(convert::banned(a))),
        }
    }
}

fn read<T: Answered>(
    answer: &Answer,
    convert: impl FnOnce(T) -> Result<PeerObserverEvent, Error>,
) -> Result<(PeerObserverEvent, BTreeMap<String, u64>), Error> {
    let Read { value, unknown } = types::read(answer)?;
    Ok((convert(value)?, unknown))
}

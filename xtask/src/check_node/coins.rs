//! Money that anyone can spend, so that no wallet is needed: nodes are often built without one.

use anyhow::{Context, Result};
use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, opcodes};
use peer_observer_testkit::bitcoind::RealNode;
use serde_json::json;

/// The descriptor of [`anyone`].
pub(super) const ANYONE: &str = "raw(51)";
/// Options of nodes that relay what [`anyone`] can spend.
pub(super) const NODE_ARGS: [&str; 2] = ["-acceptnonstdtxn=1", "-datacarrier=1"];

/// Largest element of a witness, bytes (Bitcoin Core script/script.h, `MAX_SCRIPT_ELEMENT_SIZE`).
const MAX_ELEMENT: usize = 520;
/// Operations in a script, without the last one that pushes (Bitcoin Core script/script.h, `MAX_OPS_PER_SCRIPT` is 201).
const DROPS: usize = 200;

/// An output that is not spent yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coin {
    pub(super) outpoint: OutPoint,
    pub(super) value: Amount,
}

/// The script that is always true.
fn anyone() -> ScriptBuf {
    Builder::new().push_opcode(opcodes::OP_TRUE).into_script()
}

/// A script that is true when its witness has 400 elements, of any size.
fn many_elements() -> ScriptBuf {
    let drops = (0..DROPS).fold(Builder::new(), |script, _| script.push_opcode(opcodes::all::OP_2DROP));
    drops.push_opcode(opcodes::OP_TRUE).into_script()
}

/// The coins of the blocks up to a height that were mined to [`ANYONE`].
pub(super) fn mined(node: &RealNode, heights: std::ops::RangeInclusive<u32>) -> Result<Vec<Coin>> {
    heights
        .map(|height| {
            let hash = node.rpc("getblockhash", json!([height]))?;
            let block = node.rpc("getblock", json!([hash]))?;
            let txid = block["tx"][0].as_str().context("a block without transactions")?.parse()?;
            // The first 150 blocks of regtest pay 50 (Bitcoin Core kernel/chainparams.cpp, `nSubsidyHalvingInterval`).
            Ok(Coin { outpoint: OutPoint { txid, vout: 0 }, value: Amount::from_int_btc(50) })
        })
        .collect()
}

/// Spends a coin to anyone. The transaction can be replaced.
pub(super) fn spend(coin: Coin, fee: Amount) -> Transaction {
    transaction(coin.outpoint, Witness::new(), to_anyone(coin.value - fee))
}

/// Splits a coin into `count` ones for [`spend_large`].
pub(super) fn split(coin: Coin, count: u32, fee: Amount) -> (Transaction, Vec<Coin>) {
    let value = (coin.value - fee) / u64::from(count);
    let output = TxOut { value, script_pubkey: ScriptBuf::new_p2wsh(&many_elements().wscript_hash()) };
    let split = transaction(coin.outpoint, Witness::new(), vec![output; count as usize]);
    let txid = split.compute_txid();
    let coins = (0..count).map(|vout| Coin { outpoint: OutPoint { txid, vout }, value });
    (split, coins.collect())
}

/// Spends a coin of [`split`] in a transaction of 210 kB.
pub(super) fn spend_large(coin: Coin, fee: Amount) -> Transaction {
    let mut witness = Witness::new();
    for _ in 0..2 * DROPS {
        witness.push([0x5a; MAX_ELEMENT]);
    }
    witness.push(many_elements());
    transaction(coin.outpoint, witness, to_anyone(coin.value - fee))
}

/// Hands a transaction to a node.
pub(super) fn send(
    node: &RealNode,
    transaction: &Transaction,
) -> Result<(), peer_observer_testkit::bitcoind::Error> {
    // The 0 lifts the limit on fees; with a limit the node tries the transaction first, and a rejection is seen twice.
    node.rpc("sendrawtransaction", json!([serialize_hex(transaction), 0])).map(|_| ())
}

/// An output of this value, and one that makes the transaction large enough: below 65 bytes it is refused (Bitcoin Core
/// policy/policy.h, `MIN_STANDARD_TX_NONWITNESS_SIZE`).
fn to_anyone(value: Amount) -> Vec<TxOut> {
    let padding = TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::new_op_return([0x5a; 20]) };
    vec![TxOut { value, script_pubkey: anyone() }, padding]
}

fn transaction(from: OutPoint, witness: Witness, output: Vec<TxOut>) -> Transaction {
    let input = TxIn {
        previous_output: from,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness,
    };
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: vec![input], output }
}

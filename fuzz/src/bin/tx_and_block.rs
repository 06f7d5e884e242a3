//! Transactions, and what is made of them, against the `bitcoin` crate: the same bytes decode, to the same hashes.
#![no_main]

use bitcoin::bip152::{BlockTransactions, HeaderAndShortIds};
use bitcoin::consensus::encode::{self, Decodable, Error, deserialize_partial};
use bitcoin::hashes::Hash as _;
use bitcoin::{Block, Transaction};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use peer_observer_events::decode::decode;
use peer_observer_events::proto::bitcoin_primitives as proto;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;

/// The first byte of an input is the place of the command in this list. Append only: seeds depend on it.
const COMMANDS: [&str; 4] = ["tx", "block", "blocktxn", "cmpctblock"];

/// The transactions of a message, with the hash of its header if it has one.
type Read<T> = (Option<Vec<u8>>, Vec<T>);

fuzz_target!(|input: &[u8]| {
    let Some((&choice, payload)) = input.split_first() else { return };
    let command = COMMANDS[usize::from(choice) % COMMANDS.len()];

    let theirs = match command {
        "tx" => read(payload, |tx: Transaction| (None, vec![tx])),
        "block" => read(payload, |block: Block| (Some(block.block_hash()), block.txdata)),
        "blocktxn" => read(payload, |blocktxn: BlockTransactions| (None, blocktxn.transactions)),
        _ => read(payload, |compact: HeaderAndShortIds| {
            let transactions = compact.prefilled_txs.into_iter().map(|prefilled| prefilled.tx).collect();
            (Some(compact.header.block_hash()), transactions)
        }),
    };
    let decoded = decode(command, Bytes::copy_from_slice(payload));
    let (hash, transactions): Read<proto::Transaction> = match decoded.msg {
        Msg::Tx(tx) => (None, vec![tx.tx]),
        Msg::Block(block) => (Some(block.header.hash.to_vec()), block.transactions),
        Msg::Blocktxn(blocktxn) => (None, blocktxn.transactions),
        Msg::Compactblock(compact) => {
            let transactions = compact.transactions.into_iter().map(|prefilled| prefilled.tx).collect();
            (Some(compact.header.hash.to_vec()), transactions)
        }
        _ => {
            let error = decoded.error.expect("why it does not decode");
            // Core takes a transaction without inputs for one without witnesses, and reads indexes of 16 bits.
            let excused = error.ends_with("has none") || error.ends_with("is not at most 65535");
            assert!(theirs.is_err() || excused, "theirs decodes it, ours does not: {error}");
            return;
        }
    };
    let ((their_hash, their_transactions), left) = match theirs {
        Ok(theirs) => theirs,
        // Core reads a transaction without inputs and outputs.
        Err(Error::UnsupportedSegwitFlag(0)) => return,
        Err(err) => panic!("ours decodes it, theirs does not: {err}"),
    };

    assert_eq!(left != 0, decoded.error.is_some());
    assert_eq!(hash, their_hash);
    assert_eq!(transactions.len(), their_transactions.len());
    for (ours, theirs) in transactions.iter().zip(&their_transactions) {
        assert_eq!(ours.txid, theirs.compute_txid().as_byte_array()[..]);
        assert_eq!(ours.wtxid, theirs.compute_wtxid().as_byte_array()[..]);
        assert_eq!(ours.raw.as_deref(), Some(encode::serialize(theirs).as_slice()));
    }
});

/// Their view, and how many bytes are left over after it.
fn read<T: Decodable>(
    payload: &[u8],
    parts: impl Fn(T) -> (Option<bitcoin::BlockHash>, Vec<Transaction>),
) -> Result<(Read<Transaction>, usize), Error> {
    let (message, taken) = deserialize_partial(payload)?;
    let (hash, transactions) = parts(message);
    Ok(((hash.map(|hash| hash.to_byte_array().to_vec()), transactions), payload.len() - taken))
}

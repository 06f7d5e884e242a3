//! Transactions, headers, blocks and what blocks are sent as: compact blocks (BIP 152) and merkle blocks (BIP 37).

use std::iter::once;

use super::reader::{HASH, Malformed, Reader};
use crate::proto::bitcoin_primitives::{BlockHeader, PrefilledTransaction, Transaction};
use crate::proto::ebpf_extractor::message::{
    Block, BlockTxn, CompactBlock, GetBlockTxn, Headers, MerkleBlock, Tx,
};

/// Length of a block header, bytes.
const HEADER: usize = 80;
/// Shortest transaction that Core reads: version, no inputs, no outputs, lock time, bytes.
const SHORTEST_TRANSACTION: usize = 10;
/// Length of a short transaction id (BIP 152), bytes.
const SHORT_ID: usize = 6;
/// Transactions in a block have indexes of 16 bits (BIP 152, Core's blockencodings.h).
const LARGEST_INDEX: u64 = u16::MAX as u64;
/// Most transactions in a block: the largest weight by the smallest (Core's merkleblock.cpp).
const MOST_TRANSACTIONS: usize = 4_000_000 / 240;
/// Most bytes of flags in a merkle block: a bit for each node of a tree that has at most 15 levels over its leaves, so at
/// most one node more for each level than twice the leaves. As events, flags are sixteen times as large.
const FLAGS: usize = (2 * MOST_TRANSACTIONS + 15).div_ceil(8);

pub(super) fn tx(r: &mut Reader) -> Result<Tx, Malformed> {
    Ok(Tx { tx: transaction(r)? })
}

pub(super) fn headers(r: &mut Reader) -> Result<Headers, Malformed> {
    let headers = r.list("header", HEADER + 1, |r| {
        let header = header(r)?;
        // A number of transactions, which says nothing: Core sends 0 and does not look at it.
        r.compact_size()?;
        Ok(header)
    })?;
    Ok(Headers { headers })
}

pub(super) fn block(r: &mut Reader) -> Result<Block, Malformed> {
    Ok(Block { header: header(r)?, transactions: transactions(r)? })
}

pub(super) fn blocktxn(r: &mut Reader) -> Result<BlockTxn, Malformed> {
    Ok(BlockTxn { block_hash: r.hash()?, transactions: transactions(r)? })
}

pub(super) fn cmpctblock(r: &mut Reader) -> Result<CompactBlock, Malformed> {
    let header = header(r)?;
    let nonce = r.u64()?;
    let short_ids = r.list("short id", SHORT_ID, |r| r.bytes(SHORT_ID))?;
    let transactions = r.list("prefilled transaction", 1 + SHORTEST_TRANSACTION, |r| {
        let index = r.compact_size()?;
        let diff_index = u16::try_from(index).map_err(|_| bad_index(index))?.into();
        Ok(PrefilledTransaction { diff_index, tx: transaction(r)? })
    })?;
    let count = (short_ids.len() + transactions.len()) as u64;
    if count > LARGEST_INDEX {
        return Err(bad_index(count));
    }
    Ok(CompactBlock { header, nonce, short_ids, transactions })
}

pub(super) fn getblocktxn(r: &mut Reader) -> Result<GetBlockTxn, Malformed> {
    let block_hash = r.hash()?;
    let mut next: u64 = 0;
    let tx_indexes = r.list("index", 1, |r| {
        // What is sent is how many transactions lie between this one and the one before it.
        let index = next.saturating_add(r.compact_size()?);
        if index > LARGEST_INDEX {
            return Err(bad_index(index));
        }
        next = index + 1;
        Ok(index)
    })?;
    Ok(GetBlockTxn { block_hash, tx_indexes })
}

fn bad_index(value: u64) -> Malformed {
    Malformed::Value { what: "transaction index", value, wanted: "at most 65535" }
}

pub(super) fn merkleblock(r: &mut Reader) -> Result<MerkleBlock, Malformed> {
    let header = header(r)?;
    let num_transactions = r.u32()?;
    let hashes = r.list("hash", HASH, Reader::hash)?;
    let flags = r.short_bytes("flags", FLAGS)?;
    let bits = flags.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect();
    Ok(MerkleBlock { header, num_transactions, bits, hashes })
}

fn header(r: &mut Reader) -> Result<BlockHeader, Malformed> {
    let start = r.at();
    let version = r.i32()?;
    let prev_blockhash = r.hash()?;
    let merkle_root = r.hash()?;
    let time = r.u32()?;
    let bits = r.u32()?;
    let nonce = r.u32()?;
    let hash = r.sha256d(once(start..r.at()));
    Ok(BlockHeader { version, prev_blockhash, merkle_root, time, bits, nonce, hash })
}

fn transactions(r: &mut Reader) -> Result<Vec<Transaction>, Malformed> {
    r.list("transaction", SHORTEST_TRANSACTION, transaction)
}

/// A transaction with or without witnesses (BIP 144), in the way of Core's `UnserializeTransaction`.
fn transaction(r: &mut Reader) -> Result<Transaction, Malformed> {
    let start = r.at();
    r.skip(4)?;
    let version = start..r.at();

    // Inputs and outputs, which the txid covers between version and lock time.
    let mut inner = r.at();
    let mut witness_of = None;
    if inputs(r)? > 0 {
        outputs(r)?;
    } else {
        match r.u8()? {
            // No inputs and no outputs.
            0 => {}
            1 => {
                inner = r.at();
                witness_of = Some(inputs(r)?);
                outputs(r)?;
            }
            flag => {
                return Err(Malformed::Value {
                    what: "transaction flag",
                    value: flag.into(),
                    wanted: "0 or 1",
                });
            }
        }
    }
    let inner = inner..r.at();

    if let Some(inputs) = witness_of {
        witnesses(r, inputs)?;
    }
    let lock_time = r.at();
    r.skip(4)?;
    let lock_time = lock_time..r.at();

    let whole = start..r.at();
    let wtxid = r.sha256d(once(whole.clone()));
    let txid = match witness_of {
        Some(_) => r.sha256d([version, inner, lock_time]),
        None => wtxid.clone(),
    };
    Ok(Transaction { txid, wtxid, raw: Some(r.read_part(whole)) })
}

/// Goes over inputs and says how many.
fn inputs(r: &mut Reader) -> Result<usize, Malformed> {
    let inputs = r.list("input", 41, |r| {
        r.skip(HASH + 4)?;
        r.skip_var_bytes()?;
        r.skip(4)
    })?;
    Ok(inputs.len())
}

fn outputs(r: &mut Reader) -> Result<(), Malformed> {
    r.list("output", 9, |r| {
        r.skip(8)?;
        r.skip_var_bytes()
    })?;
    Ok(())
}

/// Goes over the witnesses of that many inputs.
fn witnesses(r: &mut Reader, inputs: usize) -> Result<(), Malformed> {
    let mut items = 0;
    for _ in 0..inputs {
        items += r.list("witness item", 1, Reader::skip_var_bytes)?.len();
    }
    if items == 0 {
        return Err(Malformed::NoWitness);
    }
    Ok(())
}

//! Bloom filters (BIP 37) and compact block filters (BIP 157).

use super::reader::{HASH, Malformed, Reader};
use crate::proto::ebpf_extractor::message::filter_load::BloomFlags;
use crate::proto::ebpf_extractor::message::{
    CFilter, CfCheckpt, CfHeaders, FilterAdd, FilterLoad, GetCFilter, GetCfCheckpt, GetCfHeaders,
};

pub(super) fn filteradd(r: &mut Reader) -> Result<FilterAdd, Malformed> {
    Ok(FilterAdd { filter: r.var_bytes()? })
}

pub(super) fn filterload(r: &mut Reader) -> Result<FilterLoad, Malformed> {
    let filter = r.var_bytes()?;
    let hash_funcs = r.u32()?;
    let tweak = r.u32()?;
    let flags = match r.u8()? {
        0 => BloomFlags::None,
        1 => BloomFlags::All,
        2 => BloomFlags::PubkeyOnly,
        // Core reads any byte here; the schema has no place for others, and BIP 37 gives them no meaning.
        flags => {
            return Err(Malformed::Value { what: "flags", value: flags.into(), wanted: "one of 0, 1, 2" });
        }
    };
    Ok(FilterLoad { filter, hash_funcs, tweak, flags: flags.into() })
}

pub(super) fn getcfilters(r: &mut Reader) -> Result<GetCFilter, Malformed> {
    Ok(GetCFilter { filter_type: r.u8()?.into(), start_height: r.u32()?, stop_hash: r.hash()? })
}

pub(super) fn cfilter(r: &mut Reader) -> Result<CFilter, Malformed> {
    Ok(CFilter { filter_type: r.u8()?.into(), block_hash: r.hash()?, filter: r.var_bytes()? })
}

pub(super) fn getcfheaders(r: &mut Reader) -> Result<GetCfHeaders, Malformed> {
    Ok(GetCfHeaders { filter_type: r.u8()?.into(), start_height: r.u32()?, stop_hash: r.hash()? })
}

pub(super) fn cfheaders(r: &mut Reader) -> Result<CfHeaders, Malformed> {
    Ok(CfHeaders {
        filter_type: r.u8()?.into(),
        stop_hash: r.hash()?,
        previous_filter_header: r.hash()?,
        filter_hashes: r.list("filter hash", HASH, Reader::hash)?,
    })
}

pub(super) fn getcfcheckpt(r: &mut Reader) -> Result<GetCfCheckpt, Malformed> {
    Ok(GetCfCheckpt { filter_type: r.u8()?.into(), stop_hash: r.hash()? })
}

pub(super) fn cfcheckpt(r: &mut Reader) -> Result<CfCheckpt, Malformed> {
    Ok(CfCheckpt {
        filter_type: r.u8()?.into(),
        stop_hash: r.hash()?,
        filter_headers: r.list("filter header", HASH, Reader::hash)?,
    })
}

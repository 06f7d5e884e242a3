//! Answers of RPC methods: what each number of an answer is exported as.

use peer_observer_events::proto::observer::{
    AddrmanPart, Banned, BannedSubnet, ChainTip, ChainTips, RpcExtra, rpc_extra,
};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{
    AddrManInfo, AddrManInfoNetwork, Addrman, AddrmanBucket, AddrmanEntry, BlockchainInfo, ChainTxStats,
    EstimateSmartFee, FeeEstimateMode, MemoryInfo, MempoolInfo, NetTotals, NetworkInfo,
    NetworkInfoLocalAddress, NetworkInfoNetwork, OrphanTx, OrphanTxs, PeerInfo, PeerInfos, Rpc,
};

use super::*;

pub(super) fn rpc(event: RpcEvent) -> Delivery {
    delivery(PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) }), NOW_S * 1000)
}

fn extra(event: rpc_extra::RpcEvent) -> Delivery {
    delivery(PeerObserverEvent::RpcExtra(RpcExtra { rpc_event: Some(event) }), NOW_S * 1000)
}

pub(super) fn peer(address: &str, inbound: bool) -> PeerInfo {
    let connection_type = if inbound { "inbound" } else { "outbound-full-relay" }.into();
    PeerInfo { address: address.into(), inbound, connection_type, ..PeerInfo::default() }
}

pub(super) fn peers(infos: Vec<PeerInfo>) -> Delivery {
    let infos = infos.into_iter().enumerate().map(|(i, peer)| PeerInfo { id: i as u32, ..peer }).collect();
    rpc(RpcEvent::PeerInfos(PeerInfos { infos }))
}

#[test]
fn a_handful_of_numbers_are_taken_over_as_they_are() {
    let network = |name: &str, limited, reachable| NetworkInfoNetwork {
        name: name.into(),
        limited,
        reachable,
        ..NetworkInfoNetwork::default()
    };
    let sizes = |new, tried| AddrManInfoNetwork { new, tried, total: new + tried };
    let counted = after(&[
        rpc(RpcEvent::MempoolInfo(MempoolInfo {
            loaded: true,
            size: 11,
            bytes: 12,
            usage: 13,
            total_fee: 0.14,
            max_mempool: 15,
            mempoolminfee: 1.6,
            minrelaytxfee: 0.1,
            incrementalrelayfee: 1.8,
            unbroadcastcount: 0,
            fullrbf: true,
        })),
        rpc(RpcEvent::Uptime(19)),
        rpc(RpcEvent::NetTotals(NetTotals {
            total_bytes_received: 20,
            total_bytes_sent: 21,
            ..NetTotals::default()
        })),
        rpc(RpcEvent::MemoryInfo(MemoryInfo {
            used: 22,
            free: 23,
            total: 24,
            locked: 25,
            chunks_used: 26,
            chunks_free: 27,
        })),
        rpc(RpcEvent::AddrmanInfo(AddrManInfo {
            networks: [("ipv4".to_owned(), sizes(28, 29)), ("all_networks".to_owned(), sizes(30, 31))].into(),
        })),
        rpc(RpcEvent::ChainTxStats(ChainTxStats {
            tx_count: 32,
            window_final_block_height: 33,
            window_block_count: 34,
            window_tx_count: Some(35),
            window_interval: Some(36),
            tx_rate: Some(3.7),
            ..ChainTxStats::default()
        })),
        rpc(RpcEvent::NetworkInfo(NetworkInfo {
            version: 300_000,
            protocol_version: 70_016,
            time_offset: -38,
            connections: 39,
            connections_in: 40,
            connections_out: 41,
            network_active: true,
            relay_fee: 0.42,
            incremental_fee: 0.43,
            warnings: vec!["a".into(), "b".into()],
            local_addresses: vec![NetworkInfoLocalAddress::default(); 3],
            networks: vec![network("onion", true, false), network("ipv4", false, true)],
            ..NetworkInfo::default()
        })),
        rpc(RpcEvent::BlockchainInfo(BlockchainInfo {
            blocks: 44,
            headers: 45,
            difficulty: 4.6,
            verificationprogress: 0.47,
            initialblockdownload: true,
            size_on_disk: 48,
            pruned: true,
            prune_height: 49,
            prune_target_size: 50,
            warnings: vec!["a".into()],
            ..BlockchainInfo::default()
        })),
    ]);
    expect(
        &counted,
        &[
            ("rpc_mempoolinfo_mempool_loaded", 1.0),
            ("rpc_mempoolinfo_transaction_count", 11.0),
            ("rpc_mempoolinfo_transaction_vbyte", 12.0),
            ("rpc_mempoolinfo_memory_usage", 13.0),
            ("rpc_mempoolinfo_transaction_fees", 0.14),
            ("rpc_mempoolinfo_memory_max", 15.0),
            ("rpc_mempoolinfo_min_mempool_feerate", 1.6),
            ("rpc_mempoolinfo_min_relay_tx_feerate", 0.1),
            ("rpc_mempoolinfo_incremental_relay_feerate", 1.8),
            ("rpc_uptime", 19.0),
            ("rpc_nettotals_total_bytes_received", 20.0),
            ("rpc_nettotals_total_bytes_sent", 21.0),
            ("rpc_memoryinfo_locked_used", 22.0),
            ("rpc_memoryinfo_locked_free", 23.0),
            ("rpc_memoryinfo_locked_total", 24.0),
            ("rpc_memoryinfo_locked_locked", 25.0),
            ("rpc_memoryinfo_locked_chunks_used", 26.0),
            ("rpc_memoryinfo_locked_chunks_free", 27.0),
            ("rpc_addrmaninfo{network=\"ipv4\",table=\"new\"}", 28.0),
            ("rpc_addrmaninfo{network=\"ipv4\",table=\"tried\"}", 29.0),
            ("rpc_addrmaninfo{network=\"all_networks\",table=\"total\"}", 61.0),
            ("rpc_chaintxstats_tx_count", 32.0),
            ("rpc_chaintxstats_window_final_block_height", 33.0),
            ("rpc_chaintxstats_window_block_count", 34.0),
            ("rpc_chaintxstats_window_tx_count", 35.0),
            ("rpc_chaintxstats_window_interval", 36.0),
            ("rpc_chaintxstats_tx_rate", 3.7),
            ("rpc_networkinfo_version", 300_000.0),
            ("rpc_networkinfo_protocol_version", 70_016.0),
            ("rpc_networkinfo_time_offset", -38.0),
            ("rpc_networkinfo_connections", 39.0),
            ("rpc_networkinfo_connections_in", 40.0),
            ("rpc_networkinfo_connections_out", 41.0),
            ("rpc_networkinfo_network_active", 1.0),
            ("rpc_networkinfo_relay_fee", 0.42),
            ("rpc_networkinfo_incremental_fee", 0.43),
            ("rpc_networkinfo_warnings", 2.0),
            ("rpc_networkinfo_local_addresses_count", 3.0),
            ("rpc_networkinfo_networks{network=\"onion\",property=\"limited\"}", 1.0),
            ("rpc_networkinfo_networks{network=\"onion\",property=\"reachable\"}", 0.0),
            ("rpc_networkinfo_networks{network=\"ipv4\",property=\"reachable\"}", 1.0),
            ("rpc_blockchaininfo_blocks", 44.0),
            ("rpc_blockchaininfo_headers", 45.0),
            ("rpc_blockchaininfo_difficulty", 4.6),
            ("rpc_blockchaininfo_verification_progress", 0.47),
            ("rpc_blockchaininfo_initial_block_download", 1.0),
            ("rpc_blockchaininfo_size_on_disk", 48.0),
            ("rpc_blockchaininfo_pruned", 1.0),
            ("rpc_blockchaininfo_prune_height", 49.0),
            ("rpc_blockchaininfo_prune_target_size", 50.0),
            ("rpc_blockchaininfo_warnings", 1.0),
        ],
    );
}

#[test]
fn an_estimate_that_fails_takes_the_one_before_away() {
    let fee = |fee_rate, requested_blocks, mode: FeeEstimateMode| {
        rpc(RpcEvent::EstimateSmartFee(EstimateSmartFee {
            fee_rate,
            blocks: 2,
            requested_blocks,
            mode: mode as i32,
            errors: Vec::new(),
        }))
    };
    let mut events = vec![
        fee(Some(1.5), 1, FeeEstimateMode::Economical),
        fee(Some(2.5), 144, FeeEstimateMode::Conservative),
    ];
    let economical = "rpc_estimatesmartfee_feerate{target_block=\"1\",mode=\"ECONOMICAL\"}";
    let conservative = "rpc_estimatesmartfee_feerate{target_block=\"144\",mode=\"CONSERVATIVE\"}";
    expect(&after(&events), &[(economical, 1.5), (conservative, 2.5)]);
    events.push(fee(None, 1, FeeEstimateMode::Economical));
    expect(&after(&events), &[(economical, -1.0), (conservative, 2.5)]);
}

#[test]
fn branches_and_bans_are_counted() {
    let tip = |status: &str, branch_length| ChainTip {
        status: status.into(),
        branch_length,
        ..ChainTip::default()
    };
    let tips = vec![tip("active", 0), tip("valid-fork", 2), tip("valid-fork", 1), tip("invalid", 9)];
    let counted = after(&[
        extra(rpc_extra::RpcEvent::ChainTips(ChainTips { tips })),
        extra(rpc_extra::RpcEvent::Banned(Banned { subnets: vec![BannedSubnet::default(); 3] })),
    ]);
    expect(
        &counted,
        &[
            ("rpc_chaintips{status=\"valid-fork\"}", 2.0),
            ("rpc_chaintips{status=\"active\"}", 1.0),
            ("rpc_chaintips_longest_fork", 2.0),
            ("rpc_banned", 3.0),
        ],
    );
}

#[test]
fn orphans_come_and_go_between_answers() {
    let orphan = |wtxid: &str, bytes, from: &[u64]| OrphanTx {
        wtxid: wtxid.into(),
        bytes,
        vsize: bytes / 2,
        weight: bytes * 2,
        from: from.to_vec(),
        ..OrphanTx::default()
    };
    let answer = |orphans| rpc(RpcEvent::OrphanTxs(OrphanTxs { orphans }));
    let counted = after(&[
        answer(vec![orphan("a", 100, &[1]), orphan("b", 200, &[1, 2])]),
        answer(vec![orphan("b", 200, &[1, 2, 3]), orphan("c", 400, &[7]), orphan("d", 800, &[7, 8])]),
    ]);
    expect(
        &counted,
        &[
            ("rpc_getorphantxs_count", 3.0),
            ("rpc_getorphantxs_bytes", 1400.0),
            ("rpc_getorphantxs_vsize", 700.0),
            ("rpc_getorphantxs_weight", 2800.0),
            ("rpc_getorphantxs_from_min", 1.0),
            ("rpc_getorphantxs_from_max", 3.0),
            ("rpc_getorphantxs_from_mean", 2.0),
            ("rpc_getorphantxs_added_count", 4.0),
            ("rpc_getorphantxs_added_bytes", 1500.0),
            ("rpc_getorphantxs_removed_count", 1.0),
            ("rpc_getorphantxs_removed_bytes", 100.0),
        ],
    );
    let none = after(&[answer(Vec::new())]);
    expect(&none, &[("rpc_getorphantxs_from_min", 0.0), ("rpc_getorphantxs_from_mean", 0.0)]);
}

#[test]
fn peers_are_counted_by_what_getpeerinfo_says_of_them() {
    let tx = |bytes| [("tx".to_owned(), bytes)].into();
    let counted = after(&[peers(vec![
        PeerInfo {
            network: "ipv4".into(),
            mapped_as: 64_496,
            version: 70_016,
            transport_protocol_type: "v2".into(),
            addr_processed: 5,
            addr_rate_limited: 3,
            addr_relay_enabled: true,
            time_offset: 11,
            ping_time: 0.010,
            minimum_ping: 0.001,
            ping_wait: 5.5,
            bip152_hb_to: true,
            inflight: vec![7, 8],
            relay_transactions: true,
            minfeefilter: 0.000_001,
            bytes_sent_per_message: tx(1),
            inv_to_send: 10,
            cpu_load: 2.0,
            ..peer("192.0.2.1:8333", true)
        },
        PeerInfo {
            network: "ipv4".into(),
            mapped_as: 64_496,
            version: 70_016,
            transport_protocol_type: "v1".into(),
            addr_processed: 6,
            time_offset: 10,
            ping_time: 0.020,
            minimum_ping: 0.004,
            ping_wait: 5.0,
            bip152_hb_from: true,
            inflight: vec![8],
            relay_transactions: true,
            minfeefilter: 0.000_001,
            bytes_received_per_message: tx(0),
            inv_to_send: 30,
            cpu_load: 6.0,
            ..peer("192.0.200.9:8333", true)
        },
        PeerInfo {
            network: "ipv6".into(),
            version: 70_015,
            transport_protocol_type: "v2".into(),
            addr_rate_limited: 1,
            time_offset: -11,
            ping_time: 0.090,
            minimum_ping: 0.010,
            minfeefilter: 0.000_01,
            relay_transactions: true,
            bytes_received_per_message: tx(9),
            inv_to_send: 110,
            ..peer("[2001:db8::1]:8333", false)
        },
        PeerInfo { network: "ipv4".into(), inv_to_send: 9999, ..peer("198.51.100.1:8333", true) },
    ])]);
    let close = |series: &str, value: f64| {
        let found = counted[&format!("peerobserver_{series}")];
        assert!((found - value).abs() < 1e-9, "{series}: {found}");
    };
    close("rpc_peer_info_ping_median", 20.0);
    close("rpc_peer_info_ping_mean", 40.0);
    close("rpc_peer_info_minping_median", 4.0);
    close("rpc_peer_info_minping_mean", 5.0);
    close("rpc_peer_info_connection_divserity_inbound_ipv4", 2.0 / 3.0);
    expect(
        &counted,
        &[
            ("rpc_peer_info_num_peers", 4.0),
            ("rpc_peer_info_addr_ratelimited_peers", 2.0),
            ("rpc_peer_info_addr_ratelimited_total", 4.0),
            ("rpc_peer_info_addr_processed_total", 11.0),
            ("rpc_peer_info_addr_relay_enabled_peers", 1.0),
            ("rpc_peer_info_timeoffset_plus10s", 1.0),
            ("rpc_peer_info_timeoffset_minus10s", 1.0),
            ("rpc_peer_info_bip152_highbandwidth_to", 1.0),
            ("rpc_peer_info_bip152_highbandwidth_from", 1.0),
            ("rpc_peer_info_inflight_block_peers", 2.0),
            ("rpc_peer_info_inflight_distinct_blocks_heights", 2.0),
            ("rpc_peer_info_ping_wait_larger_5_seconds_block_peers", 1.0),
            ("rpc_peer_info_transport_protocol_type_peers{transport_protocol_type=\"v2\"}", 2.0),
            ("rpc_peer_info_network_peers{network=\"ipv4\"}", 3.0),
            ("rpc_peer_info_connection_type_peers{connection_type=\"inbound\"}", 3.0),
            ("rpc_peer_info_protocol_version_peers{protocol_version=\"70015\"}", 1.0),
            ("rpc_peer_info_asn_peers{ASN=\"64496\"}", 2.0),
            ("rpc_peer_info_asn_peers{ASN=\"0\"}", -1.0),
            ("rpc_peer_info_sub1satvb_relay", 1.0),
            ("rpc_peer_info_invtosend_sum", 150.0),
            ("rpc_peer_info_invtosend_max", 110.0),
            ("rpc_peer_info_invtosend_min", 10.0),
            ("rpc_peer_info_invtosend_median", 30.0),
            ("rpc_peer_info_invtosend_mean", 50.0),
            ("rpc_peer_info_cpuload_sum", 8.0),
            ("rpc_peer_info_cpuload_max", 6.0),
            ("rpc_peer_info_cpuload_min", 2.0),
            ("rpc_peer_info_cpuload_median", 4.0),
            ("rpc_peer_info_cpuload_mean", 4.0),
            ("rpc_peer_info_as_peers", -1.0),
            ("connections_open{direction=\"inbound\",network=\"ipv4\",connection_type=\"inbound\"}", 3.0),
        ],
    );
}

#[test]
fn peers_that_are_gone_are_gone_from_the_labels() {
    let v1 = PeerInfo {
        transport_protocol_type: "v1".into(),
        inv_to_send: 4,
        relay_transactions: true,
        ..peer("x:1", true)
    };
    let counted = after(&[peers(vec![v1]), peers(Vec::new())]);
    expect(
        &counted,
        &[
            ("rpc_peer_info_transport_protocol_type_peers{transport_protocol_type=\"v1\"}", -1.0),
            ("rpc_peer_info_num_peers", 0.0),
            ("rpc_peer_info_ping_median", 0.0),
            // As the public tool has it: with no peer to ask, the last numbers stay.
            ("rpc_peer_info_invtosend_sum", 4.0),
        ],
    );
}

#[test]
fn peers_count_on_the_lists_that_their_address_is_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "192.0.2.0/24\n").unwrap();
    let names = ["gmax", "monero", "tor_exit", "bitprojects", "my-own"];
    let ip_lists = names.map(|name| format!("{name}={}", file.path().display()).parse().unwrap()).into();
    let mut metrics = Metrics::new(&Config { ip_lists, ..Config::default() }).unwrap();
    metrics.observe(&peers(vec![
        peer("192.0.2.1:8333", true),
        peer("192.0.2.2:8333", false),
        peer("192.0.3.1:8333", false),
        peer("31.58.215.1:8333", true),
        peer("[2604:d500:4::1]:8333", true),
        peer("x.onion:8333", true),
    ]));
    metrics.observe(&connection(connection_event::Event::Inbound(InboundConnection {
        conn: conn("192.0.2.9:1", 1),
        existing_connections: 1,
    })));
    let counted = samples(&metrics.render(Format::Text));
    expect(
        &counted,
        &[
            ("rpc_peer_info_list_peers_gmax_ban", 2.0),
            ("rpc_peer_info_list_peers_monero_ban", 2.0),
            ("rpc_peer_info_list_peers_tor_exit", 2.0),
            ("rpc_peer_info_list_peers_bitprojects{direction=\"inbound\"}", 1.0),
            ("rpc_peer_info_list_peers_bitprojects{direction=\"outbound\"}", 1.0),
            ("rpc_peer_info_list_peers_linkinglion", 1.0),
            ("rpc_peer_info_list_peers_linkinglion_pre2026", 1.0),
            ("rpc_peer_info_list_peers{list=\"my-own\",direction=\"outbound\"}", 1.0),
            ("conn_inbound_list{list=\"my-own\"}", 1.0),
            ("conn_inbound_banlist_monero", 1.0),
        ],
    );
}

const NEW: &str = "{table=\"new\"";

fn address(address: &str, network: &str, port: u32, services: u64, age_s: i64) -> AddrmanEntry {
    AddrmanEntry {
        address: address.into(),
        port,
        network: network.into(),
        services,
        time: NOW_S as i64 - age_s,
        source: "192.0.2.200".into(),
        source_network: "ipv4".into(),
        mapped_as: None,
        source_mapped_as: None,
    }
}

fn table(entries: Vec<AddrmanEntry>) -> std::collections::BTreeMap<u32, AddrmanBucket> {
    let entries = entries.into_iter().enumerate().map(|(i, entry)| (i as u32, entry)).collect();
    [(3, AddrmanBucket { entries })].into()
}

#[test]
fn entries_of_the_address_manager_are_counted_by_what_they_are() {
    let day = 24 * 3600;
    let new = table(vec![
        AddrmanEntry { mapped_as: Some(64_496), ..address("192.0.2.1", "ipv4", 8333, 0b1001, 1800) },
        AddrmanEntry { source: "other".into(), ..address("192.0.2.1", "ipv4", 8334, 0b1001, 2 * day) },
        AddrmanEntry { source_mapped_as: Some(1), ..address("192.0.2.2", "ipv4", 8333, 1, 31 * day) },
        address("abc.onion", "onion", 8333, 1 << 63, -100),
        address("def.onion", "onion", 8333, 0, -700),
    ]);
    let addrman = Addrman { new, tried: Default::default() };
    let counted = after(&[rpc(RpcEvent::Addrman(addrman))]);
    let name = "rpc_getrawaddrman";
    for (series, value) in [
        (format!("{name}_ports{NEW},port=\"8333\"}}"), 4.0),
        (format!("{name}_services{NEW},service=\"9\"}}"), 2.0),
        (format!("{name}_service_bits{NEW},service_bit=\"1\"}}"), 3.0),
        (format!("{name}_service_bits{NEW},service_bit=\"4\"}}"), 2.0),
        (format!("{name}_service_bits{NEW},service_bit=\"64\"}}"), 1.0),
        (format!("{name}_distinct_asns{NEW}}}"), 2.0),
        (format!("{name}_distinct_sources{NEW}}}"), 2.0),
        (format!("{name}_distinct_source_asn{NEW}}}"), 2.0),
        (format!("{name}_distinct_source_asn{{table=\"tried\"}}"), 0.0),
        (format!("{name}_entries{NEW},network=\"ipv4\"}}"), 3.0),
        (format!("{name}_distinct_entries{NEW},network=\"ipv4\"}}"), 3.0),
        (format!("{name}_distinct_addresses{NEW},network=\"ipv4\"}}"), 2.0),
        (format!("{name}_terrible_entries{NEW},network=\"ipv4\"}}"), 1.0),
        (format!("{name}_terrible_entries{NEW},network=\"onion\"}}"), 1.0),
        (format!("{name}_future_entries{NEW},network=\"onion\",min_offset_seconds=\"0\"}}"), 2.0),
        (format!("{name}_future_entries{NEW},network=\"onion\",min_offset_seconds=\"600\"}}"), 1.0),
        (format!("{name}_entry_age_seconds{NEW},quantile=\"0.1\"}}"), 0.0),
        (format!("{name}_entry_age_seconds{NEW},quantile=\"0.5\"}}"), 1800.0),
        (format!("{name}_entry_age_seconds{NEW},quantile=\"0.9\"}}"), f64::from(31 * day as i32)),
        (format!("{name}_entry_age_seconds_bucket{NEW},le=\"3600\"}}"), 3.0),
        (format!("{name}_entry_age_seconds_bucket{NEW},le=\"259200\"}}"), 4.0),
        (format!("{name}_entry_age_seconds_bucket{NEW},le=\"+Inf\"}}"), 5.0),
        (format!("{name}_added_entry{NEW}}}"), -1.0),
    ] {
        expect(&counted, &[(&series, value)]);
    }
}

#[test]
fn changes_of_the_address_manager_are_those_since_the_answer_before() {
    let entry = |ip: &str, services, age_s| address(ip, "ipv4", 8333, services, age_s);
    let answer = |entries| Addrman { new: table(entries), tried: Default::default() };
    let first = answer(vec![entry("192.0.2.1", 1, 0), entry("192.0.2.2", 1, 0), entry("192.0.2.3", 1, 9)]);
    let second = answer(vec![
        entry("192.0.2.9", 9, 7),
        entry("192.0.2.2", 9, 0),
        entry("192.0.2.3", 9, 7),
        entry("192.0.2.4", 1, 0),
        entry("192.0.2.5", 1, 0),
    ]);
    let changes = [
        ("rpc_getrawaddrman_added_entry{table=\"new\"}", 2.0),
        ("rpc_getrawaddrman_replaced_entry{table=\"new\"}", 1.0),
        ("rpc_getrawaddrman_changed_services{table=\"new\"}", 2.0),
        ("rpc_getrawaddrman_changed_timestamps{table=\"new\"}", 1.0),
        ("rpc_getrawaddrman_added_entry{table=\"tried\"}", 0.0),
    ];
    let whole = |addrman: &Addrman| rpc(RpcEvent::Addrman(addrman.clone()));
    expect(&after(&[whole(&first), whole(&second)]), &changes);

    // The second answer in parts: an entry a part, in any order, one of them twice, after the beginning of one that stayed incomplete.
    let part = |snapshot, part, parts, addrman: Addrman| {
        extra(rpc_extra::RpcEvent::AddrmanPart(AddrmanPart { snapshot, part, parts, addrman }))
    };
    let bucket = &second.new[&3];
    let mut parts: Vec<Delivery> = bucket
        .entries
        .iter()
        .map(|(position, entry)| {
            let entries = [(*position, entry.clone())].into();
            let new = [(3, AddrmanBucket { entries })].into();
            part(5, *position, 5, Addrman { new, tried: Default::default() })
        })
        .collect();
    parts.swap(0, 4);
    parts.insert(1, parts[0].clone());
    let mut events = vec![whole(&first), part(4, 0, 2, first.clone())];
    events.extend(parts.iter().take(5).cloned());
    expect(&after(&events), &[("rpc_getrawaddrman_added_entry{table=\"new\"}", -1.0)]);
    events.extend(parts.into_iter().skip(5));
    expect(&after(&events), &changes);
}

#[test]
fn parts_that_cannot_be_are_left_alone() {
    let part = |part, parts| {
        let part = AddrmanPart { snapshot: 1, part, parts, addrman: Addrman::default() };
        extra(rpc_extra::RpcEvent::AddrmanPart(part))
    };
    let counted = after(&[part(0, 0), part(1, 1), part(u32::MAX, u32::MAX), part(0, u32::MAX)]);
    expect(&counted, &[("rpc_getrawaddrman_distinct_asns{table=\"new\"}", -1.0)]);
}

//! Which metrics there are, what of them is there from the start, and that a test compares each with a number. Nothing in this file counts
//! as such a test.

use super::*;

#[test]
fn metrics_without_labels_are_zero_from_the_start_and_no_others_are_there() {
    let start = after(&[]);
    let labelled: Vec<_> = start.keys().filter(|series| series.contains('{')).collect();
    assert!(labelled.is_empty(), "{labelled:?}");
    for name in [
        "conn_inbound",
        "conn_inbound_banlist_monero",
        "conn_inbound_banlist_gmax",
        "conn_inbound_list_linkinglion",
        "conn_inbound_tor_exit",
        "conn_inbound_current",
        "conn_outbound",
        "conn_outbound_current",
        "conn_closed",
        "conn_closed_age",
        "conn_evicted_inbound",
        "conn_private_transaction_broadcast",
        "p2p_invs_outbound_large",
        "mempool_added",
        "mempool_added_vbytes",
        "mempool_replaced",
        "mempool_replaced_vbytes",
        "validation_block_connected_latest_height",
        "validation_block_connected_latest_connection_time",
        "validation_block_connected_latest_sigops",
        "validation_block_connected_latest_inputs",
        "validation_block_connected_latest_transactions",
        "validation_block_connected_connection_time",
    ] {
        expect(&start, &[(name, 0.0)]);
    }
}

#[test]
fn the_names_are_those_that_dashboards_query() {
    let mut expected = include_str!("names.txt").lines().filter(|line| !line.starts_with('#'));
    let registry = metrics();
    let nodes = registry.nodes.all.iter().map(|node| &node.registry);
    let mut ours: Vec<&str> = nodes.chain([&registry.registry]).flat_map(registry::Registry::names).collect();
    ours.retain(|name| !name.starts_with("peerobserver_pipeline_"));
    let missing: Vec<_> = expected.by_ref().filter(|name| !ours.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What tests compare with numbers: their text, and what is compared of the tour.
fn compared() -> String {
    let tests =
        [include_str!("mod.rs"), include_str!("rpc.rs"), include_str!("lines.rs"), include_str!("nodes.rs")]
            .concat();
    // Parts of names that tests put in.
    let put_in = [
        ("{name}", "rpc_getrawaddrman"),
        ("p2p_address_", "p2p_address_selfannouncements{ p2p_address_subnetannouncements{"),
        ("reconstruction_{metric}", "reconstruction_count"),
        ("reconstruction_{metric}", "reconstruction_time"),
    ];
    let mut compared: String = put_in.iter().map(|(from, to)| tests.replace(from, to)).collect();
    let mut reference = Reference::default();
    tour().iter().for_each(|delivery| reference.event(&delivery.event));
    for (series, value) in &reference.0 {
        compared.push_str(&format!("(\"{series}\", {value:?}),\n"));
    }
    compared
}

#[test]
fn every_public_name_is_compared_with_a_number_by_a_test() {
    let compared = compared();
    let is_compared = |name: &str| {
        let name = name.trim_start_matches("peerobserver_");
        ["\"", "{", "_bucket", "_sum", "_count"].iter().any(|end| {
            compared.match_indices(&format!("{name}{end}")).any(|(at, _)| {
                // 0 is also what nobody counts, and -1 stands for no series.
                let rest = compared[at..].split("),").next().unwrap_or_default();
                let rest = rest.trim_end().trim_end_matches(',');
                !rest.ends_with(" 0.0") && !rest.ends_with("-1.0")
            })
        })
    };
    let names = include_str!("names.txt").lines().filter(|line| !line.starts_with('#'));
    let untested: Vec<_> = names.filter(|name| !is_compared(name)).collect();
    assert!(untested.is_empty(), "{untested:#?}");
}

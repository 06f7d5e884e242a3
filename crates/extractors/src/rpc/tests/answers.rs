//! Recorded and made-up answers: every field arrives, under its name and in its unit.

use super::*;

/// Field names of the schema that are not those of the node.
const RENAMED: &[(&str, &str)] = &[
    ("addr", "address"),
    ("addrbind", "address_bind"),
    ("addrlocal", "address_local"),
    ("relaytxes", "relay_transactions"),
    ("lastsend", "last_send"),
    ("lastrecv", "last_received"),
    ("bytessent", "bytes_sent"),
    ("bytesrecv", "bytes_received"),
    ("conntime", "connection_time"),
    ("timeoffset", "time_offset"),
    ("pingtime", "ping_time"),
    ("minping", "minimum_ping"),
    ("pingwait", "ping_wait"),
    ("subver", "subversion"),
    ("startingheight", "starting_height"),
    ("bytessent_per_msg", "bytes_sent_per_message"),
    ("bytesrecv_per_msg", "bytes_received_per_message"),
    ("maxmempool", "max_mempool"),
    ("totalbytesrecv", "total_bytes_received"),
    ("totalbytessent", "total_bytes_sent"),
    ("timemillis", "time_millis"),
    ("uploadtarget", "upload_target"),
    ("txcount", "tx_count"),
    ("txrate", "tx_rate"),
    ("protocolversion", "protocol_version"),
    ("localservices", "local_services"),
    ("localservicesnames", "local_services_names"),
    ("localrelay", "local_relay"),
    ("networkactive", "network_active"),
    ("localaddresses", "local_addresses"),
    ("relayfee", "relay_fee"),
    ("incrementalfee", "incremental_fee"),
    ("pruneheight", "prune_height"),
    ("feerate", "fee_rate"),
    ("branchlen", "branch_length"),
];

/// Fields of the node that the schema has no place for.
const WITHOUT_PLACE: &[&str] = &[
    "servicesnames",
    "last_inv_sequence",
    "presynced_headers",
    "session_id",
    "permitbaremultisig",
    "maxdatacarriersize",
    "limitclustercount",
    "limitclustersize",
    "bits",
    "target",
    "automatic_pruning",
    "ban_duration",
    "time_remaining",
];

/// BTC/kvB in the node's answer, sat/vB in the event.
const FEE_RATES: &[&str] =
    &["mempoolminfee", "minrelaytxfee", "incrementalrelayfee", "relayfee", "incrementalfee", "feerate"];

/// What the event has to hold for this answer. Objects keep only what the answer has; what else the event holds is checked to be
/// empty by [`assert_same`].
fn expected(method: &str, answer: &Value) -> Value {
    match (method, answer) {
        ("getpeerinfo", list) => json!({ "infos": renamed(list) }),
        ("getmemoryinfo", info) => renamed(&info["locked"]),
        ("getaddrmaninfo", info) => json!({ "networks": info }),
        ("getchaintips", list) => json!({ "tips": renamed(list) }),
        ("listbanned", list) => json!({ "subnets": renamed(list) }),
        ("getrawaddrman", tables) => {
            let table = |table: &Value| {
                let mut buckets: BTreeMap<&str, Value> = BTreeMap::new();
                for (place, entry) in table.as_object().unwrap() {
                    let (bucket, position) = place.split_once('/').unwrap();
                    let bucket = buckets.entry(bucket).or_insert_with(|| json!({ "entries": {} }));
                    bucket["entries"][position] = entry.clone();
                }
                json!(buckets)
            };
            json!({ "new": table(&tables["new"]), "tried": table(&tables["tried"]) })
        }
        ("getorphantxs", list) => {
            let bytes = |hex: &Value| -> Vec<u8> {
                let hex = hex.as_str().unwrap();
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
            };
            let reversed = |hex: &Value| bytes(hex).into_iter().rev().collect::<Vec<_>>();
            let orphans: Vec<Value> = list
                .as_array()
                .unwrap()
                .iter()
                .map(|orphan| {
                    let mut fields = orphan.as_object().unwrap().clone();
                    let raw = bytes(&fields.remove("hex").unwrap());
                    let (txid, wtxid) = (reversed(&orphan["txid"]), reversed(&orphan["wtxid"]));
                    fields.insert("transaction".into(), json!({ "txid": txid, "wtxid": wtxid, "raw": raw }));
                    Value::Object(fields)
                })
                .collect();
            json!({ "orphans": orphans })
        }
        ("uptime", seconds) => seconds.clone(),
        (_, fields) => renamed(fields),
    }
}

fn renamed(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(renamed).collect(),
        Value::Object(fields) => {
            let mut all = Map::new();
            for (name, value) in fields {
                // Of a block it is a text, and has no place; of uploads it is a number.
                let is_upload_target = name == "target" && value.is_number();
                if WITHOUT_PLACE.contains(&name.as_str()) && !is_upload_target {
                    continue;
                }
                let value = if FEE_RATES.contains(&name.as_str()) {
                    json!((value.as_f64().unwrap() * 1e8).round() / 1e3)
                } else if name.ends_with("_per_msg") {
                    // Its keys are types of messages.
                    value.clone()
                } else {
                    renamed(value)
                };
                let name =
                    RENAMED.iter().find(|(rpc, _)| rpc == name).map_or(name.as_str(), |(_, ours)| ours);
                all.insert(name.to_owned(), value);
            }
            Value::Object(all)
        }
        other => other.clone(),
    }
}

/// Fails unless `event` holds everything in `expected`, and nothing else but defaults.
fn assert_same(at: &str, event: &Value, expected: &Value) {
    match (event, expected) {
        (Value::Object(event), Value::Object(expected)) => {
            for name in expected.keys() {
                assert!(event.contains_key(name), "{at}.{name} is missing");
            }
            for (name, value) in event {
                match expected.get(name) {
                    Some(expected) => assert_same(&format!("{at}.{name}"), value, expected),
                    None => {
                        let defaults = [
                            json!(null),
                            json!(0),
                            json!(0.0),
                            json!(false),
                            json!(""),
                            json!([]),
                            json!({}),
                        ];
                        assert!(defaults.contains(value), "{at}.{name} is {value}, and not in the answer");
                    }
                }
            }
        }
        (Value::Array(event), Value::Array(expected)) => {
            assert_eq!(event.len(), expected.len(), "{at}");
            for (i, (event, expected)) in event.iter().zip(expected).enumerate() {
                assert_same(&format!("{at}[{i}]"), event, expected);
            }
        }
        (Value::Number(event), Value::Number(expected)) => {
            assert_eq!(event.as_f64(), expected.as_f64(), "{at}");
        }
        _ => assert_eq!(event, expected, "{at}"),
    }
}

/// The recorded answers: folder, method, parameters as in the file's name, and JSON.
fn samples() -> Vec<(PathBuf, String, Vec<String>, Value)> {
    let mut all = Vec::new();
    for folder in ["rpc-samples", "regtest-tour/rpc"] {
        for entry in std::fs::read_dir(data_dir().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut words = name.split('-').map(str::to_owned);
            let method = words.next().unwrap();
            let json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            all.push((path, method, words.collect(), json));
        }
    }
    all
}

#[tokio::test]
async fn every_recorded_answer_becomes_its_event_with_every_field_right() {
    let server = FakeRpc::start("u:p").unwrap();
    let client = {
        let config = config_for(&server);
        Client::new(config.rpc_host.clone(), config.login().unwrap().unwrap(), config.limits())
    };
    let mut seen = BTreeMap::<&str, u32>::new();
    for (path, name, params, json) in samples() {
        // The folders hold answers of methods that are not asked for, too.
        let Some(method) = Method::parse(&name) else { continue };
        server.behave(EVERYTHING, Behaviour::Answer(json.to_string()));
        let calls = method.calls();
        let call = match &params[..] {
            [target, mode] => {
                let wanted = json!([target.parse::<u32>().unwrap(), mode]);
                *calls.iter().find(|call| call.params() == wanted).expect("a call that is made")
            }
            _ => calls[0],
        };
        let answer = client.connection().await.call(&name, &call.params()).await.unwrap();
        let (event, unknown) = call.event(&answer).unwrap();
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
        let mut expected = expected(&name, &json);
        if method == Method::EstimateSmartFee {
            let asked = call.params();
            expected["requested_blocks"] = asked[0].clone();
            expected["mode"] = if asked[1] == "economical" { 1 } else { 2 }.into();
        }
        assert_same(&path.display().to_string(), &content(&event).1, &expected);
        *seen.entry(method.name()).or_default() += 1;
    }
    let missing: Vec<_> = Method::ALL.iter().filter(|m| !seen.contains_key(m.name())).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
    assert_eq!(seen["estimatesmartfee"], 7);
}

#[tokio::test]
async fn fields_that_no_recorded_answer_has_arrive_too() {
    let cases = [
        (
            "getpeerinfo",
            json!([{ "mapped_as": 13335, "pingwait": 1.5, "cpu_load": 0.25, "inflight": [7, 8],
                     "permissions": ["noban"], "addrlocal": "1.2.3.4:8333", "starting_height": 5 }]),
            json!({ "infos": [{ "mapped_as": 13335, "ping_wait": 1.5, "cpu_load": 0.25, "inflight": [7, 8],
                                "permissions": ["noban"], "address_local": "1.2.3.4:8333" }] }),
        ),
        (
            "getrawaddrman",
            json!({ "tried": { "3/4": { "address": "a", "mapped_as": 1, "source_mapped_as": 2 } } }),
            json!({ "new": {}, "tried": { "3": { "entries": {
                "4": { "address": "a", "mapped_as": 1, "source_mapped_as": 2 } } } } }),
        ),
        (
            "getnetworkinfo",
            json!({ "localaddresses": [{ "address": "1.2.3.4", "port": 8333, "score": 4 }], "warnings": "w" }),
            json!({ "networks": [], "warnings": ["w"],
                    "local_addresses": [{ "address": "1.2.3.4", "port": 8333, "score": 4 }] }),
        ),
        ("estimatesmartfee", json!({ "errors": ["Insufficient data"], "blocks": 2 }), {
            json!({ "errors": ["Insufficient data"], "blocks": 2, "requested_blocks": 1, "mode": 1 })
        }),
        ("getchaintxstats", json!({ "time": 5 }), json!({ "time": 5 })),
    ];
    let server = FakeRpc::start("u:p").unwrap();
    let config = config_for(&server);
    let client = Client::new(config.rpc_host.clone(), config.login().unwrap().unwrap(), config.limits());
    for (name, answer, expected) in cases {
        server.behave(name, Behaviour::Answer(answer.to_string()));
        let call = Method::parse(name).unwrap().calls()[0];
        let answer = client.connection().await.call(name, &call.params()).await.unwrap();
        assert_same(name, &content(&call.event(&answer).unwrap().0).1, &expected);
    }
}

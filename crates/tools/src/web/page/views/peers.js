// The peers of a node, like `bitcoin-cli -netinfo` and beyond.

import { h, panel, put, text } from "../lib/dom.js";
import { ago, bytes, count, duration, rate, short } from "../lib/format.js";
import { keep, recall } from "../lib/store.js";
import { spark, table } from "../lib/table.js";

const GROUPS = {
  none: null,
  network: (row) => row.network,
  type: (row) => row.type,
  netgroup: (row) => row.netgroup ?? "not known",
  as: (row) => row.as ?? "AS not known",
  list: (row) => row.lists.join(", ") || "on no list",
  agent: (row) => row.user_agent ?? "not known",
};

export function show(app, root, parameters) {
  let filter = parameters.filter ?? "";
  let group = parameters.group ?? recall("peers.group", "none");
  let data = null;
  const lead = h("p", { class: "lead" });
  const search = h("input", { type: "search", placeholder: "filter: address, agent, type …", "aria-label": "Filter peers", value: filter, oninput: (event) => { filter = event.target.value; app.set("filter", filter); draw(); } });
  const groups = [["none", "not grouped"], ["type", "by connection type"], ["network", "by network"], ["netgroup", "by netgroup"], ["as", "by AS"], ["list", "by list"], ["agent", "by user agent"]]
    .filter(([value]) => !app.limited || !["netgroup", "as", "list"].includes(value));
  if (!groups.some(([value]) => value === group)) group = "none";
  const select = h("select", { "aria-label": "Group peers", onchange: (event) => { group = event.target.value; keep("peers.group", group); app.set("group", group); draw(); } },
    groups.map(([value, title]) => h("option", { value, selected: value === group }, title)));
  const now = () => data?.now_us ?? 0;
  const columns = [
    { key: "id", title: "Peer", value: (row) => row.id, make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.id)); } },
    { key: "type", title: "Type", text: (row) => row.type },
    { key: "network", title: "Net", text: (row) => row.network },
    { key: "spark", title: "5 min", hint: "Messages, received and sent", value: (row) => row.spark.reduce((a, b) => a + b, 0), make: (cell) => { const made = spark(); cell.append(made.element); return made; }, set: (made, row) => made.set(row.spark), num: false },
    { key: "rate", title: "msg/s", num: true, hint: "Over the last minute", value: lastMinute, text: (row) => rate(lastMinute(row)) },
    { key: "messages_in", title: "In", num: true, hint: "Messages received", text: (row) => short(row.messages_in) },
    { key: "messages_out", title: "Out", num: true, hint: "Messages sent", text: (row) => short(row.messages_out) },
    { key: "bytes_in", title: "Received", num: true, text: (row) => bytes(row.bytes_in) },
    { key: "bytes_out", title: "Sent", num: true, text: (row) => bytes(row.bytes_out) },
    { key: "min_ping_us", title: "Min ping", num: true, text: (row) => duration(row.min_ping_us) },
    { key: "ping_us", title: "Ping", num: true, text: (row) => duration(row.ping_us) },
    { key: "last_in_us", title: "Heard", num: true, hint: "Last message received, ago", text: (row) => ago(row.last_in_us, now()) },
    { key: "opened_us", title: "Age", num: true, text: (row) => ago(row.opened_us, now()) },
    { key: "height", title: "Height", num: true, text: (row) => count(row.height) },
    { key: "tx_first", title: "First", num: true, hint: "Transactions that it was the first to announce", text: (row) => short(row.tx_first) },
    { key: "user_agent", title: "User agent", text: (row) => row.user_agent ?? "–" },
  ];
  const marked = { key: "marks", title: "Marks", optional: (row) => marks(row).length > 0, value: (row) => marks(row).length, make: (cell) => cell, set: (cell, row) => { const all = marks(row); if (cell.dataset.marks !== all.join()) { cell.dataset.marks = all.join(); put(cell, all.map(([name, kind]) => h("span", { class: `tag ${kind}` }, name))); } } };
  if (!app.limited) {
    columns.splice(3, 0,
      { key: "addr", title: "Address", class: "mono", text: (row) => row.addr ?? "–" },
      { key: "as", title: "AS", text: (row) => row.as ?? "–", optional: (row) => row.as });
  }
  // In sight without scrolling, where there are any.
  columns.splice(app.limited ? 3 : 5, 0, marked);
  const rows = table(columns, { name: "peers", caption: "Connected peers", key: (row) => row.id, sort: ["id", "ascending"], empty: "No peer matches." });
  const left = table([
    columns[0],
    ...(app.limited ? [] : [{ key: "addr", title: "Address", class: "mono", text: (row) => row.addr ?? "–" }]),
    { key: "type", title: "Type" },
    { key: "end", title: "How" },
    { key: "closed_us", title: "Ago", num: true, text: (row) => ago(row.closed_us, now()) },
    { key: "stay", title: "Stayed", num: true, value: (row) => (row.opened_us ? row.closed_us - row.opened_us : null), text: (row) => (row.opened_us ? duration(row.closed_us - row.opened_us) : "–") },
    { key: "messages_in", title: "In", num: true, text: (row) => short(row.messages_in) },
    { key: "user_agent", title: "User agent", text: (row) => row.user_agent ?? "–" },
  ], { name: "left", caption: "Peers that left last", key: (row) => `${row.id} ${row.closed_us}`, sort: ["closed_us", "descending"], tall: true, empty: "Nobody left yet." });

  put(root,
    h("div", { class: "head" }, h("h1", {}, "Peers"), lead, h("div", { class: "right" }, search, select)),
    h("div", { class: "grid" }, panel("Connected", null, rows.element), panel("Left", null, left.element)));

  function draw() {
    if (!data) return;
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = data.peers.filter((row) => words.every((word) => `${row.id} ${row.addr ?? ""} ${row.user_agent ?? ""} ${row.type} ${row.network} ${row.netgroup ?? ""} ${row.as ?? ""} ${row.lists.join(" ")} ${row.transport ?? ""}`.toLowerCase().includes(word)));
    const inbound = data.peers.filter((row) => row.inbound).length;
    text(lead, `${count(data.peers.length)} connected, ${inbound} in, ${data.peers.length - inbound} out${found.length < data.peers.length ? ` · ${found.length} match` : ""}${data.rpc ? "" : " · heights need RPC"}`);
    rows.set(found, GROUPS[group] ?? null);
    left.set(data.left);
  }

  app.open("peers", {}, 1000, (answer) => { data = answer; draw(); });
}

// A step of the sparkline is five seconds.
function lastMinute(row) {
  return row.spark.slice(-12).reduce((a, b) => a + b, 0) / 60;
}

function marks(row) {
  const all = row.lists.map((name) => [name, "list"]);
  if (row.transport === "v2") all.push(["v2", "good"]);
  if (row.high_bandwidth_to) all.push(["HB to", ""]);
  if (row.high_bandwidth_from) all.push(["HB from", ""]);
  if (row.ping_wait_us > 10_000_000) all.push(["no pong", "bad"]);
  if (row.malformed) all.push([`malformed ${row.malformed}`, "bad"]);
  if (row.misbehaved) all.push(["misbehaved", "bad"]);
  return all;
}

// Round trips, and what waits.

import { h, panel, put, stats } from "../lib/dom.js";
import { count, duration } from "../lib/format.js";
import { spark, table } from "../lib/table.js";

export function show(app, root) {
  const numbers = stats("Round trips");
  const last = (row) => row.trips.at(-1)?.[1] ?? null;
  const median = (row) => middle(row.trips.map(([, took]) => took));
  const n = (key, title, hint) => ({ key, title, hint, num: true, text: (row) => count(row[key]) });
  const d = (key, title, hint, value) => ({ key, title, hint, num: true, value, text: (row) => duration(value(row)) });
  const rows = table([
    { key: "id", title: "Peer", make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.id)); } },
    { key: "type", title: "Type" },
    { key: "spark", title: "Round trips", value: last, make: (cell) => { const made = spark(); cell.append(made.element); return made; }, set: (made, row) => { made.set(row.trips.map(([, took]) => took)); } },
    d("last", "Last", "The last round trip", last),
    d("median", "Median", "Of the last sixty", median),
    d("min", "Shortest", null, (row) => row.min_us),
    d("wait", "Waits", "The node's ping is not answered for so long", (row) => row.wait_us),
    d("answered", "Node took", "Time the node took to answer the peer's last ping", (row) => row.answered_us),
    n("pings_out", "Pings out"), n("pongs_in", "Pongs in"), n("pings_in", "Pings in"), n("pongs_out", "Pongs out"),
    n("backlog", "Backlog", "Transactions that wait to be announced; needs RPC"),
    n("inflight", "Blocks", "Blocks that the node fetches from the peer; needs RPC"),
  ], { name: "pings", caption: "Pings by peer", key: (row) => row.id, sort: ["last", "descending"], empty: "No peer yet." });
  put(root, h("div", { class: "head" }, h("h1", {}, "Pings"), h("p", { class: "lead" }, "round trips, unanswered pings, what waits to be sent")), numbers.element, h("div", { class: "grid" }, panel("By peer", null, rows.element)));
  app.open("pings", {}, 1000, (data) => {
    const all = data.peers.map(last).filter((took) => took !== null);
    const waiting = data.peers.filter((row) => row.wait_us !== null);
    const backlog = data.peers.map((row) => row.backlog).filter((b) => b !== null);
    numbers.set([
      ["Median", duration(middle(all)), "", `of ${count(all.length)} peers`],
      ["Slowest", duration(all.length ? Math.max(...all) : null), ""],
      ["Unanswered", count(waiting.length), "pings", waiting.length ? `longest ${duration(Math.max(...waiting.map((row) => row.wait_us)))}` : "all answered"],
      ["Node answers in", duration(middle(data.peers.map((row) => row.answered_us).filter((a) => a !== null))), "", "median"],
      ["Backlog", backlog.length ? count(backlog.reduce((a, b) => a + b, 0)) : "–", backlog.length ? "tx" : "", backlog.length ? "to be announced" : "needs RPC"],
    ]);
    rows.set(data.peers);
  });
}

function middle(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
}

// Transaction relay: who announced first, who asks, who never sends.

import { h, panel, put, stats } from "../lib/dom.js";
import { ago, count, duration, hash, percent, short } from "../lib/format.js";
import { table } from "../lib/table.js";

export function show(app, root) {
  let now = 0;
  const numbers = stats("The last transactions");
  const link = { key: "id", title: "Peer", make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.id)); } };
  const n = (key, title, hint) => ({ key, title, hint, num: true, text: (row) => short(row[key]) });
  const peers = table([
    link,
    { key: "type", title: "Type" },
    n("announced", "Announced", "Transactions that the peer announced to the node"),
    n("first", "First", "Of these nobody had announced before"),
    { key: "share", title: "First, share", num: true, value: (row) => (row.announced ? row.first / row.announced : null), text: (row) => percent(row.first, row.announced) },
    n("asked", "Node asked", "Transactions that the node asked the peer for"),
    n("received", "Received", "Transactions that the peer sent"),
    n("unasked", "Unasked", "Of these the node had not asked for"),
    n("told", "Told", "Transactions that the node announced to the peer"),
    n("asked_by", "Peer asked", "Transactions that the peer asked the node for"),
    n("sent", "Sent", "Transactions that the node sent"),
    n("not_found", "Not found"),
    { key: "verdict", title: "In words", value: (row) => verdict(row), text: verdict },
  ], { name: "txpeers", caption: "Transaction relay by peer", key: (row) => row.id, sort: ["first", "descending"], empty: "No peer yet." });
  const list = table([
    { key: "hash", title: "Transaction", class: "mono", make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(h("span", { title: row.hash }, hash(row.hash))); } },
    { key: "first_us", title: "Seen", num: true, text: (row) => `${ago(row.first_us, now)} ago` },
    { key: "first_peer", title: "First from", value: (row) => row.first_peer, make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.first_peer)); } },
    { key: "announced_by", title: "Announced by", num: true, text: (row) => count(row.announced_by) },
    { key: "got", title: "To receive", num: true, value: (row) => (row.received ? row.received.time_us - row.first_us : null), text: (row) => (row.received ? duration(row.received.time_us - row.first_us) : "–") },
    { key: "taken", title: "To accept", num: true, hint: "From when a peer told of it first; the node's own come from no peer", value: (row) => row.to_accept_us, text: (row) => duration(row.to_accept_us) },
    { key: "fee", title: "sat/vB", num: true, value: (row) => (row.added ? row.added.fee / row.added.vsize : null), text: (row) => (row.added ? (row.added.fee / row.added.vsize).toFixed(1) : "–") },
    { key: "told_to", title: "Told to", num: true, text: (row) => count(row.told_to) },
    { key: "asked_by", title: "Asked for by", num: true, text: (row) => count(row.asked_by) },
    { key: "state", title: "State", value: state, text: state },
  ], { name: "txs", caption: "The last transactions", key: (row) => `${row.hash} ${row.first_us}`, sort: ["first_us", "descending"], tall: true, empty: "No transaction yet." });
  put(root, h("div", { class: "head" }, h("h1", {}, "Transactions"), h("p", { class: "lead" }, "who announces first, who asks, who never sends")),
    numbers.element,
    h("div", { class: "grid" }, panel("By peer", null, peers.element), panel("The last transactions", null, list.element)));

  app.open("transactions", {}, 1000, (data) => {
    now = data.now_us;
    const sum = (key) => data.peers.reduce((all, row) => all + row[key], 0);
    numbers.set([
      ["Followed", count(data.sums.followed), "", "the last ones"],
      ["Accepted", count(data.sums.accepted), "", percent(data.sums.accepted, data.sums.followed)],
      ["Rejected", count(data.sums.rejected), ""],
      ["To accept", duration(data.sums.median_to_accept_us ?? null), "", "median, from first heard of"],
      ["Unasked", count(sum("unasked")), "", `of ${count(sum("received"))} received`],
      ["Not found", count(sum("not_found")), ""],
    ]);
    peers.set(data.peers);
    list.set(data.transactions);
  });
}

function state(row) {
  if (row.gone) return "mined or removed";
  if (row.added) return "in the mempool";
  if (row.rejected) return "rejected";
  if (row.received) return "received";
  if (row.asked) return "asked for";
  if (row.announced_by) return "announced";
  return row.told_to ? "told by the node" : "asked for by a peer";
}

function verdict(row) {
  if (row.announced === 0 && row.told === 0) return "no transactions";
  if (row.announced === 0 && row.asked_by > 0) return "only takes";
  if (row.announced === 0) return "never announces";
  if (row.unasked > row.received / 2 && row.received > 2) return "sends unasked";
  if (row.asked > 2 && row.received === 0) return "never sends";
  return "";
}

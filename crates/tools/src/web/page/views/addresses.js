// Address relay: who sends how many, of which networks, and who announces himself.

import { bars, h, nothing, panel, put, stats } from "../lib/dom.js";
import { ago, count, services, short } from "../lib/format.js";
import { table } from "../lib/table.js";

export function show(app, root) {
  let now = 0;
  const numbers = stats("Addresses");
  const networks = bars("Received and sent addresses by network", [["received", "in"], ["sent", "out"]]);
  const ages = bars("Received addresses by age");
  const groups = bars("Received addresses by netgroup");
  const n = (key, title, hint) => ({ key, title, hint, num: true, text: (row) => short(row[key]) });
  const peers = table([
    { key: "id", title: "Peer", make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.id)); } },
    { key: "type", title: "Type" },
    n("received", "Received", "Addresses that the peer sent"),
    n("messages_in", "in messages"),
    n("sent", "Sent", "Addresses that the node sent to the peer"),
    n("messages_out", "in messages"),
    n("self_announced", "Itself", "Times that the peer announced its own address"),
    n("getaddr_in", "Asked", "getaddr from the peer"),
    n("getaddr_out", "Was asked", "getaddr to the peer"),
    n("rate_limited", "Dropped", "Addresses that the node's rate limit dropped; needs RPC"),
  ], { name: "addrpeers", caption: "Addresses by peer", key: (row) => row.id, sort: ["received", "descending"], empty: "No peer yet." });
  const news = table([
    { key: "time_us", title: "Ago", num: true, text: (row) => ago(row.time_us, now) },
    { key: "peer", title: "From", make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.peer)); } },
    { key: "addr", title: "Address", class: "mono" },
    { key: "network", title: "Net" },
    { key: "own", title: "Itself", value: (row) => Number(row.own), text: (row) => (row.own ? "yes" : "") },
    { key: "services", title: "Services", value: (row) => row.services, text: (row) => services(row.services) },
  ], { name: "news", caption: "Addresses announced as news", key: (row) => `${row.time_us} ${row.addr}`, sort: ["time_us", "descending"], tall: true, empty: "None yet: messages with more than ten addresses are answers, not news." });
  put(root, h("div", { class: "head" }, h("h1", {}, "Addresses"), h("p", { class: "lead" }, "gossip of addresses of nodes")),
    numbers.element,
    h("div", { class: "grid" },
      panel("By network", "w4", networks.element),
      panel("By age when received", "w4", ages.element),
      panel("Netgroups received most", "w4", app.limited ? hidden() : groups.element),
      panel("By peer", null, peers.element),
      panel("News", null, app.limited ? hidden() : news.element)));

  app.open("addresses", {}, 1000, (data) => {
    now = data.now_us;
    const sum = (key) => data.networks.reduce((all, row) => all + row[key], 0);
    numbers.set([
      ["Received", count(sum("received")), "addresses"],
      ["Sent", count(sum("sent")), "addresses"],
      ["Networks", count(data.networks.length), ""],
      ["Announce themselves", count(data.peers.filter((row) => row.self_announced).length), "peers"],
    ]);
    networks.set(data.networks.map((row) => [row.network, [row.received, row.sent], `${short(row.received)} in, ${short(row.sent)} out`]));
    ages.set(data.ages.map((row) => [row.age === "older" ? row.age : `< ${row.age}`, [row.count], count(row.count)]));
    groups.set((data.groups ?? []).slice(0, 12).map((row) => [row.group, [row.count], count(row.count)]));
    peers.set(data.peers);
    news.set(data.announcements ?? []);
  });
}

function hidden() {
  return nothing("Hidden", "Addresses are not shown in limited mode.");
}

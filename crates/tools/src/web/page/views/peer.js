// One peer: what it said and was told.

import { chart, colour } from "../lib/chart.js";
import { choice, facts, h, nothing, panel, put, stats, svg, text } from "../lib/dom.js";
import { ago, bytes, count, date, duration, exact, percent, services, short } from "../lib/format.js";
import { table } from "../lib/table.js";

const LINE = 21;

export function show(app, root, parameters) {
  const id = Number(parameters.id ?? NaN);
  if (!Number.isInteger(id)) {
    put(root, h("div", { class: "state" }, h("h1", {}, "Which peer?"), h("p", {}, "Choose one in the list of ", h("a", { href: app.link("peers") }, "peers"), ".")));
    return;
  }
  let part = "last";
  let data = null;
  const lead = h("p", { class: "lead" });
  const numbers = stats("This peer");
  const who = facts();
  const pings = chart("Round trips of pings", "small");
  const diagram = h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Sequence of messages" });
  const relay = facts();
  const types = table([
    { key: "type", title: "Type" },
    { key: "in", title: "In", num: true, text: (row) => count(row.in) },
    { key: "out", title: "Out", num: true, text: (row) => count(row.out) },
    { key: "bytes_in", title: "Received", num: true, text: (row) => bytes(row.bytes_in) },
    { key: "bytes_out", title: "Sent", num: true, text: (row) => bytes(row.bytes_out) },
  ], { name: "types", caption: "Messages by type", key: (row) => row.type, sort: ["in", "descending"] });
  const others = table([
    { key: "id", title: "Peer", make: (cell) => cell, set: (cell, row) => { if (!cell.firstChild) cell.append(app.peer(row.id)); } },
    { key: "type", title: "Type" },
    { key: "opened_us", title: "From", text: (row) => (row.opened_us ? date(row.opened_us) : "–") },
    { key: "end", title: "Ended", text: (row) => row.end ?? "connected" },
    { key: "messages_in", title: "In", num: true, text: (row) => short(row.messages_in) },
  ], { name: "others", caption: "Other connections of this address", key: (row) => `${row.id} ${row.closed_us}`, sort: ["opened_us", "descending"], empty: "None that is remembered." });

  const refusal = h("div");
  const content = h("div", {},
    h("div", { class: "head" }, h("h1", {}, `Peer ${id}`), lead, h("div", { class: "right" }, h("a", { class: "tool", href: app.link("peers") }, "All peers"))),
    numbers.element,
    h("div", { class: "grid" },
      panel("Conversation", "w8", choice("Part", [["last", "Last messages"], ["first", "How it began"]], part, (value) => { part = value; drawn = ""; draw(); }), diagram),
      h("div", { class: "w4 grid" }, panel("Who", null, who.element), panel("Relay", null, relay.element), panel("Pings", null, pings.element)),
      panel("Messages by type", "w6", types.element),
      panel("Other connections", "w6", others.element)));
  put(root, refusal, content);

  let drawn = "";
  function draw() {
    const list = data[part];
    const key = `${part} ${list.length} ${list.at(-1)?.number}`;
    if (key === drawn) return;
    drawn = key;
    put(diagram, list.length ? sequence(list, data.row.id, part) : nothing("Not a word", "Messages show here as they come and go."));
  }

  app.open("peer", { id }, 1000, (answer) => {
    data = answer;
    put(refusal);
    content.hidden = false;
    const { row, features, relay: r } = answer;
    text(lead, [row.type, row.network, row.addr, row.end ? `${row.end} ${ago(row.closed_us, answer.now_us)} ago` : null].filter(Boolean).join(" · "));
    numbers.set([
      ["Received", count(row.messages_in), "messages", bytes(row.bytes_in)],
      ["Sent", count(row.messages_out), "messages", bytes(row.bytes_out)],
      ["Connected for", row.opened_us ? duration((row.closed_us ?? answer.now_us) - row.opened_us) : "–", ""],
      ["Last heard", row.last_in_us ? ago(row.last_in_us, answer.now_us) : "–", "ago"],
      ["Ping", duration(row.ping_us), "", row.ping_wait_us ? `waiting ${duration(row.ping_wait_us)}` : `shortest ${duration(row.min_ping_us)}`],
      ["Oddities", count(row.malformed + row.misbehaved), "", answer.misbehaviour ?? `${row.malformed} malformed`],
    ]);
    who.set([
      ["User agent", row.user_agent ?? "not seen"],
      ["Version", row.version ?? "not seen"],
      ["Services", services(row.services)],
      ["Netgroup", row.netgroup],
      ["AS", row.as],
      ["On lists", row.lists.join(", ")],
      ["Transport", row.transport],
      ["Height", row.height === null ? null : count(row.height)],
      ["Fee filter", features.fee_filter === null ? null : `${count(features.fee_filter)} sat/kvB`],
      ["Speaks", ["wtxidrelay", "sendaddrv2", "sendheaders"].filter((name) => features[name]).join(", ") || "–"],
      ["Permissions", answer.info?.permissions?.join(", ")],
    ]);
    relay.set([
      ["Transactions announced", `${count(r.tx_announced)}, first with ${count(r.tx_first)} (${percent(r.tx_first, r.tx_announced)})`],
      ["Node asked it for", `${count(r.tx_asked)}, got ${count(r.tx_received)}${r.tx_unasked ? `, ${count(r.tx_unasked)} unasked` : ""}`],
      ["It was told of", `${count(r.tx_told)}, asked for ${count(r.tx_asked_by)}, got ${count(r.tx_sent)}`],
      ["Not found", count(r.not_found)],
      ["Blocks told first", count(r.blocks_first)],
      ["Addresses", `${count(r.addresses_received)} received, ${count(r.addresses_sent)} sent`],
      ["Announced itself", `${count(r.self_announced)} times`],
    ]);
    const trips = answer.pings;
    pings.set({ start: answer.now_us, step: 0, series: [{ name: trips.length ? "round trip" : "no pong seen yet", colour: colour("s0"), values: trips.map(([, took]) => took) }], lines: true, format: duration });
    types.set(answer.types);
    others.set(answer.others);
    draw();
  }, { refused });

  /** What was known before stays: a server that was started again may hear of the peer soon. */
  function refused(why) {
    content.hidden = data === null;
    put(refusal, data
      ? h("p", { class: "banner warn refused", role: "alert" }, `Peer ${id} is not known any more: ${why}`)
      : h("div", { class: "state" }, h("h1", {}, `Peer ${id} is not known`), h("p", {}, why), h("p", {}, "It may have left long ago. ", h("a", { href: app.link("peers") }, "All peers"))));
  }
}

/** Node on the left, peer on the right, an arrow a message: of the last ones the newest first, while a beginning reads downwards. */
function sequence(list, id, part) {
  const width = 720;
  const [left, right] = [130, 600];
  const height = list.length * LINE + 26;
  const rows = (part === "last" ? list.toReversed() : list).map((message, at) => {
    const y = 34 + at * LINE;
    const [from, to] = message.in ? [right, left] : [left, right];
    const head = message.in ? `${to + 7},${y - 4} ${to},${y} ${to + 7},${y + 4}` : `${to - 7},${y - 4} ${to},${y} ${to - 7},${y + 4}`;
    const words = `${message.type} ${message.text}`;
    return svg("g", {},
      svg("title", {}, `${message.in ? "from" : "to"} peer ${id}: ${words}, ${bytes(message.size)}`),
      svg("text", { class: "t", x: 0, y: y + 4 }, exact(message.time_us)),
      svg("line", { class: message.in ? "i" : "o", x1: from, x2: to, y1: y, y2: y, "stroke-dasharray": message.bad ? "3 3" : null }),
      svg("polygon", { class: message.in ? "hi" : "ho", points: head }),
      svg("text", { x: (left + right) / 2, y: y - 4, "text-anchor": "middle" }, words.length > 62 ? `${words.slice(0, 61)}…` : words),
      svg("text", { class: "t", x: right + 12, y: y + 4 }, `${bytes(message.size)}${message.bad ? " · malformed" : ""}`));
  });
  return svg("svg", { class: "seq", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${list.length} messages between the node and peer ${id}, the ${part === "last" ? "newest" : "oldest"} first` },
    svg("text", { x: left, y: 12, "text-anchor": "middle" }, "node"), svg("text", { x: right, y: 12, "text-anchor": "middle" }, `peer ${id}`),
    svg("line", { x1: left, x2: left, y1: 18, y2: height }), svg("line", { x1: right, x2: right, y1: 18, y2: height }), rows);
}

// A node at a glance.

import { chart, colour, kindAt, kindColour, kindOf } from "../lib/chart.js";
import { bars, choice, h, keyed, nothing, panel, put, stats, text } from "../lib/dom.js";
import { ago, bytes, bytesParts, certainty, clock, count, duration, hash, rate, short } from "../lib/format.js";

const KINDS = {
  connected: "connected", closed: "left", evicted: "was evicted", misbehaving: "misbehaves:", malformed: "sent what cannot be decoded:",
  block: "Block", replaced: "Replaced:", rejected: "Rejected:",
};
// Colours of what becomes of transactions in the mempool.
const POOL = { added: "s2", removed: "s7", replaced: "s4", rejected: "s1" };
const BAD = new Set(["misbehaving", "malformed"]);

export function show(app, root, parameters) {
  let range = Number(parameters.range ?? 300);
  let handle = null;
  const numbers = stats("Now");
  const messages = chart("Messages a second by type, received above the axis, sent below");
  const traffic = chart("Bytes a second, received above the axis, sent below", "small");
  const pool = chart("Mempool changes a second", "small");
  const peers = bars("Peers by connection type");
  const networks = bars("Peers by network");
  const blocks = h("ul", { class: "feed" });
  const notes = h("ul", { class: "feed" });
  const title = h("h1", {}, "Overview");
  const lead = h("p", { class: "lead" }, "");

  put(root,
    h("div", { class: "head" }, title, lead, h("div", { class: "right" },
      choice("History", [[300, "5 min"], [3600, "1 h"]], range, (value) => { range = value; app.set("range", value); open(); }))),
    numbers.element,
    h("div", { class: "grid" },
      panel("Messages a second", "w8", messages.element),
      panel("What happens", "w4 fills", h("div", { class: "scroll beside", tabindex: "0", role: "region", "aria-label": "What happens" }, notes)),
      panel("Bytes a second", "w6", traffic.element),
      panel("Mempool changes a second", "w6", pool.element),
      panel("Peers", "w4 fills", h("div", { class: "scroll beside", tabindex: "0", role: "region", "aria-label": "Peers" },
        h("h3", {}, "by connection type"), peers.element, h("h3", {}, "by network"), networks.element)),
      panel("Blocks", "w8", blocks)));

  function open() {
    handle?.close();
    handle = app.open("overview", { range }, 1000, update);
  }

  function update(data) {
    const { rates, history, tip, mempool } = data;
    text(lead, [data.software, data.live ? null : "not live"].filter(Boolean).join(" · "));
    const total = data.peers.reduce((sum, row) => sum + row.count, 0);
    const inbound = data.peers.filter((row) => row.type === "inbound").reduce((sum, row) => sum + row.count, 0);
    const [inBytes, inUnit] = bytesParts(rates.bytes_in);
    const [outBytes, outUnit] = bytesParts(rates.bytes_out);
    numbers.set([
      ["Messages in", rate(rates.messages_in), "/s"],
      ["Messages out", rate(rates.messages_out), "/s"],
      ["Received", inBytes, `${inUnit}/s`],
      ["Sent", outBytes, `${outUnit}/s`],
      ["Peers", count(total), "", `${count(inbound)} in, ${count(total - inbound)} out`],
      ["Height", tip ? count(tip.height) : "–", "", tip ? `${ago(tip.time_us, data.now_us)} ago` : "no block seen yet"],
      [mempool ? "Mempool" : "Mempool, added", mempool ? short(mempool.transactions) : count(sum(history.mempool.added)), "tx", mempool ? `${bytes(mempool.usage)} of ${bytes(mempool.max)}` : range > 300 ? "in the last hour" : "in the last 5 min"],
      ["Lost", short(data.lost), "events", data.lost ? "see Pipeline" : certainty(app.health?.without_origin)],
    ]);
    const seconds = history.step_us / 1_000_000;
    const per = (values) => values.map((v) => v / seconds);
    // A node that is new here needs no empty hour before it.
    const skip = Math.min(history.bytes_in.length - 60, first(history));
    cut(history, skip);
    const series = byKind(history).flatMap(({ name, received, sent }) => [
      { name, colour: kindColour(name), values: per(received) },
      { name, colour: kindColour(name), values: per(sent), below: true },
    ]);
    messages.set({ start: history.start_us, step: history.step_us, series, unit: "/s", format: rate, least: 1 });
    traffic.set({
      start: history.start_us, step: history.step_us, unit: "/s", format: bytes, least: 100,
      series: [
        { name: "received", colour: colour("in"), values: per(history.bytes_in) },
        { name: "sent", colour: colour("out"), values: per(history.bytes_out), below: true },
      ],
    });
    pool.set({
      start: history.start_us, step: history.step_us, unit: "/s", format: rate, least: 1,
      series: Object.entries(history.mempool).map(([name, values]) => ({ name, colour: colour(POOL[name]), values: per(values) })),
    });
    peers.set(sums(data.peers, "type"));
    networks.set(sums(data.peers, "network"));
    drawBlocks(data.blocks);
    drawNotes(data.notes);
  }

  const drawBlocks = keyed(blocks, {
    key: (block) => block.hash,
    make: (block) => h("li", {},
      h("time", {}, clock(block.time_us)),
      h("b", {}, count(block.height)),
      h("span", { class: "what" }, `${count(block.transactions)} tx, connected in ${duration(block.duration_us)}`, block.first_peer === null ? null : [", first from ", app.peer(block.first_peer)]),
      h("span", { class: "dim mono right", title: block.hash }, hash(block.hash))),
    empty: h("li", {}, nothing("No block yet", "Blocks show here when the node connects them.")),
  });
  const drawNotes = keyed(notes, {
    // A server that was started again counts anew.
    key: (note) => `${note.number} ${note.time_us}`,
    make: (note) => h("li", {},
      h("time", {}, clock(note.time_us)),
      h("span", { class: BAD.has(note.kind) ? "what bad" : "what", title: note.text },
        note.peer === null ? null : app.peer(note.peer), note.peer === null ? "" : " ", `${KINDS[note.kind] ?? note.kind} ${note.text}`)),
    empty: h("li", {}, nothing("Quiet", "Connections, blocks and oddities show here.")),
  });

  const redraw = () => [messages, traffic, pool].forEach((one) => one.redraw());
  addEventListener("themechange", redraw);
  app.atEnd(() => removeEventListener("themechange", redraw));
  open();
}

/** Messages by kind, received and sent, in the order of kinds: what is seldom does not change places with what is frequent. */
function byKind({ types, in: received, out: sent }) {
  const kinds = new Map();
  types.forEach((type, at) => {
    const name = kindOf(type);
    const kind = kinds.get(name) ?? { name, received: [], sent: [] };
    kinds.set(name, { name, received: plus(kind.received, received[at]), sent: plus(kind.sent, sent[at]) });
  });
  const shown = [...kinds.values()].filter((kind) => kind.received.some(Boolean) || kind.sent.some(Boolean));
  return shown.sort((a, b) => kindAt(a.name) - kindAt(b.name));
}

function plus(a, b) {
  return b.map((value, at) => value + (a[at] ?? 0));
}

/** The slot in which something happened first. */
function first(history) {
  const all = [...history.in, ...history.out, ...Object.values(history.mempool)];
  return Math.max(0, Math.min(...all.map((values) => values.findIndex(Boolean)).filter((at) => at >= 0), history.bytes_in.length) - 2);
}

/** Leaves the first slots out. */
function cut(history, slots) {
  if (slots <= 0) return;
  history.start_us += slots * history.step_us;
  history.in = history.in.map((values) => values.slice(slots));
  history.out = history.out.map((values) => values.slice(slots));
  for (const name of ["bytes_in", "bytes_out"]) history[name] = history[name].slice(slots);
  for (const [name, values] of Object.entries(history.mempool)) history.mempool[name] = values.slice(slots);
}

function sum(values) {
  return values.reduce((a, b) => a + b, 0);
}

function sums(rows, by) {
  const all = new Map();
  for (const row of rows) all.set(row[by], (all.get(row[by]) ?? 0) + row.count);
  return [...all].sort((a, b) => b[1] - a[1]).map(([name, n]) => [name, [n], count(n)]);
}

// A node at a glance.

import { chart, seriesColour, colour } from "../lib/chart.js";
import { bars, choice, h, nothing, panel, put, stats, text } from "../lib/dom.js";
import { ago, bytes, bytesParts, certainty, clock, count, duration, hash, rate, short } from "../lib/format.js";

const KINDS = {
  connected: "connected", closed: "left", evicted: "was evicted", misbehaving: "misbehaves:", malformed: "sent what cannot be decoded:",
  block: "Block", replaced: "Replaced:", rejected: "Rejected:",
};
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
      panel("Messages", "w8", messages.element),
      panel("What happens", "w4", h("div", { class: "scroll beside", tabindex: "0", role: "region", "aria-label": "What happens" }, notes)),
      panel("Bytes", "w6", traffic.element),
      panel("Mempool", "w6", pool.element),
      panel("Peers by connection type", "w4", peers.element),
      panel("Peers by network", "w4", networks.element),
      panel("Blocks", "w4", blocks)));

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
      ["Mempool", mempool ? short(mempool.transactions) : count(sum(history.mempool.added)), "tx", mempool ? `${bytes(mempool.usage)} of ${bytes(mempool.max)}` : "added in this time"],
      ["Lost", short(data.lost), "events", data.lost ? "see Pipeline" : certainty(app.health?.without_origin)],
    ]);
    const seconds = history.step_us / 1_000_000;
    const per = (values) => values.map((v) => v / seconds);
    // A node that is new here needs no empty hour before it.
    const skip = Math.min(history.bytes_in.length - 60, first(history));
    cut(history, skip);
    const series = history.types.flatMap((type, at) => {
      const own = type === "other" ? colour("s7") : seriesColour(at);
      return [
        { name: type, colour: own, values: per(history.in[at]) },
        { name: type, colour: own, values: per(history.out[at]), below: true },
      ];
    }).filter(({ name, values }) => name !== "other" || values.some(Boolean));
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
      series: Object.entries(history.mempool).map(([name, values], at) => ({ name, colour: seriesColour([2, 7, 4, 1][at]), values: per(values) })),
    });
    peers.set(sums(data.peers, "type"));
    networks.set(sums(data.peers, "network"));
    put(blocks, data.blocks.length ? data.blocks.map((block) => h("li", {},
      h("time", {}, clock(block.time_us)),
      h("span", { class: "what" }, h("b", {}, count(block.height)), ` ${count(block.transactions)} tx, ${duration(block.duration_us)} `, h("span", { class: "dim mono", title: block.hash }, hash(block.hash))))) : h("li", {}, nothing("No block yet", "Blocks show here when the node connects them.")));
    drawNotes(data);
  }

  let newest = -1;
  function drawNotes(data) {
    const top = data.notes[0]?.number ?? 0;
    if (top === newest) return;
    newest = top;
    put(notes, data.notes.length ? data.notes.map((note) => h("li", {},
      h("time", {}, clock(note.time_us)),
      h("span", { class: BAD.has(note.kind) ? "what bad" : "what", title: note.text },
        note.peer === null ? null : app.peer(note.peer), note.peer === null ? "" : " ", `${KINDS[note.kind] ?? note.kind} ${note.text}`))) : h("li", {}, nothing("Quiet", "Connections, blocks and oddities show here.")));
  }

  const redraw = () => [messages, traffic, pool].forEach((one) => one.redraw());
  addEventListener("themechange", redraw);
  app.atEnd(() => removeEventListener("themechange", redraw));
  open();
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

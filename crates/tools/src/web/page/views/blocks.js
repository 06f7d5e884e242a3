// Blocks: from the first header to the chain.

import { colour, kindColour, kindOf } from "../lib/chart.js";
import { h, keyed, nothing, panel, put, text } from "../lib/dom.js";
import { count, date, duration, hash } from "../lib/format.js";

// What happens to a block, by the type of message that does it. Two of a kind have the colour of the kind, and differ by shape.
const MARKS = {
  headers: { type: "headers" },
  inv: { type: "inv" },
  cmpctblock: { type: "cmpctblock", shape: "hollow" },
  block: { type: "block" },
  "asked for": { type: "getdata", shape: "hollow" },
  "rest came": { type: "blocktxn", shape: "low" },
  connected: { shape: "whole" },
};
// Where the scale has marks, us.
const TICKS = [[1e3, "1 ms"], [1e4, "10 ms"], [1e5, "100 ms"], [1e6, "1 s"], [1e7, "10 s"], [6e7, "1 min"], [6e8, "10 min"], [36e8, "1 h"], [864e8, "1 d"]];
// The scale begins to be logarithmic here, us.
const LINEAR = 300;
// It goes at least so far, us.
const SHORTEST = 10_000;
// Room that the number of a peer needs, px, and rows of them above a bar.
const DIGIT = 7;
const LANES = 2;

export function show(app, root) {
  const list = h("div");
  const scale = h("div", { class: "scale", "aria-hidden": "true" });
  const marks = Object.keys(MARKS).map((what) => h("span", {}, mark(what), what));
  put(root, h("div", { class: "head" }, h("h1", {}, "Blocks"), h("p", { class: "lead" }, "who told of them first, what was missing, how long they took")),
    h("div", { class: "grid" }, panel("From the first word to the chain", null,
      h("div", { class: "blocks-key" }, marks), h("p", { class: "dim" }, "Times are after the first of them, on one scale for all blocks; numbers are those of peers."), scale, list)));

  let blocks = [];
  let drawn = "";
  const entries = keyed(list, {
    key: (block) => block.hash,
    make: (block) => entry(app, block),
    fill: (element, block) => element.draw(block, axis(blocks), list.clientWidth),
    empty: nothing("No block yet", "Blocks show here as soon as a peer tells of one."),
  });
  function redraw() {
    const next = JSON.stringify([blocks, list.clientWidth]);
    if (next === drawn) return;
    drawn = next;
    const { x, ticks } = axis(blocks);
    scale.hidden = !blocks.some((block) => events(block).length > 1);
    let end = 0;
    put(scale, [[0, "0"], ...ticks].map(([us, words]) => {
      const [left, room] = [(x(us) * list.clientWidth) / 100, DIGIT * (words.length + 1)];
      if (left < end || left + room > list.clientWidth + DIGIT) return null;
      end = left + room;
      return h("span", { vars: { left: `${x(us)}%` } }, words);
    }));
    entries(blocks);
  }
  const sized = new ResizeObserver(redraw);
  sized.observe(list);
  app.atEnd(() => sized.disconnect());
  const recolour = () => {
    drawn = "";
    for (const element of root.querySelectorAll("[data-what]")) paint(element);
    redraw();
  };
  addEventListener("themechange", recolour);
  app.atEnd(() => removeEventListener("themechange", recolour));
  app.open("blocks", {}, 1000, (data) => {
    blocks = data.blocks;
    redraw();
  });
}

/** What happened to a block, the first first: us after the first, what, by which peer, in words. */
function events({ told, asked, missing, completed_after_us: completed, connected }) {
  const all = told.map((one) => ({ after: one.after_us, what: one.via, peer: one.peer, words: one.via }));
  if (asked) all.push({ after: asked.after_us, what: "asked for", peer: asked.peer, words: "was asked for the block" });
  if (missing) all.push({ after: missing.after_us, what: "asked for", peer: missing.peer, words: `was asked for ${count(missing.transactions)} transactions` });
  if (completed !== null) all.push({ after: completed, what: "rest came", peer: null, words: "missing transactions came" });
  if (connected) all.push({ after: connected.after_us, what: "connected", peer: null, words: "connected" });
  return all.sort((a, b) => a.after - b.after);
}

/** One scale for all blocks. Most happens in the first milliseconds, some of it minutes later. */
function axis(blocks) {
  const most = 1.2 * Math.max(SHORTEST, ...blocks.flatMap((block) => events(block).map(({ after }) => after)));
  const x = (us) => (100 * Math.log1p(us / LINEAR)) / Math.log1p(most / LINEAR);
  return { x, ticks: TICKS.filter(([us]) => us <= most) };
}

function mark(what, properties) {
  return paint(h("i", { class: `mark ${MARKS[what].shape ?? ""}`, "data-what": what, "aria-hidden": "true", ...properties }));
}

function paint(element) {
  const { type } = MARKS[element.dataset.what];
  element.style.setProperty("--mark-colour", type ? kindColour(kindOf(type)) : colour("text"));
  return element;
}

/** A block, which is drawn again while more becomes known of it. */
function entry(app, { hash: whole, first_us: begin }) {
  const [title, teller, way, facts, summary, list] = [h("b"), h("span"), h("div", { class: "way" }), h("p", { class: "dim" }), h("summary"), h("ol")];
  const details = h("details", {}, summary, list);
  const times = keyed(list, {
    key: ({ after, what, peer, words }) => `${after} ${what} ${peer} ${words}`,
    make: ({ after, what, peer, words }) => h("li", {}, mark(what), h("span", { class: "num" }, duration(after)), peer === null ? words : h("span", {}, app.peer(peer), ` ${words}`)),
  });
  const element = h("article", { class: "block" },
    h("h3", {}, title, h("span", { class: "mono", title: whole }, hash(whole)), h("span", {}, date(begin)), teller), way, facts, details);
  element.draw = (block, { x, ticks }, width) => {
    const all = events(block);
    text(title, block.connected ? `Block ${count(block.connected.height)}` : "Block");
    first(app, teller, block);
    // One event is no way; what happened is told below in words.
    way.hidden = details.hidden = all.length < 2;
    facts.hidden = !way.hidden;
    put(way, ticks.map(([us]) => h("i", { class: "tick", vars: { left: `${x(us)}%` } })), bars(all, x, width));
    text(facts, told(block));
    text(summary, told(block));
    times(all);
  };
  return element;
}

/** Marks, and above them the peers, as far as there is room. */
function bars(all, x, width) {
  const ends = new Array(LANES).fill(-Infinity);
  return all.flatMap(({ after, what, peer, words }) => {
    const left = `calc(${x(after)} * (100% - 4px) / 100)`;
    const bar = mark(what, { title: `${peer === null ? "" : `peer ${peer}: `}${words}, ${duration(after)}`, vars: { left } });
    const at = (x(after) * width) / 100;
    const room = DIGIT * String(peer).length + DIGIT;
    const lane = peer === null ? -1 : ends.findIndex((end) => end <= at);
    if (lane < 0) return [bar];
    ends[lane] = at + room;
    return [bar, h("span", { class: lane ? "who second" : "who", "aria-hidden": "true", vars: { left: `min(${left}, 100% - ${room}px)` } }, String(peer))];
  });
}

/** Who was first: not always the first of what happened. */
function first(app, element, { told: [teller], asked }) {
  const early = teller && asked && asked.after_us <= teller.after_us ? asked : null;
  const key = teller ? `${teller.peer} ${teller.via} ${early?.peer}` : "";
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  put(element, early ? ["asked for from ", app.peer(early.peer), ", "] : null, teller ? ["first from ", app.peer(teller.peer), ` by ${teller.via}`] : null);
}

function told({ told: tellers, connected, compact, missing, rebuilt }) {
  return [
    connected ? `${count(connected.transactions)} tx, ${count(connected.inputs)} inputs, connected in ${duration(connected.duration_us)}` : "not connected",
    tellers.length ? null : "nobody was heard telling of it",
    compact ? `compact: ${count(compact.short_ids)} short ids, ${count(compact.whole)} whole` : null,
    missing ? `${count(missing.transactions)} transactions were missing` : compact && connected ? "nothing was missing" : null,
    rebuilt ? `${count(rebuilt.mempool)} from the mempool, ${count(rebuilt.requested)} requested` : null,
    connected && tellers.length ? `${duration(connected.after_us)} from the first word to the chain` : null,
  ].filter(Boolean).join(" · ");
}

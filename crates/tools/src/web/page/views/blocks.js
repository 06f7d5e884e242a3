// Blocks: from the first header to the chain.

import { colour, seriesColour } from "../lib/chart.js";
import { h, nothing, panel, put } from "../lib/dom.js";
import { count, date, duration, hash } from "../lib/format.js";

const MARKS = [["headers", 0], ["inv", 4], ["cmpctblock", 2], ["block", 6], ["asked for", 3], ["came whole", 5]];
const at = (name) => seriesColour(MARKS.find(([mark]) => mark === name)?.[1] ?? 7);

export function show(app, root) {
  const list = h("div");
  const key = () => h("div", { class: "blocks-key" }, [...MARKS.map(([name]) => [name, at(name)]), ["connected", colour("good")]].map(([name, c]) => h("span", {}, h("i", { vars: { background: c }, "aria-hidden": "true" }), name)));
  put(root, h("div", { class: "head" }, h("h1", {}, "Blocks"), h("p", { class: "lead" }, "who told of them first, what was missing, how long they took")),
    h("div", { class: "grid" }, panel("From the first word to the chain", null, key(), list)));
  let last = "";
  app.open("blocks", {}, 1000, (data) => {
    const next = JSON.stringify(data.blocks);
    if (next === last) return;
    last = next;
    put(list, data.blocks.length ? data.blocks.map((block) => draw(app, block)) : nothing("No block yet", "Blocks show here as soon as a peer tells of one."));
  });
}

function draw(app, block) {
  const { told, connected, compact, missing, rebuilt, asked } = block;
  const events = told.map((one) => [one.after_us, at(one.via), `peer ${one.peer}: ${one.via}, ${duration(one.after_us)} after the first`]);
  if (asked) events.push([asked.after_us, at("asked for"), `asked peer ${asked.peer} for the block after ${duration(asked.after_us)}`]);
  if (missing) events.push([missing.after_us, at("asked for"), `asked peer ${missing.peer} for ${missing.transactions} transactions after ${duration(missing.after_us)}`]);
  if (block.completed_after_us !== null) events.push([block.completed_after_us, at("came whole"), `missing transactions came after ${duration(block.completed_after_us)}`]);
  if (connected) events.push([connected.after_us, colour("good"), `connected after ${duration(connected.after_us)}`]);
  const most = Math.max(1, ...events.map(([after]) => after));
  // Most happens in the first milliseconds, some of it minutes later.
  const x = (us) => (100 * Math.log1p(us / 100)) / Math.log1p(most / 100);
  const facts = [
    connected ? `${count(connected.transactions)} tx, ${count(connected.inputs)} inputs, connected in ${duration(connected.duration_us)}` : "not connected",
    told.length ? null : "nobody was heard telling of it",
    compact ? `compact: ${count(compact.short_ids)} short ids, ${count(compact.whole)} whole` : null,
    missing ? `${count(missing.transactions)} transactions were missing` : compact && connected ? "nothing was missing" : null,
    rebuilt ? `${count(rebuilt.mempool)} from the mempool, ${count(rebuilt.requested)} requested` : null,
  ].filter(Boolean);
  const first = told[0];
  return h("article", { class: "block" },
    h("h3", {}, connected ? `Block ${count(connected.height)}` : "Block", h("span", { class: "mono", title: block.hash }, hash(block.hash)), h("span", {}, date(block.first_us)), first ? h("span", {}, "first from ", app.peer(first.peer), ` by ${first.via}`) : null),
    h("div", { class: "way", role: "img", "aria-label": events.map(([, , words]) => words).join("; ") || "nothing else was seen" },
      events.map(([after, c, words]) => h("i", { title: words, vars: { left: `calc(${x(after)} * (100% - 3px) / 100)`, background: c } }))),
    h("p", { class: "dim" }, facts.join(" · "), connected && told.length ? ` · ${duration(connected.after_us)} from the first word to the chain` : ""));
}

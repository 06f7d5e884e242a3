// Where events are, where they were lost, how long they took.

import { chart, colour } from "../lib/chart.js";
import { h, panel, put, stats } from "../lib/dom.js";
import { ago, bytes, certainty, count, duration, short } from "../lib/format.js";
import { table } from "../lib/table.js";

export function show(app, root) {
  let now = 0;
  // Events among which losses cannot be seen.
  let unseen = 0;
  const numbers = stats("Pipeline");
  const rates = chart("Events a second that reached this page's server", "small");
  const n = (key, title, hint) => ({ key, title, hint, num: true, text: (row) => count(row[key]) });
  const events = table([
    { key: "node", title: "Node" }, { key: "extractor", title: "Extractor" }, { key: "subject", title: "Subject", class: "mono" }, n("count", "Events"),
  ], { name: "pipeline.events", caption: "Events so far", key: (row) => `${row.node} ${row.extractor} ${row.subject}`, sort: ["count", "descending"], empty: "No event yet." });
  const hits = table([
    { key: "node", title: "Node" }, { key: "pid", title: "Process", num: true }, { key: "tracepoint", title: "Tracepoint", class: "mono" },
    n("hits", "Hits"), n("published", "Published"), n("dropped", "Dropped", "The kernel's ring buffer was full"), n("unread", "Unread", "An argument could not be read"),
  ], { name: "pipeline.hits", caption: "Hits of tracepoints and what became of them", key: (row) => `${row.node} ${row.pid} ${row.tracepoint}`, sort: ["hits", "descending"], empty: "No books yet: the eBPF extractor tells them every ten seconds." });
  const lost = table([
    { key: "stage", title: "Where" }, { key: "cause", title: "Why" }, { key: "component", title: "Who" }, n("count", "Events"),
  ], { name: "pipeline.lost", caption: "Events lost so far", key: (row) => `${row.stage} ${row.cause} ${row.component}`, sort: ["count", "descending"], empty: () => `Nothing was lost that can be seen: ${certainty(unseen)}.` });
  const losses = table([
    { key: "time_us", title: "Ago", num: true, text: (row) => ago(row.time_us, now) }, { key: "stage", title: "Where" }, { key: "cause", title: "Why" }, { key: "component", title: "Who" }, { key: "what", title: "What", text: (row) => row.what ?? "" }, n("count", "Events"),
  ], { name: "pipeline.losses", caption: "The last losses", key: (row) => JSON.stringify(row), sort: ["time_us", "descending"], tall: true, empty: "None." });
  put(root, h("div", { class: "head" }, h("h1", {}, "Pipeline"), h("p", { class: "lead" }, "from the probes to this page")),
    numbers.element,
    h("div", { class: "grid" }, panel("Events a second", "w6", rates.element), panel("Lost", "w6", lost.element), panel("Events", "w6", events.element), panel("The last losses", "w6", losses.element), panel("Probes", null, hits.element)));
  app.open("pipeline", {}, 1000, (data) => {
    now = data.now_us;
    const { own } = data;
    unseen = data.without_origin;
    // The queues of other tools: this page misses nothing of that.
    const elsewhere = data.lost.reduce((all, row) => all + row.count, 0) - data.total;
    const here = own.lost_queue + own.lost_transport;
    numbers.set([
      ["Latency", duration(data.latency?.median_us ?? null), "", data.latency ? `99 of 100 below ${duration(data.latency.p99_us)}` : "no event in the last minute"],
      ["Events", short(own.received), "", own.undecodable ? `${count(own.undecodable)} undecodable` : "received"],
      ["Lost", count(data.total), "events", [here ? `${count(here)} before this page` : null, elsewhere ? `${count(elsewhere)} more by other tools` : null].filter(Boolean).join(", ") || (unseen ? certainty(unseen) : "")],
      ["Waiting", count(own.queue_events), "events", bytes(own.queue_bytes)],
      ["Clients", count(own.clients), "", own.skipped_updates || own.skipped_events ? `slow ones missed ${short(own.skipped_updates + own.skipped_events)}` : "none is slow"],
      ["Running", duration(own.uptime_s * 1_000_000), ""],
    ]);
    // The last second is not over yet.
    const values = data.rates.slice(0, -1);
    rates.set({ start: data.now_us - values.length * 1_000_000, step: 1_000_000, series: [{ name: "events", colour: colour("s0"), values }], unit: "/s", least: 10 });
    lost.set(data.lost);
    losses.set(data.losses);
    events.set(data.events);
    hits.set(data.hits);
  });
}

// The address manager: new and tried tables.

import { bars, h, nothing, panel, put, stats } from "../lib/dom.js";
import { ago, count } from "../lib/format.js";
import { table } from "../lib/table.js";

export function show(app, root) {
  const numbers = stats("Address manager");
  const networks = bars("Entries by network, new and tried", [["new", "accent"], ["tried", "out"]]);
  const grid = h("div", { class: "grid" });
  const sums = (name, title) => table([
    { key: "name", title, class: "mono" },
    { key: "new", title: "New", num: true, text: (row) => count(row.new) },
    { key: "tried", title: "Tried", num: true, text: (row) => count(row.tried) },
  ], { name: `addrman.${name}`, caption: title, key: (row) => row.name, sort: ["new", "descending"], tall: true });
  const [groups, systems] = [sums("groups", "Netgroup"), sums("systems", "AS")];
  const sources = table([{ key: "name", title: "Netgroup of the source", class: "mono" }, { key: "count", title: "Entries", num: true, text: (row) => count(row.count) }], { name: "addrman.sources", caption: "Where entries came from", key: (row) => row.name, sort: ["count", "descending"], tall: true });
  put(root, h("div", { class: "head" }, h("h1", {}, "Address manager"), h("p", { class: "lead" }, "addresses that the node knows")), numbers.element, grid);
  let shape = "";
  app.open("addrman", {}, 2000, (data) => {
    const own = data.networks ?? data.tables?.networks ?? null;
    const wanted = [Boolean(own), Boolean(data.tables), Boolean(data.tables?.systems.length)].join();
    if (wanted !== shape) {
      shape = wanted;
      put(grid,
        own ? panel("By network", null, networks.element) : panel("By network", null, nothing("No answer of getaddrmaninfo yet", "The address manager is told over RPC. peer-observer run asks by itself, if bitcoin.conf has server=1; beside a NATS server this does:", "peer-observer extract rpc")),
        app.limited ? panel("Netgroups, sources, autonomous systems", null, nothing("Hidden", "What leads to addresses is not shown in limited mode.")) : null,
        data.tables ? panel("Netgroups", "w6", groups.element) : null,
        data.tables ? panel("Sources", "w6", sources.element) : null,
        data.tables?.systems.length ? panel("Autonomous systems", "w6", systems.element) : null);
    }
    if (!own) return;
    const sum = (key) => own.reduce((all, row) => all + row[key], 0);
    numbers.set([
      ["New", count(sum("new")), "addresses", "heard of"],
      ["Tried", count(sum("tried")), "addresses", "connected to before"],
      ["Networks", count(own.length), ""],
      ["Tables", data.tables ? ago(data.tables.time_us, data.now_us) : "–", data.tables ? "old" : "", data.tables ? whole(data.tables) : app.limited ? "hidden" : "getrawaddrman not asked"],
    ]);
    networks.set(own.filter((row) => row.new + row.tried).map((row) => [row.network, [row.new, row.tried], `${count(row.new)} new, ${count(row.tried)} tried`]));
    if (data.tables) {
      groups.set(data.tables.groups);
      systems.set(data.tables.systems);
      sources.set(data.tables.sources);
    }
  });
}

/** How much of the tables is there: they can come in parts. */
function whole({ parts: [came, all], group_count: groups }) {
  return `${came < all ? `part ${count(came)} of ${count(all)} · ` : ""}${count(groups)} netgroups`;
}

// Tables that are sorted, and change in place: rows keep their identity, cells are written only when they differ.

import { arrange, h, svg, text } from "./dom.js";
import { keep, recall } from "./store.js";

// More rows than this are shown when asked for.
const ROWS = 300;

/** A sparkline for a cell. */
export function spark() {
  const path = svg("path", { d: "" });
  const element = svg("svg", { class: "spark", viewBox: "0 0 60 18", preserveAspectRatio: "none", "aria-hidden": "true" }, path);
  let last = "";
  return {
    element,
    set(values) {
      const most = Math.max(4, ...values);
      const wide = 59 / Math.max(1, values.length - 1);
      // One value is a dot: a line of no length.
      const alone = values.length === 1;
      path.setAttribute("class", alone ? "dot-alone" : "");
      const d = alone ? "M30 9h.01" : values.map((v, i) => `${i ? "L" : "M"}${(i * wide).toFixed(1)} ${(17 - (16 * v) / most).toFixed(1)}`).join("");
      if (d !== last) path.setAttribute("d", (last = d));
    },
  };
}

/**
 * A table. A column: { key, title, num, value(row) for sorting, text(row), make(cell) and set(made, row) for what is no text, hint,
 * optional(row): while it is nothing for every row, the column is hidden }.
 * `options`: { name (what is chosen is kept under it), caption, key(row), sort: [key, "ascending"], tall, empty (text, or a function that says it) }
 */
export function table(columns, options) {
  let [sortKey, order] = recall(`sort.${options.name}`, options.sort);
  let rows = [];
  let group = null;
  let limit = ROWS;
  const known = new Map();
  const groups = new Map();
  const empty = h("td", { class: "dim" });
  const emptyRow = h("tr", {}, empty);
  const heads = columns.map((column) => {
    const value = column.value ?? ((row) => row[column.key]);
    column.value = value;
    const button = h("button", { type: "button", title: column.hint, onclick: () => sort(column) }, column.title);
    return h("th", { scope: "col", class: column.num ? "num" : null }, button);
  });
  const body = h("tbody");
  const element = h("table", {}, h("caption", { class: options.showCaption ? null : "sr" }, options.caption), h("thead", {}, h("tr", {}, heads)), body);
  const more = h("button", { type: "button", class: "tool more", hidden: true, onclick: () => { limit *= 4; draw(); } }, "");
  const box = h("div", { class: options.tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": options.caption }, element);

  function sort(column) {
    if (sortKey === column.key) order = order === "ascending" ? "descending" : "ascending";
    else [sortKey, order] = [column.key, column.num ? "descending" : "ascending"];
    keep(`sort.${options.name}`, [sortKey, order]);
    draw();
  }

  function compare(a, b) {
    const nothing = (v) => v === null || v === undefined || v === "";
    if (nothing(a) || nothing(b)) return nothing(a) - nothing(b);
    const less = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return order === "ascending" ? less : -less;
  }

  function line(row) {
    const key = options.key(row);
    let entry = known.get(key);
    if (!entry) {
      const cells = columns.map((column) => {
        const cell = h("td", { class: column.num ? "num" : (column.class ?? null) });
        return { cell, made: column.make?.(cell, row) };
      });
      entry = { element: h("tr", {}, cells.map(({ cell }) => cell)), cells };
      known.set(key, entry);
    }
    columns.forEach((column, at) => {
      const { cell, made } = entry.cells[at];
      cell.hidden = heads[at].hidden;
      if (column.set) column.set(made, row, cell);
      else text(cell, column.text ? column.text(row) : row[column.key]);
    });
    return entry.element;
  }

  /** The row above a group. */
  function heading(name, members, wide) {
    if (!groups.has(name)) groups.set(name, h("tr", { class: "group" }, h("th", { scope: "colgroup" })));
    const row = groups.get(name);
    row.firstChild.setAttribute("colspan", wide);
    text(row.firstChild, `${name} (${members})`);
    return row;
  }

  function draw() {
    columns.forEach((column, at) => {
      if (column.key === sortKey) heads[at].setAttribute("aria-sort", order);
      else heads[at].removeAttribute("aria-sort");
    });
    columns.forEach((column, at) => { heads[at].hidden = Boolean(column.optional) && !rows.some(column.optional); });
    const wide = String(heads.filter((head) => !head.hidden).length);
    const column = columns.find(({ key }) => key === sortKey) ?? columns[0];
    const sorted = rows.map((row) => [column.value(row), row]).sort(([a], [b]) => compare(a, b)).map(([, row]) => row);
    const shown = sorted.slice(0, limit);
    const wanted = [];
    if (group) {
      const members = Map.groupBy ? Map.groupBy(shown, group) : shown.reduce((all, row) => all.set(group(row), [...(all.get(group(row)) ?? []), row]), new Map());
      for (const [name, all] of [...members].sort((a, b) => b[1].length - a[1].length)) {
        wanted.push(heading(name, all.length, wide), ...all.map(line));
      }
      for (const name of groups.keys()) if (!members.has(name)) groups.delete(name);
    } else {
      wanted.push(...shown.map(line));
    }
    if (wanted.length === 0) {
      empty.setAttribute("colspan", wide);
      text(empty, typeof options.empty === "function" ? options.empty() : (options.empty ?? "Nothing to show."));
      wanted.push(emptyRow);
    }
    // Rows keep their focus and selection.
    arrange(body, wanted);
    more.hidden = sorted.length <= limit;
    text(more, `Show more (${sorted.length - shown.length} left)`);
    if (known.size > 2 * rows.length + 100) {
      const keys = new Set(rows.map(options.key));
      for (const key of known.keys()) if (!keys.has(key)) known.delete(key);
    }
  }

  return {
    element: h("div", {}, box, more),
    set(newRows, grouping = null) {
      rows = newRows;
      group = grouping;
      draw();
    },
  };
}

// Tables that are sorted, and change in place: rows keep their identity, cells are written only when they differ.

import { h, svg, text } from "./dom.js";
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
      const d = values.map((v, i) => `${i ? "L" : "M"}${(i * wide).toFixed(1)} ${(17 - (16 * v) / most).toFixed(1)}`).join("");
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
      const groups = Map.groupBy ? Map.groupBy(shown, group) : shown.reduce((all, row) => all.set(group(row), [...(all.get(group(row)) ?? []), row]), new Map());
      for (const [name, members] of [...groups].sort((a, b) => b[1].length - a[1].length)) {
        wanted.push(h("tr", { class: "group" }, h("th", { colspan: wide, scope: "colgroup" }, `${name} (${members.length})`)));
        wanted.push(...members.map(line));
      }
    } else {
      wanted.push(...shown.map(line));
    }
    if (wanted.length === 0) {
      wanted.push(h("tr", {}, h("td", { colspan: wide, class: "dim" }, typeof options.empty === "function" ? options.empty() : (options.empty ?? "Nothing to show."))));
    }
    // Rows that stay where they are keep their focus and selection.
    const same = wanted.length === body.children.length && wanted.every((row, at) => row === body.children[at]);
    if (!same) {
      const focused = document.activeElement;
      body.replaceChildren(...wanted);
      if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
    }
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

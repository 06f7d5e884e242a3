// Building the page. Text is always set as text: what a peer calls itself can never become markup. (The page's security policy
// forbids the ways in which it could.)

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element: `h("a", { href: "#/", class: "row" }, "text", child)`. `vars` sets styles, `onclick` listens. */
export function h(name, properties, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An element of a drawing. */
export function svg(name, properties, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

/** Sets text, if it is another one: a page that is not changed is not laid out again. */
export function text(element, value) {
  const string = String(value ?? "");
  if (element.textContent !== string) element.textContent = string;
  return element;
}

/** Puts these children in the place of what is there. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// What can have the focus, among what the page is made of.
const FOCUSABLE = "a[href], button, summary";

/**
 * Puts these elements there in that order. One that has the focus, or holds what has it, stays where it is: the others are moved around
 * it. When it goes, what comes in its place gets the focus, so that who has only keys does not begin at the top again.
 */
export function arrange(parent, wanted) {
  const old = [...parent.children];
  const focused = old.findIndex((child) => child.contains(document.activeElement));
  const stays = new Set(wanted);
  for (const child of old) if (!stays.has(child)) child.remove();
  const still = wanted.indexOf(old[focused]);
  settle(parent, wanted.slice(0, Math.max(0, still)), parent.firstElementChild);
  settle(parent, wanted.slice(still + 1), still < 0 ? parent.firstElementChild : wanted[still].nextElementSibling);
  if (focused < 0 || still >= 0) return;
  const heirs = [...wanted.slice(focused), ...wanted.slice(0, focused).reverse()].map((child) => child.querySelector(FOCUSABLE));
  (heirs.find(Boolean) ?? parent.closest("[tabindex]"))?.focus({ preventScroll: true });
}

/** Puts elements in that order before the place. */
function settle(parent, wanted, place) {
  for (const child of wanted) {
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
}

/**
 * A list that changes in place: `make(row)` makes an element for each new `key(row)`, and `fill(element, row)` writes into it what
 * changed. Without rows, `empty` is shown.
 */
export function keyed(parent, { key, make, fill, empty }) {
  let known = new Map();
  return (rows) => {
    const now = new Map();
    for (const row of rows) {
      const name = key(row);
      const element = known.get(name) ?? make(row);
      fill?.(element, row);
      now.set(name, element);
    }
    known = now;
    arrange(parent, now.size || !empty ? [...now.values()] : [empty]);
  };
}

/** A panel with a heading. */
export function panel(title, width, ...children) {
  return h("section", { class: `panel ${width ?? ""}` }, h("h2", {}, title), ...children);
}

/** What is shown in a panel where there is nothing (yet). */
export function nothing(title, ...lines) {
  return state("h3", title, lines);
}

/** The same in the place of all panels. */
export function nothingAtAll(title, ...lines) {
  return state("h2", title, lines);
}

function state(heading, title, lines) {
  return h("div", { class: "state in-panel" }, h(heading, {}, title), lines.map((line) => h("p", {}, line)));
}

/** Buttons of which one is pressed. */
export function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, title]) =>
    h("button", {
      type: "button",
      "aria-pressed": String(value === chosen),
      onclick: (event) => {
        for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
        choose(value);
      },
    }, title));
  return h("div", { class: "seg", role: "group", "aria-label": label }, buttons);
}

/** Numbers that matter, each with a name: `set` takes [name, value, unit, below]. */
export function stats(label) {
  const list = h("dl", { class: "stats", "aria-label": label });
  const known = [];
  return {
    element: list,
    set(rows) {
      rows.forEach(([name, value, unit, below], at) => {
        let row = known[at];
        if (!row) {
          row = { name: h("dt"), value: h("span"), unit: h("small"), below: h("div", { class: "sub" }) };
          known.push(row);
          list.append(h("div", { class: "stat" }, row.name, h("dd", {}, row.value, " ", row.unit, row.below)));
        }
        text(row.name, name);
        text(row.value, value);
        text(row.unit, unit);
        text(row.below, below);
      });
    },
  };
}

/** What is known of something: `set` takes [name, value], leaves out what has no value, and keeps an element that is a value. */
export function facts() {
  const list = h("dl", { class: "facts" });
  const known = new Map();
  return {
    element: list,
    set(rows) {
      const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
      arrange(list, shown.flatMap(([name, value]) => {
        if (!known.has(name)) known.set(name, [h("dt", {}, name), h("dd")]);
        const [, told] = known.get(name);
        if (!(value instanceof Node)) text(told, value);
        else if (told.firstChild !== value) put(told, value);
        return known.get(name);
      }));
    },
  };
}

/** Bars with a name before and a number behind each: `set` takes [name, values, text]. `parts` names what bars of more than one value
 * are made of, with colours of the theme. */
export function bars(label, parts = [["", "accent"]]) {
  const box = h("div", { class: "bars", role: "list", "aria-label": label });
  const swatch = ([, colour]) => h("i", { vars: { background: `var(--${colour})` }, "aria-hidden": "true" });
  const key = parts.length > 1 ? h("ul", { class: "legend bars-key" }, parts.map((part) => h("li", {}, swatch(part), part[0]))) : null;
  const rows = [];
  return {
    element: key ? h("div", {}, box, key) : box,
    set(list) {
      const most = Math.max(1, ...list.map(([, values]) => values.reduce((a, b) => a + b, 0)));
      while (rows.length > list.length) rows.pop().row.remove();
      list.forEach(([name, values, shown], index) => {
        let row = rows[index];
        if (!row) {
          row = { name: h("span"), track: h("span", { class: "track", "aria-hidden": "true" }), shown: h("span", { class: "num" }) };
          row.row = h("div", { role: "listitem" }, row.name, row.track, row.shown);
          box.append(row.row);
          rows.push(row);
        }
        text(row.name, name);
        text(row.shown, shown);
        while (row.track.children.length < values.length) row.track.append(swatch(parts[row.track.children.length]));
        values.forEach((value, at) => row.track.children[at].style.setProperty("width", `${(100 * value) / most}%`));
      });
    },
  };
}

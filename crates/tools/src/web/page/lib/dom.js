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
  const known = new Map();
  return {
    element: list,
    set(rows) {
      for (const [name, value, unit, below] of rows) {
        let row = known.get(name);
        if (!row) {
          row = { value: h("span"), unit: h("small"), below: h("div", { class: "sub" }) };
          known.set(name, row);
          list.append(h("div", { class: "stat" }, h("dt", {}, name), h("dd", {}, row.value, " ", row.unit, row.below)));
        }
        text(row.value, value);
        text(row.unit, unit);
        text(row.below, below);
      }
    },
  };
}

/** Bars with a name before and a number behind each: `set` takes [name, values, text]. */
export function bars(label) {
  const box = h("div", { class: "bars", role: "list", "aria-label": label });
  const rows = [];
  return {
    element: box,
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
        while (row.track.children.length < values.length) row.track.append(h("i"));
        values.forEach((value, at) => row.track.children[at].style.setProperty("width", `${(100 * value) / most}%`));
      });
    },
  };
}

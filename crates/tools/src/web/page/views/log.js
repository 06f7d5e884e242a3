// The node's debug.log, live.

import { h, nothing, put, text } from "../lib/dom.js";
import { count, exact } from "../lib/format.js";
import { keep, recall } from "../lib/store.js";

// Lines that are kept in the page.
const KEPT = 5000;
const SHOWN = 1500;

export function show(app, root, parameters) {
  let filter = parameters.filter ?? "";
  let mark = parameters.mark ?? recall("log.mark", "");
  let category = parameters.category ?? "";
  let lines = [];
  let skipped = 0;
  let follow = true;
  const lead = h("p", { class: "lead" });
  const box = h("div", { class: "log", tabindex: "0", role: "log", "aria-label": "Lines of debug.log", "aria-live": "off" });
  const input = (label, value, changed) => h("input", { type: "search", placeholder: label, "aria-label": label, value, oninput: (event) => changed(event.target.value) });
  const categories = h("select", { "aria-label": "Category", onchange: (event) => { category = event.target.value; app.set("category", category); redraw(); } }, h("option", { value: "" }, "all categories"));
  put(root, h("div", { class: "head" }, h("h1", {}, "Log"), lead, h("div", { class: "right" }, categories,
    input("only lines with …", filter, (value) => { filter = value; app.set("filter", value); redraw(); }),
    input("highlight …", mark, (value) => { mark = value; keep("log.mark", value); app.set("mark", value); redraw(); }))), box);
  box.addEventListener("scroll", () => { follow = box.scrollHeight - box.scrollTop - box.clientHeight < 40; });

  const wanted = (line) => (!category || line.category === category) && (!filter || `${line.text} ${line.thread}`.toLowerCase().includes(filter.toLowerCase()));

  function element(line) {
    return h("div", { class: line.level }, h("span", { class: "dim" }, exact(line.time_us)), " ", line.category === "UNKNOWN" ? null : h("span", { class: "cat" }, `[${line.category.toLowerCase()}] `), line.thread ? h("span", { class: "dim" }, `[${line.thread}] `) : null, marked(line.text));
  }

  function marked(words) {
    if (!mark) return words;
    const parts = [];
    const [low, needle] = [words.toLowerCase(), mark.toLowerCase()];
    let from = 0;
    for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
      parts.push(words.slice(from, at), h("mark", {}, words.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    return [...parts, words.slice(from)];
  }

  function redraw() {
    const shown = lines.filter(wanted).slice(-SHOWN);
    put(box, shown.length ? shown.map(element) : nothing(lines.length ? "No line matches" : "No line yet", ...(lines.length ? [] : ["The log is told by peer-observer extract log --log-file DEBUG.LOG."])));
    end();
    say();
  }

  function end() {
    if (follow) box.scrollTop = box.scrollHeight;
  }

  function say() {
    text(lead, `${count(lines.length)} lines kept here${skipped ? `, ${count(skipped)} left out because they came too fast` : ""}${follow ? "" : " · scroll down to follow"}`);
  }

  redraw();
  app.open("log", { limit: 1000 }, 400, (data) => {
    const empty = lines.length === 0;
    skipped += data.skipped;
    // A connection that came back begins with lines that are here already.
    const newest = lines.at(-1)?.number ?? 0;
    const fresh = data.next < newest ? data.lines : data.lines.filter((line) => line.number > newest);
    if (data.next < newest) lines = [];
    lines = lines.concat(fresh).slice(-KEPT);
    for (const name of new Set(fresh.map((line) => line.category))) {
      if (![...categories.options].some((option) => option.value === name)) categories.append(h("option", { value: name, selected: name === category }, name.toLowerCase()));
    }
    if (empty || data.next < newest) return redraw();
    box.append(...fresh.filter(wanted).map(element));
    while (box.children.length > SHOWN) box.firstChild.remove();
    end();
    say();
  });
}

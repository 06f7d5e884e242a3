// The node's debug.log, live.

import { h, nothingAtAll, put, text } from "../lib/dom.js";
import { count, exact } from "../lib/format.js";
import { keep, recall } from "../lib/store.js";

// Lines that are kept in the page.
const KEPT = 5000;
const SHOWN = 1500;
// Lines that are fetched at once: as many as the server keeps.
const FETCHED = 4000;

export function show(app, root, parameters) {
  if (app.limited) {
    put(root, h("div", { class: "head" }, h("h1", {}, "Log")), nothingAtAll("Hidden", "The log tells addresses; in limited mode it is not shown."));
    return;
  }
  let filter = parameters.filter ?? "";
  let mark = parameters.mark ?? recall("log.mark", "");
  let category = parameters.category ?? "";
  let lines = [];
  let skipped = 0;
  let follow = true;
  let fetching = false;
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
    put(box, shown.length ? shown.map(element) : nothingAtAll(lines.length ? "No line matches" : "No line yet", ...(lines.length ? [] : ["peer-observer run reads the node's debug.log by itself; beside a NATS server, peer-observer extract log --log-file DEBUG.LOG does."])));
    end();
    say();
  }

  function end() {
    if (follow) box.scrollTop = box.scrollHeight;
  }

  function say() {
    text(lead, `${count(lines.length)} lines kept here${skipped ? `, ${count(skipped)} left out: more came than were taken` : ""}${follow ? "" : " · scroll down to follow"}`);
  }

  redraw();
  addEventListener("pausechange", redraw);
  app.atEnd(() => removeEventListener("pausechange", redraw));
  /** Fetches lines between two that are here: more came at once than the server sends by itself. What it still has is shown. */
  async function fetchBetween(before, after) {
    if (fetching) return;
    fetching = true;
    const query = new URLSearchParams({ ...(app.node ? { node: app.node } : {}), after: before, limit: FETCHED });
    const answer = await fetch(`/api/v1/log?${query}`).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
    fetching = false;
    if (app.ended || !answer) return;
    const found = answer.lines.filter((line) => line.number > before && line.number < after);
    const place = lines.findIndex((line) => line.number >= after);
    // A server that was started again counts anew: what it has is not what was missed.
    if (place < 1 || lines[place - 1].number !== before || answer.next < after) return;
    lines = [...lines.slice(0, place), ...found, ...lines.slice(place)].slice(-KEPT);
    skipped -= found.length;
    offer(found);
    if (!app.paused) redraw();
  }

  /** Offers the categories of lines. */
  function offer(some) {
    for (const name of new Set(some.map((line) => line.category))) {
      if (![...categories.options].some((option) => option.value === name)) categories.append(h("option", { value: name, selected: name === category }, name.toLowerCase()));
    }
  }

  // While paused, lines are kept but not shown: the server counts them as sent.
  app.open("log", { limit: 1000 }, 400, (data) => {
    // A connection that came back begins with lines that are here already, or with later ones than the next.
    const newest = lines.at(-1)?.number ?? 0;
    const anew = data.next < newest;
    if (anew) lines = [];
    const fresh = lines.length ? data.lines.filter((line) => line.number > newest) : data.lines;
    const gap = lines.length && fresh.length ? fresh[0].number - newest - 1 : 0;
    const empty = lines.length === 0;
    lines = lines.concat(fresh).slice(-KEPT);
    offer(fresh);
    if (gap) {
      skipped += gap;
      fetchBetween(newest, fresh[0].number);
    }
    if (app.paused) return;
    const matching = fresh.filter(wanted);
    if (empty || (matching.length && box.querySelector(".state"))) return redraw();
    box.append(...matching.map(element));
    while (box.children.length > SHOWN) box.firstChild.remove();
    end();
    say();
  }, { always: true });
}

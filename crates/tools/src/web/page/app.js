// The frame around the views: menu, node, status, theme, keys. A view is a module with `show(app, root, parameters)`; what it opens
// and schedules ends when another one is shown.

import { h, put, text } from "./lib/dom.js";
import { clock, date, rate } from "./lib/format.js";
import { keep, recall } from "./lib/store.js";
import { Stream } from "./lib/stream.js";
import { views } from "./views.js";

const $ = (id) => document.getElementById(id);
const menu = views.filter((view) => view.title);
const THEMES = ["system", "light", "dark"];
// Views of which nothing is left where addresses are hidden.
const HIDDEN = new Set(["log"]);

let shown = null;
let health = null;
// Nothing until the server told which there are.
let nodes = null;
// The node that was picked here for a reader who named none.
let picked = null;
let limited = null;
let paused = false;
let dataSeen = false;

const stream = new Stream(changed);

/** The connection, or what the server says of itself, changed. */
function changed() {
  const now = stream.hello?.limited ?? null;
  if (now !== limited) {
    limited = now;
    for (const link of $("menu").querySelectorAll("a")) link.parentElement.hidden = limited && HIDDEN.has(link.dataset.view);
    route();
  }
  status();
}

// --- where one is: #/view?node=alice&...

function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parameters = Object.fromEntries(new URLSearchParams(query ?? ""));
  const name = views.some((view) => view.name === path) ? path : "overview";
  return { name, parameters };
}

function address(name, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return `#/${name}${query.size ? `?${query}` : ""}`;
}

/** The node to show: the one that is asked for, or the first by name that tells of messages. */
function nodeFor(asked) {
  // What was picked here can turn out to be silent, or leave.
  const silent = asked === picked && !nodes.find((one) => one.name === asked)?.messages;
  if (asked && !silent) return asked;
  return (nodes.find((one) => one.messages > 0) ?? nodes[0])?.name ?? asked ?? null;
}

/** What a view can use. */
class App {
  #ends = [];
  ended = false;

  constructor(parameters) {
    this.parameters = parameters;
    this.node = parameters.node ?? null;
    this.limited = Boolean(limited);
  }

  get paused() {
    return paused;
  }

  /** What the topic of that name said last; nothing at first. */
  get health() {
    return health;
  }

  /**
   * Opens a topic of this node while the view is shown. What is refused is said above the view until data come, or by `refused(why)`.
   * With `always`, data come also while paused.
   */
  open(topic, query, every, data, { refused, always } = {}) {
    const full = this.node ? { node: this.node, ...query } : query;
    let said = null;
    const say = (why) => {
      if (said) return text(said, why);
      said = h("p", { class: "banner warn refused", role: "alert" }, why);
      this.root.prepend(said);
    };
    const handle = stream.open(topic, full, every, (answer) => {
      dataSeen = true;
      if (this.ended) return;
      said?.remove();
      said = null;
      data(answer);
    }, { always, refused: (why) => !this.ended && (refused ?? say)(why) });
    this.#ends.push(() => handle.close());
    return handle;
  }

  /** The address of a view, with this node. */
  link(name, parameters = {}) {
    return address(name, { node: this.node, ...parameters });
  }

  /** A link to a peer. */
  peer(id) {
    if (id === null || id === undefined) return h("span", { class: "dim" }, "–");
    return h("a", { href: this.link("peer", { id }), class: "row" }, `peer ${id}`);
  }

  /** Keeps a choice of the view in the address, without leaving it. */
  set(name, value) {
    this.parameters[name] = value;
    history.replaceState(null, "", address(shown.name, this.parameters));
  }

  /** Calls something when the view ends. */
  atEnd(end) {
    this.#ends.push(end);
  }

  end() {
    this.ended = true;
    for (const end of this.#ends) end();
  }
}

async function route() {
  // What there is to show has to be known.
  if (limited === null || nodes === null) return;
  const { name, parameters } = place();
  const node = nodeFor(parameters.node);
  if (node !== (parameters.node ?? null)) {
    picked = node;
    parameters.node = node;
    history.replaceState(null, "", address(name, parameters));
  }
  const view = views.find((one) => one.name === name);
  shown?.app.end();
  const app = new App(parameters);
  shown = { name, app };
  const active = view.title ? name : "peers";
  for (const link of $("menu").querySelectorAll("a")) {
    link.dataset.view === active ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
    link.href = address(link.dataset.view, { node });
  }
  $("brand").href = address("overview", { node });
  bringIntoSight($("menu"), $("menu").querySelector("a[aria-current]"));
  entitle(view);
  const root = h("div");
  app.root = root;
  put($("main"), root);
  try {
    const module = await view.load();
    if (app.ended) return;
    module.show(app, root, parameters);
  } catch (error) {
    console.error(error);
    put(root, h("div", { class: "state" }, h("h1", {}, "This view cannot be shown"), h("p", {}, String(error)), h("p", {}, h("a", { href: location.href, onclick: () => location.reload() }, "Load the page again"))));
  }
  if (!app.ended) takeNodes(nodes);
}

/** Where the menu is a row that does not fit, it is moved to what is shown, and its ends fade where it goes on. */
function bringIntoSight(row, link) {
  const [outer, inner] = [row.getBoundingClientRect(), link.getBoundingClientRect()];
  row.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
  fade();
}

function fade() {
  const row = $("menu");
  row.classList.toggle("goes-on-left", row.scrollLeft > 1);
  row.classList.toggle("goes-on-right", row.scrollLeft + row.clientWidth < row.scrollWidth - 1);
}

function entitle(view) {
  document.title = `${view.title || "Peer"} · peer-observer`;
}

// --- status line and banners

function status() {
  const node = nodes?.find((one) => one.name === shown?.app.node);
  let state = "connecting";
  let said = "connecting";
  if (stream.state === "lost") [state, said] = ["lost", stream.full ? "waiting for a place" : "disconnected"];
  else if (health && health.nodes.seen === 0) said = "waiting for a node";
  else if (health && node) {
    const pace = `${rate(node.rate)} messages/s`;
    if (health.status === "lossy") [state, said] = ["lossy", `live, losing events · ${pace}`];
    else if (node.live) [state, said] = ["live", `live · ${pace}`];
    else [state, said] = ["playback", `not live: ${date(node.now_us)} · ${pace}`];
  }
  if (paused) said = `paused · ${said}`;
  $("status-dot").dataset.state = state;
  text($("status-text"), said);
  banners();
  const empty = shown && stream.state !== "lost" && health?.nodes.seen === 0;
  const main = $("main");
  main.classList.toggle("stale", stream.state === "lost" && dataSeen);
  let state_box = main.querySelector(".state.empty");
  if (empty && !state_box) {
    main.prepend(h("div", { class: "state empty" },
      h("h1", {}, "No node yet"),
      h("p", {}, "This page fills as soon as something is told about a node. Nothing has to be reloaded."),
      h("p", {}, "To watch the nodes of this machine: ", h("code", {}, "sudo peer-observer run")),
      h("p", {}, "To see what it looks like without a node: ", h("code", {}, "peer-observer demo"))));
  } else if (!empty) {
    state_box?.remove();
  }
  if (shown) shown.app.root.hidden = Boolean(empty);
}

const told = new Map();

function banner(name, kind, message) {
  if (!message) {
    told.get(name)?.remove();
    told.delete(name);
    return;
  }
  let element = told.get(name);
  if (!element) {
    element = h("div", { class: `banner ${kind}` });
    told.set(name, element);
    $("banners").append(element);
  }
  text(element, message);
}

// What is said here is read out to who cannot see it: no numbers that change.
function banners() {
  const lost = stream.state === "lost";
  const full = lost && stream.full;
  const seen = dataSeen ? ` What you see is of ${clock(stream.since * 1000)}.` : "";
  banner("full", "bad", full && `There are too many clients: the server answers, but has no place for this page (see --web-max-clients). It is tried again by itself.${seen}`);
  banner("lost", "bad", lost && !full && (dataSeen
    ? `The connection is lost; it is tried again by itself.${seen}`
    : "The server cannot be reached; it is tried again by itself."));
  banner("lossy", "warn", health?.status === "lossy" && !lost && 'Events are being lost: numbers may be too low. The view "Pipeline" says how many, and where.');
  banner("slow", "info", stream.missed > 20 && "This page does not keep up: some updates are left out. Nothing else is affected.");
  banner("limited", "info", limited && "Limited mode: addresses are not shown.");
}

function takeNodes(list) {
  nodes = list;
  if (!shown || nodeFor(shown.app.node) !== shown.app.node) return void route();
  const select = $("node");
  const current = shown.app.node;
  const options = list.map(({ name }) => [name, name]);
  if (current && list.length && !list.some(({ name }) => name === current)) options.push([current, `${current} (not seen)`]);
  const titles = options.map(([, title]) => title);
  if ([...select.options].map((option) => option.textContent).join("\n") !== titles.join("\n")) {
    put(select, options.map(([value, title]) => h("option", { value }, title)));
  }
  $("node-box").hidden = options.length === 0;
  if (current && select.value !== current) select.value = current;
  status();
}

// --- theme

const dark = matchMedia("(prefers-color-scheme: dark)");

function theme(chosen) {
  keep("theme", chosen);
  const isDark = chosen === "dark" || (chosen === "system" && dark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  text($("theme"), `Theme: ${chosen}`);
  dispatchEvent(new Event("themechange"));
}

function nextTheme() {
  theme(THEMES[(THEMES.indexOf(recall("theme", "system")) + 1) % THEMES.length]);
}

function pause() {
  paused = !paused;
  stream.pause(paused);
  $("pause").setAttribute("aria-pressed", String(paused));
  dispatchEvent(new Event("pausechange"));
  status();
}

// --- keys

const KEYS = [
  ["1–9, 0", "switch views"],
  ["p", "pause and go on"],
  ["t", "theme: system, light, dark"],
  ["/", "filter, where there is one"],
  ["?", "this help"],
  ["← →", "in a chart: values at a time"],
];

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !recall("keys", true)) return;
  if (event.target.closest("input, select, textarea, dialog")) return;
  const digit = "1234567890".indexOf(event.key);
  if (digit >= 0 && menu[digit] && !(limited && HIDDEN.has(menu[digit].name))) location.hash = address(menu[digit].name, { node: shown?.app.node });
  else if (event.key === "p") pause();
  else if (event.key === "t") nextTheme();
  else if (event.key === "?") $("help-dialog").showModal();
  else if (event.key === "/" && document.querySelector("main input[type=search]")) {
    event.preventDefault();
    document.querySelector("main input[type=search]").focus();
  }
});

put($("keys"), KEYS.flatMap(([key, what]) => [h("dt", {}, key), h("dd", {}, what)]));
$("keys-on").checked = recall("keys", true);
$("keys-on").addEventListener("change", (event) => keep("keys", event.target.checked));
$("help").addEventListener("click", () => $("help-dialog").showModal());
$("theme").addEventListener("click", nextTheme);
$("pause").addEventListener("click", pause);
$("node").addEventListener("change", (event) => {
  const { name, parameters } = place();
  // A peer of one node is nobody at another.
  const view = name === "peer" ? "peers" : name;
  picked = null;
  location.hash = address(view, { ...parameters, id: null, node: event.target.value });
});
// As a link it would lead to another view.
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
$("menu").addEventListener("scroll", fade, { passive: true });
addEventListener("resize", fade);
dark.addEventListener("change", () => theme(recall("theme", "system")));

put($("menu"), h("ul", {}, menu.map((view, at) => h("li", {}, h("a", { href: `#/${view.name}`, "data-view": view.name }, at < 10 ? h("kbd", { "aria-hidden": "true" }, String((at + 1) % 10)) : null, view.title)))));
theme(recall("theme", "system"));
put($("main"), h("div", { class: "state late" }, h("h1", {}, "Connecting")));
entitle(views.find((view) => view.name === place().name));
addEventListener("hashchange", route);
stream.open("health", {}, 2000, (answer) => { health = answer; status(); }, { always: true });
stream.open("nodes", {}, 1000, (answer) => takeNodes(answer.nodes), { always: true });

// Peers on a ring, messages in flight. In a flood, a sample of them flies.

import { colour, kindColour, kindOf, kinds } from "../lib/chart.js";
import { facts, h, keyed, panel, put, text } from "../lib/dom.js";
import { bytes, count, duration } from "../lib/format.js";

// Messages that fly for one update of the server, and how long each takes, ms.
const SAMPLE = 40;
const FLIGHT = 900;
// How far from a peer one may point, px.
const POINTER = 18;
const FINGER = 28;

export function show(app, root) {
  const canvas = h("canvas", { id: "circle", role: "img", "aria-label": "Peers on a ring around the node; messages fly between them. The list of peers beside it says the same in words." });
  const lead = h("p", { class: "lead" });
  const about = facts();
  const hint = h("p", { class: "dim" }, "Point at a peer, or tap it, to see who it is. A click, or a second tap, leads to it.");
  const busiest = h("ul", { class: "feed" });
  const key = h("ul", { class: "legend" },
    kinds.map((kind) => h("li", { "data-kind": kind }, h("i", { "aria-hidden": "true" }), kind)),
    [["inbound", "in"], ["outbound", "out"]].map(([name, way]) => h("li", {}, h("i", { class: `peer-dot ${way}`, "aria-hidden": "true" }), `${name} peer`)));
  put(root,
    h("div", { class: "head" }, h("h1", {}, "Circle"), lead),
    h("div", { class: "grid" },
      h("section", { class: "panel w8 circle-box" }, canvas, key),
      h("div", { class: "w4 grid" },
        panel("One of them", null, hint, about.element),
        panel("Busiest peers", null, busiest))));

  let peers = [];
  let places = new Map();
  let flying = [];
  let chosen = null;
  let link = {};
  let touch = false;
  let width = 0;
  let stale = true;
  let skipped = 0;
  let colours = {};
  let kindColours = {};
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const learn = () => {
    stale = true;
    colours = Object.fromEntries(["text", "dim", "line", "panel", "accent", "in", "out", "strong"].map((name) => [name, colour(name)]));
    kindColours = Object.fromEntries(kinds.map((kind) => [kind, kindColour(kind)]));
    for (const item of key.querySelectorAll("[data-kind]")) item.firstChild.style.setProperty("background", kindColours[item.dataset.kind]);
  };
  learn();
  addEventListener("themechange", learn);
  app.atEnd(() => removeEventListener("themechange", learn));

  app.open("peers", {}, 1000, (data) => {
    peers = [...data.peers].sort((a, b) => a.type.localeCompare(b.type) || a.id - b.id);
    layout();
    text(lead, `${count(peers.length)} peers, by connection type${skipped ? " · a sample of all messages flies" : ""}`);
    const top = [...peers].sort((a, b) => recent(b) - recent(a)).slice(0, 12);
    drawBusiest(top);
    describe();
  });
  app.open("messages", { limit: SAMPLE }, 200, (data) => {
    skipped = data.skipped + data.forgotten;
    const begin = performance.now();
    // What came in one update did not come at once.
    data.messages.forEach((message, at) => flying.push({ ...message, begin: begin + (200 * at) / data.messages.length, kind: kindOf(message.type) }));
    if (flying.length > 1000) flying = flying.slice(-1000);
  });

  const recent = (row) => row.spark.slice(-4).reduce((a, b) => a + b, 0) / 20;
  const drawBusiest = keyed(busiest, {
    key: (row) => row.id,
    make: (row) => h("li", {}, h("span", {}, app.peer(row.id)), h("span", { class: "what dim" })),
    fill: (item, row) => text(item.lastChild, `${recent(row).toFixed(1)}/s ${row.user_agent ?? row.type}`),
  });

  function layout() {
    stale = true;
    places = new Map();
    const [w, hgt] = [canvas.clientWidth, canvas.clientHeight];
    const radius = Math.min(w, hgt) / 2 - 34;
    peers.forEach((peer, at) => {
      const angle = (2 * Math.PI * at) / Math.max(1, peers.length) - Math.PI / 2;
      places.set(peer.id, { peer, x: w / 2 + radius * Math.cos(angle), y: hgt / 2 + radius * Math.sin(angle), angle });
    });
  }

  /** The peer at that place: nearer to it than so many pixels. */
  function near(x, y, within) {
    let best = null;
    for (const place of places.values()) {
      const d = Math.hypot(place.x - x, place.y - y);
      if (d < within && (!best || d < best.d)) best = { ...place, d };
    }
    return best?.peer ?? null;
  }

  function choose(id) {
    chosen = id;
    stale = true;
    describe();
  }

  canvas.addEventListener("pointermove", (event) => {
    // A finger that moves scrolls.
    if (event.pointerType === "touch") return;
    choose(near(event.offsetX, event.offsetY, POINTER)?.id ?? null);
    canvas.style.setProperty("cursor", chosen === null ? "default" : "pointer");
  });
  canvas.addEventListener("pointerdown", (event) => { touch = event.pointerType === "touch"; });
  // A finger cannot point without touching: its first tap says who it is, the second one leads there.
  canvas.addEventListener("click", (event) => {
    const id = near(event.offsetX, event.offsetY, touch ? FINGER : POINTER)?.id ?? null;
    if (id !== null && (!touch || id === chosen)) location.hash = app.link("peer", { id });
    else choose(id);
  });

  function describe() {
    const peer = places.get(chosen)?.peer;
    if (peer && link.id !== peer.id) link = { id: peer.id, element: app.peer(peer.id) };
    hint.hidden = Boolean(peer);
    about.set(peer
      ? [["Peer", link.element], ["Type", peer.type], ["Address", peer.addr ?? peer.network], ["User agent", peer.user_agent ?? "not seen"], ["Ping", duration(peer.ping_us)], ["In", `${count(peer.messages_in)}, ${bytes(peer.bytes_in)}`], ["Out", `${count(peer.messages_out)}, ${bytes(peer.bytes_out)}`]]
      : []);
  }

  // What stands still is drawn when it changes, not for every frame.
  const ground = document.createElement("canvas");
  function drawGround(w, hgt, ratio) {
    [ground.width, ground.height] = [canvas.width, canvas.height];
    const c = ground.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.font = "11px system-ui, sans-serif";
    c.textBaseline = "middle";
    for (const { peer, x, y, angle } of places.values()) {
      c.strokeStyle = colours.line;
      c.lineWidth = 1;
      c.beginPath();
      c.moveTo(w / 2, hgt / 2);
      c.lineTo(x, y);
      c.stroke();
      // Who came is hollow, whom the node went to is full: also for who sees no difference between the colours.
      c.beginPath();
      c.arc(x, y, peer.id === chosen ? 9 : 6, 0, 7);
      c.fillStyle = peer.inbound ? colours.panel : colours.out;
      c.fill();
      if (peer.inbound) {
        c.strokeStyle = colours.in;
        c.lineWidth = 2.5;
        c.stroke();
      }
      if (places.size <= 150) {
        c.fillStyle = colours.dim;
        c.textAlign = Math.cos(angle) > 0.1 ? "left" : Math.cos(angle) < -0.1 ? "right" : "center";
        c.fillText(String(peer.id), x + 14 * Math.cos(angle), y + 14 * Math.sin(angle));
      }
    }
    c.fillStyle = colours.accent;
    c.beginPath();
    c.arc(w / 2, hgt / 2, 13, 0, 7);
    c.fill();
    c.fillStyle = colours.text;
    c.textAlign = "center";
    c.fillText("node", w / 2, hgt / 2 + 24);
    stale = false;
  }

  let frame = 0;
  let last = 0;
  function draw(now) {
    frame = requestAnimationFrame(draw);
    // Thirty pictures a second are enough, and nothing is drawn where nothing moves.
    if (now - last < 30 || (flying.length === 0 && !stale && canvas.clientWidth === width)) return;
    last = now;
    const ratio = devicePixelRatio || 1;
    const [w, hgt] = [canvas.clientWidth, canvas.clientHeight];
    if (!w) return;
    width = w;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(hgt * ratio)) {
      [canvas.width, canvas.height] = [Math.round(w * ratio), Math.round(hgt * ratio)];
      layout();
    }
    if (stale) drawGround(w, hgt, ratio);
    const c = canvas.getContext("2d");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    c.drawImage(ground, 0, 0);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    flying = flying.filter((message) => now - message.begin < FLIGHT);
    for (const message of flying) {
      const place = places.get(message.peer);
      if (!place || now < message.begin) continue;
      let t = (now - message.begin) / FLIGHT;
      if (message.in) t = 1 - t;
      // Who wants nothing to move sees where a message is on its way, not how it gets there.
      if (still) t = 0.5;
      c.fillStyle = kindColours[message.kind];
      c.beginPath();
      c.arc(w / 2 + (place.x - w / 2) * t, hgt / 2 + (place.y - hgt / 2) * t, Math.min(9, 2.2 + Math.log10(1 + message.size)), 0, 7);
      c.fill();
    }
  }
  frame = requestAnimationFrame(draw);
  app.atEnd(() => cancelAnimationFrame(frame));
  describe();
}

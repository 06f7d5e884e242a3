// Charts over time, drawn on a canvas: stacked above the axis, and below it for what goes the other way; or lines. What the pointer
// or the arrow keys are at is told in the legend.

import { h, text } from "./dom.js";
import { clock, short } from "./format.js";

const LEFT = 58;
const BOTTOM = 18;
const TOP = 6;
// What is narrower has no colour of its own, px.
const NARROWEST = 1.5;

/** A colour of the theme. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Kinds of messages, in the order of their colours: a kind has the same in every view, however frequent it is.
const KINDS = [
  ["tx", ["tx"]],
  ["inv", ["inv"]],
  ["getdata", ["getdata", "notfound"]],
  ["addresses", ["addr", "addrv2", "getaddr"]],
  ["headers", ["headers", "getheaders"]],
  ["blocks", ["block", "cmpctblock", "getblocktxn", "blocktxn", "getblocks"]],
  ["ping, pong", ["ping", "pong"]],
];
const OTHER = "other";
const KIND_OF = new Map(KINDS.flatMap(([kind, types]) => types.map((type) => [type, kind])));

/** Names of the kinds of messages, in the order of their colours. */
export const kinds = [...KINDS.map(([kind]) => kind), OTHER];

/** The kind of messages of that type. */
export function kindOf(type) {
  return KIND_OF.get(type) ?? OTHER;
}

/** The place of a kind in their order. */
export function kindAt(kind) {
  return kinds.indexOf(kind);
}

/** The colour of a kind of messages. */
export function kindColour(kind) {
  return colour(`s${kindAt(kind)}`);
}

/** A number to end an axis with, or to divide it by: 1, 2 or 5 times a power of ten. */
function round(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= most);
}

/** The greatest number with one digit that is not more. */
function floor(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return Math.floor(most / power + 1e-9) * power;
}

/** What is marked on a side of an axis that goes so far: multiples of the step, and something in any case. */
function marks(far, step) {
  const all = Array.from({ length: Math.min(40, Math.floor(far / step + 1e-9)) }, (_, at) => (at + 1) * step);
  return all.length || far <= 0 ? all : [floor(far)];
}

// Steps of an axis of time, s.
const STEPS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400];

/** Whole times between two, us, as many as there is room for, and how to write them. */
function times(from, to, room) {
  const least = (to - from) / 1_000_000 / Math.max(1, room);
  const step = STEPS.find((s) => s >= least) ?? STEPS.at(-1);
  // Whole hours are those of the reader's clock.
  const shift = new Date(from / 1000).getTimezoneOffset() * 60_000_000;
  const us = step * 1_000_000;
  const all = [];
  for (let at = Math.ceil((from - shift) / us) * us + shift; at <= to; at += us) all.push(at);
  return { all, write: (at) => (step % 60 ? clock(at) : clock(at).slice(0, 5)) };
}

/** The same in so many fewer values that each is wide enough to have a colour: means of neighbours, which stay together as time goes on. */
function fitted(data, room) {
  const count = data.series[0]?.values.length ?? 0;
  const together = Math.ceil((count * NARROWEST) / Math.max(1, room));
  if (data.lines || !data.step || together <= 1) return data;
  const step = data.step * together;
  const offset = Math.round((data.start % step) / data.step);
  const mean = (values) => values.reduce((sum, value) => sum + (value ?? 0), 0) / values.length;
  const merged = (values) => Array.from({ length: Math.ceil((count + offset) / together) }, (_, at) =>
    mean(values.slice(Math.max(0, at * together - offset), (at + 1) * together - offset)));
  return { ...data, step, start: data.start - offset * data.step, series: data.series.map((one) => ({ ...one, values: merged(one.values) })) };
}

/**
 * A chart. `set({ start, step, series: [{ name, values, colour, below }], unit, format, lines })`, times in us. `below` values go down
 * from the axis; with `lines` nothing is stacked.
 */
export function chart(label, size) {
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": label });
  const legend = h("ul", { class: "legend" });
  const said = h("p", { class: "sr", role: "status" });
  const element = h("div", { class: `chart ${size ?? ""}` }, canvas, legend, said);
  let told = null;
  // What is drawn of it.
  let data = null;
  let at = null;
  let pending = false;
  let entries = [];

  const later = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      draw();
    });
  };
  new ResizeObserver(later).observe(canvas);
  canvas.addEventListener("pointermove", (event) => {
    if (!data) return;
    const box = canvas.getBoundingClientRect();
    const count = data.series[0]?.values.length ?? 0;
    const place = Math.round(((event.clientX - box.left - LEFT) / (box.width - LEFT)) * (count - 1));
    at = Math.max(0, Math.min(count - 1, place));
    later();
  });
  canvas.addEventListener("pointerleave", () => { at = null; later(); });
  canvas.addEventListener("blur", () => { at = null; later(); });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (!by || !data?.series.length) return;
    event.preventDefault();
    const last = data.series[0].values.length - 1;
    at = Math.max(0, Math.min(last, (at ?? last) + by));
    later();
    const values = data.series.map((s) => `${s.name} ${(data.format ?? short)(s.values[at] ?? 0)}`);
    text(said, `${clock(data.start + at * data.step)}: ${values.join(", ")}`);
  });

  function draw() {
    if (!told) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    data = fitted(told, width - LEFT);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const { series, start, step } = data;
    const format = data.format ?? short;
    const count = series[0]?.values.length ?? 0;
    const sums = [new Array(count).fill(0), new Array(count).fill(0)];
    let most = [0, 0];
    for (const s of series) {
      const side = s.below ? 1 : 0;
      s.values.forEach((v, i) => {
        sums[side][i] = data.lines ? Math.max(sums[side][i], v ?? 0) : sums[side][i] + (v ?? 0);
        most[side] = Math.max(most[side], sums[side][i]);
      });
    }
    const down = series.some((s) => s.below);
    // Both ways have one scale, so that they can be compared.
    const peak = round(Math.max(...most, data.least ?? 0));
    const space = height - BOTTOM - TOP;
    const share = down ? Math.min(0.8, Math.max(0.2, (most[0] || 1) / ((most[0] || 1) + (most[1] || 1)))) : 1;
    const zero = TOP + space * share;
    const scale = down ? Math.min((space * share) / (most[0] || peak), (space * (1 - share)) / (most[1] || peak)) : space / peak;
    const x = (i) => LEFT + (i / Math.max(1, count - 1)) * (width - LEFT - 2);

    c.font = "11px system-ui, sans-serif";
    c.fillStyle = colour("dim");
    c.strokeStyle = colour("line");
    c.lineWidth = 1;
    c.textAlign = "right";
    c.textBaseline = "middle";
    const mark = round(Math.max(space * share, space * (1 - share)) / scale / 4);
    const sides = [[1, (space * share) / scale], [-1, down ? (space * (1 - share)) / scale : 0]];
    const ticks = [0, ...sides.flatMap(([sign, far]) => marks(far, mark).map((value) => sign * value))];
    for (const value of ticks) {
      const y = Math.round(zero - value * scale) + 0.5;
      c.beginPath();
      c.moveTo(LEFT, y);
      c.lineTo(width, y);
      c.stroke();
      // 50, not 50.0.
      c.fillText(value === 0 ? "0" : format(Math.abs(value)).replace(/\.0+(?!\d)/, ""), LEFT - 6, y);
    }
    c.textBaseline = "alphabetic";
    const label = (words, middle) => {
      const half = c.measureText(words).width / 2;
      c.fillText(words, Math.max(LEFT + half, Math.min(width - half, middle)), height - 4);
    };
    c.textAlign = "center";
    if (step && count > 1) {
      const last = start + (count - 1) * step;
      const { all, write } = times(start, last, (width - LEFT) / 90);
      for (const time of all) {
        const middle = x((time - start) / step);
        c.beginPath();
        c.moveTo(Math.round(middle) + 0.5, height - BOTTOM);
        c.lineTo(Math.round(middle) + 0.5, height - BOTTOM + 4);
        c.stroke();
        label(write(time), middle);
      }
    } else if (count > 1) {
      // Without a step the values are not equally far apart: which is older is all there is to say.
      label("older", LEFT);
      label("newer", width);
    }

    const below = [new Array(count).fill(0), new Array(count).fill(0)];
    for (const s of series) {
      const side = s.below ? 1 : 0;
      const sign = s.below ? -1 : 1;
      c.fillStyle = c.strokeStyle = s.colour;
      c.beginPath();
      if (data.lines) {
        let drawing = false;
        c.lineWidth = 1.6;
        s.values.forEach((v, i) => {
          if (v === null || v === undefined) return void (drawing = false);
          drawing ? c.lineTo(x(i), zero - v * scale) : c.moveTo(x(i), zero - v * scale);
          drawing = true;
        });
        c.stroke();
        if (count === 1) c.fillRect(x(0) - 2, zero - (s.values[0] ?? 0) * scale - 2, 5, 5);
        continue;
      }
      // Steps: what was counted in a second is not on its way to that of the next one.
      const half = (x(1) - x(0)) / 2 || 2;
      const edge = (i, y) => { c.lineTo(Math.max(LEFT, x(i) - half), y); c.lineTo(Math.min(width - 2, x(i) + half), y); };
      for (let i = 0; i < count; i += 1) edge(i, zero - sign * (below[side][i] + (s.values[i] ?? 0)) * scale);
      for (let i = count - 1; i >= 0; i -= 1) {
        const y = zero - sign * below[side][i] * scale;
        c.lineTo(Math.min(width - 2, x(i) + half), y);
        c.lineTo(Math.max(LEFT, x(i) - half), y);
      }
      c.fill();
      s.values.forEach((v, i) => (below[side][i] += v ?? 0));
    }
    if (down) {
      c.fillStyle = colour("dim");
      c.textAlign = "left";
      c.fillText(data.above ?? "in", LEFT + 4, TOP + 10);
      c.fillText(data.beneath ?? "out", LEFT + 4, height - BOTTOM - 5);
      c.strokeStyle = colour("strong");
      c.beginPath();
      c.moveTo(LEFT, Math.round(zero) + 0.5);
      c.lineTo(width, Math.round(zero) + 0.5);
      c.stroke();
    }
    if (at !== null && at < count) {
      c.strokeStyle = colour("text");
      c.beginPath();
      c.moveTo(Math.round(x(at)) + 0.5, TOP);
      c.lineTo(Math.round(x(at)) + 0.5, height - BOTTOM);
      c.stroke();
    }
    tell();
  }

  function tell() {
    const format = data.format ?? short;
    const names = [...new Set(data.series.map((s) => s.name))];
    while (entries.length > names.length) entries.pop().item.remove();
    names.forEach((name, place) => {
      let entry = entries[place];
      if (!entry) {
        entry = { mark: h("i", { "aria-hidden": "true" }), label: h("span") };
        entry.item = h("li", {}, entry.mark, entry.label);
        entries.push(entry);
        legend.append(entry.item);
      }
      const same = data.series.filter((s) => s.name === name);
      entry.mark.style.setProperty("background", same[0].colour);
      const values = same.map((s) => `${s.below ? "out " : same.length > 1 ? "in " : ""}${format(s.values[at] ?? 0)}`);
      text(entry.label, at === null ? name : `${name} ${values.join(", ")}${data.unit ? ` ${data.unit}` : ""}`);
    });
  }

  return {
    element,
    set(newData) {
      told = newData;
      later();
    },
    redraw: later,
  };
}

// Numbers with units, times, and the like. Times come as microseconds since the UNIX epoch, durations as microseconds.

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12,345 */
export function count(n) {
  return n === null || n === undefined ? "–" : integer.format(n);
}

/** 12.3k: for places where there is no room. */
export function short(n) {
  if (n === null || n === undefined) return "–";
  if (n < 10_000) return integer.format(n);
  for (const [limit, unit] of [[1e6, "k"], [1e9, "M"], [1e12, "G"]]) {
    if (n < limit) return `${(n / (limit / 1000)).toPrecision(3)}${unit}`;
  }
  return n.toExponential(1);
}

/** A rate: enough digits to see it change. */
export function rate(n) {
  if (n === null || n === undefined) return "–";
  return n >= 100 ? integer.format(n) : n.toFixed(1);
}

/** [number, unit] of bytes, in powers of 1000. */
export function bytesParts(n) {
  if (n === null || n === undefined) return ["–", ""];
  if (n < 1000) return [integer.format(n), "B"];
  for (const [limit, unit] of [[1e6, "kB"], [1e9, "MB"], [1e12, "GB"]]) {
    if (n < limit) return [(n / (limit / 1000)).toPrecision(3), unit];
  }
  return [(n / 1e12).toPrecision(3), "TB"];
}

/** 1.23 MB */
export function bytes(n) {
  return bytesParts(n).join(" ").trim();
}

/** A duration in us, with the unit that fits: 850 us, 12.3 ms, 4.56 s, 3 min, 2 h, 4 d. */
export function duration(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1_000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toPrecision(3)} ms`;
  if (us < 60_000_000) return `${(us / 1_000_000).toPrecision(3)} s`;
  const s = Math.floor(us / 1_000_000);
  if (s < 3_600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor((s % 3_600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3_600)} h`;
}

/** How long before `now` that was. */
export function ago(us, now) {
  if (us === null || us === undefined) return "–";
  const s = Math.max(0, Math.round((now - us) / 1_000_000));
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

const two = (n) => String(n).padStart(2, "0");

/** 13:04:05 of the reader's time zone. */
export function clock(us) {
  const d = new Date(us / 1000);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

/** 13:04:05.678 */
export function exact(us) {
  return `${clock(us)}.${String(Math.floor(us / 1000) % 1000).padStart(3, "0")}`;
}

/** 2026-11-22 13:04:05 */
export function date(us) {
  const d = new Date(us / 1000);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(us)}`;
}

/** The part of a hash that differs: the end. */
export function hash(hex) {
  return hex ? `…${hex.slice(-12)}` : "–";
}

/** What no loss means. Events of public extractors are not numbered: gaps among them cannot be seen. */
export function certainty(withoutOrigin) {
  return withoutOrigin > 0 ? "losses cannot be seen" : "counts are exact";
}

/** 12 % of a whole; nothing of nothing. */
export function percent(part, whole) {
  return whole > 0 ? `${Math.round((100 * part) / whole)} %` : "–";
}

// Bitcoin Core src/protocol.h, enum ServiceFlags.
const SERVICES = [[0, "NETWORK"], [2, "BLOOM"], [3, "WITNESS"], [6, "COMPACT_FILTERS"], [10, "NETWORK_LIMITED"], [11, "P2P_V2"]];

/** Names of service bits. */
export function services(bits) {
  if (bits === null || bits === undefined) return "–";
  const named = SERVICES.filter(([bit]) => Math.floor(bits / 2 ** bit) % 2 === 1).map(([, name]) => name);
  return named.join(" ") || "none";
}

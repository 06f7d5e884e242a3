// What one chose, for the next time. Works without storage, too: it is then forgotten.

const PREFIX = "peer-observer.";

/** What was kept under that name, or `otherwise`. */
export function recall(name, otherwise) {
  try {
    const kept = localStorage.getItem(PREFIX + name);
    return kept === null ? otherwise : JSON.parse(kept);
  } catch {
    return otherwise;
  }
}

/** Keeps a value under that name. */
export function keep(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // No storage, or it is full.
  }
}

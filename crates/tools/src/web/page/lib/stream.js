// The connection to the server: topics that are open, opened again when it comes back.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 8_000;
// Without a word for so long (the server is asked for its health every two seconds), the connection is dead.
const SILENCE = 12_000;
// Updates that were missed are told of for so long.
const RECENT = 60_000;

export class Stream {
  #socket = null;
  #open = new Map();
  #next = 1;
  #wait = FIRST_WAIT;
  #heard = 0;
  #paused = false;
  #listener;
  #gaps = [];
  hello = null;
  state = "connecting";
  // Whether the server answers, but has no place for one more client.
  full = false;
  since = Date.now();

  /** `listener` is called when the state changes: connecting, open, lost. */
  constructor(listener) {
    this.#listener = listener;
    this.#connect();
    setInterval(() => {
      const active = this.#open.size > 0 && !document.hidden;
      if (this.state === "open" && active && Date.now() - this.#heard > SILENCE) this.#socket.close();
    }, 2_000);
    // A page that nobody sees asks for nothing.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#closeAll() : this.#openAll()));
    // Who comes back to the page wants it now.
    addEventListener("online", () => this.#retry());
  }

  /**
   * Opens a topic: `data(answer)` is called for every update, `refused(why)` when there is no such thing. With `always`, updates come
   * also while paused.
   */
  open(topic, query, every, data, { refused, always } = {}) {
    const id = this.#next++;
    const entry = { topic, query, every, data, refused, always };
    this.#open.set(id, entry);
    this.#send(id, entry);
    return {
      close: () => {
        this.#open.delete(id);
        this.#say({ close: id });
      },
    };
  }

  /** While paused, updates come and are thrown away, so that nothing has to be caught up with; but the first of a topic is taken. */
  pause(paused) {
    this.#paused = paused;
  }

  /** Updates that the server left out in the last minute, because this page does not keep up. */
  get missed() {
    const begin = Date.now() - RECENT;
    this.#gaps = this.#gaps.filter(([at]) => at > begin);
    return this.#gaps.reduce((sum, [, missed]) => sum + missed, 0);
  }

  #say(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #send(id, { topic, query, every }) {
    if (!document.hidden) this.#say({ open: id, topic, every, query });
  }

  #openAll() {
    this.#heard = Date.now();
    for (const [id, entry] of this.#open) this.#send(id, entry);
  }

  #closeAll() {
    for (const id of this.#open.keys()) this.#say({ close: id });
  }

  #retry() {
    if (this.state === "lost") this.#connect();
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/v1/stream`);
    this.#socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.full = false;
      this.#wait = FIRST_WAIT;
      this.#heard = Date.now();
      this.#set("open");
      this.#openAll();
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#take(JSON.parse(data));
    };
    socket.onclose = () => {
      if (socket !== this.#socket) return;
      this.#set("lost");
      if (opened) this.full = false;
      else this.#ask(socket);
      setTimeout(() => this.state === "lost" && socket === this.#socket && this.#connect(), this.#wait * (0.75 + Math.random() / 2));
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    };
  }

  /** Finds out why a connection failed: a websocket is not told. */
  async #ask(socket) {
    // When nothing answers, all was said.
    const answer = await fetch("/api/v1/health").catch(() => null);
    // The token is another one, or was forgotten: the login page takes the place of this one.
    if (answer?.status === 401) return location.reload();
    if (socket !== this.#socket || this.state !== "lost") return;
    this.full = Boolean(answer?.ok);
    this.#listener();
  }

  #take(message) {
    this.#heard = Date.now();
    if (message.hello) {
      this.hello = message.hello;
      this.#listener();
      return;
    }
    const entry = this.#open.get(message.sub);
    if (!entry) return;
    if (message.error) return entry.refused?.(message.error);
    if (message.missed) this.#gaps.push([Date.now(), message.missed]);
    if (this.#paused && !entry.always && entry.told) return;
    entry.told = true;
    entry.data(message.data);
  }

  #set(state) {
    if (this.state === state) return;
    this.state = state;
    this.since = Date.now();
    this.#listener();
  }
}

// The jobs of the journal in this page: asked for once, then after each event of the server.

const EVENT = "https://bgmagic.invalid/events/journal/v1";

export class Jobs {
  rows = new Map();
  trouble = "";
  onChange = [];
  onEnd = [];
  whole = false; // whether the older ones are there, too
  at = Date.now() / 1000;
  asking = null;
  due = false;

  /** @param ask gives the JSON at a path below /bgmagic/jobs. */
  constructor(ask) {
    this.ask = ask;
  }

  /** Follow them from now on; @param manager JupyterLab's service manager: its stream of the server's events. */
  listen({ events, sessions }) {
    events.stream.connect((_, event) => void (event.schema_id === EVENT && this.refresh()));
    sessions.runningChanged.connect(() => void (this.open.length && this.refresh())); // a kernel may be gone
    this.refresh();
  }

  get open() {
    return [...this.rows.values()].filter((row) => row.open);
  }

  /** Ask for what is new, or for all jobs; while an answer is awaited, once more after it. */
  refresh(whole = false) {
    this.due ||= this.asking !== null;
    this.whole &&= !whole;
    return (this.asking ??= this.#ask().finally(() => {
      this.asking = null;
      if (this.due) {
        this.due = false;
        this.refresh();
      }
    }));
  }

  /** Have the older ones, too. */
  async fill() {
    this.wanted = true;
    if (!this.whole) await this.refresh(true);
  }

  async #ask() {
    const all = this.wanted && !this.whole;
    try {
      const { jobs, count, at } = await this.ask(all ? "" : `?since=${this.at}`);
      this.at = at || this.at;
      this.trouble = "";
      const ended = jobs.filter((row) => !row.open && this.rows.get(row.key)?.open);
      if (all) this.rows.clear();
      for (const row of jobs) this.rows.set(row.key, row);
      if (all) this.whole = true;
      else if (this.whole && count < this.rows.size) this.whole = !(this.due = true); // some were forgotten
      for (const tell of this.onEnd) tell(ended);
    } catch (error) {
      this.trouble = String(error.message ?? error);
    }
    for (const tell of this.onChange) tell();
  }
}

export const SIGNS = { completed: "✓", failed: "✕", lost: "✕", incomplete: "◐", cancelled: "⊘", unknown: "?" };

/** The status as it is shown: one that no kernel follows is detached, though this server may watch it. */
export function statusOf({ status, open, followed, watched }) {
  const word = status.replaceAll("_", " ");
  return open && !followed ? `detached (${word}${watched ? ", watched by Jupyter Server" : ""})` : word;
}

export const groupOf = (row) => (row.open ? "running" : row.status === "completed" ? "completed" : "without an answer");

/** How long a job has taken: "1:05", "2 h 5 min". */
export function timeOf({ ended, submitted }) {
  const seconds = Math.max(0, Math.round((ended ?? Date.now() / 1000) - submitted));
  const count = (size, of = Infinity) => Math.floor((seconds % of) / size);
  if (seconds < 3600) return `${count(60)}:${String(count(1, 60)).padStart(2, "0")}`;
  if (seconds < 86400) return `${count(3600)} h ${count(60, 3600)} min`;
  return `${count(86400)} d ${count(3600, 86400)} h`;
}

export function priceOf({ price }) {
  if (price === undefined) return "";
  return price >= 0.01 ? `$${price.toFixed(2)}` : `$${price.toPrecision(2)}`;
}

// Draws the board: a table of jobs that sorts, filters and opens.

const COLUMNS = [
  ["name", "variable"],
  ["status", "status"],
  ["model", "model"],
  ["effort", "effort"],
  ["age", "age"],
  ["took", "took"],
  ["tokens", "tokens out"],
  ["response_id", "id"],
];
// Of jobs that were searched for: where they are from, and what was found.
const FOUND = [
  ...COLUMNS.slice(0, 3),
  ["age", "age"],
  ["notebook", "notebook"],
  ["match", "found"],
];
const EFFORTS = ["", "none", "minimal", "low", "medium", "high", "xhigh", "max"];
const REFUSED = 10000; // milliseconds after which a cancel that changed nothing can be tried again

const OVER = "This kernel has ended; %bgjobs in the next one shows how things stand.";

const duration = (total) => {
  const s = Math.max(0, total);
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} d`;
};

function render({ model, el }) {
  const board = make("section", "board", el);
  if (isSaved(el)) return; // the rows of long ago: the copy beside it says of when it is
  board.setAttribute("aria-label", "Jobs");
  const filters = make("div", "filters", board);
  filters.setAttribute("role", "group");
  filters.setAttribute("aria-label", "Filter by status");
  const over = make("div", "over", board);
  over.setAttribute("role", "status");
  const frame = make("div", "frame", board);
  frame.tabIndex = 0; // scrolls with the keyboard
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Table of jobs");
  frame.setAttribute("data-lm-suppress-shortcuts", "true");
  const table = make("table", "table", frame);
  const head = make("tr", "head", make("thead", "heads", table));
  const body = make("tbody", "rows", table);

  const rows = new Map(); // what is known of each job, by key
  const lines = new Map(); // its parts in the table
  const columns = model.get("rows").some((row) => row.match) ? FOUND : COLUMNS;
  let sorted = ["age", 1]; // newest first
  let only = null; // the status that is shown, or all
  let ended = false; // the kernel, as far as this page knows

  const valueOf = (row, column) => {
    if (column === "age") return -row.submitted_at;
    if (column === "took") return row.ended_at == null ? Infinity : row.ended_at - row.submitted_at;
    if (column === "tokens") return row.tokens ?? -1;
    if (column === "effort") return EFFORTS.indexOf(row.effort);
    if (column === "match") return row.match?.join("") ?? "";
    return row[column];
  };
  const compare = (a, b) => {
    const [column, direction] = sorted;
    const [x, y] = [valueOf(a, column), valueOf(b, column)];
    if (x === y) return b.submitted_at - a.submitted_at;
    if (typeof x === "string") return direction * x.localeCompare(y, undefined, { numeric: true });
    return direction * (x < y ? -1 : 1);
  };

  const heads = columns.map(([column, title]) => {
    const cell = make("th", "th", head);
    cell.scope = "col";
    const button = make("button", "sort", cell, title);
    button.addEventListener("click", () => {
      sorted = [column, sorted[0] === column ? -sorted[1] : 1];
      order();
    });
    return [column, cell];
  });
  make("span", "hidden", make("th", "th", head), "cancel");

  const order = () => {
    for (const [column, cell] of heads) {
      const direction = sorted[1] > 0 ? "ascending" : "descending";
      cell.setAttribute("aria-sort", sorted[0] === column ? direction : "none");
    }
    const parts = [];
    for (const row of [...rows.values()].sort(compare)) {
      const line = lines.get(row.key);
      parts.push(line.tr);
      if (line.detail) parts.push(line.detail);
    }
    if (parts.length === body.children.length && parts.every((tr, i) => tr === body.children[i]))
      return;
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    body.replaceChildren(...parts);
    focused?.focus({ preventScroll: true });
  };

  const visible = (row) => only === null || row.status === only;

  const chips = new Map();
  const chip = (status, title, count) => {
    let button = chips.get(status);
    if (!button) {
      button = make("button", "chip", filters);
      button.addEventListener("click", () => {
        only = only === status ? null : status;
        recount();
        for (const row of rows.values()) hide(row);
      });
      chips.set(status, button);
    }
    say(button, `${title} ${count}`);
    button.hidden = count === 0 && only !== status && status !== null;
    button.setAttribute("aria-pressed", String(only === status));
  };
  const recount = () => {
    const counts = new Map();
    for (const row of rows.values()) counts.set(row.status, (counts.get(row.status) ?? 0) + 1);
    chip(null, "all", rows.size);
    for (const status of new Set([...chips.keys(), ...counts.keys()]))
      if (status !== null) chip(status, word(status), counts.get(status) ?? 0);
  };

  const hide = (row) => {
    const line = lines.get(row.key);
    line.tr.hidden = !visible(row);
    if (line.detail) line.detail.hidden = !visible(row);
  };

  const begin = (key) => {
    const tr = make("tr", "row", null);
    const cells = {};
    for (const [column] of columns) cells[column] = make("td", `td-${column}`, tr);
    const open = make("button", "open", cells.name);
    open.setAttribute("aria-expanded", "false");
    const cancel = make("button", "cancel", make("td", "td-cancel", tr), "Cancel");
    const line = { tr, cells, open, cancel, detail: null };
    open.addEventListener("click", (event) => {
      event.stopPropagation();
      toggle(key);
    });
    tr.addEventListener("click", () => String(getSelection()) || toggle(key));
    const name = (text) => {
      say(cancel, text);
      cancel.setAttribute("aria-label", `${text} ${open.textContent}`);
    };
    let sent = false;
    const asking = secondClick(cancel, () => name(asking.sure ? "Really cancel?" : "Cancel"));
    const mark = (asked) => {
      sent = asked;
      idle(cancel, asked);
      name(asked ? "Waiting for the kernel…" : "Cancel"); // at once, unless a cell computes
    };
    line.heard = () => {
      name("Cancelling…");
      setTimeout(mark, REFUSED, false);
    };
    cancel.addEventListener("click", (event) => {
      event.stopPropagation();
      if (sent || !asking.confirmed()) return;
      mark(true);
      model.send({ action: "cancel", key });
    });
    lines.set(key, line);
    return line;
  };

  const toggle = (key) => {
    const line = lines.get(key);
    if (line.detail) {
      line.detail.remove();
      line.detail = null;
    } else {
      line.detail = make("tr", "detail", null);
      const cell = make("td", "shown", line.detail);
      cell.colSpan = columns.length + 1;
      make("div", "reason", cell);
      make("div", "text", cell, ended ? OVER : "…");
      line.tr.after(line.detail);
      model.send({ action: "show", key });
    }
    line.open.setAttribute("aria-expanded", String(line.detail !== null));
  };

  const times = (row) => {
    const { cells } = lines.get(row.key);
    say(cells.age, duration(Date.now() / 1000 - row.submitted_at));
    if (cells.took)
      say(cells.took, row.ended_at == null ? "" : duration(row.ended_at - row.submitted_at));
  };

  const found = (cells, row) => {
    say(cells.notebook, row.notebook);
    if (cells.match.childNodes.length || !row.match) return; // it stays as it was found
    const [place, before, it, after] = row.match;
    cells.match.append(`${place}: ${before}`);
    make("mark", "mark", cells.match, it);
    cells.match.append(after);
  };

  const draw = (told) => {
    const left = ended && told.open && told.here; // nobody follows it
    const row = left ? { ...told, status: "detached", here: false } : told;
    const line = lines.get(row.key) ?? begin(row.key);
    const { tr, cells, open, cancel } = line;
    rows.set(row.key, row);
    tr.dataset.status = row.status;
    say(open, row.name || row.response_id || "job");
    say(cells.status, word(row.status));
    say(cells.model, row.model);
    if (cells.match) found(cells, row);
    else {
      say(cells.effort, row.effort);
      say(cells.tokens, row.tokens == null ? "" : row.tokens.toLocaleString("en"));
      say(cells.response_id, row.response_id);
      cells.response_id.title = row.response_id;
    }
    cancel.hidden = !(row.open && row.here);
    if (!cancel.ariaLabel) cancel.setAttribute("aria-label", `Cancel ${open.textContent}`);
    times(row);
    hide(row);
    if (line.detail && !row.open) model.send({ action: "show", key: row.key });
  };

  const take = (news) => {
    const before = rows.size;
    for (const row of news) draw(row);
    recount();
    if (rows.size !== before || sorted[0] !== "age") order();
  };

  const heard = (content) => {
    if (content?.rows) take(content.rows);
    if (content?.heard) lines.get(content.heard)?.heard();
    const shown = content?.shown;
    const detail = shown && lines.get(shown.key)?.detail;
    if (detail) {
      say(detail.querySelector(".bgmagic-reason"), shown.message);
      const text = detail.querySelector(".bgmagic-text");
      // From bgmagic/rendering: nothing that a model wrote is markup in it.
      if (shown.html) text.innerHTML = shown.html;
      else say(text, shown.message ? "" : "No text yet.");
    }
  };

  const fill = () => take(model.get("rows"));
  const stopWatching = afterKernel(model, el, () => {
    ended = true;
    say(over, OVER);
    take([...rows.values()]);
  });
  model.on("msg:custom", heard);
  model.on("change:rows", fill);
  fill();
  order();
  const timer = setInterval(() => {
    if (!document.hidden) for (const row of rows.values()) if (visible(row)) times(row);
  }, 1000);
  return () => {
    clearInterval(timer);
    stopWatching();
    model.off("msg:custom", heard);
    model.off("change:rows", fill);
  };
}

const initialize = ({ model }) => offer(model, render);

export default { initialize, render };

// Draws the card of one job. All text goes in through textContent: nothing a server or a model
// wrote is ever markup here.

const WORDS = {
  waiting: "waiting",
  submitting: "submitting",
  queued: "queued",
  in_progress: "in progress",
  completed: "completed",
  failed: "failed",
  incomplete: "incomplete",
  cancelled: "cancelled",
  unknown: "unknown",
  lost: "lost",
  detached: "detached",
};

// One stroke drawing each, in a square of 16.
const RING = "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12";
const ICONS = {
  waiting: `${RING} M8 5v3.2l2 1.6`,
  submitting: "M8 13V3.5 M4.5 7L8 3.5L11.5 7",
  queued: "M3 4h10 M3 8h10 M3 12h6",
  in_progress: "M8 2a6 6 0 1 1-6 6",
  completed: "M3 8.5l3.3 3.3L13 4.8",
  failed: "M4 4l8 8 M12 4l-8 8",
  incomplete: `${RING} M8 2v12`,
  cancelled: `${RING} M4 12l8-8`,
  unknown: "M5.5 6a2.6 2.6 0 1 1 3.6 2.4c-.8.4-1.1.8-1.1 1.7 M8 12.8v.2",
  lost: "M3 8h2 M7 8h2 M11 8h2",
  detached: "M6.5 4H5a4 4 0 0 0 0 8h1.5 M9.5 4H11a4 4 0 0 1 0 8H9.5",
  copy: "M5.5 5.5h7.5v7.5h-7.5z M10.5 3h-7.5v7.5",
};
const CONFIRM = 5000; // milliseconds that a first click on Cancel waits for the second
const OURS = 1500; // milliseconds after which a finished card that still stands replaces itself

const known = (status) => Object.hasOwn(WORDS, status);
const word = (status) => (known(status) ? WORDS[status] : status);

const make = (tag, name, parent) => {
  const node = document.createElement(tag);
  node.className = `bgmagic-${name}`;
  if (tag === "button") {
    node.type = "button";
    // Else Enter and Space would be the notebook's shortcuts, not clicks.
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  parent.append(node);
  return node;
};

const icon = (name, parent) => {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "bgmagic-icon");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", ICONS[name] ?? ICONS.waiting);
  svg.append(path);
  parent.append(svg);
  return path;
};

// Only what changed: most cards stand still while others tick.
const say = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = !text;
};

export const seconds = (total) => {
  const s = Math.max(0, Math.floor(total));
  const pad = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600);
  const m = Math.floor(s / 60) % 60;
  return h ? `${h}:${pad(m)}:${pad(s % 60)}` : `${m}:${pad(s % 60)}`;
};

const ago = (total) =>
  total < 2 ? "just now" : total < 100 ? `${Math.floor(total)} s ago` : `${seconds(total)} ago`;

// Where the seconds go: each stretch that has begun, by the kernel's clock.
const stretches = (view, now) => {
  const end = view.ended_at ?? now;
  const begun = view.accepted_at ?? end;
  const started = view.started_at ?? end;
  const parts = [];
  if (begun - view.submitted_at >= 2)
    parts.push(`before sending ${seconds(begun - view.submitted_at)}`);
  if (view.accepted_at != null) parts.push(`queued ${seconds(started - begun)}`);
  if (view.started_at != null) parts.push(`running ${seconds(end - started)}`);
  return parts;
};

const earlier = (history) => {
  if (!history?.count) return "";
  const { count, median, low, high } = history;
  const jobs = count === 1 ? "an earlier job like this" : `${count} earlier jobs like this`;
  const range = count === 1 ? "" : ` (${seconds(low)} to ${seconds(high)})`;
  return `${jobs} took ${seconds(median)}${range}`;
};

const request = () => {
  // Some browsers give a promise, old ones take a callback, and some refuse without a click.
  try {
    return Promise.resolve(Notification.requestPermission()).catch(() => "default");
  } catch {
    return Promise.resolve("default");
  }
};

// The notebook that a frontend shows the widget in, where it lets us know: JupyterLab and Notebook.
const notebook = (model) => model.widget_manager?.context;

const outputs = function* (model) {
  const cells = notebook(model)?.model?.cells;
  for (let i = 0; i < (cells?.length ?? 0); i += 1) {
    const found = cells.get(i).outputs;
    for (let j = 0; j < (found?.length ?? 0); j += 1) yield [found, j];
  }
};

// After a reload of the page the kernel can't replace an output any more; the page can. Else the
// notebook would be saved with a widget that is an error without its kernel.
const replace = (model, content) => {
  const view = model.get("view");
  for (const [list, index] of outputs(model)) {
    const data = list.get(index).data ?? {};
    const widget = data["application/vnd.jupyter.widget-view+json"]?.model_id;
    const html = [data["text/html"] ?? ""].flat().join("");
    const part =
      widget === view.model_id
        ? content.answer
        : html.includes(`data-bgmagic="${view.key}"`)
          ? content.footer
          : null;
    if (part) list.set(index, { output_type: "display_data", metadata: {}, data: part });
  }
};

function initialize({ model }) {
  let told = model.get("view").done;
  const changed = () => {
    const view = model.get("view");
    if (!view.notify || !view.done || told || !document.hidden) return;
    told = true;
    if (globalThis.Notification?.permission !== "granted") return;
    const shown = new Notification(`${view.name}: ${word(view.status)}`, {
      body: view.message || `after ${seconds(view.ended_at - view.submitted_at)}`,
      tag: view.key,
    });
    shown.onclick = () => window.focus();
  };
  const heard = (content) => content?.finished && replace(model, content.finished);
  model.on("change:view", changed);
  model.on("msg:custom", heard);
  return () => {
    model.off("change:view", changed);
    model.off("msg:custom", heard);
  };
}

function render({ model, el }) {
  const card = make("section", "card", el);
  const top = make("div", "top", card);
  const drawing = icon("waiting", top);
  const name = make("span", "name", top);
  // Only the status is announced to screen readers, and not every second.
  const status = make("span", "status", top);
  status.setAttribute("role", "status");
  const time = make("span", "time", top);
  const buttons = make("span", "buttons", top);
  const allow = make("button", "button", buttons);
  const button = make("button", "button", buttons);
  const about = make("div", "about", card);
  const asked = make("span", "asked", about);
  const id = make("code", "id", about);
  const copy = make("button", "copy", about);
  const copied = icon("copy", copy);
  const times = make("div", "times", card);
  const message = make("div", "message", card);
  const before = make("div", "before", card);
  const beforeText = make("span", "before-text", before);
  const beforeButton = make("button", "button", before);
  const thoughts = make("div", "thoughts", card);
  const preview = make("div", "preview", card);
  for (const [node, label] of [[thoughts, "Reasoning so far"], [preview, "Output so far"]]) {
    node.setAttribute("role", "region");
    node.setAttribute("aria-label", label);
    node.tabIndex = 0; // scrolls with the keyboard
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  beforeButton.textContent = "Cancel the earlier one";
  allow.textContent = "Allow notifications";

  // The kernel's clock minus ours. A snapshot kept from earlier makes it look smaller than it is,
  // never larger, so the largest seen is the best.
  let offset = -Infinity;
  let ended = false; // the kernel, as far as this page knows
  let confirming = 0;
  let sent = "";

  const tick = () => {
    const view = model.get("view");
    const now = Date.now() / 1000 + offset;
    const quiet = view.done || ended;
    say(time, ended && !view.done ? "" : seconds((view.ended_at ?? now) - view.submitted_at));
    const checked =
      view.checked_at == null || quiet ? "" : `checked ${ago(now - view.checked_at)}`;
    const parts = ended && !view.done ? [] : stretches(view, now);
    say(times, [...parts, checked, quiet ? "" : earlier(view.history)].filter(Boolean).join(" · "));
  };

  const drawButton = (view) => {
    // A job of which nobody knows whether it was accepted is sent again only on purpose.
    const again = view.status === "unknown";
    const cancelling = view.cancelling || sent === "cancel";
    button.hidden = ended || (view.done && !again);
    button.disabled = cancelling || sent === "resend";
    button.dataset.action = again ? "resend" : "cancel";
    button.classList.toggle("bgmagic-sure", confirming !== 0);
    button.textContent = again
      ? sent === "resend" ? "Sending…" : "Send again"
      : cancelling ? "Cancelling…" : confirming ? "Really cancel?" : "Cancel";
    button.setAttribute("aria-label", `${button.textContent} ${view.name}`.trim());
  };

  const draw = () => {
    const view = model.get("view");
    offset = Math.max(offset, view.clock - Date.now() / 1000);
    const shown = ended && !view.done ? "detached" : view.status;
    if (card.dataset.status !== shown) {
      card.dataset.status = known(shown) ? shown : "other";
      drawing.setAttribute("d", ICONS[shown] ?? ICONS.waiting);
      if (sent === "resend" || view.done) sent = "";
      confirming = 0;
    }
    if (!view.cancelling && view.message) sent = ""; // a refused cancel can be tried again
    card.setAttribute("aria-label", `Job ${view.name}`.trim());
    say(status, word(shown));
    say(name, view.name);
    say(asked, [view.model, view.effort && `effort ${view.effort}`].filter(Boolean).join(" · "));
    say(id, view.response_id);
    id.title = view.response_id;
    copy.hidden = !view.response_id;
    copy.setAttribute("aria-label", `Copy the response id ${view.response_id}`);
    const left = `This kernel has ended; the job goes on at the server. %bgattach ${view.name}`
      + " follows it in the next one.";
    const offline = view.offline ? "Offline, the job goes on at the server. " : "";
    say(message, ended && !view.done ? left : offline + view.message);
    say(beforeText, view.earlier ?? "");
    before.hidden = !view.earlier;
    const may = globalThis.Notification?.permission;
    allow.hidden = !view.notify || view.done || may !== "default";
    drawButton(view);
    tick();
    if (view.final) setTimeout(finish, OURS);
  };

  // The kernel replaces a finished card in place. One that still stands then was reloaded.
  const finish = () => {
    if (!el.isConnected || !notebook(model)) return;
    for (const [list, index] of outputs(model)) {
      const data = list.get(index).data ?? {};
      const widget = data["application/vnd.jupyter.widget-view+json"]?.model_id;
      if (widget === model.get("view").model_id) return model.send({ action: "finish" });
    }
  };

  const drawPreview = () => {
    const { text = "", reasoning = "" } = model.get("preview");
    for (const [node, content] of [[thoughts, reasoning], [preview, text]]) {
      const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 30;
      say(node, content);
      if (atEnd) node.scrollTop = node.scrollHeight;
    }
  };

  const stopConfirming = () => {
    clearTimeout(confirming);
    confirming = 0;
    drawButton(model.get("view"));
  };

  button.addEventListener("click", () => {
    const action = button.dataset.action;
    if (action === "cancel" && !confirming) {
      confirming = setTimeout(stopConfirming, CONFIRM);
      drawButton(model.get("view"));
      return;
    }
    clearTimeout(confirming);
    confirming = 0;
    // Said at once: in a busy kernel the click may have to wait.
    sent = action;
    model.send({ action });
    drawButton(model.get("view"));
  });
  button.addEventListener("keydown", (event) => event.key === "Escape" && stopConfirming());
  beforeButton.addEventListener("click", () => {
    beforeButton.disabled = true;
    model.send({ action: "cancel-earlier" });
  });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("view").response_id);
      copied.setAttribute("d", ICONS.completed);
    } catch {
      getSelection().selectAllChildren(id); // no permission: ready for Ctrl+C
    }
    setTimeout(() => copied.setAttribute("d", ICONS.copy), 1500);
  });
  allow.addEventListener("click", () => request().then(draw));

  const died = (_, state) => {
    if (["restarting", "autorestarting", "dead", "terminating"].includes(state)) {
      ended = true;
      draw();
    }
  };
  const session = notebook(model)?.sessionContext;
  session?.statusChanged?.connect(died);

  model.on("change:view", draw);
  model.on("change:preview", drawPreview);
  draw();
  drawPreview();
  if (model.get("view").notify && !model.get("view").done) request().then(draw);
  // On the full second, so that many cards are drawn together.
  let timer = 0;
  const next = () => {
    timer = setTimeout(() => {
      if (!model.get("view").done && !document.hidden) tick();
      next();
    }, 1000 - (Date.now() % 1000));
  };
  next();
  return () => {
    clearTimeout(timer);
    clearTimeout(confirming);
    session?.statusChanged?.disconnect(died);
    model.off("change:view", draw);
    model.off("change:preview", drawPreview);
  };
}

export default { initialize, render };

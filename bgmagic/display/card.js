// Draws the card of one job.

// One stroke drawing each, in a square of 16.
const RING = "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12";
const ICONS = {
  waiting: `${RING} M8 5v3.2l2 1.6`,
  submitting: "M8 13V3.5 M4.5 7L8 3.5L11.5 7",
  attached: "M6.5 4H5a4 4 0 0 0 0 8h1.5 M9.5 4H11a4 4 0 0 1 0 8H9.5 M5.5 8h5",
  queued: "M3 4h10 M3 8h10 M3 12h6",
  in_progress: "M8 2a6 6 0 1 1-6 6",
  completed: "M3 8.5l3.3 3.3L13 4.8",
  failed: "M4 4l8 8 M12 4l-8 8",
  incomplete: `${RING} M8 2v12`,
  cancelled: `${RING} M4 12l8-8`,
  unknown: "M5.5 6a2.6 2.6 0 1 1 3.6 2.4c-.8.4-1.1.8-1.1 1.7 M8 12.8v.2",
  lost: "M3 8h2 M7 8h2 M11 8h2",
  detached: "M6.5 4H5a4 4 0 0 0 0 8h1.5 M9.5 4H11a4 4 0 0 1 0 8H9.5",
};
const COPY = "M5.5 5.5h7.5v7.5h-7.5z M10.5 3h-7.5v7.5";
const PATIENCE = 400; // milliseconds until a click that the kernel has not answered says why
const BUSY =
  "No answer from the kernel yet. It is busy with a cell and will hear the click afterwards, or it "
  + "has ended. Interrupting the cell does no harm to the job.";
// What the button does where it is not Cancel; and what it says: at first, to be sure, meanwhile.
const ACTIONS = { unknown: "resend", detached: "check" };
const BUTTONS = {
  cancel: ["Cancel", "Really cancel?", "Cancelling…"],
  resend: ["Send again"],
  check: ["Check again"],
};

// What the word of a call is, and what its two buttons say where it needs somebody's.
const CALLS = {
  pending: "next", asking: "asks", running: "running", done: "→", failed: "failed:", denied: "denied:",
  unknown: "was running as its kernel ended; nobody knows what came of it",
};
const WORDS = { asking: ["Allow", "Deny"], unknown: ["Run it once more", "Leave it"] };

// A line that is there only as long as it says something.
const tell = (node, text) => {
  say(node, text);
  node.hidden = !text;
};

const known = (status) => Object.hasOwn(ICONS, status);

const icon = (drawing, parent) => {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "bgmagic-icon");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", drawing);
  svg.append(path);
  parent.append(svg);
  return path;
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

// When the window that was asked for ends, and how much of it is left.
const windowLeft = (view, now) => {
  if (view.window_ends_at == null) return "";
  const rest = view.window_ends_at - now;
  const at = new Date((view.window_ends_at - now) * 1000 + Date.now());
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const ends = `window of ${view.window} ${rest > 0 ? "ends" : "ended"} at ${time}`;
  return rest > 0 ? `${ends}, ${seconds(rest)} left` : ends;
};

const earlier = (history) => {
  if (!history?.count) return "";
  const { count, median, low, high } = history;
  const jobs = count === 1 ? "an earlier job like this" : `${count} earlier jobs like this`;
  const range = count === 1 ? "" : ` (${seconds(low)} to ${seconds(high)})`;
  return `${jobs} took ${seconds(median)}${range}`;
};

function render({ model, el }) {
  const card = make("section", "card", el);
  const top = make("div", "top", card);
  const drawing = icon(ICONS.waiting, top);
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
  const copied = icon(COPY, copy);
  const times = make("div", "times", card);
  const message = make("div", "message", card);
  const wait = make("div", "wait", card);
  wait.setAttribute("aria-live", "polite");
  const calls = make("ul", "calls", card);
  calls.setAttribute("aria-label", "Functions that the model calls");
  const before = make("div", "before", card);
  const beforeText = make("span", "before-text", before);
  const beforeButton = make("button", "button", before);
  const thoughts = make("div", "thoughts", card);
  const preview = make("div", "preview", card);
  for (const [node, label] of [[thoughts, "Reasoning and commentary so far"], [preview, "Output so far"]]) {
    node.setAttribute("role", "region");
    node.setAttribute("aria-label", label);
    node.tabIndex = 0; // scrolls with the keyboard
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  beforeButton.textContent = "Cancel the earlier one";
  allow.textContent = "Allow notifications";

  // The kernel's clock minus ours: whatever it says was said just now.
  let offset = model.get("view").clock - Date.now() / 1000;
  let ended = false; // the kernel, as far as this page knows
  let drawn = ""; // the status
  let sent = ""; // the action of a click that the kernel has not answered yet
  let waiting = 0;

  // Whether the job was still open when its kernel ended.
  const over = (view) => ended && view.ended_at == null;

  const tick = () => {
    const view = model.get("view");
    const now = Date.now() / 1000 + offset;
    const unwatched = view.done && view.ended_at == null || over(view);
    const parts = unwatched ? [] : stretches(view, now);
    if (view.checked_at != null && view.ended_at == null && !over(view))
      parts.push(`checked ${ago(now - view.checked_at)}`);
    if (view.ended_at == null && !unwatched) parts.push(windowLeft(view, now), earlier(view.history));
    tell(time, unwatched ? "" : seconds((view.ended_at ?? now) - view.submitted_at));
    tell(times, parts.filter(Boolean).join(" · "));
  };

  const drawButton = (view) => {
    // A job of which nobody knows whether it was accepted is sent again only on purpose.
    const action = ACTIONS[view.status] ?? (view.done ? "" : "cancel");
    const [ask, sure, doing] = BUTTONS[action] ?? [];
    button.hidden = ended || !action;
    idle(button, Boolean(sent) || view.cancelling);
    button.dataset.action = action;
    button.classList.toggle("bgmagic-sure", asking.sure);
    button.textContent =
      action === "cancel" && view.cancelling ? doing
        : sent ? "Waiting for the kernel…" : asking.sure ? sure : ask;
    button.setAttribute("aria-label", `${button.textContent} ${view.name}`.trim());
  };
  const asking = secondClick(button, () => drawButton(model.get("view")));

  // Said only where it is so: a kernel that is free has answered long before.
  const answered = () => {
    clearTimeout(waiting);
    sent = "";
    say(wait, "");
  };
  const send = (action, key = "") => {
    sent = action;
    model.send({ action, key });
    clearTimeout(waiting);
    waiting = setTimeout(() => say(wait, BUSY), PATIENCE);
    drawButton(model.get("view"));
  };

  const beginCall = (parent) => {
    const row = make("li", "call", parent);
    make("code", "call-text", row);
    make("span", "call-output", row);
    const words = make("span", "call-buttons", row);
    for (const action of ["allow", "deny"]) {
      const answer = make("button", "button", words);
      answer.dataset.action = action;
      answer.addEventListener("click", () => {
        if (answer.ariaDisabled === "true") return;
        for (const other of words.children) idle(other, true);
        send(action, row.dataset.key);
      });
    }
  };

  const drawCalls = (view) => {
    const told = over(view) ? [] : view.calls ?? [];
    calls.hidden = !told.length;
    fit(calls, told.length, beginCall).forEach((row, place) => {
      const call = told[place];
      const [text, output, words] = row.children;
      if (row.dataset.key !== call.key || !call.asks)
        for (const answer of words.children) idle(answer, false);
      row.dataset.key = call.key;
      row.dataset.status = call.status;
      say(text, call.text);
      say(output, [CALLS[call.status] ?? call.status, call.output].filter(Boolean).join(" "));
      words.hidden = !call.asks;
      [...words.children].forEach((answer, which) => {
        say(answer, (WORDS[call.status] ?? WORDS.asking)[which]);
        answer.setAttribute("aria-label", `${answer.textContent} ${call.text.slice(0, 80)}`);
      });
    });
  };

  const draw = () => {
    const view = model.get("view");
    const shown = over(view) ? "detached" : view.status;
    if (drawn !== shown) {
      drawn = shown;
      card.dataset.status = known(shown) ? shown : "other";
      drawing.setAttribute("d", known(shown) ? ICONS[shown] : ICONS.waiting);
      asking.calm();
    }
    card.classList.toggle("bgmagic-offline", view.offline && !over(view));
    card.setAttribute("aria-label", `Job ${view.name}`.trim());
    tell(status, word(shown));
    tell(name, view.name);
    tell(asked, [view.model, view.effort && `effort ${view.effort}`].filter(Boolean).join(" · "));
    tell(id, view.response_id);
    id.title = view.response_id;
    copy.hidden = !view.response_id;
    copy.setAttribute("aria-label", `Copy the response id ${view.response_id}`);
    const which = `%bgattach ${view.name || view.response_id}`;
    const left = "This kernel has ended; " + (view.called
      ? `the model waits for its calls. Define the functions again, then ${which} goes on.`
      : view.status === "waiting" ? `the server does not have the job yet. ${which} sends it in the next one.`
      : view.status === "submitting" ? `nobody knows whether the server has the job. ${which} says what is known.`
      : `the job goes on at the server. ${which} follows it in the next one.`);
    tell(message, over(view) ? left : view.refused || view.message);
    tell(beforeText, view.earlier ?? "");
    before.hidden = !view.earlier;
    const may = globalThis.Notification?.permission;
    drawCalls(view);
    allow.hidden = !view.notify || view.done || may !== "default";
    drawButton(view);
    tick();
    if (view.final) setTimeout(finish, OURS, model, el);
  };

  const drawPreview = () => {
    const { text = "", reasoning = "", commentary = "" } = model.get("preview");
    const before = [reasoning, commentary].filter(Boolean).join("\n\n");
    for (const [node, content] of [[thoughts, before], [preview, text]]) {
      const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 30;
      tell(node, content);
      if (atEnd) node.scrollTop = node.scrollHeight;
    }
  };

  button.addEventListener("click", () => {
    const action = button.dataset.action;
    if (sent || model.get("view").cancelling) return;
    if (action !== "cancel" || asking.confirmed()) send(action);
  });
  beforeButton.addEventListener("click", () => {
    if (beforeButton.ariaDisabled) return;
    idle(beforeButton, true);
    send("cancel-earlier");
  });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("view").response_id);
      copied.setAttribute("d", ICONS.completed);
    } catch {
      getSelection().selectAllChildren(id); // no permission: ready for Ctrl+C
    }
    setTimeout(() => copied.setAttribute("d", COPY), 1500);
  });
  allow.addEventListener("click", () => request().then(draw));

  const stopWatching = afterKernel(model, el, () => {
    ended = true;
    draw();
  });

  const changed = () => {
    const view = model.get("view");
    offset = view.clock - Date.now() / 1000;
    draw();
  };
  const heard = (content) => {
    if (!content?.heard) return;
    answered();
    drawButton(model.get("view"));
  };
  const end = filling(model, el, card);
  model.on("change:view", changed);
  model.on("msg:custom", heard);
  model.on("change:preview", drawPreview);
  draw();
  drawPreview();
  tellDrawn(model);
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
    asking.stop();
    end.stop();
    clearTimeout(waiting);
    stopWatching();
    model.off("change:view", changed);
    model.off("msg:custom", heard);
    model.off("change:preview", drawPreview);
  };
}

export default { initialize, render };

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

const make = (tag, name, parent) => {
  const node = document.createElement(tag);
  node.className = `bgmagic-${name}`;
  parent.append(node);
  return node;
};

const seconds = (total) => {
  const s = Math.max(0, Math.floor(total));
  const pad = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600);
  const m = Math.floor(s / 60) % 60;
  return h ? `${h}:${pad(m)}:${pad(s % 60)}` : `${m}:${pad(s % 60)}`;
};

function render({ model, el }) {
  const card = make("div", "card", el);
  const dot = make("span", "dot", card);
  dot.setAttribute("aria-hidden", "true");
  const name = make("span", "name", card);
  // Only the status is announced to screen readers, not every second.
  const status = make("span", "status", card);
  status.setAttribute("role", "status");
  const time = make("span", "time", card);
  const about = make("span", "about", card);
  const button = make("button", "button", card);
  button.type = "button";
  const message = make("div", "message", card);
  const earlier = make("div", "earlier", card);
  const earlierText = make("span", "earlier-text", earlier);
  const earlierButton = make("button", "button", earlier);
  earlierButton.type = "button";
  earlierButton.textContent = "Cancel the earlier one";

  // The kernel's clock minus ours. A snapshot kept from earlier makes it look smaller than it is,
  // never larger, so the largest seen is the best.
  let offset = -Infinity;

  const tick = () => {
    const view = model.get("view");
    const end = view.ended_at ?? Date.now() / 1000 + offset;
    time.textContent = seconds(end - view.submitted_at);
  };

  const draw = () => {
    const view = model.get("view");
    offset = Math.max(offset, view.clock - Date.now() / 1000);
    card.dataset.status = Object.hasOwn(WORDS, view.status) ? view.status : "other";
    const word = Object.hasOwn(WORDS, view.status) ? WORDS[view.status] : view.status;
    if (status.textContent !== word) status.textContent = word;
    name.textContent = view.name;
    about.textContent = [view.model, view.effort && `effort ${view.effort}`, view.response_id]
      .filter(Boolean)
      .join(" · ");
    about.title = about.textContent;  // the id is long, and cut where the card is narrow
    message.textContent = view.message;
    message.hidden = !view.message;
    // A job of which nobody knows whether it was accepted is sent again only on purpose.
    const again = view.status === "unknown";
    button.hidden = view.done && !again;
    button.disabled = view.cancelling;
    button.dataset.action = again ? "resend" : "cancel";
    button.textContent = again ? "Send again" : view.cancelling ? "Cancelling…" : "Cancel";
    button.setAttribute("aria-label", `${button.textContent} ${view.name}`.trim());
    earlierText.textContent = view.earlier ?? "";
    earlier.hidden = !view.earlier;
    tick();
  };

  earlierButton.addEventListener("click", () => {
    earlierButton.disabled = true;
    model.send({ action: "cancel-earlier" });
  });
  button.addEventListener("click", () => {
    // Said at once: in a busy kernel the click may have to wait.
    button.disabled = true;
    button.textContent = button.dataset.action === "cancel" ? "Cancelling…" : "Sending…";
    model.send({ action: button.dataset.action });
  });
  model.on("change:view", draw);
  draw();
  const timer = setInterval(() => model.get("view").done || tick(), 1000);
  return () => {
    clearInterval(timer);
    model.off("change:view", draw);
  };
}

export default { render };

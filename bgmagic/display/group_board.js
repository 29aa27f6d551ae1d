// Draws the board of a group: a bar by status, what it adds up to, the slowest and the failed.

// In the order in which a job goes through them; others come before the last.
const ORDER = [
  "completed", "incomplete", "failed", "lost", "unknown", "cancelled", "detached",
  "in_progress", "queued", "submitting", "waiting",
];
const STAYS = new Set(ORDER.slice(0, 7)); // what a status is, whether a kernel lives or not
const SHARES = 12; // segments of the bar at most

const place = (status) => {
  const found = ORDER.indexOf(status);
  return found < 0 ? ORDER.length - 1.5 : found;
};
const number = (value) => value.toLocaleString("en");
const short = (count) => {
  if (count < 10_000) return number(count);
  return count < 1e6 ? `${(count / 1e3).toFixed(0)} k` : `${(count / 1e6).toFixed(2)} M`;
};
const dollars = (amount) =>
  amount >= 0.1 || amount === 0 ? `$${amount.toFixed(2)}` : `$${Number(amount.toPrecision(3))}`;

const piece = (tag, name, parent, text = "") => make(tag, `group-${name}`, parent, text);

function render({ model, el }) {
  const board = piece("section", "board", el);
  const top = piece("div", "top", board);
  const name = piece("span", "name", top);
  const progress = piece("span", "progress", top);
  const cancel = make("button", "button", top);
  const bar = piece("div", "bar", board);
  bar.setAttribute("role", "progressbar");
  const legend = piece("div", "legend", board);
  legend.setAttribute("aria-live", "polite");
  const facts = piece("div", "facts", board);
  const trouble = piece("div", "trouble", board);
  const slowest = piece("details", "slowest", board);
  const slowTitle = piece("summary", "summary", slowest);
  const slowList = piece("ol", "list", slowest);
  const failed = piece("details", "failed", board);
  const failTitle = piece("summary", "summary", failed);
  const failList = piece("ul", "list", failed);
  slowest.open = true;
  for (const fold of [slowTitle, failTitle])
    fold.setAttribute("data-lm-suppress-shortcuts", "true");

  let sent = false;
  let offset = 0;
  let ended = false; // the kernel, as far as this page knows
  const now = () => Date.now() / 1000 + offset;

  // What is known: nobody follows what was open as the kernel ended.
  const known = () => {
    const view = model.get("view");
    if (!ended || view.done) return view;
    const counts = {};
    for (const [status, count] of Object.entries(view.counts)) {
      const now = STAYS.has(status) ? status : "detached";
      counts[now] = (counts[now] ?? 0) + count;
    }
    const trouble = "This kernel has ended; %bgattach in the next one follows the jobs that are open.";
    return { ...view, counts, trouble, slowest: [], left: true };
  };

  const drawBar = (view) => {
    const counts = Object.entries(view.counts).sort((a, b) => place(a[0]) - place(b[0]));
    const shown = counts.slice(0, SHARES);
    const each = (parent, name, write) =>
      fit(parent, shown.length, () => piece("span", name, parent)).forEach((node, index) => {
        const [status, count] = shown[index];
        node.dataset.status = status;
        write(node, count, `${number(count)} ${word(status)}`);
      });
    each(bar, "share", (node, count, text) => {
      node.style.flexGrow = String(count);
      node.title = text;
    });
    each(legend, "count", (node, _, text) => say(node, text));
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", String(view.size));
    bar.setAttribute("aria-valuenow", String(view.ended));
    bar.setAttribute("aria-label", `${view.ended} of ${view.size} jobs of ${view.name} have ended`);
  };

  const drawFacts = (view) => {
    const pairs = [];
    const goesOn = !view.done && !view.left;
    if (goesOn) pairs.push(["elapsed", seconds(now() - view.submitted_at)]);
    if (view.batch && goesOn) pairs.push(["at the server", view.batch]);
    if (view.pace != null && goesOn) {
      const left = (view.size - view.ended) / view.pace;
      pairs.push(["pace", `${number(Number(view.pace.toPrecision(2)))} a minute`]);
      pairs.push(["left at this pace", left < 1 ? "less than a minute" : seconds(left * 60)]);
    }
    if (view.tokens_in != null) pairs.push(["tokens in", short(view.tokens_in)]);
    if (view.tokens_out != null) {
      const thought = view.tokens_reasoning;
      const reasoning = thought ? ` (${short(thought)} reasoning)` : "";
      pairs.push(["tokens out", short(view.tokens_out) + reasoning]);
    }
    const most = view.bill ? view.bill : "";
    if (view.price != null) {
      const some = view.unpriced ? `, of ${view.unpriced} not known` : "";
      pairs.push(["price so far", dollars(view.price) + some]);
    }
    if (most) pairs.push([view.price == null ? "price" : "of", most]);
    const nodes = fit(facts, pairs.length, (parent) => {
      const pair = piece("span", "fact", parent);
      piece("span", "what", pair);
      piece("span", "value", pair);
    });
    nodes.forEach((node, index) => {
      say(node.firstChild, pairs[index][0]);
      say(node.lastChild, pairs[index][1]);
    });
  };

  const drawLists = (view) => {
    slowest.hidden = view.slowest.length === 0;
    say(slowTitle, view.slowest[0]?.done ? "The slowest" : "Longest at the server");
    fit(slowList, view.slowest.length, (parent) => {
      const item = piece("li", "item", parent);
      for (const part of ["job", "state", "seconds"]) piece("span", part, item);
    }).forEach((node, index) => {
      const job = view.slowest[index];
      const since = job.done ? 0 : now() - view.clock;
      say(node.children[0], job.name);
      say(node.children[1], word(job.status));
      say(node.children[2], seconds(job.seconds + since));
    });
    failed.hidden = view.failures === 0;
    say(failTitle, `${number(view.failures)} without an answer`);
    fit(failList, view.failed.length, (parent) => {
      const item = piece("li", "item", parent);
      for (const part of ["times", "reason", "names"]) piece("span", part, item);
    }).forEach((node, index) => {
      const why = view.failed[index];
      say(node.children[0], `${number(why.count)} ${word(why.status)}`);
      say(node.children[1], why.reason);
      say(node.children[2], why.names);
    });
  };

  const drawButton = (view) => {
    const asked = sent || view.cancelling;
    cancel.hidden = view.done || ended;
    idle(cancel, asked);
    cancel.classList.toggle("bgmagic-sure", asking.sure);
    const left = view.size - view.ended;
    const sure = `Really cancel ${number(left)} ${left === 1 ? "job" : "jobs"}?`;
    say(cancel, asked ? "Cancelling…" : asking.sure ? sure : "Cancel all");
    cancel.setAttribute("aria-label", `${cancel.textContent} ${view.name}`);
  };
  const asking = secondClick(cancel, () => drawButton(model.get("view")));

  const draw = () => {
    const view = known();
    offset = Math.max(offset, view.clock - Date.now() / 1000);
    if (view.done) sent = false;
    else end.undo(); // some go on after a retry
    board.dataset.done = String(view.done);
    board.setAttribute("aria-label", `Jobs of ${view.name}`);
    say(name, view.name);
    say(progress, `${number(view.ended)} of ${number(view.size)} ${view.size === 1 ? "job" : "jobs"}`);
    say(trouble, view.trouble);
    drawBar(view);
    drawFacts(view);
    drawLists(view);
    drawButton(view);
    if (view.done) setTimeout(() => finish(model, el), OURS);
  };

  cancel.addEventListener("click", () => {
    if (sent || model.get("view").cancelling || !asking.confirmed()) return;
    sent = true; // said at once: in a busy kernel the click may have to wait
    model.send({ action: "cancel" });
    drawButton(model.get("view"));
  });

  const end = filling(model, el, board);
  const stopWatching = afterKernel(model, el, () => {
    ended = true;
    draw();
  });
  model.on("change:view", draw);
  draw();
  tellDrawn(model);
  if (model.get("view").notify && !model.get("view").done) request();
  const timer = setInterval(() => {
    const view = known();
    if (view.done || document.hidden) return;
    drawFacts(view);
    drawLists(view);
  }, 1000);
  return () => {
    clearInterval(timer);
    asking.stop();
    end.stop();
    stopWatching();
    model.off("change:view", draw);
  };
}

export default { initialize, render };

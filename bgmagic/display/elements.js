// What the card and the board are made of. All text goes in through textContent: nothing a server or
// a model wrote is ever markup here.

// A page of a shared document trusts no output of a cell that another page has run, and draws no widget there.
// bgmagic's extension draws it by this function, which the widget's model has brought to that page in any case.
const offer = (model, render) => {
  if (!model.widget_manager?.context) return () => {}; // a console, which has no documents
  const offered = (globalThis.bgmagicLive ??= new Map());
  const draw = (el) => render({ model, el });
  offered.set(model.get("live_id"), draw);
  dispatchEvent(new Event("bgmagic-live"));
  return () => offered.get(model.get("live_id")) === draw && offered.delete(model.get("live_id"));
};

// The notebook that a frontend shows the widget in, where it lets us know: JupyterLab and Notebook.
const notebook = (model) => model.widget_manager?.context;

// What the page calls a kernel that is no more, or another one in its place.
const ENDINGS = new Set(["restarting", "autorestarting", "starting", "dead", "terminating"]);

// Whether the page has the widget from the notebook's file, which may be old, and no kernel has it.
const isSaved = (el) => Boolean(el.closest(".jupyter-widgets-disconnected"));

// Has `tell` called when the widget's kernel has ended, as far as this page knows; gives what stops that.
const afterKernel = (model, el, tell) => {
  if (isSaved(el)) tell();
  const changed = notebook(model)?.sessionContext?.statusChanged;
  const heard = (_, state) => ENDINGS.has(state) && tell();
  changed?.connect(heard);
  return () => changed?.disconnect(heard);
};

const CONFIRM = 5000; // milliseconds that a first click on Cancel waits for the second

const make = (tag, name, parent, text = "") => {
  const node = document.createElement(tag);
  node.className = `bgmagic-${name}`;
  if (tag === "button") {
    node.type = "button";
    // Else Enter and Space would be the notebook's shortcuts, not clicks.
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  node.textContent = text;
  parent?.append(node);
  return node;
};

// Only what changed: most lines stand still while others tick.
const say = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

// The server's word, which may be any.
const word = (status) => status.replaceAll("_", " ");

const seconds = (total) => {
  const s = Math.max(0, Math.floor(total));
  const pad = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600);
  const m = Math.floor(s / 60) % 60;
  return h ? `${h}:${pad(m)}:${pad(s % 60)}` : `${m}:${pad(s % 60)}`;
};

// A button that acts at its second click within CONFIRM; Escape takes the first one back. `draw` is
// called when the first click has come or gone, `sure` tells which.
const secondClick = (button, draw) => {
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    draw();
  };
  button.addEventListener("keydown", (event) => event.key === "Escape" && timer && calm());
  return {
    get sure() {
      return timer !== 0;
    },
    calm,
    stop: () => clearTimeout(timer),
    // To be asked at each click: whether it is the second one.
    confirmed: () => {
      if (timer) {
        clearTimeout(timer);
        timer = 0;
        return true;
      }
      timer = setTimeout(calm, CONFIRM);
      draw();
      return false;
    },
  };
};

// As many children as wanted, each made once and kept, so that a fold or a selection stays as it is.
const fit = (parent, count, begin) => {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) begin(parent);
  return [...parent.children];
};

// A button that does nothing now. Not disabled, which would take the focus of the keyboard away.
const idle = (button, off) => button.setAttribute("aria-disabled", String(off));

// A button that copies a block of code of an answer, beside the block that the pointer or the focus
// of the keyboard is on. Also where the answer has taken a card's place: the page keeps the script.
const OUR_CODE = 'pre[dir="ltr"][tabindex="0"]'; // as bgmagic/rendering/markdown.py writes it
const offerCopy = ({ target }) => {
  const block = target?.closest?.(OUR_CODE);
  if (!block || block.nextElementSibling?.className === "bgmagic-copy-code") return;
  const place = document.createElement("div");
  place.className = "bgmagic-copy-code";
  const button = make("button", "copy-block", place, "Copy");
  place.style.cssText = "position: relative; height: 0; user-select: none";
  button.style.cssText =
    "position: absolute; right: 6px; padding: 0 8px; min-height: 24px; font: inherit;"
    + " font-size: 0.85em; border: 1px solid var(--jp-border-color0, #8f8f8f); border-radius: 3px;"
    + " background: var(--jp-layout-color1, #fff); color: var(--jp-ui-font-color1, #212121);"
    + " cursor: pointer";
  button.setAttribute("aria-label", "Copy this code");
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    try {
      await navigator.clipboard.writeText(block.textContent.replace(/\n$/, ""));
      say(button, "Copied");
    } catch {
      getSelection().selectAllChildren(block); // no permission: ready for Ctrl+C
      say(button, "Selected");
    }
    setTimeout(say, 1500, button, "Copy");
  });
  block.after(place);
  const below = place.getBoundingClientRect().top - block.getBoundingClientRect().top;
  button.style.top = `${6 - below}px`;
  const leave = () =>
    setTimeout(() => {
      const held = [block, place].some((node) => node.matches(":hover, :focus-within"));
      if (!held) place.remove();
    }, 100);
  for (const node of [block, place])
    for (const kind of ["pointerleave", "focusout"]) node.addEventListener(kind, leave);
};
if (!globalThis.bgmagicOffersCopy) {
  globalThis.bgmagicOffersCopy = true;
  // Where the button is, nobody needs a field to select code in.
  document.head.append(Object.assign(document.createElement("style"),
    { textContent: "details.bgmagic-select:not([open]) { display: none }" }));
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, offerCopy);
}

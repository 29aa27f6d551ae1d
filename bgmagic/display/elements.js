// What the card and the board are made of. All text goes in through textContent: nothing a server or
// a model wrote is ever markup here.

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

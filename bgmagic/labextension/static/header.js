// The first line of a prompt as its parser in Python reads it: words, flags, and what is wrong with them.

import OPTIONS from "./options.js";

const HEAD = /^\s*(%%\w+)(?=\s|$)/;
const WORD = /(?:'[^']*(?:'|$)|"(?:\\.|[^"\\])*(?:"|$)|\\.|[^\s'"])+/gs;
const REFERENCE = /^(\$[^\W\d]\w*|\{[^\W\d]\w*\})$/u;
const NUMBER = /^[\d.,_]+(s|m|h|d)?$/;
const BLANK = 50; // lines that may be empty before the first; nobody leaves more

/** Whether a line begins a cell of one of our magics. */
export const isHeader = (text) => OPTIONS[HEAD.exec(text)?.[1]] !== undefined;

/** The line that begins a cell of one of our magics, as {from, to, text}, or null. */
export function headerOf(doc) {
  for (let number = 1; number <= Math.min(doc.lines, BLANK); number++) {
    const line = doc.line(number);
    if (/\S/.test(line.text)) return isHeader(line.text) ? line : null;
  }
  return null;
}

/**
 * What a header line is made of, as {type, from, to, wrong, begins}: `type` is Magic, Flag, Value, Name, Number or
 * Unknown; places count from the line's start; `wrong` says what is wrong, `begins` that it could still become right.
 */
export function readHeader(text) {
  const magic = HEAD.exec(text);
  const options = OPTIONS[magic[1]];
  const known = new Map(options.flatMap(([flags, takes]) => flags.split(" ").map((name) => [name, takes])));
  const found = [{ type: "Magic", from: magic[0].length - magic[1].length, to: magic[0].length }];
  let due = ""; // what the option before takes
  for (const word of text.slice(magic[0].length).matchAll(WORD)) {
    const from = magic[0].length + word.index;
    due = due ? value(found, due, word[0], from) : flag(found, known, word[0], from);
  }
  return found;
}

/** Add a flag, and its value after "=" or, of a short one, right behind it; returns what the next word is to be. */
function flag(found, known, word, from) {
  const equals = word.indexOf("=");
  const name = equals < 0 ? word : word.slice(0, equals);
  const takes = known.get(name);
  const to = from + name.length;
  if (takes !== undefined) {
    found.push({ type: "Flag", from, to });
    return equals < 0 ? takes : value(found, takes, word.slice(equals + 1), to + 1);
  }
  const short = /^-[a-z]/.test(word) && known.get(word.slice(0, 2));
  if (short) {
    found.push({ type: "Flag", from, to: from + 2 });
    return value(found, short, word.slice(2), from + 2);
  }
  const names = [...known.keys()];
  const dashed = word.startsWith("-");
  const begins = dashed && names.some((other) => other.startsWith(name));
  const wrong = dashed ? `no option ${name}${near(name, names)}` : "no flag before it";
  found.push({ type: "Unknown", from, to: from + word.length, wrong, begins });
  return "";
}

function value(found, takes, word, from) {
  const plain = word.replace(/^(['"])(.*)\1$/s, "$2");
  const add = (type, more) => void found.push({ type, from, to: from + word.length, ...more });
  if (takes === "name" || REFERENCE.test(plain)) add("Name");
  else if (Array.isArray(takes) && !takes.includes(plain)) {
    add("Unknown", { wrong: `allowed are ${takes.join(", ")}`, begins: takes.some((choice) => choice.startsWith(plain)) });
  } else add(NUMBER.test(plain) ? "Number" : "Value");
  return "";
}

/** ": did you mean …?" of the one that shares the most pairs of letters, if any does. */
function near(word, every) {
  const pairs = (text) => new Set([...text].map((_, i) => text.slice(i, i + 2)));
  const mine = pairs(word.toLowerCase());
  const likeness = (other) => {
    const theirs = pairs(other);
    return (2 * [...theirs].filter((pair) => mine.has(pair)).length) / (mine.size + theirs.size);
  };
  const [best] = every.map((other) => [likeness(other), other]).sort(([a], [b]) => b - a);
  return best && best[0] > 0.5 ? `: did you mean ${best[1]}?` : "";
}

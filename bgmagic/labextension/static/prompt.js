// Colours a cell that begins with one of our magics: its first line as options, the rest as Markdown, and in that
// {{ expressions }} as Python. Other cells pay for one look at their first line when they change.

import { headerOf, isHeader, readHeader } from "./header.js";

const STYLES = {
  Magic: (t) => t.keyword,
  Flag: (t) => t.attributeName,
  Value: (t) => t.string,
  Name: (t) => t.special(t.variableName),
  Number: (t) => t.number,
};
// What an expression's end is looked for in, as `_TOKEN` of prompts/template.py.
const TOKEN = /'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[[\](){}]/gs;
const RAW = /(^|\s)--raw(\s|$)/;

/** The plugin; @param exported gives what modules of JupyterLab export, by their names. */
export async function promptPlugin(exported) {
  const names = ["@codemirror/state", "@codemirror/view", "@codemirror/language", "@lezer/common", "@lezer/highlight"];
  const [parts, lab] = await Promise.all([exported(...names), exported("@jupyterlab/codemirror")]);
  return {
    id: "bgmagic:prompt",
    description: "Colours the cells of %%bgresponse.",
    autoStart: true,
    requires: [lab.IEditorExtensionRegistry, lab.IEditorLanguageRegistry],
    activate: (_, extensions, languages) => {
      const colours = promptColours(parts, () => parsers(languages));
      extensions.addExtension({
        name: "bgmagic:prompt",
        factory: ({ inline, model }) => {
          const other = !inline || ["markdown", "raw"].includes(model.type);
          return other ? null : lab.EditorExtensionRegistry.createImmutableExtension(colours(model));
        },
      });
    },
  };
}

/** JupyterLab's own parsers of Markdown, with code and formulas, and of Python; loaded with the first prompt. */
async function parsers(languages) {
  const found = await Promise.all(["ipythongfm", "python"].map((name) => languages.getLanguage(name)));
  return found.map(({ support }) => support.language.parser);
}

/** @returns a function that gives an editor's extension, by its model. */
function promptColours(parts, load) {
  const { Compartment, EditorState, Prec, StateField, ViewPlugin } = parts;
  const compartment = new Compartment();
  const OFF = [];
  const marks = unknownWords(parts);
  const plain = promptLanguage(parts);
  let loading = null;
  let full = null;

  const on = () => full ?? first;
  // Until the parsers are there, the options alone are coloured.
  const first = [
    Prec.highest(plain),
    marks,
    ViewPlugin.define((editor) => {
      let open = true;
      loading ??= load().then(([markdown, python]) => {
        full = [Prec.highest(promptLanguage(parts, markdown)), expressionColours(parts, python), marks];
      });
      loading.then(() => {
        if (open && compartment.get(editor.state) === first) editor.dispatch({ effects: compartment.reconfigure(full) });
      }, console.warn);
      return { destroy: () => (open = false) };
    }),
  ];

  const toggle = EditorState.transactionExtender.of((change) => {
    if (!change.docChanged) return null;
    const was = compartment.get(change.startState) !== OFF;
    const is = headerOf(change.newDoc) !== null;
    return was === is ? null : { effects: compartment.reconfigure(is ? on() : OFF) };
  });
  return (model) => {
    const text = model.sharedModel.getSource();
    const begins = headerOf(parts.Text.of(text.slice(0, 10_000).split("\n")));
    return [compartment.of(begins ? on() : OFF), toggle];
  };
}

/** The language of a prompt; without a parser of Markdown its text is plain. */
function promptLanguage(parts, markdown) {
  const { Language, NodeSet, NodeType, Parser, Tree, defineLanguageFacet, languageDataProp, parseMixed } = parts;
  const data = defineLanguageFacet({ closeBrackets: { brackets: ["(", "[", "{", '"'] } });
  const names = ["Prompt", "Header", "Body", "Unknown", ...Object.keys(STYLES)];
  const types = names.map((name, id) => NodeType.define({ id, name, top: id === 0 }));
  const styles = Object.fromEntries(Object.entries(STYLES).map(([name, tag]) => [name, tag(parts.tags)]));
  const ofLanguage = languageDataProp.add((type) => (type.isTop ? data : undefined));
  const { types: made } = new NodeSet(types).extend(parts.styleTags(styles), ofLanguage);
  const [prompt, header, body] = made;
  const leaf = ({ type, from, to }) => new Tree(made[names.indexOf(type)], [], [], to - from);

  function parse(text) {
    const [begin, end] = headerPlace(text);
    const line = text.slice(begin, end);
    const words = isHeader(line) ? readHeader(line).filter(({ from, to }) => to > from) : [];
    const head = new Tree(header, words.map(leaf), words.map(({ from }) => from), end - begin);
    return new Tree(prompt, [head, new Tree(body, [], [], text.length - end)], [begin, end], text.length);
  }

  // Markdown sees letters for expressions. An overlay that leaves them out did not do: with a heading and a fenced
  // block in it highlightTree gave spans out of order, at which JupyterLab's highlighter stops.
  class Masking extends Parser {
    createParse(input, fragments, ranges) {
      return markdown.createParse(masked(input), fragments, ranges);
    }
  }
  const text = new Masking();
  const isText = (node) => node.type === body && node.to > node.from;
  const wrap = markdown && parseMixed((node) => (isText(node) ? { parser: text } : null));

  class PromptParser extends Parser {
    createParse(input, fragments, ranges) {
      const whole = {
        parsedPos: 0,
        stoppedAt: null,
        stopAt() {},
        advance: () => parse(input.read(0, input.length)),
      };
      return wrap ? wrap(whole, input, fragments, ranges) : whole;
    }
  }
  return new Language(data, new PromptParser(), [], "bgresponse");
}

/** Where a prompt's first line begins and ends. */
function headerPlace(text) {
  const start = text.length - text.trimStart().length;
  const end = text.indexOf("\n", start);
  return [text.lastIndexOf("\n", start) + 1, end < 0 ? text.length : end];
}

/** An input with letters in place of its expressions. */
function masked(input) {
  let text = input.read(0, input.length);
  for (const [from, to] of promptExpressions(text)) {
    text = text.slice(0, from) + text.slice(from, to).replace(/[^\n]/g, "x") + text.slice(to);
  }
  const read = (from, to) => text.slice(from, to);
  return { length: text.length, lineChunks: false, chunk: (from) => text.slice(from), read };
}

/** The expressions of a prompt, as [from, to]. */
function promptExpressions(text) {
  const [begin, end] = headerPlace(text);
  return RAW.test(text.slice(begin, end)) ? [] : expressions(text, end);
}

/** Colours {{ expressions }} wherever they stand, in code and headings too: all of them are filled in. */
function expressionColours(parts, python) {
  const { Decoration, EditorView, Prec, ViewPlugin, highlightTree, highlightingFor, tags } = parts;
  const whole = Decoration.mark({ class: "bgmagic-expression" });

  function look({ state, visibleRanges }) {
    const text = state.doc.toString();
    const style = (found) => highlightingFor(state, found);
    const brace = style([tags.operator]);
    const marks = [];
    const add = (from, to, name) => marks.push(Decoration.mark({ class: name }).range(from, to));
    for (const [from, to] of promptExpressions(text)) {
      if (!visibleRanges.some((seen) => seen.from < to && seen.to > from)) continue;
      marks.push(whole.range(from, to));
      add(from, from + 2, brace);
      const code = text.slice(from + 2, to - 2);
      highlightTree(python.parse(code), { style }, (a, b, name) => add(from + 2 + a, from + 2 + b, name));
      add(to - 2, to, brace);
    }
    return Decoration.set(marks, true);
  }

  const plugin = ViewPlugin.define((view) => ({
    marks: look(view),
    update(change) {
      if (change.docChanged || change.viewportChanged) this.marks = look(change.view);
    },
  }), { decorations: ({ marks }) => marks });
  const theme = EditorView.baseTheme({
    ".bgmagic-expression": {
      color: "var(--jp-content-font-color1)",
      fontStyle: "normal",
      fontWeight: "normal",
    },
  });
  return [Prec.highest(plugin), theme]; // inside of what Markdown makes of the place
}

/** Where the {{ expressions }} of a text are, from there on, each as [from, to]. */
function expressions(text, at) {
  const found = [];
  for (let from = text.indexOf("{{", at); from >= 0; from = text.indexOf("{{", at)) {
    const to = closing(text, from + 2);
    if (to === null) break;
    found.push([from, (at = to + 2)]);
  }
  return found;
}

function closing(text, begin) {
  let depth = 0;
  TOKEN.lastIndex = begin;
  for (let found = TOKEN.exec(text); found; found = TOKEN.exec(text)) {
    const token = found[0];
    if ("([{".includes(token)) depth++;
    else if (token === "}" && depth === 0) return text.startsWith("}}", found.index) ? found.index : null;
    else if (")]}".includes(token)) depth = Math.max(depth - 1, 0);
  }
  return null;
}

/** Underlines what can't stand in the first line, and says why; not the word that is just being typed. */
function unknownWords({ Decoration, EditorView, StateField }) {
  const look = (state) => {
    const line = headerOf(state.doc);
    if (line === null) return Decoration.none;
    const cursor = state.selection.main.head;
    const found = [];
    for (const { from, to, wrong, begins } of readHeader(line.text)) {
      const typed = begins && cursor === line.from + to;
      if (to === from || typed || !wrong) continue;
      const mark = Decoration.mark({ class: "bgmagic-unknown", attributes: { title: wrong } });
      found.push(mark.range(line.from + from, line.from + to));
    }
    return Decoration.set(found);
  };
  const theme = EditorView.baseTheme({
    ".bgmagic-unknown": { textDecoration: "underline wavy var(--jp-error-color1, #d32f2f)", textUnderlineOffset: "3px" },
  });
  const field = StateField.define({
    create: look,
    update: (value, change) => (change.docChanged || change.selection ? look(change.state) : value),
    provide: (it) => EditorView.decorations.from(it),
  });
  return [field, theme];
}

// Colours a cell that begins with one of our magics: its first line as options, the rest as Markdown, and in that
// {{ expressions }} as Python. Other cells pay for one look at their first line when they change.

import { headerOf, isHeader, readHeader } from "./header.js";

const stylesOf = (tags) => ({
  Magic: tags.keyword,
  Flag: tags.attributeName,
  Value: tags.string,
  Name: tags.special(tags.variableName),
  Number: tags.number,
});
// What an expression's end is looked for in, as `_TOKEN` of prompts/template.py.
const TOKEN = /'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[[\](){}]/gs;
const RAW = /(^|\s)--raw(\s|$)/;

/** The plugin; @param exported gives what modules of JupyterLab export, by their names. */
export async function promptPlugin(exported) {
  const names = ["@codemirror/state", "@codemirror/view", "@codemirror/language", "@lezer/common", "@lezer/highlight"];
  const parts = await exported(...names, "@jupyterlab/codemirror", "@jupyterlab/notebook");
  return {
    id: "bgmagic:prompt",
    description: "Colours the cells of %%bgresponse.",
    autoStart: true,
    requires: [parts.IEditorExtensionRegistry, parts.IEditorLanguageRegistry],
    optional: [parts.INotebookTracker],
    activate: (_, extensions, languages, notebooks) => {
      const { ready, colours } = promptColours(parts, () => parsers(languages));
      notebooks?.widgetAdded.connect(ready); // its cells come later
      extensions.addExtension({
        name: "bgmagic:prompt",
        factory: ({ inline, model }) => {
          const other = !inline || ["markdown", "raw"].includes(model.type);
          return other ? null : parts.EditorExtensionRegistry.createImmutableExtension(colours(model));
        },
      });
    },
  };
}

/** JupyterLab's own parsers of Markdown, with code and formulas, and of Python; loaded with the first notebook. */
async function parsers(languages) {
  const found = await Promise.all(["ipythongfm", "python"].map((name) => languages.getLanguage(name)));
  return found.map(({ support }) => support.language.parser);
}

/** @returns what gives an editor's extension, by its model, and what makes that ready. */
function promptColours(parts, load) {
  const { Compartment, EditorState, Prec, ViewPlugin } = parts;
  const compartment = new Compartment();
  const OFF = [];
  let first = null;
  let full = null;

  const ready = () => full ?? (first ??= begin());
  // Until the parsers are there, the options alone are coloured.
  function begin() {
    const marks = unknownWords(parts);
    const language = promptLanguage(parts);
    const loading = load().then(([markdown, python]) => {
      full = [Prec.highest(language(markdown)), expressionColours(parts, python), marks];
    }).catch(console.warn);
    const follow = ViewPlugin.define((editor) => {
      let open = true;
      loading.then(() => {
        const due = open && full && compartment.get(editor.state) === first;
        if (due) editor.dispatch({ effects: compartment.reconfigure(full) });
      });
      return { destroy: () => (open = false) };
    });
    return [Prec.highest(language()), marks, follow];
  }

  const toggle = EditorState.transactionExtender.of((change) => {
    if (!change.docChanged) return null;
    const was = compartment.get(change.startState) !== OFF;
    const is = headerOf(change.newDoc) !== null;
    return was === is ? null : { effects: compartment.reconfigure(is ? ready() : OFF) };
  });
  const colours = (model) => [compartment.of(isHeader(model.sharedModel.getSource()) ? ready() : OFF), toggle];
  return { ready, colours };
}

/** Gives the language of a prompt by a parser of Markdown; without one its text is plain. */
function promptLanguage(parts) {
  const { Language, NodeSet, NodeType, Parser, Tree, defineLanguageFacet, languageDataProp, parseMixed } = parts;
  const data = defineLanguageFacet({ closeBrackets: { brackets: ["(", "[", "{", '"'] } });
  const styles = stylesOf(parts.tags);
  const names = ["Prompt", "Header", "Body", "Unknown", ...Object.keys(styles)];
  const types = names.map((name, id) => NodeType.define({ id, name, top: id === 0 }));
  const ofLanguage = languageDataProp.add({ Prompt: data });
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
  const parser = (createParse) => Object.assign(new Parser(), { createParse });
  return (markdown) => {
    const text = parser((input, ...more) => markdown.startParse(masked(input.read(0, input.length)), ...more));
    const isText = (node) => node.type === body && node.to > node.from;
    const wrap = markdown && parseMixed((node) => (isText(node) ? { parser: text } : null));
    const whole = parser((input, ...more) => {
      const advance = () => parse(input.read(0, input.length));
      const parsing = { parsedPos: 0, stoppedAt: null, stopAt() {}, advance };
      return wrap ? wrap(parsing, input, ...more) : parsing;
    });
    return new Language(data, whole, [], "bgresponse");
  };
}

/** Where a prompt's first line begins and ends. */
function headerPlace(text) {
  const start = text.length - text.trimStart().length;
  const end = text.indexOf("\n", start);
  return [text.lastIndexOf("\n", start) + 1, end < 0 ? text.length : end];
}

/** A prompt with letters in place of its expressions. */
function masked(text) {
  for (const [from, to] of expressions(text)) {
    text = text.slice(0, from) + text.slice(from, to).replace(/[^\n]/g, "x") + text.slice(to);
  }
  return text;
}

/** Colours {{ expressions }} wherever they stand, in code and headings too: all of them are filled in. */
function expressionColours(parts, python) {
  const { Decoration, Prec, ViewPlugin, highlightTree, highlightingFor, tags } = parts;
  /** The marks, and what they were made of: an expression that has not changed is not parsed again. */
  function look({ state, visibleRanges }, before) {
    const text = state.doc.toString();
    const style = (found) => highlightingFor(state, found);
    const brace = style([tags.operator]);
    const marks = [];
    const parsed = new Map();
    const add = (from, to, name) => marks.push(Decoration.mark({ class: name }).range(from, to));
    for (const [from, to] of expressions(text)) {
      if (!visibleRanges.some((seen) => seen.from < to && seen.to > from)) continue;
      add(from, to, "bgmagic-expression");
      add(from, from + 2, brace);
      const code = text.slice(from + 2, to - 2);
      const id = brace + code; // the class of a brace tells the editor's theme
      const found = parsed.get(id) ?? before?.get(id) ?? [];
      if (!found.length) highlightTree(python.parse(code), { style }, (...span) => found.push(span));
      parsed.set(id, found);
      for (const [a, b, name] of found) add(from + 2 + a, from + 2 + b, name);
      add(to - 2, to, brace);
    }
    return { marks: Decoration.set(marks, true), parsed };
  }

  const plugin = ViewPlugin.define((view) => ({
    ...look(view),
    update(change) {
      if (change.docChanged || change.viewportChanged) Object.assign(this, look(change.view, this.parsed));
    },
  }), { decorations: ({ marks }) => marks });
  return Prec.highest(plugin); // inside of what Markdown makes of the place
}

/** Where the {{ expressions }} of a prompt are, each as [from, to]. */
function expressions(text) {
  const [begin, end] = headerPlace(text);
  const found = [];
  let at = RAW.test(text.slice(begin, end)) ? text.length : end;
  for (let from; (from = text.indexOf("{{", at)) >= 0; found.push([from, at])) {
    const to = closing(text, from + 2);
    if (to === null) break;
    at = to + 2;
  }
  return found;
}

function closing(text, begin) {
  let depth = 0;
  TOKEN.lastIndex = begin;
  for (let found; (found = TOKEN.exec(text)); ) {
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
  return StateField.define({
    create: look,
    update: (value, change) => (change.docChanged || change.selection ? look(change.state) : value),
    provide: (it) => EditorView.decorations.from(it),
  });
}

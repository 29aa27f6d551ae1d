// The panel "Background jobs": all jobs of this server's notebooks, the running ones first, and one of them in full.

import { isHeader, readHeader } from "./header.js";
import { Jobs, SIGNS, groupOf, priceOf, statusOf, timeOf } from "./jobs.js";

const HEIGHT = 46; // pixels of a row: of thousands only those in sight are drawn
const CONFIRM = 5000; // milliseconds that a click waits for the second, wherever the focus goes
const ICON = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161"
 d="M4 5h10v2H4zm0 6h7v2H4zm0 6h6v2H4zm13-7a6 6 0 1 0 0 12 6 6 0 0 0 0-12zm-1 2h1.5v4l2.8 1.7-.8 1.2-3.5-2.1z"/></svg>`;

/** @param what a tag, with a class after a dot or without. */
const element = (what, properties, ...children) => {
  const [tag, className = ""] = what.split(".");
  const made = Object.assign(document.createElement(tag), { className }, properties);
  made.append(...children);
  return made;
};

const joined = (by, ...parts) => parts.filter(Boolean).join(by);

/** The plugin; @param exported gives what modules of JupyterLab export, by their names. */
export async function panelPlugin(exported) {
  const names = ["application", "apputils", "coreutils", "notebook", "rendermime", "services", "ui-components"];
  const lab = await exported("@lumino/widgets", ...names.map((name) => `@jupyterlab/${name}`));
  const { IStatusBar } = await exported("@jupyterlab/statusbar").catch(() => ({}));
  return {
    id: "bgmagic:panel",
    description: "Shows the jobs of %%bgresponse, of all notebooks.",
    autoStart: true,
    requires: [lab.INotebookTracker, lab.IRenderMimeRegistry],
    optional: [lab.ICommandPalette, lab.ILayoutRestorer, IStatusBar].filter(Boolean),
    activate: (app, notebooks, rendermime, palette, restorer, bar) => {
      const settings = app.serviceManager.serverSettings;
      const ask = async (path) => {
        const url = `${lab.URLExt.join(settings.baseUrl, "bgmagic/jobs")}${path}`;
        const reply = await lab.ServerConnection.makeRequest(url, { cache: "no-store" }, settings);
        if (reply.ok) return reply.json();
        const missing = "Jupyter Server has not loaded bgmagic's extension: start it again, or install bgmagic where it runs";
        throw new Error(reply.status === 404 ? missing : reply.statusText);
      };
      const parts = { app, notebooks, rendermime, palette, bar, jobs: new Jobs(ask) };
      const panel = makePanel(lab, parts);
      app.shell.add(panel, "right", { rank: 900 });
      restorer?.add(panel, panel.id);
      // All else once the page is idle, in 3 s at most; in Safari at once.
      const idle = globalThis.requestIdleCallback ?? setTimeout;
      app.restored.then(() => idle(() => connect(lab, parts, panel), { timeout: 3000 }));
    },
  };
}

/** Have the jobs followed: in the status bar, by notifications, by the panel. */
function connect(lab, { app, jobs, palette, bar, notebooks }, panel) {
  const show = (key) => {
    app.shell.activateById(panel.id);
    if (key) panel.select(key);
  };
  const command = "bgmagic:show-jobs";
  // Later: the palette gives the focus back first.
  app.commands.addCommand(command, { label: "Show Background Jobs", execute: ({ key }) => setTimeout(show, 0, key) });
  palette?.addItem({ command, category: "Background jobs" });
  if (bar) {
    const button = element("button.bgpanel-count", { title: "Background jobs that run", onclick: () => show() });
    const item = new lab.Widget({ node: element("div", {}, button) });
    bar.registerStatusItem("bgmagic:jobs", { item, align: "left", rank: 90 });
    jobs.onChange.push(() => {
      const count = jobs.open.filter((row) => row.followed || row.watched).length;
      const left = jobs.open.length - count;
      const run = count && (count === 1 ? "1 job runs" : `${count} jobs run`);
      button.textContent = joined(", ", run, left && `${left} detached`);
      item.setHidden(!button.textContent);
    });
    item.hide();
  }
  jobs.onEnd.push((ended) => notify(lab, app, notebooks, jobs, ended, show));
  const follow = ({ sessionContext }) => {
    // A kernel that is gone changes nothing in the journal; its jobs are detached: until the next is idle.
    let gone = false;
    sessionContext.statusChanged.connect((_, status) => {
      gone ||= /start|dead|terminating/.test(status);
      if (gone) jobs.refresh();
      gone &&= status !== "idle";
    });
  };
  notebooks.forEach(follow);
  notebooks.widgetAdded.connect((_, opened) => follow(opened));
  jobs.listen(app.serviceManager);
}

/** Say that jobs have ended whose notebook is not what is looked at; of a sweep once, at its end. */
function notify(lab, app, notebooks, jobs, ended, show) {
  const here = notebooks.currentWidget;
  const looked = here && here === app.shell.currentWidget && !document.hidden ? here.context.path : null;
  const open = new Set(jobs.open.map((row) => row.group));
  const told = new Map();
  for (const row of ended) {
    if (row.path === looked) continue;
    if (!row.group) told.set(row.key, [row.name || row.id || "job", row]);
    else if (!open.has(row.group)) told.set(row.group, [`${row.group_name || "a sweep"}: all jobs have ended`, row]);
  }
  for (const [name, row] of told.values()) {
    const good = row.group || row.status === "completed";
    const message = row.group ? name : `${name}: ${row.status}${row.notebook ? ` (${row.notebook})` : ""}`;
    const actions = [{ label: good ? "Show answer" : "Show why", callback: () => show(row.key) }];
    lab.Notification.emit(message, good ? "success" : "warning", { autoClose: 8000, actions });
  }
}

function makePanel(lab, { app, jobs, notebooks, rendermime }) {
  const search = element("input", { type: "search", placeholder: "Search name, notebook …", ariaLabel: "Search jobs" });
  const filter = element("select", { ariaLabel: "Which jobs" });
  for (const name of ["all jobs", "this notebook", "running", "completed", "without an answer"]) filter.add(new Option(name));
  const list = element("div.bgpanel-list", { tabIndex: 0, role: "listbox", ariaLabel: "Jobs" });
  const detail = element("div.bgpanel-detail", { hidden: true, tabIndex: 0, role: "region", ariaLabel: "The chosen job" });
  const trouble = element("p.bgpanel-trouble", { role: "status" });
  const header = element("div.bgpanel-head", {}, element("h2", {}, "Background jobs"), search, filter);
  const node = element("div.bgpanel-panel", {}, header, trouble, list, detail);
  const height = element("div", { role: "presentation" });
  list.append(height);
  let shown = [];
  let chosen = null;
  let drawn = new Map(); // by key: a row is kept, so that a click and the focus find it

  function look() {
    const words = search.value.toLowerCase().split(/\s+/);
    const path = notebooks.currentWidget?.context.path;
    const wanted = (row) => {
      if (filter.selectedIndex === 1 && row.path !== path) return false;
      if (filter.selectedIndex > 1 && groupOf(row) !== filter.value) return false;
      const text = [row.name, row.notebook, row.model, row.effort, statusOf(row), row.id].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    };
    shown = [...jobs.rows.values()].filter(wanted);
    shown.sort((a, b) => !!b.open - !!a.open || b.submitted - a.submitted);
    height.style.height = `${shown.length * HEIGHT}px`;
    trouble.textContent = jobs.trouble || (shown.length ? "" : jobs.rows.size ? "No such job." : "No jobs yet: %%bgresponse sends one.");
    draw();
    if (chosen && stateOf(chosen) !== detail.dataset.state) panel.select(chosen);
  }

  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 5);
    const last = first + Math.ceil((list.clientHeight || 800) / HEIGHT) + 10;
    const now = new Map();
    for (const [index, row] of shown.slice(first, last).entries()) {
      const place = drawn.get(row.key) ?? element("div.bgpanel-row", { role: "option", id: `bgpanel-${row.key}` });
      fillRow(place, row);
      place.onclick = () => void choose(row.key);
      place.style.top = `${(first + index) * HEIGHT}px`;
      place.ariaSelected = row.key === chosen;
      place.ariaSetSize = shown.length;
      place.ariaPosInSet = first + index + 1;
      now.set(row.key, place);
      if (!drawn.has(row.key)) height.append(place);
    }
    for (const [key, place] of drawn) if (!now.has(key)) place.remove();
    drawn = now;
    list.setAttribute("aria-activedescendant", now.has(chosen) ? `bgpanel-${chosen}` : "");
  }

  /** Show a job in full, and its cell, if its notebook is open. */
  async function choose(key) {
    await panel.select(key);
    const row = jobs.rows.get(key);
    const held = document.activeElement;
    if (row) await goTo(app, notebooks, row);
    held?.focus({ preventScroll: true }); // which a notebook takes: keys would go into its cell
  }

  list.onscroll = () => requestAnimationFrame(draw);
  search.oninput = filter.onchange = () => ((list.scrollTop = 0), look());
  list.onkeydown = (event) => {
    const at = shown.findIndex((row) => row.key === chosen);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Enter" && chosen) choose(chosen);
    if (!step || !shown.length) return;
    event.preventDefault();
    const next = Math.min(shown.length - 1, Math.max(0, at + step));
    const top = next * HEIGHT;
    list.scrollTop = Math.max(Math.min(list.scrollTop, top), top + HEIGHT - list.clientHeight);
    panel.select(shown[next].key);
  };

  class JobsPanel extends lab.Widget {
    #timer = null;
    #answer = null;

    onActivateRequest() {
      list.focus();
    }

    onAfterShow() {
      jobs.fill();
      look();
      this.#timer ??= setInterval(() => jobs.open.length && draw(), 1000);
    }

    onAfterHide() {
      clearInterval(this.#timer);
      this.#timer = null;
    }

    /** Show the job with this key in full. */
    async select(key) {
      const same = key === chosen;
      chosen = key;
      if (!same) draw();
      const state = stateOf(key);
      const told = await jobs.ask(`/${encodeURIComponent(key)}`).catch((error) => ({ message: error.message, footer: "" }));
      // Drawn once for each state, so that a button stays which is being clicked.
      if (chosen !== key || stateOf(key) !== state || detail.dataset.state === state) return;
      const row = jobs.rows.get(key);
      this.#answer?.dispose();
      const place = element("div");
      const said = element("p", { role: "status" }, joined(" ", told.message && `${told.message}.`, told.remedy));
      const how = row ? joined(" · ", statusOf(row), row.ended && timeOf(row), priceOf(row), row.notebook) : "";
      detail.replaceChildren(
        element("h2", {}, row?.name || row?.id || "job"),
        element("p.bgpanel-quiet", {}, how),
        row ? buttons(row, said) : "",
        said,
        place,
        element("details", {}, element("summary", {}, "Prompt"), element("pre", {}, told.prompt ?? "")),
        element("p.bgpanel-quiet", {}, told.footer),
      );
      detail.hidden = false;
      detail.dataset.state = state;
      draw();
      if (!told.html) return;
      // Rendered by us: what a model wrote is no markup in it.
      const model = rendermime.createModel({ trusted: true, data: { "text/html": told.html } });
      this.#answer = rendermime.createRenderer("text/html");
      await this.#answer.renderModel(model);
      if (place.isConnected) lab.Widget.attach(this.#answer, place);
    }
  }

  const stateOf = (key) => {
    const { open, followed, watched, status, path } = jobs.rows.get(key) ?? {};
    return [key, open, followed, watched, status, path].join();
  };

  function buttons(row, said) {
    const made = element("div.bgpanel-buttons");
    const add = (label, act, sure) => {
      const button = element("button", { type: "button" }, label);
      let timer = 0;
      const calm = () => {
        clearTimeout(timer);
        timer = 0;
        button.textContent = label;
      };
      button.onkeydown = ({ key }) => void (key === "Escape" && calm());
      button.onclick = async () => {
        if (sure && !timer) {
          button.textContent = sure;
          timer = setTimeout(calm, CONFIRM);
          return;
        }
        calm();
        try {
          said.textContent = (await act()) ?? "";
        } catch (error) {
          said.textContent = String(error.message ?? error);
        }
      };
      made.append(button);
    };
    const kernel = (action) => () => patient(said, inKernel(app, row, action));
    if (row.path) add("Go to cell", async () => ((await goTo(app, notebooks, row, true)) ? "" : "No notebook here shows it."));
    if (row.open && row.followed) add("Cancel", kernel("cancel"), "Really cancel?");
    if (row.open ? !row.followed : row.status === "completed") add("Attach here", () => patient(said, attachHere(lab, notebooks, row)));
    if (!row.open && row.status !== "completed") add("Send again", kernel("resend"), "Really send again?");
    return made;
  }

  const panel = new JobsPanel({ node });
  panel.id = "bgmagic-jobs";
  panel.title.caption = "Background jobs";
  panel.title.icon = new lab.LabIcon({ name: "bgmagic:jobs", svgstr: ICON });
  jobs.onChange.push(() => panel.isVisible && look());
  notebooks.currentChanged.connect(() => panel.isVisible && filter.selectedIndex === 1 && look());
  return panel;
}

function fillRow(place, row) {
  const status = statusOf(row).split(" (")[0];
  const sign = element("span.bgpanel-sign", { ariaHidden: true }, row.open ? (row.followed ? "●" : "○") : SIGNS[row.status] ?? "·");
  const where = joined(" · ", row.notebook, joined(" ", row.model, row.effort));
  const first = element("div", {}, sign, element("b", {}, row.name || row.id || "job"), element("span", {}, status), element("span", {}, timeOf(row)));
  const second = element("div.bgpanel-quiet", {}, element("span.bgpanel-where", {}, where), element("span", {}, priceOf(row)));
  const told = `${first.textContent} ${second.textContent}`;
  if (place.dataset.told === told) return;
  place.dataset.told = told;
  place.dataset.open = !!(row.open && row.followed);
  place.title = `sent ${new Date(row.submitted * 1000).toLocaleString()}`;
  place.replaceChildren(first, second);
}

/** Show a job's cell in its notebook, which is opened if that is asked; whether there is one. */
async function goTo(app, notebooks, row, open = false) {
  const known = [row.key, row.id].filter(Boolean);
  const shows = (cell) => {
    const outputs = JSON.stringify(cell.outputs?.toJSON()) ?? "";
    return known.some((word) => outputs.includes(word));
  };
  let panel = notebooks.find((one) => one.context.path === row.path);
  if (open) {
    panel ??= await app.commands.execute("docmanager:open", { path: row.path }).catch(() => null);
    panel ??= notebooks.find((one) => [...(one.model?.cells ?? [])].some(shows)); // renamed
  }
  await panel?.context.ready;
  if (!panel?.model) return; // a script
  const cells = [...panel.model.cells];
  let index = cells.findIndex(shows);
  if (index < 0 && row.name) index = cells.findLastIndex((cell) => sends(cell.sharedModel.getSource(), row.name));
  if (index < 0) return;
  if (open) app.shell.activateById(panel.id);
  panel.content.activeCellIndex = index;
  await panel.content.scrollToItem?.(index, "smart");
  return true;
}

/** Whether a cell sends a job of that name, or the sweep that has it. */
function sends(source, name) {
  const line = source.trimStart().split("\n", 1)[0];
  const names = (word) => word.type === "Name" && line.slice(word.from, word.to) === name.split("[")[0];
  return isHeader(line) && readHeader(line).some(names);
}

/** Have the kernel of the job's notebook cancel or resend it; gives what it says. */
async function inKernel(app, row, action) {
  const { sessions, kernels } = app.serviceManager;
  const model = [...sessions.running()].find((one) => one.path === row.path);
  if (!model) throw new Error(`No kernel here has it: ${row.open ? "cancel it where it runs" : "run its cell or script again"}.`);
  const kernel = kernels.connectTo({ model: model.kernel });
  try {
    return await evaluated(kernel, `__import__("bgmagic.notebook.panel", fromlist=["act"]).act("${action}", ${JSON.stringify(row.key)})`);
  } finally {
    kernel.dispose();
  }
}

/** Wait for what a kernel is asked, and say so if a cell runs. */
async function patient(said, asked) {
  const late = setTimeout(() => (said.textContent = "The kernel is busy: it does this once its cell has ended."), 1000);
  try {
    return await asked;
  } finally {
    clearTimeout(late);
  }
}

/** The text that an expression gives in a kernel, without a trace in the notebook. */
async function evaluated(kernel, expression) {
  const asked = { code: "", silent: true, store_history: false, allow_stdin: false, user_expressions: { told: expression } };
  const { content } = await kernel.requestExecute(asked).done;
  const told = content.user_expressions?.told;
  if (told?.status !== "ok") throw new Error(told?.evalue ?? "The kernel did not answer.");
  return told.data["text/plain"].replace(/^(['"])(.*)\1$/s, "$2");
}

/** Attach a job in the notebook that is looked at, in a new cell, where its card appears. */
async function attachHere(lab, notebooks, row) {
  const panel = notebooks.currentWidget;
  const ask = async () => {
    if (panel && !panel.sessionContext.session?.kernel) await panel.sessionContext.startKernel();
    const kernel = panel?.sessionContext.session?.kernel;
    if (!kernel) throw new Error("Open a notebook first: it is attached there.");
    return evaluated(kernel, `get_ipython().find_cell_magic("bgresponse") is not None`);
  };
  const loaded = await ask().catch(ask); // the kernel may be just being shut down
  const which = /^[\w-]+$/.test(row.id ?? "") ? row.id : row.key; // a server's id could hold options
  const line = `%bgattach ${which}${row.name && /^\w+$/.test(row.name) ? ` -o ${row.name}` : ""}`;
  lab.NotebookActions.insertBelow(panel.content);
  panel.content.activeCell.model.sharedModel.setSource(loaded === "True" ? line : `%load_ext bgmagic\n${line}`);
  await lab.NotebookActions.run(panel.content, panel.sessionContext);
}

// What a card does with the page around it: it has finished ones replaced by plain HTML, and asks for
// a notification of the desktop.

const OURS = 1500; // milliseconds after which a finished card that still stands replaces itself

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

// The kernel replaces a finished card in place. One that still stands then was reloaded.
const finish = (model, el) => {
  if (!el.isConnected) return;
  for (const [list, index] of outputs(model)) {
    const data = list.get(index).data ?? {};
    const widget = data["application/vnd.jupyter.widget-view+json"]?.model_id;
    if (widget === model.get("view").model_id) return model.send({ action: "finish" });
  }
};

const request = () => {
  // Some browsers give a promise, old ones take a callback, and some refuse without a click.
  try {
    return Promise.resolve(Notification.requestPermission()).catch(() => "default");
  } catch {
    return Promise.resolve("default");
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

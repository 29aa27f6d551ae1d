// What a card does with the page around it: it tells the kernel that it was drawn, has finished ones
// replaced by plain HTML or filled with it, and asks for a notification of the desktop.

const OURS = 1500; // milliseconds after which a finished card that still stands replaces itself
const TRIES = 5; // in case that another page of the document was to do it, and did not
const PAGE = Math.random().toString(36).slice(2); // this page, to the kernel

const outputs = function* (model) {
  const cells = notebook(model)?.model?.cells;
  for (let i = 0; i < (cells?.length ?? 0); i += 1) {
    const found = cells.get(i).outputs;
    for (let j = 0; j < (found?.length ?? 0); j += 1) yield [found, j];
  }
};

// In a document of several pages each appends what another one has put in the place of an output, and
// removes what then stands at that place: the answer is put twice, so that it ends before the footer.
const shared = (model) => Boolean(notebook(model)?.model?.collaborative);

const tellDrawn = (model) => model.send({ action: "drawn", key: shared(model) ? "shared" : "" });

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
    for (let times = part === content.answer && shared(model) ? 2 : 1; part && times > 0; times -= 1)
      list.set(index, { output_type: "display_data", metadata: {}, data: part });
  }
};

// Whether the user has put the widget into a box, and has not displayed it as it is.
const composed = (el) =>
  el.closest(".widget-container, .widget-output, .jp-OutputArea-output")
    ?.classList.contains("widget-container");

// The kernel replaces a finished card in place. One that still stands then was reloaded, or stands where
// no output can be replaced: in Voila, or in an output that a widget has.
const finish = (model, el, left = TRIES) => {
  if (!el.isConnected || !left) return;
  for (const [list, index] of outputs(model)) {
    const data = list.get(index).data ?? {};
    const widget = data["application/vnd.jupyter.widget-view+json"]?.model_id;
    if (widget === model.get("view").model_id) {
      model.send({ action: "finish", key: PAGE });
      setTimeout(finish, 2 * OURS, model, el, left - 1);
      return;
    }
  }
  if (!composed(el)) model.send({ action: "fill", key: PAGE });
};

// Shows in place of `live`, within the widget, what the kernel sends of the end; `undo` takes it back.
const filling = (model, el, live) => {
  const heard = (content) => {
    if (!content?.filled || content.page !== PAGE || composed(el)) return;
    live.remove();
    for (const part of [content.filled.answer, content.filled.footer])
      // From bgmagic/rendering: nothing that a model wrote is markup in it.
      make("div", "filled jp-RenderedHTMLCommon", el).innerHTML = part["text/html"];
  };
  model.on("msg:custom", heard);
  return {
    undo: () => live.isConnected || el.replaceChildren(live),
    stop: () => model.off("msg:custom", heard),
  };
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
  const heard = (content) => {
    if (content?.finished && content.page === PAGE) replace(model, content.finished);
  };
  model.on("change:view", changed);
  model.on("msg:custom", heard);
  const withdraw = offer(model, render);
  return () => {
    withdraw();
    model.off("change:view", changed);
    model.off("msg:custom", heard);
  };
}

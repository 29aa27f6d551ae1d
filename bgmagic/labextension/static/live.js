// Draws cards and boards in a page that trusts no output: one of a shared document that has not run the cell. Nothing of
// the document acts here: what draws has come with the widget's model, which runs in this page in any case.

const MIME = "application/vnd.bgmagic.live+json"; // `UNTRUSTED` of display/card.py
const NEWS = "bgmagic-live"; // told, and `bgmagicLive` filled, by display/elements.js

/** The plugin; @param exported gives what modules of JupyterLab export, by their names. */
export async function livePlugin(exported) {
  const { Widget, IRenderMimeRegistry } = await exported("@lumino/widgets", "@jupyterlab/rendermime");

  class Live extends Widget {
    async renderModel({ data }) {
      const draw = () => {
        const drawn = globalThis.bgmagicLive?.get(data[MIME]?.live_id);
        if (!drawn) return;
        this.end();
        this.node.replaceChildren();
        this.end = drawn(this.node);
      };
      this.end?.();
      this.end = () => removeEventListener(NEWS, draw);
      const text = document.createElement("pre"); // until its model is there: perhaps never
      text.textContent = data["text/plain"];
      this.node.replaceChildren(text);
      addEventListener(NEWS, draw);
      draw();
    }

    dispose() {
      if (!this.isDisposed) this.end?.();
      super.dispose();
    }
  }

  return {
    id: "bgmagic:live",
    description: "Draws the cards of %%bgresponse in all pages of a shared document.",
    autoStart: true,
    requires: [IRenderMimeRegistry],
    activate: (_, registry) => void registry.addFactory({ safe: true, mimeTypes: [MIME], createRenderer: () => new Live() }, 0),
  };
}

// The plugins of the extension, each without what the others need.

import { livePlugin } from "./live.js";
import { panelPlugin } from "./panel.js";
import { promptPlugin } from "./prompt.js";

/**
 * @param shared gives a module of JupyterLab by its name.
 * @returns the plugins that this JupyterLab has the modules for.
 */
export async function plugins(shared) {
  const exported = async (...names) => {
    const modules = await Promise.all(names.map(shared));
    // No copy: each of their hundreds of names is a getter.
    return new Proxy({}, { get: (_, name) => modules.find((one) => name in one)?.[name] });
  };
  const style = { rel: "stylesheet", href: new URL("./style.css", import.meta.url).href };
  document.head.append(Object.assign(document.createElement("link"), style));
  const makers = [promptPlugin, panelPlugin, livePlugin];
  const made = await Promise.allSettled(makers.map((make) => make(exported)));
  for (const { reason } of made) if (reason) console.warn("bgmagic:", reason);
  return made.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
}

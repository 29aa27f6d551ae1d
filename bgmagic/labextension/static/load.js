// What JupyterLab and Notebook load: a webpack container by hand, so that nothing needs to be built. The modules beside
// it come from the same folder, those of JupyterLab from the scope that it hands over.
(() => {
  const here = document.currentScript.src;
  const modules = import(new URL("./index.js", here)); // fetched while JupyterLab loads its own
  modules.catch(() => {}); // told in get()
  let scope = {};

  /** JupyterLab's own copy of a module: that which is loaded already, else the newest. */
  async function shared(name) {
    const versions = Object.entries(scope[name] ?? {});
    if (!versions.length) throw new Error(`bgmagic: this JupyterLab shares no ${name}`);
    const newer = (a, b) => b[0].localeCompare(a[0], undefined, { numeric: true });
    versions.sort((a, b) => !!b[1].loaded - !!a[1].loaded || newer(a, b));
    return (await versions[0][1].get())();
  }

  (window._JUPYTERLAB ??= {}).bgmagic = {
    init(shares) {
      scope = shares;
    },
    async get() {
      const plugins = await (await modules).plugins(shared);
      return () => ({ __esModule: true, default: plugins });
    },
  };
})();

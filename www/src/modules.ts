// Where the page's engines come from: files beside the page's own script.

export const MODULES = {
  worker: new URL("./worker.js", import.meta.url),
  wasm: new URL("./sectora.wasm", import.meta.url),
  monitorWasm: new URL("./sectora-monitor.wasm", import.meta.url),
};

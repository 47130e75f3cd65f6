/** The package in browsers and bundlers. */

import { makeApi } from "./api.js";
import { startBrowser } from "./browser-start.js";

const api = /* @__PURE__ */ makeApi((options) =>
  startBrowser(options, {
    wasm: () => new URL("./sectora_bg.wasm", import.meta.url),
    monitorWasm: () => new URL("./sectora_monitor_bg.wasm", import.meta.url),
    worker: () => new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "sectora" }),
  }),
);

export const open = api.open;
export const create = api.create;
export const measure = api.measure;
export const startEngine = api.startEngine;
export const configure = api.configure;
export { formats, version } from "./api.js";
export { toJson } from "./json.js";
export { QmpError, SectoraError } from "./errors.js";
export type * from "./types.js";

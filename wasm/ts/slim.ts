/** The package without a place for its module and worker: whoever starts the engine says both. */

import { makeApi } from "./api.js";
import { startBrowser } from "./browser-start.js";

const api = /* @__PURE__ */ makeApi((options) => startBrowser(options, {}));

export const open = api.open;
export const create = api.create;
export const measure = api.measure;
export const startEngine = api.startEngine;
export const configure = api.configure;
export { formats, version } from "./api.js";
export { toJson } from "./json.js";
export { QmpError, SectoraError } from "./errors.js";
export type * from "./types.js";

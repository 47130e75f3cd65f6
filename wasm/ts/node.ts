/** The package in Node. */

import { makeApi } from "./api.js";
import { startNode } from "./node-start.js";

const api = /* @__PURE__ */ makeApi(startNode);

export const open = api.open;
export const create = api.create;
export const measure = api.measure;
export const startEngine = api.startEngine;
export const configure = api.configure;
export { formats, version } from "./api.js";
export { toJson } from "./json.js";
export { QmpError, SectoraError } from "./errors.js";
export type * from "./types.js";

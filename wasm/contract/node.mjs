// The contract suite for Node's storage.

export * from "./cases.mjs";
export { nodePlatform as platform } from "../ts/node-storage.ts";

// The contract suite for the origin-private file system: a worker that posts every outcome.

import { load } from "./cases.mjs";
import { browserPlatform } from "../ts/browser-storage.ts";

const needs = { sequential: false, writeOnly: false, sources: new Set() };
let next = 0;

async function make() {
  return (await browserPlatform.target({ opfs: `contract/${next++}` }, needs)).storage;
}

async function readOnly() {
  const root = await navigator.storage.getDirectory();
  const file = await root.getFileHandle(`read-only-${next++}`, { create: true });
  const writable = await file.createWritable();
  await writable.write(new Uint8Array(4096).fill(7));
  await writable.close();
  return (await browserPlatform.source(file)).storage;
}

const suite = await load(new URL("./sectora_bg.wasm", import.meta.url));
for (const name of suite.cases) {
  const [outcome, words] = await suite.run(name, make, readOnly).catch((e) => ["failed", String(e)]);
  postMessage({ name, outcome, words });
}
postMessage("end");

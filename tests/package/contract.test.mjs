// The engine's storage contract over Node's storage and over storage of a user's.

import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { TOP, run, scratch } from "./support.mjs";

run(process.execPath, [join(TOP, "wasm", "build.mjs"), "--contract"], { cwd: TOP, stdio: ["ignore", "ignore", "inherit"] });
const built = join(TOP, "wasm", "dist-contract");
const { load, custom, customSource, platform } = await import(join(built, "node.mjs"));
const suite = await load(readFileSync(join(built, "sectora_bg.wasm")));

const folder = scratch();
const descriptors = [];
after(() => descriptors.forEach((fd) => closeSync(fd)));
let next = 0;

const bytes = new Uint8Array(4096).fill(7);
const kinds = {
  "a file of Node": {
    async make() {
      const fd = openSync(join(folder, `${next++}`), "wx+");
      descriptors.push(fd);
      return (await platform.target(fd, { sources: new Set() })).storage;
    },
    async readOnly() {
      const name = join(folder, `${next++}`);
      writeFileSync(name, bytes);
      return (await platform.source(name)).storage;
    },
  },
  "storage of a user's": {
    make: async () => custom(new Uint8Array(0)),
    readOnly: async () => customSource({ size: bytes.length, read: async (at, length) => bytes.slice(Number(at), Number(at) + length) }).storage,
  },
};

for (const [kind, { make, readOnly }] of Object.entries(kinds)) {
  for (const name of suite.cases) {
    test(`${kind}: ${name}`, async (t) => {
      const [outcome, words] = await suite.run(name, make, readOnly);
      if (outcome === "skipped") return t.skip(words);
      assert.equal(outcome, "passed", words);
    });
  }
}

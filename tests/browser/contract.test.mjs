// The engine's storage contract over the origin-private file system, in a worker of Chromium.

import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { TOP, run } from "../package/support.mjs";
import { launch, needsChromium } from "./harness.mjs";

describe("the storage contract in a browser", { ...needsChromium, timeout: 600_000 }, () => {
  test("every case", async (t) => {
    run(process.execPath, [join(TOP, "wasm", "build.mjs"), "--contract"], { cwd: TOP, stdio: ["ignore", "ignore", "inherit"] });
    const browser = await launch();
    try {
      const outcomes = await browser.page.evaluate(
        () =>
          new Promise((resolve, reject) => {
            const all = [];
            const worker = new Worker("/dist-contract/worker.js", { type: "module" });
            worker.onerror = (e) => reject(new Error(e.message));
            worker.onmessage = ({ data }) => (data === "end" ? resolve(all) : all.push(data));
          }),
      );
      assert.ok(outcomes.length > 10);
      for (const { name, outcome, words } of outcomes) {
        await t.test(name, (t) => {
          if (outcome === "skipped") return t.skip(words);
          return assert.equal(outcome, "passed", words);
        });
      }
    } finally {
      await browser.close();
    }
  });
});

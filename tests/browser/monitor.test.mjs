// The monitor of the package in Chromium: chosen files, private files that are written in place, memory of
// the page, and events through the worker.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { clean, contents, needsQemu, qemu, same, scratch, sha } from "../package/support.mjs";
import { launch, needsChromium } from "./harness.mjs";

const skip = needsChromium.skip || needsQemu.skip;
const folder = scratch();
const file = (name) => join(folder, name);
const MiB = 2 ** 20;
const SIZE = 6 * MiB;
const original = contents(SIZE, 21);

describe("the monitor in a browser", { skip, timeout: 600_000 }, () => {
  let browser;
  let page;
  before(async () => {
    writeFileSync(file("disk.raw"), original);
    qemu("convert", "-O", "qcow2", file("disk.raw"), file("base.qcow2"));
    qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", file("top.qcow2"));
    browser = await launch();
    page = browser.page;
    await page.evaluate(() => {
      window.ask = (engine) => (execute, args) => engine.execute({ execute, ...(args && { arguments: args }) });
    });
  });
  after(async () => {
    await browser?.close();
    assert.deepEqual(browser?.errors ?? [], []);
  });

  test("its module is not fetched before it is used, and then once", async () => {
    const fetched = () => browser.requests.filter((path) => path.endsWith("sectora_monitor_bg.wasm")).length;
    await page.evaluate(async () => {
      window.engine = await window.sectora.startEngine();
      const image = await window.engine.open(new Uint8Array(4096));
      await image.close();
    });
    assert.equal(fetched(), 0);
    await page.evaluate(async () => {
      await window.engine.execute({ execute: "query-version" });
      await window.engine.execute({ execute: "query-commands" });
      await window.engine.close();
    });
    assert.equal(fetched(), 1);
  });

  test("chosen files as a chain, nothing else, and only for reading", async () => {
    await page.setInputFiles("input", [file("top.qcow2"), file("base.qcow2")]);
    const told = await page.evaluate(async () => {
      const engine = await window.sectora.startEngine();
      const x = window.ask(engine);
      const [top, base] = window.files();
      await engine.attach("top.qcow2", top);
      const add = () => x("blockdev-add", { driver: "qcow2", "node-name": "n", "read-only": true, file: { driver: "file", filename: "top.qcow2" } });
      const refused = await add().catch((e) => `${e.name} ${e.class}: ${e.message}`);
      await engine.attach("base.qcow2", base);
      await add();
      const node = await engine.openNode("n");
      const sha = await window.sha(await node.read(0n, Number(node.size)));
      const written = await node.write(0n, new Uint8Array(1)).catch((e) => e.kind);
      await node.close();
      const count = (await x("query-named-block-nodes")).length;
      const writable = await x("blockdev-add", { driver: "file", "node-name": "w", filename: "top.qcow2" }).catch((e) => e.message);
      await engine.close();
      return { refused, sha, written, count, writable };
    });
    assert.match(told.refused, /^QmpError GenericError: .*base.qcow2': nothing is attached under that name/);
    assert.equal(told.sha, sha(original));
    assert.equal(told.written, "Denied");
    assert.equal(told.count, 4);
    assert.match(told.writable, /attached for reading only/);
  });

  test("a private file is written in place over a chosen one, and is there afterwards", async () => {
    await page.setInputFiles("input", [file("base.qcow2")]);
    const bytes = await page.evaluate(async () => {
      const engine = await window.sectora.startEngine();
      const x = window.ask(engine);
      const [base] = window.files();
      await engine.attach("base.qcow2", base);
      await engine.attach("over", { opfs: "made/over.qcow2" }, { writable: true, create: true });
      await x("blockdev-add", { driver: "file", "node-name": "f", filename: "over" });
      const jobs = engine.events("JOB_STATUS_CHANGE");
      await x("blockdev-create", { "job-id": "j", options: { driver: "qcow2", file: "f", size: 6 << 20, "backing-file": "base.qcow2", "backing-fmt": "qcow2" } });
      for await (const { data } of jobs) if (data.status === "concluded") break;
      const [job] = await x("query-jobs");
      if (job.error) throw new Error(job.error);
      await x("job-dismiss", { id: "j" });
      await x("blockdev-add", { driver: "qcow2", "node-name": "q", file: "f" });
      const node = await engine.openNode("q", { writable: true });
      await node.write(1048576n, new Uint8Array(300000).fill(5));
      await node.flush();
      await engine.close();
      const directory = await (await navigator.storage.getDirectory()).getDirectoryHandle("made");
      const made = await (await directory.getFileHandle("over.qcow2")).getFile();
      return [...new Uint8Array(await made.arrayBuffer())];
    });
    writeFileSync(file("over.qcow2"), Buffer.from(bytes));
    clean(file("over.qcow2"));
    const expected = Buffer.from(original);
    expected.fill(5, MiB, MiB + 300000);
    writeFileSync(file("expected.raw"), expected);
    same(file("expected.raw"), "raw", file("over.qcow2"), "qcow2");
  });

  test("memory of the page is written in the page", async () => {
    const told = await page.evaluate(async () => {
      const engine = await window.sectora.startEngine();
      const x = window.ask(engine);
      const bytes = new Uint8Array(new ArrayBuffer(0, { maxByteLength: 1 << 22 }));
      await engine.attach("m", bytes, { writable: true });
      const events = engine.events();
      await x("blockdev-create", { "job-id": "j", options: { driver: "file", filename: "m", size: 1 << 20 } });
      const states = [];
      for await (const { event, data } of events) {
        states.push(`${event} ${data.status}`);
        if (data.status === "concluded") break;
      }
      await x("blockdev-add", { driver: "file", "node-name": "f", filename: "m" });
      const node = await engine.openNode("f", { writable: true });
      await node.write(4096n, new Uint8Array([1, 2, 3]));
      const back = [...(await node.read(4095n, 5))];
      await engine.close();
      return { length: bytes.length, there: [...bytes.subarray(4095, 4100)], back, states };
    });
    assert.deepEqual(told.there, [0, 1, 2, 3, 0]);
    assert.deepEqual(told.back, told.there);
    assert.equal(told.length, MiB);
    assert.deepEqual(told.states.map((state) => state.split(" ")[1]), ["created", "running", "waiting", "pending", "concluded"]);
  });
});

// Missing files, hostile files, and the promise that nothing leaves the computer.

import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { assertSameContents, choose, convert, makeChain, makeRaw, pageTest, qemuImg, shown, writeBytes } from "./support.mjs";

const MIB = 1024 * 1024;

pageTest("a missing backing file is named, and can be added", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, top);
  const heading = page.getByRole("heading", { name: "The file base.qcow2 is needed too" });
  await heading.waitFor();
  assert.equal(await heading.evaluate((h) => h === document.activeElement), true, "the focus is on the message");
  await page.setInputFiles("#add", base);
  await shown(page, top);
  const { saved } = await convert(page, folder);
  assertSameContents(top, "qcow2", saved, "raw");
});

pageTest("a backing file under another name can stand in", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  const renamed = join(folder, "base (1).qcow2");
  qemuImg("convert", "-O", "raw", top, join(folder, "expected.raw"));
  renameSync(base, renamed);
  await choose(page, top);
  await page.getByRole("heading", { name: "The file base.qcow2 is needed too" }).waitFor();
  await page.setInputFiles("#add", renamed);
  await shown(page, top);
  assert.match(await page.locator("#chain").textContent(), /base \(1\)\.qcow2.*named “base\.qcow2”/);
  const { saved } = await convert(page, folder);
  assertSameContents(join(folder, "expected.raw"), "raw", saved, "raw");
});

pageTest("an external data file is asked for like a backing file", {}, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "origin.raw"), 3 * MIB);
  const image = join(folder, "image.qcow2");
  const data = join(folder, "image.data");
  qemuImg("convert", "-O", "qcow2", "-o", `data_file=${data}`, raw, image);
  await choose(page, image);
  await page.getByRole("heading", { name: "The file image.data is needed too" }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Look at it without" }).count(), 0);
  await page.setInputFiles("#add", data);
  await shown(page, image);
  const { saved } = await convert(page, folder);
  assertSameContents(raw, "raw", saved, "raw");
});

/** The smallest lies that a qcow2 header can tell. */
const LIES = {
  "a cluster size of 2^63": (b) => b.writeUInt32BE(63, 20),
  "a disk of 2^63 bytes": (b) => b.writeBigUInt64BE(1n << 63n, 24),
  "an L1 table past the end of the file": (b) => b.writeBigUInt64BE(1n << 50n, 40),
  "an L1 table of 2^32 entries": (b) => b.writeUInt32BE(0xffffffff, 36),
  "a refcount table past the end": (b) => b.writeBigUInt64BE(1n << 50n, 48),
  "a backing name of 2^32 bytes": (b) => (b.writeBigUInt64BE(200n, 8), b.writeUInt32BE(0xffffffff, 16)),
  "a version that does not exist": (b) => b.writeUInt32BE(9, 4),
  "unknown incompatible features": (b) => b.writeBigUInt64BE(1n << 60n, 72),
};

pageTest("hostile files get an error in words, and the page goes on", {}, async ({ page, folder }) => {
  const good = join(folder, "good.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", good, "16M");
  for (const [name, lie] of Object.entries(LIES)) {
    const bytes = Buffer.from(readFileSync(good));
    lie(bytes);
    const path = writeBytes(join(folder, `${name.replaceAll(/[^a-z0-9]+/gi, "-")}.qcow2`), bytes);
    await choose(page, path);
    const box = page.locator("#problem .box.bad, #check .box.bad").first();
    await box.waitFor().catch(() => assert.fail(`${name}: nothing is said`));
    const text = await box.textContent();
    assert.doesNotMatch(text, /undefined|mistake in this program|something went wrong/, name);
    assert.ok((await box.locator("p").count()) >= 2 || text.length > 80, `${name}: says too little: ${text}`);
  }
  await choose(page, good);
  await shown(page, good);
  assert.match(await page.locator("#check .box").first().textContent(), /No errors found/);
});

pageTest("a file that names itself as its backing file ends in words", {}, async ({ page, folder }) => {
  const loop = join(folder, "loop.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", "loop.qcow2", "-F", "qcow2", loop, "1M");
  await choose(page, loop);
  await page.locator("#problem .box.bad").waitFor();
});

pageTest("a damaged image can still be looked at as bytes", {}, async ({ page, folder }) => {
  const path = join(folder, "bad.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", path, "16M");
  const file = openSync(path, "r+");
  writeSync(file, Buffer.from([0, 0, 0, 63]), 0, 4, 20);
  closeSync(file);
  await choose(page, path);
  await page.getByRole("button", { name: "Open it as plain bytes (raw)" }).click();
  await shown(page, path);
  await page.getByText("Open as what the contents say").waitFor();
});

pageTest("an empty file is an empty raw disk", {}, async ({ page, folder }) => {
  const empty = writeBytes(join(folder, "empty.img"), "");
  await choose(page, empty);
  await shown(page, empty);
  assert.match(await page.locator("#map-summary").textContent(), /empty/);
});

pageTest("names from an image are text, never markup", {}, async ({ page, folder }) => {
  const image = join(folder, "image.qcow2");
  const name = "<img src=x onerror=alert(1)>.qcow2";
  qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", image, "1M");
  await choose(page, image);
  await page.locator("#problem .box").waitFor();
  assert.ok((await page.locator("#problem").textContent()).includes(name));
  assert.equal(await page.locator("#problem img").count(), 0);
});

pageTest("nothing leaves the computer: no request but for the page's own files, and the browser forbids others", {}, async ({ page, folder, url, trouble }) => {
  const requests = [];
  page.context().on("request", (request) => requests.push([request.method(), request.url()]));
  const { base, top } = makeChain(folder);
  await choose(page, top, base);
  await shown(page, top);
  await convert(page, folder);
  const foreign = requests.filter(([method, to]) => method !== "GET" || !(to.startsWith(url) || to.startsWith(`blob:${url}`)));
  assert.deepEqual(foreign, []);

  const blocked = await page.evaluate(async () => {
    const tries = {
      fetch: () => fetch("http://127.0.0.1:9/", { method: "POST", body: "x", mode: "no-cors" }),
      beacon: () => new Promise((done, failed) => (navigator.sendBeacon("http://127.0.0.1:9/", "x") ? done() : failed(new Error("refused")))),
      image: () => new Promise((done, failed) => Object.assign(new Image(), { onload: done, onerror: failed, src: "http://127.0.0.1:9/x.png" })),
      socket: () => new Promise((done, failed) => Object.assign(new WebSocket("ws://127.0.0.1:9/"), { onopen: done, onerror: failed })),
      script: async () => new Function("return 1")(),
    };
    const seen = new Set();
    document.addEventListener("securitypolicyviolation", (event) => seen.add(event.effectiveDirective));
    for (const attempt of Object.values(tries)) await attempt().catch(() => {});
    // The reports come as tasks after the attempts.
    while (seen.size < 3) await new Promise((done) => document.addEventListener("securitypolicyviolation", done, { once: true }));
    return [...seen].sort();
  });
  assert.deepEqual(blocked, ["connect-src", "img-src", "script-src"]);
  // Those complaints were asked for.
  trouble.length = 0;
});

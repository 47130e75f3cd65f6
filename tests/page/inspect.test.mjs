// What the page tells of an image, held against what qemu-img tells.

import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { join } from "node:path";
import { choose, factsOf, jsonOf, makeChain, makeRaw, pageTest, qemuImg, qemuIo, shown } from "./support.mjs";

const bytesIn = (text) => BigInt(/\(([\d,]+) bytes\)/.exec(text)?.[1].replaceAll(",", "") ?? /^(\d+) byte/.exec(text)?.[1] ?? -1);

/** What both can know: the page sees neither the host's blocks nor its paths. */
function comparable(info) {
  const { "actual-size": _, children: __, filename, "full-backing-filename": ___, "backing-image": backing, ...rest } = info;
  return { ...rest, filename: filename.split("/").at(-1), ...(backing && { "backing-image": comparable(backing) }) };
}

pageTest("a raw image is shown as qemu-img describes it", {}, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "disk.img"), 5 * 1024 * 1024 + 512);
  await choose(page, raw);
  await shown(page, raw);
  const info = JSON.parse(qemuImg("info", "--output=json", raw));
  const facts = await factsOf(page);
  assert.equal(facts.Format, info.format);
  assert.equal(bytesIn(facts["Disk size"]), BigInt(info["virtual-size"]));
  assert.match(await page.locator("#check").textContent(), /There is nothing to check/);
});

pageTest("a chain with a snapshot and a bitmap is shown as qemu-img describes it", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  // In the order in which a file dialog may give them: the page finds out which one is on top.
  await choose(page, base, top);
  await shown(page, top);
  const chain = JSON.parse(qemuImg("info", "--output=json", "--backing-chain", top));
  const described = await jsonOf(page);

  const levels = [];
  for (let at = described; at; at = at["backing-image"]) levels.push(comparable({ ...at, "backing-image": undefined }));
  assert.deepEqual(levels, chain.map((level) => comparable(level)));

  const facts = await factsOf(page);
  assert.equal(bytesIn(facts["Disk size"]), BigInt(chain[0]["virtual-size"]));
  assert.equal(bytesIn(facts["Cluster size"]), BigInt(chain[0]["cluster-size"]));
  assert.deepEqual(await page.locator("#chain code").allTextContents(), ["top.qcow2", "base.qcow2"]);
  assert.match(await page.locator("#snapshots tbody").textContent(), /before upgrade/);
  assert.match(await page.locator("#bitmaps tbody").textContent(), /daily.*64 KiB/);
  assert.match(await page.locator("#check .box").first().textContent(), /No errors found/);
});

pageTest("the map says how much is where, as qemu-img map adds up", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, top, base);
  await shown(page, top);
  const map = JSON.parse(qemuImg("map", "--output=json", top));
  const sum = (test) => map.filter(test).reduce((bytes, e) => bytes + e.length, 0);
  const own = sum((e) => e.data && !e.zero && e.depth === 0);
  const below = sum((e) => e.data && !e.zero && e.depth > 0);

  await page.getByText("The map as a table").click();
  const rows = await page.locator("#map tbody tr").evaluateAll((list) => list.map((row) => [...row.cells].map((cell) => cell.textContent)));
  // Starts are exact; lengths are what lies between them.
  const starts = [...rows.map(([start]) => Number(start)), map.at(-1).start + map.at(-1).length];
  const shownAs = (word) => rows.reduce((bytes, [, , what], i) => bytes + (what.startsWith(word) ? starts[i + 1] - starts[i] : 0), 0);
  assert.equal(shownAs("Data"), own);
  assert.equal(shownAs("From a backing file"), below);
  const summary = await page.locator("#map-summary").textContent();
  assert.match(summary, /is data in this file/);
  assert.match(summary, /comes from backing files/);
});

pageTest("a sparse disk of a terabyte opens at once and its one cluster is in the picture", {}, async ({ page, folder }) => {
  const sparse = join(folder, "sparse.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", sparse, "1T");
  qemuIo(sparse, "write -P 0x77 500G 64k");
  const begun = performance.now();
  await choose(page, sparse);
  await shown(page, sparse);
  assert.ok(performance.now() - begun < 10_000);
  assert.match(await page.locator("#map-summary").textContent(), /^64 KiB of 1 TiB \(less than 0\.1 %\) is data/);
  // The slider reads out the cells, exactly one of them with data, and the canvas has a spot there.
  const withData = await page.locator("#map-cell").evaluate((slider) => {
    const texts = [];
    for (let cell = 0; cell <= Number(slider.max); cell++) {
      slider.value = String(cell);
      slider.dispatchEvent(new Event("input"));
      const text = slider.getAttribute("aria-valuetext");
      if (/\bdata\b/.test(text)) texts.push(text);
    }
    return texts;
  });
  assert.equal(withData.length, 1, withData.join("; "));
  assert.match(withData[0], /never written, under 1 % data/);
  const colours = await page.locator("#map canvas").evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
  assert.ok(colours >= 3, "background, empty cells and the one with data");
});

pageTest("a snapshot can be looked at, and the present state again", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, top, base);
  await shown(page, top);
  await page.getByRole("button", { name: "Look at it (before upgrade)" }).click();
  await page.getByText("Showing the snapshot 1").waitFor();
  await shown(page, top);
  await page.getByRole("button", { name: "Show the present state" }).click();
  await page.getByText("Showing the snapshot 1").waitFor({ state: "detached" });
  await shown(page, top);
});

pageTest("leaks and damage are told apart, in words", {}, async ({ page, folder }) => {
  const leaky = join(folder, "leaky.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", leaky, "16M");
  qemuIo(leaky, "write -P 1 0 64k");
  // The L1 entry forgotten: what it led to is leaked.
  const { closeSync, openSync, readSync, writeSync } = await import("node:fs");
  const file = openSync(leaky, "r+");
  const header = Buffer.alloc(104);
  readSync(file, header, 0, 104, 0);
  const l1 = Number(header.readBigUInt64BE(40));
  const entry = Buffer.alloc(8);
  readSync(file, entry, 0, 8, l1);
  writeSync(file, Buffer.alloc(8), 0, 8, l1);
  closeSync(file);
  const leaks = JSON.parse(checkJson(leaky)).leaks;
  assert.ok(leaks > 0);
  await choose(page, leaky);
  await shown(page, leaky);
  assert.match(await page.locator("#check .box h3").first().textContent(), new RegExp(`^${leaks} leaked clusters?: wasted space, no damage$`));

  const damaged = join(folder, "damaged.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", damaged, "16M");
  qemuIo(damaged, "write -P 1 0 64k");
  const again = openSync(damaged, "r+");
  // An L2 entry that points past the end of the file.
  const l2 = Number(entry.readBigUInt64BE(0) & 0x00fffffffffffe00n);
  const far = Buffer.alloc(8);
  far.writeBigUInt64BE((1n << 63n) | 0x4000000n);
  writeSync(again, far, 0, 8, l2);
  closeSync(again);
  const { corruptions } = JSON.parse(checkJson(damaged));
  assert.ok(corruptions > 0);
  await choose(page, damaged);
  await shown(page, damaged);
  assert.match(await page.locator("#check .box.bad h3").first().textContent(), new RegExp(`^Damaged: ${corruptions} errors? in the tables$`));
});

/** qemu-img check exits with 2 or 3 where it finds something. */
function checkJson(path) {
  try {
    return qemuImg("check", "--output=json", path);
  } catch (error) {
    return error.stdout;
  }
}

pageTest("a truncated image tells what is wrong with it", {}, async ({ page, folder }) => {
  const { base } = makeChain(folder);
  truncateSync(base, 3 * 65536);
  await choose(page, base);
  // It may be refused, or opened and found damaged: never silently shown as whole.
  const box = page.locator("#problem .box.bad, #check .box.bad");
  await box.first().waitFor();
});

// From file choice to saved bytes, which qemu-img compares with the source.

import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { assertSameContents, choose, convert, makeChain, makeRaw, pageTest, privateFiles, qemuImg, qemuIo, shown } from "./support.mjs";

const MIB = 1024 * 1024;
const info = (path) => JSON.parse(qemuImg("info", "--output=json", path));

for (const picker of [false, true]) {
  const way = picker ? "into a picked file" : "as a download";

  pageTest(`raw to qcow2, ${way}`, { picker }, async ({ page, folder }) => {
    const raw = makeRaw(join(folder, "disk.img"), 24 * MIB + 512);
    await choose(page, raw);
    await shown(page, raw);
    const { saved, name } = await convert(page, folder, { picker });
    assert.equal(name, "disk.qcow2");
    qemuImg("check", saved);
    assertSameContents(raw, "raw", saved, "qcow2");
  });

  pageTest(`qcow2 with a backing file to raw, ${way}`, { picker }, async ({ page, folder }) => {
    const { base, top } = makeChain(folder);
    await choose(page, top, base);
    await shown(page, top);
    const { saved, name } = await convert(page, folder, { picker });
    assert.equal(name, "top.img");
    assert.equal(statSync(saved).size, info(top)["virtual-size"]);
    assertSameContents(top, "qcow2", saved, "raw");
  });
}

for (const [compression, label] of [["zlib", /^zlib/], ["zstd", /^zstd/]]) {
  pageTest(`raw to qcow2 compressed with ${compression}`, {}, async ({ page, folder }) => {
    const raw = makeRaw(join(folder, "disk.img"), 12 * MIB);
    await choose(page, raw);
    await shown(page, raw);
    const options = await page.getByLabel("Compression").locator("option").allTextContents();
    await page.getByLabel("Compression").selectOption({ label: options.find((o) => label.test(o)) });
    const { saved } = await convert(page, folder);
    qemuImg("check", saved);
    assertSameContents(raw, "raw", saved, "qcow2");
    assert.equal(info(saved)["format-specific"].data["compression-type"], compression);
    assert.ok(JSON.parse(qemuImg("check", "--output=json", saved))["compressed-clusters"] > 0);
    assert.ok(statSync(saved).size < 6 * MIB);
  });
}

pageTest("the advanced options reach the file", {}, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "disk.img"), 6 * MIB);
  await choose(page, raw);
  await shown(page, raw);
  await page.getByText("Advanced options").click();
  await page.getByLabel("Cluster size").selectOption("16384");
  await page.getByLabel("Bits in a reference count").selectOption("64");
  await page.getByLabel("Subclusters").check();
  await page.getByLabel("Lazy reference counts").check();
  await page.getByLabel("File name").fill("other name.qcow2");
  const { saved, name } = await convert(page, folder);
  assert.equal(name, "other name.qcow2");
  qemuImg("check", saved);
  assertSameContents(raw, "raw", saved, "qcow2");
  const written = info(saved);
  assert.equal(written["cluster-size"], 16384);
  const { data } = written["format-specific"];
  assert.deepEqual([data["refcount-bits"], data["extended-l2"], data["lazy-refcounts"]], [64, true, true]);
});

pageTest("version 2 is written, and what it lacks is refused before", {}, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "disk.img"), 3 * MIB);
  await choose(page, raw);
  await shown(page, raw);
  await page.getByText("Advanced options").click();
  await page.getByLabel("Version", { exact: true }).selectOption("0.10");
  await page.getByLabel("Lazy reference counts").check();
  await page.getByRole("button", { name: "Convert and save…" }).click();
  assert.match(await page.locator("#plan").textContent(), /cannot have lazy reference counts/);
  assert.deepEqual(await privateFiles(page), {});
  await page.getByLabel("Lazy reference counts").uncheck();
  const { saved } = await convert(page, folder);
  assert.equal(info(saved)["format-specific"].data.compat, "0.10");
  assertSameContents(raw, "raw", saved, "qcow2");
});

pageTest("a snapshot converts as it was", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, top, base);
  await shown(page, top);
  await page.getByRole("button", { name: "Look at it (before upgrade)" }).click();
  await page.getByText("Showing the snapshot 1").waitFor();
  await shown(page, top);
  const { saved } = await convert(page, folder);
  const expected = join(folder, "expected.raw");
  qemuImg("convert", "-l", "snapshot.name=before upgrade", "-O", "raw", top, expected);
  assertSameContents(expected, "raw", saved, "raw");
});

for (const picker of [false, true]) {
  pageTest(`a cancelled conversion leaves nothing (${picker ? "picked file" : "download"})`, { picker }, async ({ page, folder }) => {
    // Random data under the slowest compression there is: nobody is faster than the click.
    const raw = makeRaw(join(folder, "disk.img"), 192 * MIB);
    await choose(page, raw);
    await shown(page, raw);
    await page.getByLabel("Compression").selectOption("zlib");
    const downloads = [];
    page.on("download", (d) => downloads.push(d));
    await page.getByRole("button", { name: "Convert and save…" }).click();
    await page.locator("#convert progress").waitFor();
    await page.waitForFunction(() => document.querySelector("#convert progress")?.value > 0.02);
    await page.locator("#convert").getByRole("button", { name: "Cancel" }).click();
    const box = page.locator("#convert .box");
    await box.waitFor();
    assert.match(await box.locator("h3").textContent(), /cancelled/);
    assert.deepEqual(await privateFiles(page), {});
    assert.deepEqual(downloads, []);
    // The form is back, and the next conversion works.
    const small = makeRaw(join(folder, "small.img"), 2 * MIB);
    await choose(page, small);
    await shown(page, small);
    const { saved } = await convert(page, folder, { picker });
    assertSameContents(small, "raw", saved, "qcow2");
  });
}

pageTest("opening another image during a conversion asks first", {}, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "disk.img"), 192 * MIB);
  const other = makeRaw(join(folder, "other.img"), MIB);
  await choose(page, raw);
  await shown(page, raw);
  await page.getByLabel("Compression").selectOption("zlib");
  await page.getByRole("button", { name: "Convert and save…" }).click();
  await page.waitForFunction(() => document.querySelector("#convert progress")?.value > 0.01);
  const question = page.waitForEvent("dialog");
  const chosen = choose(page, other);
  await (await question).dismiss();
  await chosen;
  assert.equal(await page.getByRole("heading", { level: 1, name: "disk.img" }).count(), 1);
  page.once("dialog", (dialog) => void dialog.accept());
  await choose(page, other);
  await shown(page, other);
  // What the ended conversion wrote is gone as soon as it has settled.
  await page.waitForFunction(async () => {
    const root = await navigator.storage.getDirectory();
    const pages = await root.getDirectoryHandle("sectora-page");
    for await (const own of pages.values()) for await (const _ of own.keys()) return false;
    return true;
  });
});

pageTest("the browser's copy can be deleted, and old copies go with their page", {}, async ({ page, folder, context, url }) => {
  const raw = makeRaw(join(folder, "disk.img"), 2 * MIB);
  await choose(page, raw);
  await shown(page, raw);
  await convert(page, folder);
  assert.equal(Object.keys(await privateFiles(page)).length, 1);
  // A second page leaves the copy of the first one alone.
  const second = await context.newPage();
  await second.goto(url);
  await second.waitForLoadState("networkidle");
  assert.equal(Object.keys(await privateFiles(second)).length, 1);
  await page.getByRole("button", { name: "Delete the browser’s copy" }).click();
  await page.getByRole("heading", { name: "The browser’s copy is deleted" }).waitFor();
  assert.deepEqual(await privateFiles(page), {});
  await convert(page, folder);
  await page.close();
  await second.reload();
  await second.waitForFunction(async () => {
    const root = await navigator.storage.getDirectory();
    const pages = await root.getDirectoryHandle("sectora-page").catch(() => undefined);
    if (!pages) return true;
    for await (const _ of pages.keys()) return false;
    return true;
  });
});

pageTest("an overlay seen without its backing file says so where it matters", {}, async ({ page, folder }) => {
  const { top } = makeChain(folder);
  qemuIo(top, "read 0 512");
  await choose(page, top);
  await page.getByRole("heading", { name: "The file base.qcow2 is needed too" }).waitFor();
  await page.getByRole("button", { name: "Look at it without" }).click();
  await shown(page, top);
  assert.match(await page.locator(".title").textContent(), /without its backing file/);
  assert.match(await page.locator("#chain").textContent(), /base\.qcow2.*not opened/);
});

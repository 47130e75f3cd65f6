// For everybody: by keyboard alone, for screen readers, in both themes, on small screens, offline.

import assert from "node:assert/strict";
import { join } from "node:path";
import { accessibility, assertSameContents, choose, convert, makeChain, makeRaw, pageTest, privateFiles, shown } from "./support.mjs";

const MIB = 1024 * 1024;

for (const colorScheme of ["light", "dark"]) {
  pageTest(`no accessibility rule is broken, ${colorScheme}`, { colorScheme, reducedMotion: "reduce" }, async ({ page, folder }) => {
    assert.deepEqual(await accessibility(page), [], "the start");
    const { base, top } = makeChain(folder);
    await choose(page, top);
    await page.locator("#problem .box").waitFor();
    assert.deepEqual(await accessibility(page), [], "a missing file");
    await page.setInputFiles("#add", base);
    await shown(page, top);
    for (const summary of ["The map as a table", "The same as JSON"]) await page.getByText(summary).click();
    await page.locator("input[name=format][value=qcow2]").check();
    await page.getByText("Advanced options").click();
    assert.deepEqual(await accessibility(page), [], "an image");
    await convert(page, folder);
    await page.locator("#convert .box.good").waitFor();
    assert.deepEqual(await accessibility(page), [], "a result");
  });
}

for (const width of [320, 390, 768]) {
  pageTest(`nothing is cut off at a width of ${width}`, { viewport: { width, height: 800 } }, async ({ page, folder }) => {
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(await overflow(), 0, "the start");
    const { base, top } = makeChain(folder);
    await choose(page, base, top);
    await shown(page, top);
    await page.locator("input[name=format][value=qcow2]").check();
    await page.getByText("Advanced options").click();
    assert.equal(await overflow(), 0, "an image");
  });
}

pageTest("by keyboard alone, from the file control to the saved file", { picker: true }, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "disk.img"), 4 * MIB);
  const focused = () => page.evaluate(() => document.activeElement?.getAttribute("name") || document.activeElement?.id || document.activeElement?.textContent?.trim());
  const tabTo = async (what) => {
    for (let i = 0; i < 60; i++) {
      await page.keyboard.press("Tab");
      if ((await focused()) === what) return;
    }
    assert.fail(`the Tab key does not lead to ${what}`);
  };

  // Long before it is needed: the browser must have heard of it.
  page.on("filechooser", (chooser) => void chooser.setFiles(raw));
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the content");
  await tabTo("choose");
  await page.keyboard.press("Enter");
  await shown(page, raw);
  assert.equal(await focused(), "image-title", "reading goes on at the image");

  await tabTo("map-cell");
  const slider = page.locator("#map-cell");
  const before = await slider.getAttribute("aria-valuetext");
  await page.keyboard.press("End");
  assert.notEqual(await slider.getAttribute("aria-valuetext"), before);

  await tabTo("format");
  await page.keyboard.press("ArrowDown");
  await tabTo("name");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("typed.img");
  await tabTo("Convert and save…");
  await page.keyboard.press("Enter");
  await page.locator("#convert .box.good").waitFor();
  assert.match(await focused(), /^Saved typed\.img/);
  assert.match(await page.locator("#live").textContent(), /^Saved typed\.img/);
  assert.deepEqual(await privateFiles(page), { "typed.img": 4 * MIB });
});

pageTest("files can be dropped anywhere", {}, async ({ page, folder }) => {
  const { readFileSync } = await import("node:fs");
  const raw = makeRaw(join(folder, "dropped.img"), 64 * 1024);
  const bytes = readFileSync(raw).toString("base64");
  await page.evaluate((data) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], "dropped.img"));
    document.querySelector("footer").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, bytes);
  await shown(page, raw);
});

pageTest("it works without a network once it was loaded", {}, async ({ page, folder, stopServer, context }) => {
  await page.getByText("It works without a network from now on.").waitFor();
  await stopServer();
  await context.setOffline(true);
  await page.reload();
  const raw = makeRaw(join(folder, "disk.img"), 2 * MIB);
  await choose(page, raw);
  await shown(page, raw);
  const { saved } = await convert(page, folder);
  assertSameContents(raw, "raw", saved, "qcow2");
});

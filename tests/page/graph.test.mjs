// The graph of nodes: what is drawn is what the monitor tells and what qemu-img knows, by mouse and by
// keyboard; and the monitor itself.

import assert from "node:assert/strict";
import { join } from "node:path";
import { accessibility, choose, makeChain, makeRaw, pageTest, qemuImg, shown } from "./support.mjs";

/** Opens the graph of the image on the page. */
async function draw(page) {
  await page.getByRole("button", { name: "Draw the graph" }).click();
  await page.locator("#graph svg").waitFor();
}

const labels = (page) => page.locator("#graph .node").evaluateAll((nodes) => nodes.map((node) => node.getAttribute("aria-label")));

pageTest("the graph of a chain has every image and every file, and who stands on whom", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, base, top);
  await shown(page, top);
  await draw(page);
  const [image, ...others] = await labels(page);
  const chain = JSON.parse(qemuImg("info", "--output=json", "--backing-chain", top));
  assert.equal(others.length + 1, 2 * chain.length);
  assert.match(image, /^image qcow2 · 24 MiB · read-only; stands on file top\.qcow2, backing #block\d+$/);
  assert.ok(others.some((label) => /^top\.qcow2 file · .* · read-only; file of image$/.test(label)), others.join("\n"));
  assert.ok(others.some((label) => /^#block\d+ qcow2 · 24 MiB · read-only; backing of image; stands on file base\.qcow2$/.test(label)), others.join("\n"));
  assert.deepEqual((await page.locator("#graph .role").allTextContents()).sort(), ["backing", "file", "file"]);
  // The same in the table and, for the chosen node, below.
  await page.getByText("The graph as a table").click();
  assert.equal(await page.locator("#graph tbody tr").count(), 2 * chain.length);
  await page.locator("#graph .node", { hasText: "base.qcow2" }).click();
  assert.match(await page.locator("#graph-node").textContent(), /base\.qcow2.*Driver ?file.*as file, for consistent-read/);
});

pageTest("an external data file is a node of its own", {}, async ({ page, folder }) => {
  const image = join(folder, "split.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-o", `data_file=${join(folder, "split.raw")}`, image, "4M");
  await choose(page, image, join(folder, "split.raw"));
  await shown(page, image);
  await draw(page);
  assert.deepEqual((await page.locator("#graph .role").allTextContents()).sort(), ["data-file", "file"]);
  assert.ok((await labels(page)).some((label) => /^split\.raw file · 4 MiB · read-only; data-file of image$/.test(label)));
});

pageTest("arrow keys go through the graph", {}, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, base, top);
  await shown(page, top);
  await draw(page);
  const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label")?.split(" ")[0]);
  assert.equal(await focused(), "image");
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(), "top.qcow2");
  await page.keyboard.press("ArrowRight");
  assert.match(await focused(), /^#block/);
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(), "base.qcow2");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#graph-node h3").textContent(), "base.qcow2");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  assert.equal(await focused(), "image");
});

pageTest("the monitor answers, refuses in words, tells events, and changes what is drawn", {}, async ({ page, folder }) => {
  const raw = makeRaw(join(folder, "disk.img"), 4 << 20);
  await choose(page, raw);
  await shown(page, raw);
  await draw(page);
  await page.getByText("Talk to the monitor").click();
  const ask = async (request) => {
    await page.locator("#answer").evaluate((answer) => (answer.textContent = ""));
    await page.locator("#command").fill(typeof request === "string" ? request : JSON.stringify(request));
    await page.getByRole("button", { name: "Send" }).click();
    await page.waitForFunction(() => document.querySelector("#answer").textContent !== "");
    return page.locator("#answer").textContent();
  };
  const nodes = JSON.parse(await ask({ execute: "query-named-block-nodes" }));
  assert.deepEqual(nodes.return.map((node) => node.drv).sort(), ["file", "raw"]);
  assert.equal(nodes.return[0].image["virtual-size"], 4 << 20);
  assert.deepEqual(JSON.parse(await ask({ execute: "nonsense" })), { error: { class: "CommandNotFound", desc: "The command nonsense has not been found" } });
  assert.match(await ask("no JSON"), /^Not sent: /);
  // Nothing but the chosen files, and those for reading only.
  assert.match(await ask({ execute: "blockdev-add", arguments: { driver: "file", "node-name": "n", filename: "/etc/passwd" } }), /nothing is attached/);
  assert.match(await ask({ execute: "blockdev-add", arguments: { driver: "file", "node-name": "n", filename: "disk.img" } }), /attached for reading only/);
  await ask({ execute: "blockdev-add", arguments: { driver: "null-co", "node-name": "nothing", size: 1 << 20 } });
  await page.locator("#graph .node", { hasText: "nothing" }).waitFor();
  await ask({ execute: "blockdev-create", arguments: { "job-id": "j", options: { driver: "qcow2", file: "nothing", size: 65536 } } });
  await page.locator("#events li", { hasText: "JOB_STATUS_CHANGE" }).first().waitFor();
});

for (const colorScheme of ["light", "dark"]) {
  pageTest(`the graph breaks no accessibility rule, ${colorScheme}`, { colorScheme, reducedMotion: "reduce" }, async ({ page, folder }) => {
    const { base, top } = makeChain(folder);
    await choose(page, base, top);
    await shown(page, top);
    await draw(page);
    for (const summary of ["The graph as a table", "Talk to the monitor"]) await page.getByText(summary).click();
    await page.getByRole("button", { name: "Send" }).click();
    await page.locator("#answer").waitFor();
    assert.deepEqual(await accessibility(page), []);
  });
}

pageTest("the graph fits a narrow page, and another image has its own", { viewport: { width: 320, height: 800 } }, async ({ page, folder }) => {
  const { base, top } = makeChain(folder);
  await choose(page, base, top);
  await shown(page, top);
  await draw(page);
  await page.getByText("Talk to the monitor").click();
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(overflow, 0);
  await choose(page, base);
  await shown(page, base);
  await draw(page);
  assert.equal((await labels(page)).length, 2);
});

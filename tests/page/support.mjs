// What the tests of the page share: images made by the reference tools, a server, and Chromium.
//
// Tests run on the built page (www/dist). Where Chromium or qemu-img is missing they are skipped,
// and say what is missing.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, closeSync, constants, existsSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { test as nodeTest } from "node:test";
import { fileURLToPath } from "node:url";
import { serve } from "../../www/serve.mjs";

const TOP = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const DIST = join(TOP, "www", "dist");
const require = createRequire(join(TOP, "www", "package.json"));

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

function onPath(...names) {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of names) {
      const path = join(folder, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // the next one
      }
    }
  }
  return undefined;
}

const chromium = process.env.CHROMIUM ?? onPath("chromium", "chromium-browser", "google-chrome");

/** Nothing here takes as long, except on a machine that is busy with something else. */
const PATIENCE = 180_000;

/** What is missing here, or `false`. */
export const missing =
  (!chromium && "Chromium is not installed") ||
  (!onPath("qemu-img") && "qemu-img is not installed") ||
  (!onPath("qemu-io") && "qemu-io is not installed") ||
  (!existsSync(join(DIST, "index.html")) && "the page is not built (npm run build -w sectora-www)") ||
  false;

/** The page in a Chromium and from a server of its own; `close` ends both. `folder`: for the profile. */
export async function openPage({ folder, picker = false, ...options }) {
  const server = await serve({ folder: DIST });
  const { chromium: browser } = require("playwright-core");
  const context = await browser.launchPersistentContext(join(folder, "profile"), {
    executablePath: chromium,
    headless: true,
    args: FLAGS,
    acceptDownloads: true,
    locale: "en-US",
    timezoneId: "UTC",
    timeout: PATIENCE,
    ...options,
  });
  const close = async () => {
    await context.close();
    await server.close();
  };
  try {
    await context.addInitScript(picker ? fakePicker : noPicker);
    const page = context.pages()[0] ?? (await context.newPage());
    page.setDefaultTimeout(PATIENCE);
    /** What the page logs as an error, or throws. */
    const trouble = [];
    page.on("pageerror", (error) => trouble.push(String(error)));
    page.on("console", (message) => message.type() === "error" && trouble.push(message.text()));
    await page.goto(server.url);
    return { page, context, url: server.url, trouble, stopServer: server.close, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * A test with a page of its own: `body({ page, folder, url, context, trouble })`. Folder, profile
 * and server are gone afterwards. What the page complains of fails the test.
 */
export function pageTest(name, options, body) {
  nodeTest(name, { skip: missing, timeout: 3 * PATIENCE }, async () => {
    const folder = mkdtempSync(join(tmpdir(), "page-test-"));
    try {
      const opened = await openPage({ ...options, folder });
      try {
        await body({ ...opened, folder });
        if (opened.trouble.length > 0) throw new Error(`the page complained: ${opened.trouble.join("; ")}`);
      } finally {
        await opened.close();
      }
    } finally {
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    }
  });
}

// --- In the page, before its own code. ---

/** A save-file picker that nobody has to click: the file lies in the origin-private file system. */
function fakePicker() {
  window.showSaveFilePicker = async ({ suggestedName }) => {
    const root = await navigator.storage.getDirectory();
    window.pickedFile = await root.getFileHandle(suggestedName, { create: true });
    return window.pickedFile;
  };
}

function noPicker() {
  Object.defineProperty(window, "showSaveFilePicker", { value: undefined });
}

// --- Images. ---

export function qemuImg(...args) {
  return execFileSync("qemu-img", args.map(String), { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

export function qemuIo(image, ...commands) {
  return execFileSync("qemu-io", [...commands.flatMap((c) => ["-c", c]), image], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Fails unless the contents are the same; formats are named so that nothing is guessed. */
export function assertSameContents(a, formatA, b, formatB) {
  qemuImg("compare", "-f", formatA, "-F", formatB, a, b);
}

const KIB = 1024;

/** A raw disk of `size` bytes: text that compresses, bytes that do not, zeroes and holes. */
export function makeRaw(path, size, seed = 1) {
  const file = openSync(path, "w");
  ftruncateSync(file, size);
  const step = 512 * KIB;
  for (let at = 0, i = 0; at < size; at += step, i++) {
    const length = Math.min(step, size - at);
    const block = Buffer.alloc(length);
    if (i % 4 === 0) {
      for (let o = 0; o < length; o += 32) createHash("sha256").update(`${seed}/${i}/${o}`).digest().copy(block, o);
    } else if (i % 4 === 1) {
      block.fill(`line ${i} of seed ${seed}\n`);
    } else if (i % 4 === 2) {
      // Data with a run of zeroes in it.
      block.fill(0x5a, 0, length >> 1);
    } else {
      continue;
    }
    writeSync(file, block, 0, length, at);
  }
  closeSync(file);
  return path;
}

/** A qcow2 chain: `base.qcow2` with data, `top.qcow2` with changes, a snapshot and a bitmap. */
export function makeChain(folder, size = 24 * KIB * KIB) {
  const raw = makeRaw(join(folder, "origin.raw"), size, 3);
  const base = join(folder, "base.qcow2");
  const top = join(folder, "top.qcow2");
  qemuImg("convert", "-f", "raw", "-O", "qcow2", raw, base);
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top], { cwd: folder });
  qemuIo(top, "write -P 0x11 1M 300k");
  qemuImg("snapshot", "-c", "before upgrade", top);
  qemuIo(top, "write -P 0x22 3M 64k", "write -P 0x33 9000k 700k", "write -z 12M 1M");
  qemuImg("bitmap", "--add", "--enable", "-g", "65536", top, "daily");
  return { raw, base, top };
}

export function writeBytes(path, bytes) {
  writeFileSync(path, bytes);
  return path;
}

// --- What a person does. ---

/** Chooses files by the page's own control. */
export async function choose(page, ...paths) {
  await page.setInputFiles("#choose", paths);
}

/** Waits until an image is shown and its map and check have ended. */
export async function shown(page, path) {
  await page.getByRole("heading", { level: 1, name: basename(path), exact: true }).waitFor();
  await page.locator("#map-summary").waitFor();
  await page.locator("#check .box").first().waitFor();
}

/** The list of facts, as an object. */
export async function factsOf(page) {
  const pairs = await page.locator("#details dl > div").evaluateAll((rows) =>
    // The note under a value is not the value.
    rows.map((row) => [row.querySelector("dt").textContent, row.querySelector("dd").firstChild.textContent]),
  );
  return Object.fromEntries(pairs);
}

/** The engine's description of the image, as the page shows it. */
export async function jsonOf(page) {
  await page.getByText("The same as JSON").click();
  return JSON.parse(await page.locator("#details pre").textContent());
}

/** Presses the button and gives the path of the saved bytes, from the download or the picked file. */
export async function convert(page, folder, { picker = false } = {}) {
  const button = page.getByRole("button", { name: "Convert and save…" });
  const saved = join(folder, `saved-${Math.random().toString(36).slice(2)}`);
  if (!picker) {
    const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
    await download.saveAs(saved);
    return { saved, name: download.suggestedFilename() };
  }
  await button.click();
  await page.locator("#convert .box.good").waitFor();
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.evaluate(async () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await window.pickedFile.getFile());
      link.download = window.pickedFile.name;
      link.click();
    }),
  ]);
  await download.saveAs(saved);
  return { saved, name: download.suggestedFilename() };
}

/** Every file of the origin-private file system, with its size. */
export async function privateFiles(page) {
  return await page.evaluate(async () => {
    const found = {};
    const walk = async (folder, path) => {
      for await (const [name, handle] of folder.entries()) {
        if (handle.kind === "directory") await walk(handle, `${path}${name}/`);
        else found[path + name] = (await handle.getFile()).size;
      }
    };
    await walk(await navigator.storage.getDirectory(), "");
    return found;
  });
}

/** axe-core's rules over the page as it is; gives what they find. */
export async function accessibility(page) {
  // Evaluated by the browser's debugger: the page's own policy stays in force for everybody else.
  await page.evaluate(readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
  return await page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] });
    return violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target.join(" ")} (${n.failureSummary?.split("\n")[1]?.trim()})`).join("; ")}`);
  });
}

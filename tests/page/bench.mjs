#!/usr/bin/env node
// How fast the page converts, as a share of what reading the same file by Blob.slice alone reaches.
//
//   node tests/page/bench.mjs [--mib 1024] [--runs 3]
//
// Both in the same Chromium, alternating, over the same file: the page from the click on its button
// to the complete result in the browser's private storage, and a bare loop of slice().arrayBuffer()
// in a worker, 4 MiB at a time, four in flight. Prints medians and the range of the ratio.
//
// On Linux also how much memory the page's process takes while it converts, at most, beyond that of
// the page with nothing opened: what is its own and what it shares with the browser, no file pages.
// That is sampled in the run that warms up.

import { closeSync, createReadStream, createWriteStream, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { choose, missing, openPage, qemuImg, shown } from "./support.mjs";

const MIB = 1024 * 1024;

function option(name, fallback) {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
}

/** A file of `size` bytes made of this machine's own programs and libraries. */
async function realistic(path, size) {
  const out = createWriteStream(path);
  let left = size;
  while (left > 0) {
    const before = left;
    for (const folder of ["/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/share/doc"]) {
      for (const entry of entries(folder)) {
        if (left <= 0) break;
        const stat = statSync(join(folder, entry), { throwIfNoEntry: false });
        if (!stat?.isFile() || stat.size < 4096) continue;
        const take = Math.min(left, stat.size);
        for await (const chunk of createReadStream(join(folder, entry), { end: take - 1 })) {
          if (!out.write(chunk)) await new Promise((done) => out.once("drain", done));
        }
        left -= take;
      }
    }
    if (left === before) throw new Error("found no files to make data of");
  }
  await new Promise((done) => out.end(done));
}

function entries(folder) {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

/** In the page: seconds that reading a chosen file takes, in a worker, doing nothing else. */
async function readAlone(file) {
  const program = `onmessage = async ({ data: file }) => {
    const step = ${4 * 1024 * 1024};
    const begun = performance.now();
    let at = 0;
    const reader = async () => {
      for (let from; (from = at) < file.size; ) {
        at += step;
        await file.slice(from, from + step).arrayBuffer();
      }
    };
    await Promise.all([reader(), reader(), reader(), reader()]);
    postMessage((performance.now() - begun) / 1000);
  }`;
  const url = URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
  const worker = new Worker(url);
  const seconds = await new Promise((done, failed) => {
    worker.onmessage = ({ data }) => done(data);
    worker.onerror = failed;
    worker.postMessage(file);
  });
  worker.terminate();
  return seconds;
}

/**
 * Takes as much memory for cached files as a result does, for the function that it returns to give
 * back: memory that was free for some seconds may belong to the host of a virtual machine, and costs
 * ten times as much then.
 */
function takeMemory(folder, size) {
  const path = join(folder, "warm");
  const file = openSync(path, "w");
  const part = Buffer.alloc(4 * MIB, 1);
  for (let at = 0; at < size; at += part.length) writeSync(file, part);
  closeSync(file);
  return () => rmSync(path);
}

/** In the page: milliseconds from now, when `start` is run, until it shows all that is named. */
function until(page, selectors, start) {
  const seen = page.evaluate(
    (selectors) =>
      new Promise((done) => {
        const begun = performance.now();
        const all = () => selectors.every((selector) => document.querySelector(selector)?.checkVisibility());
        const look = () => {
          if (!all()) return;
          watcher.disconnect();
          done(performance.now() - begun);
        };
        const watcher = new MutationObserver(look);
        watcher.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
      }),
    selectors,
  );
  return start().then(() => seen);
}

/** A file of /proc; nothing where there is none, or none any more. */
function proc(...path) {
  try {
    return readFileSync(join("/proc", ...path), "utf8");
  } catch {
    return "";
  }
}

/** Bytes of memory that the pages of the browser with this profile take, where /proc tells. */
function pageMemory(profile) {
  const all = entries("/proc").filter((name) => /^\d+$/.test(name)).map((pid) => {
    const parent = /\) \S (\d+) /.exec(proc(pid, "stat"))?.[1];
    return { pid, parent, command: proc(pid, "cmdline").replaceAll("\0", " ") };
  });
  const ours = new Set(all.filter(({ command }) => command.includes(`--user-data-dir=${profile} `)).map(({ pid }) => pid));
  for (let before = -1; before !== ours.size; ) {
    before = ours.size;
    for (const { pid, parent } of all) if (ours.has(parent)) ours.add(pid);
  }
  let kib = 0;
  for (const { pid, command } of all) {
    if (!ours.has(pid) || !command.includes("--type=renderer")) continue;
    for (const [, count] of proc(pid, "status").matchAll(/^Rss(?:Anon|Shmem):\s*(\d+) kB$/gm)) kib += Number(count);
  }
  return kib * 1024;
}

/** Samples the memory of pages until the function that it returns is called, which gives the most. */
function watchMemory(profile) {
  let most = 0;
  const timer = setInterval(() => {
    most = Math.max(most, pageMemory(profile));
  }, 50);
  return () => {
    clearInterval(timer);
    return most;
  };
}

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

async function main() {
  if (missing) {
    console.log(`skipped: ${missing}`);
    return;
  }
  const size = option("mib", 1024) * MIB;
  const runs = option("runs", 3);
  const folder = mkdtempSync(join(tmpdir(), "page-bench-"));
  try {
    const raw = join(folder, "disk.img");
    await realistic(raw, size);
    const qcow2 = join(folder, "disk.qcow2");
    qemuImg("convert", "-f", "raw", "-O", "qcow2", raw, qcow2);
    for (const [name, path, to] of [["qcow2 to raw", qcow2, "raw"], ["raw to qcow2", raw, "qcow2"]]) {
      const ratios = [];
      const [alone, whole] = [[], []];
      let memory;
      // The first run warms up and does not count.
      for (let run = 0; run <= runs; run++) {
        // A worker from a blob is more than the page's policy allows: the bare loop has a page without.
        const bare = await openPage({ folder: join(folder, "bare"), bypassCSP: true });
        await bare.page.evaluate(() => document.body.insertAdjacentHTML("beforeend", '<input type="file" id="bare">'));
        await bare.page.setInputFiles("#bare", path);
        const file = await bare.page.evaluateHandle(() => document.querySelector("#bare").files[0]);
        const reading = await bare.page.evaluate(readAlone, file);
        await bare.close();

        const { page, close } = await openPage({ folder: join(folder, "page") });
        const profile = join(folder, "page", "profile");
        const [atRest, watched] = run === 0 ? [pageMemory(profile), watchMemory(profile)] : [0, undefined];
        const giveBack = takeMemory(folder, size);
        const opening = await until(page, ["#map-summary", "#check .box"], () => choose(page, path));
        await shown(page, path);
        await page.locator(`input[name=format][value=${to}]`).check();
        const save = page.getByRole("button", { name: "Convert and save…" });
        giveBack();
        const converting = (opening + (await until(page, ["#convert .box.good"], () => save.click()))) / 1000;
        if (watched && atRest > 0) memory = watched() - atRest;
        else watched?.();
        await close();
        rmSync(join(folder, "page"), { recursive: true, force: true });
        rmSync(join(folder, "bare"), { recursive: true, force: true });
        if (run === 0) continue;
        alone.push(reading);
        whole.push(converting);
        ratios.push(reading / converting);
      }
      const speed = (seconds) => `${Math.round(size / MIB / seconds)} MiB/s`;
      const range = `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`;
      console.log(`${name}: open and convert ${speed(median(whole))}, Blob.slice alone ${speed(median(alone))}, ratio ${median(ratios).toFixed(2)} (${range}, ${runs} runs)`);
      console.log(`${name}: memory ${memory === undefined ? "not measured here" : `${Math.round(memory / MIB)} MiB at most beyond the page at rest`}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

await main();

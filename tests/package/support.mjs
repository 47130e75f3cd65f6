// The package as its users have it: packed, installed from the tarball into an empty folder, and
// imported from there. And qemu-img, the oracle.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const TOP = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

const folders = [];
process.on("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** An empty folder that goes with the process. */
export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), "sectora-package-"));
  folders.push(folder);
  return folder;
}

export function run(command, args, options = {}) {
  return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], ...options });
}

/** Packs the package and installs the tarball; gives the folder that has it. */
export function install() {
  const folder = scratch();
  const npm = ["--silent", "--no-audit", "--no-fund"];
  run("npm", ["pack", ...npm, "-w", "sectora", "--pack-destination", folder], { cwd: TOP });
  const [tarball] = readdirSync(folder).filter((name) => name.endsWith(".tgz"));
  writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }\n');
  run("npm", ["install", ...npm, "--offline", "--no-package-lock", `./${tarball}`], { cwd: folder });
  return folder;
}

/** The package, imported from a folder that has it. */
export function load(folder) {
  return import(pathToFileURL(join(folder, "node_modules", "sectora", "dist", "node.mjs")).href);
}

export function hasQemu() {
  try {
    run("qemu-img", ["--version"]);
    return true;
  } catch {
    return false;
  }
}

/** For tests that need the oracle: they are counted as skipped without it. */
export const needsQemu = { skip: hasQemu() ? false : "qemu-img is not installed" };

export function qemu(...args) {
  return run("qemu-img", args);
}

export function qemuJson(...args) {
  return JSON.parse(qemu(...args));
}

/** qemu-img finds both files to have the same contents. */
export function same(a, aFormat, b, bFormat) {
  qemu("compare", "-U", "-f", aFormat, "-F", bFormat, a, b);
}

/** qemu-img finds nothing wrong. */
export function clean(file) {
  const found = qemuJson("check", "--output=json", "-f", "qcow2", file);
  assert.deepEqual([found.leaks ?? 0, found.corruptions ?? 0, found["check-errors"]], [0, 0, 0], file);
}

export function sha(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

export const shaOf = (file) => sha(readFileSync(file));

/** Random numbers, the same in every run. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Contents of a disk: text that compresses, noise that does not, zeroes, in runs of all lengths. */
export function contents(size, seed = 1) {
  const next = random(seed);
  const out = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 512 * (1 + Math.floor(next() ** 3 * 1024)));
    const kind = Math.floor(next() * 4);
    if (kind === 0) for (let i = 0; i < length; i++) out[at + i] = Math.floor(next() * 256);
    else if (kind < 3) out.fill(`line ${Math.floor(next() * 1e6)} of a log that repeats itself\n`, at, at + length);
    at += length;
  }
  return out;
}

/** An error of this package with this kind, and words that match. */
export function kind(name, words = /./) {
  return (e) => {
    assert.equal(e.name, "SectoraError", e.stack);
    assert.equal(e.kind, name, e.message);
    assert.match(e.message, words);
    return true;
  };
}

/** What is in a folder besides `names`: nothing may be left behind. */
export function leftovers(folder, ...names) {
  return readdirSync(folder).filter((name) => !names.includes(name));
}

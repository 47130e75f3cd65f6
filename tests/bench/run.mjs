#!/usr/bin/env node
// Side by side with the reference tool: the same work on the same inputs, alternating.
//
//   npm run bench                        everything (some minutes, about 8 GiB of disk)
//   npm run bench -- --mib 256 --runs 3  smaller, for a look
//   npm run bench -- --only zlib,info    cases whose name contains one of these
//   npm run bench -- --dir DIR           where the images go (default: the system's temporary folder)
//   npm run bench -- --json              a line of JSON a case as well
//
// Inputs: a disk with an ext4 file system full of this machine's own programs, libraries and
// documents, a sparse disk of 1 TiB with a few megabytes in it, and what requests.mjs and exports.mjs
// make. A ratio is the reference's time by ours, pair by pair: above 1 we are ahead. Peak memory is the kernel's count of the process. Every
// result is compared with its source by qemu-img once.

import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, cpSync, existsSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readdirSync, rmSync, statSync, writeSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { exportCases } from "./exports.mjs";
import { smallCases } from "./requests.mjs";

const TOP = join(dirname(fileURLToPath(import.meta.url)), "../..");
const OURS = join(process.env.CARGO_TARGET_DIR ?? join(TOP, "target"), "release/sectora");
const THEIRS = "qemu-img";
const MIB = 1 << 20;
/** qemu-img's best for copies: writes out of order, 16 requests in flight. */
const BEST = ["-W", "-m", "16"];

const options = parseArguments(process.argv.slice(2));
const folder = mkdtempSync(join(options.dir, "sectora-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));
main();

function main() {
  prepare();
  const inputs = makeInputs();
  console.log(`\n${cpus()[0].model.trim()}, ${cpus().length} cores; ${options.mib} MiB disk; medians of ${options.runs} pairs`);
  console.log(`${spawnSync(THEIRS, ["--version"], { encoding: "utf8" }).stdout.split("\n")[0]}\n`);
  console.log(row(["case", "sectora", "reference", "ratio", "(range)", "MiB", "MiB ref."]));
  const small = smallCases({ folder, full: inputs.qcow2, mib: options.mib, program: OURS, theirs: THEIRS });
  const served = exportCases({ folder, full: inputs.raw, mib: options.mib, program: OURS });
  for (const bench of [...cases(inputs), ...small, ...served, ...wasmCases(inputs)]) {
    if (options.only && !options.only.some((part) => bench.name.includes(part))) continue;
    report(bench, measure(bench));
  }
}

/** The cases: two commands that do the same, what they write, and what that must equal. */
function cases({ raw, qcow2, zlib, zstd, sparse, sparseQcow2 }) {
  const convert = (name, flags, from, to, source) => ({
    name,
    ours: (out) => [OURS, "img", "convert", ...flags, "-f", from, "-O", to, source, out],
    theirs: (out) => [THEIRS, "convert", ...BEST, ...flags, "-f", from, "-O", to, source, out],
    check: { source, from, to },
  });
  const look = (name, ...args) => ({
    name,
    ours: () => [OURS, "img", ...args],
    theirs: () => [THEIRS, ...args],
  });
  return [
    convert("raw to qcow2", [], "raw", "qcow2", raw),
    convert("qcow2 to raw", [], "qcow2", "raw", qcow2),
    convert("qcow2 to qcow2", [], "qcow2", "qcow2", qcow2),
    convert("raw to qcow2, zlib", ["-c"], "raw", "qcow2", raw),
    convert("qcow2, zlib, to raw", [], "qcow2", "raw", zlib),
    convert("raw to qcow2, zstd", ["-c", "-o", "compression_type=zstd"], "raw", "qcow2", raw),
    convert("qcow2, zstd, to raw", [], "qcow2", "raw", zstd),
    look("info", "info", "-f", "qcow2", "--output=json", qcow2),
    look("check", "check", "-f", "qcow2", qcow2),
    look("map of 1 TiB sparse raw", "map", "-f", "raw", "--output=json", sparse),
    look("map of 1 TiB sparse qcow2", "map", "-f", "qcow2", "--output=json", sparseQcow2),
    convert("1 TiB sparse raw to qcow2", [], "raw", "qcow2", sparse),
    convert("1 TiB sparse qcow2 to raw", [], "qcow2", "raw", sparseQcow2),
  ];
}

/** The module in Node against the program on one processor. */
function wasmCases({ qcow2, sparseQcow2 }) {
  if (!existsSync(join(TOP, "wasm/dist/node.mjs"))) {
    console.error("the npm package is not built (npm run build): its cases are left out");
    return [];
  }
  const program = join(TOP, "tests/bench/convert.mjs");
  const pinned = spawnSync("taskset", ["-c", "0", "true"]).status === 0 ? ["taskset", "-c", "0"] : [];
  const same = (name, source) => ({
    name,
    ours: (out) => [process.execPath, program, source, out],
    theirs: (out) => [...pinned, OURS, "img", "convert", "-f", "qcow2", "-O", "raw", source, out],
    check: { source, from: "qcow2", to: "raw" },
  });
  return [
    same("wasm in Node against native on one core: qcow2 to raw", qcow2),
    same("the same, 1 TiB sparse", sparseQcow2),
  ];
}

function measure({ name, fresh, serve, ours, theirs, check, seconds }) {
  const out = join(folder, "out");
  const times = { ours: [], theirs: [] };
  const memory = { ours: 0, theirs: 0 };
  for (let run = -1; run < options.runs; run++) {
    for (const [side, command] of [["ours", ours], ["theirs", theirs]]) {
      rmSync(out, { force: true });
      fresh?.(out);
      const end = serve?.(side, out);
      const { whole, mib, said } = time(command(out));
      end?.();
      if (run < 0) {
        if (check && side === "ours") compare(name, check, out);
        continue;
      }
      times[side].push(seconds ? seconds(said) : whole);
      memory[side] = Math.max(memory[side], mib);
    }
  }
  rmSync(out, { force: true });
  return { times, memory };
}

/** Runs a command to its end. The peak is 0 where GNU time is not installed. */
function time(command) {
  const wrapped = existsSync("/usr/bin/time") ? ["/usr/bin/time", "-f", "peak %M", ...command] : command;
  const start = process.hrtime.bigint();
  const done = spawnSync(wrapped[0], wrapped.slice(1), { maxBuffer: 64 * MIB, stdio: ["ignore", "pipe", "pipe"], encoding: "utf8" });
  const whole = Number(process.hrtime.bigint() - start) / 1e9;
  if (done.status !== 0) throw new Error(`${command.join(" ")}: ${done.stderr}`);
  const peak = /peak (\d+)/.exec(done.stderr);
  return { whole, said: done.stdout, mib: peak ? Number(peak[1]) / 1024 : 0 };
}

function compare(name, { source, from, to }, out) {
  const done = spawnSync(THEIRS, ["compare", "-f", from, "-F", to, source, out], { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`${name}: the result differs: ${done.stdout}${done.stderr}`);
}

function report({ name }, { times, memory }) {
  const ratios = times.theirs.map((theirs, i) => theirs / times.ours[i]).sort((a, b) => a - b);
  const range = `(${ratios[0].toFixed(2)}–${ratios.at(-1).toFixed(2)})`;
  const mib = (value) => (value ? value.toFixed(0) : "?");
  console.log(
    row([name, seconds(times.ours), seconds(times.theirs), median(ratios).toFixed(2), range, mib(memory.ours), mib(memory.theirs)]),
  );
  if (options.json) console.log(JSON.stringify({ name, ...times, memory }));
}

function row([name, ...cells]) {
  return name.padEnd(54) + cells.map((cell) => String(cell).padStart(12)).join("");
}

function seconds(values) {
  return `${median([...values]).toFixed(3)} s`;
}

function median(values) {
  values.sort((a, b) => a - b);
  const middle = values.length >> 1;
  return values.length % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// --- Inputs ---

function prepare() {
  if (spawnSync(THEIRS, ["--version"]).status !== 0) {
    console.error("qemu-img is not installed (Debian: apt-get install qemu-utils): there is nothing to compare with");
    process.exit(1);
  }
  execFileSync("cargo", ["build", "--release", "-q"], { cwd: TOP, stdio: "inherit" });
}

function makeInputs() {
  const at = (name) => join(folder, name);
  const files = {
    raw: at("disk.raw"),
    qcow2: at("disk.qcow2"),
    zlib: at("zlib.qcow2"),
    zstd: at("zstd.qcow2"),
    sparse: at("sparse.raw"),
    sparseQcow2: at("sparse.qcow2"),
  };
  makeDisk(files.raw);
  makeSparse(files.sparse);
  // In order, as the tool does it when it is not told otherwise.
  const convert = (...args) => execFileSync(THEIRS, ["convert", "-m", "16", ...args]);
  convert("-f", "raw", "-O", "qcow2", files.raw, files.qcow2);
  convert("-c", "-f", "raw", "-O", "qcow2", files.raw, files.zlib);
  convert("-c", "-o", "compression_type=zstd", "-f", "raw", "-O", "qcow2", files.raw, files.zstd);
  convert("-f", "raw", "-O", "qcow2", files.sparse, files.sparseQcow2);
  return files;
}

/** An ext4 file system, four fifths full of what is on this machine. */
function makeDisk(path) {
  const stage = join(folder, "stage");
  mkdirSync(stage);
  let left = options.mib * MIB * 0.8;
  for (const from of ["/usr/bin", "/usr/lib", "/usr/share/doc", "/usr/share"]) {
    const walk = (dir) => {
      for (const entry of readdirSync(dir, { withFileTypes: true })) {
        if (left <= 0) return;
        const source = join(dir, entry.name);
        if (entry.isDirectory()) walk(source);
        else if (entry.isFile()) {
          const { size } = statSync(source);
          // Large files are archives and the like: no disk consists of them.
          if (size > options.mib * MIB * 0.05 || size > left) continue;
          cpSync(source, join(stage, source));
          left -= Math.max(size, 4096);
        }
      }
    };
    if (existsSync(from)) walk(from);
  }
  const mke2fs = ["mke2fs", "/sbin/mke2fs", "/usr/sbin/mke2fs"].find((program) => spawnSync(program, ["-V"]).status === 0);
  if (!mke2fs) throw new Error("mke2fs is not installed (Debian: apt-get install e2fsprogs)");
  execFileSync(mke2fs, ["-q", "-t", "ext4", "-d", stage, path, `${options.mib}M`]);
  rmSync(stage, { recursive: true });
}

/** 1 TiB with 64 pieces of 64 KiB. */
function makeSparse(path) {
  const file = openSync(path, "w");
  ftruncateSync(file, 1024 ** 4);
  const piece = Buffer.alloc(64 * 1024, "sectora");
  for (let i = 0; i < 64; i++) writeSync(file, piece, 0, piece.length, i * 16 * 1024 ** 3 + i * 64 * 1024);
  closeSync(file);
}

function parseArguments(args) {
  const found = { mib: 1024, runs: 5, only: null, dir: tmpdir(), json: false };
  while (args.length > 0) {
    const arg = args.shift();
    const value = () => args.shift() ?? usage();
    if (arg === "--mib") found.mib = Number(value());
    else if (arg === "--runs") found.runs = Number(value());
    else if (arg === "--only") found.only = value().split(",");
    else if (arg === "--dir") found.dir = value();
    else if (arg === "--json") found.json = true;
    else usage();
  }
  if (!(found.mib >= 64) || !(found.runs >= 1)) usage();
  return found;
}

function usage() {
  console.error("usage: npm run bench -- [--mib N] [--runs N] [--only PART,…] [--dir DIR] [--json]");
  process.exit(2);
}

#!/usr/bin/env node
// The gate: installs what is missing, then runs everything that has to hold.
//
//   npm test                      all of it
//   npm test -- --list            names the steps
//   npm test -- --only rust,page  only these
//   npm test -- --no-install      installs nothing; what lacks its tools is skipped and says so
//
// A step is a command whose output is passed on; tests are counted from what the runners print. A
// step that is no test runner counts as one test. Plain Node 20, no packages: it runs before any
// is there.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const TOP = join(dirname(fileURLToPath(import.meta.url)), "..");
/** The modules of the package, and how large each may be. */
const WASM_LIMITS = { "sectora_bg.wasm": 1.5 * 2 ** 20, "sectora_monitor_bg.wasm": 2.25 * 2 ** 20 };
/** So much of the output of a step that failed is shown again at the end, in characters. */
const SAID = 6000;

/** Programs that suites need beside Rust and Node, and the Debian packages that have them. */
const PROGRAMS = [
  { program: "cc", package: "gcc", for: "C zstd and the C library's start-up files" },
  { program: "qemu-img", package: "qemu-utils", for: "the oracle of every image test" },
  { program: "qemu-io", package: "qemu-utils", for: "the oracle of every image test" },
  { program: "qemu-nbd", package: "qemu-utils", for: "the other side of NBD" },
  { program: "qemu-storage-daemon", package: "qemu-utils", for: "the other side of QMP" },
  { program: "nbdinfo", package: "libnbd-bin", for: "the other side of NBD" },
  { program: "nbdkit", package: "nbdkit", for: "the other side of NBD" },
  { program: "fio", package: "fio", for: "the load of the benches" },
  { program: "mkfs.xfs", package: "xfsprogs", for: "the layout of new files" },
  { program: "mkfs.btrfs", package: "btrfs-progs", for: "the layout of new files" },
  { program: "openssl", package: "openssl", for: "certificates of the tests of encryption" },
  { program: "python3", package: "python3-venv", for: "a QMP client of others, which its test installs" },
  { program: "chromium", package: "chromium", for: "the tests of package and page in a browser" },
];

/** What is built for the host, always all of it: with the same features in every step, once. */
const HOST = ["-p", "sectora-core", "-p", "sectora", "-p", "sectora-tests"];
const suites = (...names) => ["cargo", "test", ...HOST, ...names.flatMap((name) => ["--test", name])];

/** The steps in their order. `needs` are programs without which the step is skipped. */
const STEPS = [
  { name: "format", what: "rustfmt", run: ["cargo", "fmt", "--all", "--check"] },
  { name: "tidy", what: "house rules", run: ["node", "tests/tidy.mjs"] },
  { name: "tidy-tests", what: "the rules find what they are for", run: ["node", "--test", "tests/tidy.test.mjs"] },
  {
    name: "clippy",
    what: "lints of every crate, its tests too",
    run: ["cargo", "clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"],
  },
  {
    name: "docs",
    what: "rustdoc",
    run: ["cargo", "doc", "-q", "--workspace", "--no-deps"],
    env: { RUSTDOCFLAGS: "-D warnings" },
  },
  { name: "no-std", what: "core for bare metal with 32 bits", run: ["bash", "tests/no_std.sh"] },
  { name: "units", what: "units, models, faults, crashes, contract", run: ["cargo", "test", ...HOST, "--lib", "--bins"] },
  { name: "examples", what: "examples in the documentation", run: ["cargo", "test", ...HOST, "--doc"] },
  { name: "native", what: "files, rings, locks, the program", run: suites("contract", "queues", "cli", "io", "nbd", "daemon") },
  { name: "schema", what: "wire types, the package's types and COMPAT.md against the schema", run: suites("schema", "typescript") },
  { name: "oracle", what: "images of ours and theirs, both ways", run: suites("oracle", "check", "parity", "mutants", "crash", "qmp") },
  {
    name: "fuzz",
    what: "every target for some seconds",
    run: ["cargo", "run", "-q", "--release", "--manifest-path", "core/fuzz/Cargo.toml", "--bin", "smoke", "--", "--seconds", "40"],
  },
  { name: "build", what: "the npm package and its module", run: ["npm", "run", "build"], after: wasmSize },
  { name: "package", what: "the packed package in Node", run: ["npm", "run", "-s", "test:package"] },
  { name: "browser", what: "the package in a browser", run: ["npm", "run", "-s", "test:browser"], needs: ["chromium"] },
  { name: "page-units", what: "parts of the page", run: ["npm", "run", "-s", "test:unit", "-w", "sectora-www"] },
  { name: "page", what: "the page in a browser", run: ["npm", "run", "-s", "test:page", "-w", "sectora-www"], needs: ["chromium", "qemu-img"] },
];

const options = parseArguments(process.argv.slice(2));
process.chdir(TOP);
process.exit(await main());

async function main() {
  if (options.list) {
    for (const step of STEPS) console.log(`${step.name.padEnd(12)} ${step.what}`);
    return 0;
  }
  if (options.install) install();
  const results = [];
  for (const step of STEPS) {
    if (options.only && !options.only.includes(step.name)) continue;
    const missing = (step.needs ?? []).filter((program) => !has(program));
    if (missing.length > 0) {
      console.log(`\n=== ${step.name}: skipped, ${missing.join(" and ")} not installed`);
      results.push({ step, passed: 0, failed: 0, skipped: 1, seconds: 0 });
      continue;
    }
    console.log(`\n=== ${step.name}: ${step.what}`);
    results.push(await runStep(step));
  }
  return summary(results);
}

async function runStep(step) {
  const start = process.hrtime.bigint();
  const { code, counts, said } = await runCounting(step.run, step.env);
  let failed = code !== 0;
  if (!failed && step.after) {
    const problem = step.after();
    if (problem) console.error(problem);
    failed = Boolean(problem);
  }
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  // A runner that fails without a failed test has failed to run some.
  if (failed && counts.failed === 0) counts.failed = 1;
  if (!failed && counts.passed + counts.skipped === 0) counts.passed = 1;
  return { step, ...counts, seconds, said };
}

/** Runs a command, passes its output on, keeps the end of it and counts the tests that it tells of. */
function runCounting([program, ...args], env) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, CARGO_TERM_COLOR: "never", ...env },
  });
  let rest = "";
  let said = "";
  const pass = (text, to) => {
    to.write(text);
    said = (said + text).slice(-SAID);
  };
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text) => pass(text, process.stderr));
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (text) => {
    pass(text, process.stdout);
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    lines.forEach((line) => count(line, counts));
  });
  return new Promise((resolve) => {
    child.on("error", (error) => {
      console.error(`${program}: ${error.message}`);
      resolve({ code: 1, counts, said });
    });
    child.on("close", (code) => {
      count(rest, counts);
      resolve({ code: code ?? 1, counts, said });
    });
  });
}

/** Adds what a line of cargo's or Node's test runner says. */
function count(line, counts) {
  const cargo = /^test result: .* (\d+) passed; (\d+) failed; (\d+) ignored;/.exec(line);
  if (cargo) {
    counts.passed += Number(cargo[1]);
    counts.failed += Number(cargo[2]);
    counts.skipped += Number(cargo[3]);
  }
  const node = /^(?:#|ℹ) (pass|fail|cancelled|skipped|todo) (\d+)$/.exec(line);
  if (node) {
    const kind = { pass: "passed", fail: "failed", cancelled: "failed", skipped: "skipped", todo: "skipped" }[node[1]];
    counts[kind] += Number(node[2]);
  }
}

function summary(results) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const { step, failed, said } of results) {
    if (failed > 0) console.log(`\n=== ${step.name} failed; the end of what it said:\n${said.trimEnd()}`);
  }
  console.log("\nstep          passed  failed skipped  seconds");
  for (const { step, passed, failed, skipped, seconds } of results) {
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
    const cells = [passed, failed, skipped, seconds.toFixed(1)].map((cell) => String(cell).padStart(8));
    console.log(`${step.name.padEnd(12)}${cells.join("")}`);
  }
  console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed > 0 || total.passed === 0 ? 1 : 0;
}

/** Says how large the modules are, and whether that is too much. */
function wasmSize() {
  const large = Object.entries(WASM_LIMITS).filter(([name, limit]) => {
    const { size } = statSync(`wasm/dist/${name}`);
    console.log(`${name}: ${size} bytes (limit ${limit})`);
    return size >= limit;
  });
  return large.length === 0 ? null : `too large: ${large.map(([name]) => name).join(", ")}`;
}

// --- Installing what is missing ---

function install() {
  const packages = [...new Set(PROGRAMS.filter((p) => !has(p.program)).map((p) => p.package))];
  if (packages.length > 0) {
    if (has("apt-get") && process.getuid?.() === 0) {
      must("apt-get", ["update", "-qq"]);
      const env = { DEBIAN_FRONTEND: "noninteractive" };
      must("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], env);
    } else {
      console.log(`not installed: ${packages.join(" ")}; suites that need them are skipped`);
    }
  }
  for (const [command, component] of [["rustfmt", "rustfmt"], ["cargo-clippy", "clippy"]]) {
    if (!has(command) && has("rustup")) must("rustup", ["component", "add", component]);
  }
  if (!upToDate()) must("npm", ["ci", "--no-audit", "--no-fund"]);
}

/** True where node_modules holds what the lock file says. */
function upToDate() {
  const inside = "node_modules/.package-lock.json";
  if (!existsSync(inside)) return false;
  const wanted = JSON.parse(readFileSync("package-lock.json", "utf8")).packages;
  const found = JSON.parse(readFileSync(inside, "utf8")).packages;
  return Object.entries(wanted).every(([path, entry]) => {
    const optional = entry.optional || entry.link || !path.startsWith("node_modules/");
    return optional || found[path]?.version === entry.version;
  });
}

function has(program) {
  return spawnSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" }).status === 0;
}

function must(program, args, env) {
  console.log(`$ ${program} ${args.join(" ")}`);
  const done = spawnSync(program, args, { stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...env } });
  if (done.status !== 0) {
    console.error(`${program} failed; without it there is nothing to test with`);
    process.exit(1);
  }
}

function parseArguments(args) {
  const found = { list: false, install: true, only: null };
  while (args.length > 0) {
    const arg = args.shift();
    if (arg === "--list") found.list = true;
    else if (arg === "--no-install") found.install = false;
    else if (arg === "--only" && args.length > 0) found.only = args.shift().split(",");
    else {
      console.error("usage: npm test -- [--list] [--no-install] [--only STEP,…]");
      process.exit(2);
    }
  }
  const unknown = found.only?.filter((name) => !STEPS.some((step) => step.name === name)) ?? [];
  if (unknown.length > 0) {
    console.error(`unknown steps: ${unknown.join(", ")} (npm test -- --list names them)`);
    process.exit(2);
  }
  return found;
}

#!/usr/bin/env node
// Builds the npm package into dist/: toolchain, cargo, glue, wasm-opt, bundles, types.
//
//   --if-missing   nothing where dist/ is there
//   --no-opt       without wasm-opt, for a quick look
//   --contract     instead: the module with the storage contract suite, into dist-contract/ (tests)
//
// There are two modules: for images, and for the monitor. Their sizes are printed, and are an error
// above the limits.

import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

const HERE = dirname(fileURLToPath(import.meta.url));
const TOP = join(HERE, "..");
const TARGET = "wasm32-unknown-unknown";
/** The modules: what is in each, where its glue goes, and how large it may be. */
const MODULES = [
  { name: "sectora", features: "image", folder: "pkg", most: 1.5 * 2 ** 20 },
  { name: "sectora_monitor", features: "monitor", folder: "pkg-monitor", most: 2.25 * 2 ** 20 },
];

const flags = new Set(process.argv.slice(2));
for (const flag of flags) {
  if (!["--if-missing", "--no-opt", "--contract"].includes(flag)) fail(`unknown option ${flag}`);
}
const contract = flags.has("--contract");
const dist = join(HERE, contract ? "dist-contract" : "dist");

function fail(what) {
  console.error(`error: ${what}`);
  process.exit(1);
}

function say(what) {
  console.error(`== ${what}`);
}

function run(command, args, options = {}) {
  const done = spawnSync(command, args, { stdio: ["ignore", 2, 2], ...options });
  if (done.error) fail(`${command}: ${done.error.message}`);
  if (done.status !== 0) fail(`${command} failed`);
}

/** Where npm has put a tool: with the package or at the top. */
function tool(...path) {
  for (const root of [HERE, TOP]) {
    const found = join(root, "node_modules", ...path);
    if (existsSync(found)) return found;
  }
  return fail(`${path.join("/")} is missing: run npm install`);
}

/** The environment with a toolchain that has the target. */
function toolchain() {
  const script = join(HERE, "toolchain.sh");
  const printed = execFileSync("bash", ["-c", `set -e; lines=$("${script}"); eval "$lines"; env -0`], {
    stdio: ["ignore", "pipe", 2],
    encoding: "utf8",
  });
  return Object.fromEntries(
    printed.split("\0").filter(Boolean).map((line) => {
      const at = line.indexOf("=");
      return [line.slice(0, at), line.slice(at + 1)];
    }),
  );
}

function cargo(env, features) {
  const home = env.CARGO_HOME ?? join(homedir(), ".cargo");
  const rustflags = [
    // No paths of the builder in the messages inside the module, and equal bytes from all folders.
    `--remap-path-prefix=${home}=/cargo`,
    `--remap-path-prefix=${TOP}=/sectora`,
    // Every engine has had it since 2023; inflating and scanning for zeroes are faster.
    "-Ctarget-feature=+simd128",
  ];
  const args = ["build", "--profile", "wasm", "--target", TARGET, "-p", "sectora-wasm", "--lib", "--locked", "--no-default-features", "--features", features];
  run("cargo", args, {
    cwd: TOP,
    env: { ...env, CARGO_ENCODED_RUSTFLAGS: rustflags.join("\x1f") },
  });
  const folder = env.CARGO_TARGET_DIR ?? join(TOP, "target");
  return join(folder, TARGET, "wasm", "sectora_wasm.wasm");
}

function glue(env, module, out, name) {
  say(`glue of ${name}`);
  const folder = join(HERE, "bindgen");
  const own = { ...env, CARGO_TARGET_DIR: join(folder, "target") };
  delete own.CARGO_ENCODED_RUSTFLAGS;
  run("cargo", ["build", "--quiet", "--release", "--locked"], { cwd: folder, env: own });
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  run(join(folder, "target", "release", "bindgen"), ["--target", "web", "--out-dir", out, "--out-name", name, module]);
  return join(out, `${name}_bg.wasm`);
}

function optimise(module) {
  const before = statSync(module).size;
  const out = `${module}.opt`;
  // The features are read from the module.
  run(process.execPath, [tool("binaryen", "bin", "wasm-opt"), "-O3", module, "-o", out]);
  renameSync(out, module);
  say(`wasm-opt -O3: ${before} -> ${statSync(module).size} bytes`);
}

async function bundles() {
  say("bundles");
  const { version } = JSON.parse(readFileSync(join(HERE, "package.json"), "utf8"));
  const esbuild = await import(pathToFileURL(tool("esbuild", "lib", "main.js")).href);
  const common = {
    absWorkingDir: HERE,
    bundle: true,
    charset: "utf8",
    define: { __VERSION__: JSON.stringify(version) },
    legalComments: "none",
    logLevel: "warning",
    outdir: dist,
    target: "es2022",
  };
  // One file for each way in; what they share is in chunks.
  await esbuild.build({
    ...common,
    entryPoints: ["browser", "slim", "worker"].map((name) => `ts/${name}.ts`),
    format: "esm",
    platform: "browser",
    splitting: true,
    chunkNames: "shared-[hash]",
  });
  await esbuild.build({
    ...common,
    entryPoints: ["ts/node.ts", "ts/node-worker.ts"],
    format: "cjs",
    platform: "node",
    outExtension: { ".js": ".cjs" },
  });
  // ES modules get the same instance and the same classes as `require`.
  const { createRequire } = await import("node:module");
  const names = Object.keys(createRequire(import.meta.url)(join(dist, "node.cjs"))).sort();
  writeFileSync(
    join(dist, "node.mjs"),
    `import m from "./node.cjs";\nexport const {\n${names.map((name) => `  ${name},\n`).join("")}} = m;\n`,
  );
}

/** The suite and the storage it runs over, for Node and for a worker of a browser. */
async function contractBundles() {
  const esbuild = await import(pathToFileURL(tool("esbuild", "lib", "main.js")).href);
  const glue = join(dist, "sectora.js");
  const common = {
    absWorkingDir: HERE,
    bundle: true,
    format: "esm",
    logLevel: "warning",
    outdir: dist,
    plugins: [{ name: "glue", setup: (build) => build.onResolve({ filter: /pkg\/sectora\.js$/ }, () => ({ path: glue })) }],
    target: "es2022",
  };
  await esbuild.build({ ...common, entryPoints: ["contract/node.mjs"], platform: "node", outExtension: { ".js": ".mjs" } });
  await esbuild.build({ ...common, entryPoints: ["contract/worker.mjs"], platform: "browser" });
}

function types() {
  say("types");
  const out = join(dist, "types");
  run(process.execPath, [tool("typescript", "bin", "tsc"), "-p", join(HERE, "tsconfig.json"), "--outDir", out]);
  // The bindings are nobody's business.
  for (const { folder } of MODULES) rmSync(join(out, folder), { recursive: true, force: true });
  for (const entry of ["browser", "slim", "worker"]) {
    writeFileSync(join(dist, `${entry}.d.ts`), `export * from "./types/${entry}.js";\n`);
  }
  writeFileSync(join(dist, "node.d.mts"), `export * from "./types/node.js";\n`);
  // The same for CommonJS, where a type must not come from an ES module.
  mkdirSync(join(dist, "types-cjs"));
  for (const file of readdirSync(out)) {
    const text = readFileSync(join(out, file), "utf8").replace(/(["'])(\.\/[\w./-]+)\.js\1/g, "$1$2.cjs$1");
    writeFileSync(join(dist, "types-cjs", file.replace(/\.d\.ts$/, ".d.cts")), text);
  }
  writeFileSync(join(dist, "node.d.cts"), `export * from "./types-cjs/node.cjs";\n`);
}

async function main() {
  if (flags.has("--if-missing") && existsSync(join(dist, "sectora_bg.wasm"))) return;
  const env = toolchain();
  if (contract) {
    glue(env, cargo(env, "contract"), dist, "sectora");
    return contractBundles();
  }
  const modules = MODULES.map(({ name, features, folder, most }) => {
    const module = glue(env, cargo(env, features), join(HERE, "ts", folder), name);
    if (!flags.has("--no-opt")) optimise(module);
    return { file: `${name}_bg.wasm`, module, most };
  });
  rmSync(dist, { recursive: true, force: true });
  mkdirSync(dist, { recursive: true });
  for (const { file, module } of modules) copyFileSync(module, join(dist, file));
  await bundles();
  types();
  for (const name of ["LICENSE-MIT", "LICENSE-APACHE"]) copyFileSync(join(TOP, name), join(HERE, name));
  const kib = (n) => `${(n / 1024).toFixed(1)} KiB`;
  for (const { file, most } of modules) {
    const bytes = readFileSync(join(dist, file));
    console.log(`${file}: ${bytes.length} bytes (${kib(bytes.length)}), gzip ${kib(gzipSync(bytes, { level: 9 }).length)}`);
    if (bytes.length >= most && !flags.has("--no-opt")) fail(`${file} is larger than ${kib(most)}`);
  }
}

await main();

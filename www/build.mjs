#!/usr/bin/env node
// Builds the page into dist/: plain files that any static server can serve. `--tests` bundles the unit
// tests into dist-test/ instead. The package `sectora` must have been built before.

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { HEADERS, META_POLICY } from "./policy.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const DIST = join(HERE, "dist");

/** Builds the page. Returns the folder. */
export async function buildPage() {
  const { resolve } = createRequire(import.meta.url);
  const wasm = resolve("sectora/sectora_bg.wasm");
  const monitor = resolve("sectora/sectora_monitor_bg.wasm");
  if (!existsSync(wasm) || !existsSync(monitor)) throw new Error("the package is not built: run `npm run build` at the top first");
  rmSync(DIST, { recursive: true, force: true });
  mkdirSync(DIST, { recursive: true });

  const common = { absWorkingDir: HERE, bundle: true, format: "esm", platform: "browser", target: "es2022", outdir: DIST, minify: true, legalComments: "none", logLevel: "warning" };
  await build({
    ...common,
    entryPoints: { main: "src/main.ts", worker: "sectora/worker", style: "src/style.css" },
    // Keeps names readable in a bug report.
    sourcemap: "linked",
    sourcesContent: false,
  });

  cpSync(join(HERE, "public"), DIST, { recursive: true });
  cpSync(wasm, join(DIST, "sectora.wasm"));
  cpSync(monitor, join(DIST, "sectora-monitor.wasm"));
  const html = readFileSync(join(HERE, "index.html"), "utf8");
  writeFileSync(join(DIST, "index.html"), html.replace("%CSP%", META_POLICY));

  // What the page needs to work offline, and a digest of it that names the version.
  const files = readdirSync(DIST).filter((name) => !name.endsWith(".map")).sort();
  const digest = createHash("sha256");
  for (const name of files) digest.update(name).update("\0").update(readFileSync(join(DIST, name)));
  const version = digest.digest("hex").slice(0, 16);
  const keep = files.map((name) => (name === "index.html" ? "./" : name));
  await build({
    ...common,
    format: "iife",
    entryPoints: { sw: "src/offline/sw.ts" },
    define: { VERSION: JSON.stringify(version), FILES: JSON.stringify(keep) },
  });

  // For static hosts that read it; others must be told to send these.
  const headers = Object.entries(HEADERS).map(([name, value]) => `  ${name}: ${value}\n`);
  writeFileSync(join(DIST, "_headers"), `/*\n${headers.join("")}`);
  return DIST;
}

async function buildTests() {
  const out = join(HERE, "dist-test");
  rmSync(out, { recursive: true, force: true });
  const tests = readdirSync(join(HERE, "test")).filter((name) => name.endsWith(".test.ts"));
  await build({
    absWorkingDir: HERE,
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20",
    entryPoints: tests.map((name) => `test/${name}`),
    outdir: out,
    outExtension: { ".js": ".mjs" },
    sourcemap: "inline",
    logLevel: "warning",
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--tests")) await buildTests();
  else await buildPage();
}

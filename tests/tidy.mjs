#!/usr/bin/env node
// House rules that no compiler checks. `node tests/tidy.mjs` prints findings as `file:line: what`
// and exits with 1 where there are any; warnings do not count. `--no-licences` leaves out the
// licences of dependencies, the only part that needs cargo. Plain Node 20, no packages.
//
// The checks are pure functions of a path and a text, so that tidy.test.mjs can show each of them
// a file that it must complain about.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const TOP = join(dirname(fileURLToPath(import.meta.url)), "..");

// --- What is allowed: everything that a change may have to touch stands here. ---

/** Lines of a source file: above the first number a warning, above the second a failure. */
const LINES = { warn: 800, fail: 900 };

/** The files of a format's folder; a format may lack some. */
const FORMAT_FILES = [
  "mod.rs",
  "layout.rs",
  "header.rs",
  "open.rs",
  "map.rs",
  "alloc.rs",
  "write.rs",
  "check.rs",
  "create.rs",
  "info.rs",
  "measure.rs",
  "resize.rs",
  "tests.rs",
];

/** What a format has besides, because others have nothing like it. */
const FORMAT_EXTRAS = {
  qcow2: [
    "amend.rs", // changing what an image is like
    "bitmap/load.rs", // persistent dirty bitmaps: into memory
    "bitmap/mod.rs", // their directory
    "bitmap/store.rs", // marked in use, and written back
    "cache.rs", // cached tables
    "encryption.rs", // keys, key slots and where the LUKS header is
    "claims.rs", // ranges that requests in flight hold
    "discards.rs", // what the file below is told to give up
    "vm_state.rs", // the state of a machine, behind the disk
    "marks.rs", // the features that say how far an image can be trusted
    "compact.rs", // giving up what nobody needs
    "empty.rs", // giving up all guest data
    "options.rs", // what can be said when an image is opened
    "order.rs", // what must be durable before what
    "overlap.rs", // what must not be written over
    "pack/mod.rs", // clusters moved to where the file has room
    "pack/plan.rs", // what lies at its end
    "pack/tables.rs", // the same for tables
    "refcount.rs", // reference counts of all widths
    "rewrite.rs", // changes of the header
    "shared.rs", // references of whole tables, the image to oneself
    "snapshot.rs", // internal snapshots
    "sparse.rs", // whether the file has holes where the tables say data
    "stream.rs", // an image written in one pass
    "zeroes.rs", // zeroes and discards
  ],
};

/** Which modules of the core a folder of it must not use (ARCHITECTURE.md: dependencies point down). */
const LAYERS = {
  io: ["format", "filter", "bitmap", "graph", "job", "image", "qapi", "monitor", "codec", "crypto"],
  codec: ["io", "format", "filter", "bitmap", "graph", "job", "image", "qapi", "monitor"],
  crypto: ["io", "format", "filter", "bitmap", "graph", "job", "image", "monitor"],
  qapi: ["io", "format", "filter", "bitmap", "graph", "job", "image", "monitor", "codec"],
  format: ["filter", "graph", "job", "image", "monitor"],
  filter: ["graph", "job", "image", "monitor"],
  bitmap: ["graph", "job", "image", "monitor"],
};

/** Files that a program writes; a test holds them up to date. */
const GENERATED = new Set(["wasm/ts/qapi.ts"]);

/** Licences that a dependency may have. */
const LICENCES = new Set([
  "MIT",
  "MIT-0",
  "Apache-2.0",
  "Apache-2.0 WITH LLVM-exception",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "ISC",
  "Zlib",
  "0BSD",
  "BSL-1.0",
  "Unicode-3.0",
  "Unlicense",
  "CC0-1.0",
  "bzip2-1.0.6",
]);

/** Packages with another licence that are used in development only and never shipped. */
const DEVELOPMENT_ONLY = [
  // Accessibility rules for the tests of the page.
  { name: /^axe-core$/, licence: "MPL-2.0" },
  // CSS compiler inside the page's build tool.
  { name: /^lightningcss(-|$)/, licence: "MPL-2.0" },
  // The fuzzer's run-time library.
  { name: /^libfuzzer-sys$/, licence: "(MIT OR Apache-2.0) AND NCSA" },
];

// The words are put together here, so that this file does not mention them.
const word = (...parts) => parts.join("");

/** What has no place in the project: it speaks of itself alone. */
const WORDS = [
  {
    name: "a word about how it was made",
    // A model of a device has sessions of its own; what they are not is this one or the last.
    re: new RegExp(`\\b(?:${word("ag", "ent")}s?|(?:this|last|next|previous|earlier) ${word("ses", "sion")}s?)\\b`, "i"),
  },
  { name: "an issue number", re: new RegExp(`\\b${word("iss", "ue")}s? *#?\\d+`, "i") },
  // Where style sheets have colours.
  { name: "an issue number", re: /(?:^|[\s(])#\d+\b(?![;-])/, except: /\.(css|html|svg)$/ },
  {
    name: "a path of one machine",
    re: new RegExp(`(?<![\\w.])/(?:${word("wo", "rk")}|${word("ro", "ot")}|tmp/${word("w", "t")})(?:/|\\b)`),
  },
];

/** Lines that may have such a word, with the reason. */
const WORD_EXCEPTIONS = [
  // The HTTP header.
  { path: /./, line: new RegExp(`user-${word("ag", "ent")}|userA${"gent"}`, "i") },
];

// --- The checks. Each gives a list of { line, what, warn? }. ---

export function checkLength(path, text) {
  if (GENERATED.has(path) || !/\.(rs|ts|mjs)$/.test(path)) return [];
  const lines = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
  if (lines <= LINES.warn) return [];
  const warn = lines <= LINES.fail;
  return [{ line: lines, what: `${lines} lines: look for the second reason to exist`, warn }];
}

export function checkModuleDoc(path, text) {
  if (!path.endsWith(".rs")) return [];
  for (const [i, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#!")) continue;
    if (line.startsWith("//!") && /\w\w/.test(line)) return [];
    return [{ line: i + 1, what: "does not open with its purpose (`//! …`)" }];
  }
  return [{ line: 1, what: "is empty" }];
}

/** Blanks comments, strings and character literals of Rust; line breaks stay. */
export function blank(text) {
  const token =
    /\/\/[^\n]*|\/\*|(?:\b(?:br|cr|b|c|r))?(#*)"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'|[A-Za-z_]\w*/g;
  let out = "";
  let at = 0;
  for (let m; (m = token.exec(text)); ) {
    let end = m.index + m[0].length;
    const opened = m[0].endsWith('"') && !m[0].startsWith("'") && !m[0].startsWith("//");
    if (opened) {
      const prefix = m[0].replace(/#*"$/, "");
      if (prefix.includes("r")) {
        const close = text.indexOf('"' + m[1], end);
        end = close < 0 ? text.length : close + 1 + m[1].length;
      } else {
        while (end < text.length && text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
        end = Math.min(end + 1, text.length);
      }
    } else if (m[0] === "/*") {
      for (let depth = 1; depth > 0 && end < text.length; ) {
        const next = /\/\*|\*\//g;
        next.lastIndex = end;
        const found = next.exec(text);
        if (!found) {
          end = text.length;
          break;
        }
        depth += found[0] === "/*" ? 1 : -1;
        end = found.index + 2;
      }
    } else if (/^[A-Za-z_]/.test(m[0]) && !m[0].endsWith("'")) {
      continue;
    }
    out += text.slice(at, m.index) + text.slice(m.index, end).replace(/[^\n]/g, " ");
    at = end;
    token.lastIndex = end;
  }
  return out + text.slice(at);
}

const TEST_PATH = /(^|\/)(tests|benches|examples|fuzz)(\/|\.rs$)|_tests?\.rs$/;

/** The code of a Rust file that is not for tests only, comments and strings blanked. */
export function liveCode(text) {
  let code = blank(text);
  const test = /#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?(?:mod|fn|impl|use|const|static|struct|enum|async|unsafe)\b/g;
  for (let m; (m = test.exec(code)); ) {
    // To the closing brace, or to the semicolon of an item without a body.
    let depth = 0;
    let end = m.index + m[0].length;
    for (; end < code.length; end++) {
      if (code[end] === "{") depth++;
      else if (code[end] === "}" && --depth === 0) break;
      else if (code[end] === ";" && depth === 0) break;
    }
    const gone = code.slice(m.index, end + 1).replace(/[^\n]/g, " ");
    code = code.slice(0, m.index) + gone + code.slice(end + 1);
  }
  return code;
}

/** Modules that a file declares for tests only: `#[cfg(test)] mod NAME;`. */
export function testModules(path, text) {
  const folder = /(^|\/)(mod|lib|main)\.rs$/.test(path) ? dirname(path) : path.replace(/\.rs$/, "");
  const found = blank(text).matchAll(/#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;/g);
  return [...found].flatMap((m) => [`${folder}/${m[1]}.rs`, `${folder}/${m[1]}/`]);
}

export function checkPanics(path, text, testOnly = []) {
  if (!path.endsWith(".rs") || TEST_PATH.test(path)) return [];
  if (testOnly.some((t) => path === t || (t.endsWith("/") && path.startsWith(t)))) return [];
  const findings = [];
  for (const [i, line] of liveCode(text).split("\n").entries()) {
    const m = /\.(unwrap|unwrap_err)\s*\(\s*\)|\b(todo|unimplemented|dbg)\s*!/.exec(line);
    if (m) findings.push({ line: i + 1, what: `\`${m[1] ?? m[2] + "!"}\` outside tests` });
  }
  return findings;
}

export function checkFormatFolder(path) {
  const m = /^core\/src\/format\/([^/]+)\/(.+)$/.exec(path);
  if (!m) return [];
  const [, format, file] = m;
  const allowed = [...FORMAT_FILES, ...(FORMAT_EXTRAS[format] ?? [])];
  // tests.rs and check.rs may have a folder of their own.
  if (allowed.includes(file) || /^(tests|check)\//.test(file)) return [];
  const what = `${file} is not a name that format folders use; FORMAT_EXTRAS in tests/tidy.mjs lists the exceptions`;
  return [{ line: 1, what }];
}

export function checkLayers(path, text, testOnly = []) {
  const folder = /^core\/src\/(\w+)(?:\/|\.rs$)/.exec(path)?.[1];
  const below = LAYERS[folder];
  if (!below || TEST_PATH.test(path) || testOnly.some((t) => path.startsWith(t))) return [];
  const findings = [];
  const re = new RegExp(`\\bcrate::(?:(${below.join("|")})\\b|\\{[^}]*\\b(${below.join("|")})(?:::|\\s*[,}]))`);
  for (const [i, line] of liveCode(text).split("\n").entries()) {
    const m = re.exec(line);
    if (m) findings.push({ line: i + 1, what: `${folder} must not know ${m[1] ?? m[2]}` });
  }
  return findings;
}

export function checkWords(path, text) {
  if (/(^|\/)(Cargo\.lock|package-lock\.json)$/.test(path) || text.includes("\0")) return [];
  const findings = [];
  for (const [i, line] of text.split("\n").entries()) {
    if (WORD_EXCEPTIONS.some((e) => e.path.test(path) && e.line.test(line))) continue;
    for (const { name, re, except } of WORDS) {
      const m = re.exec(line);
      if (m && !except?.test(path)) findings.push({ line: i + 1, what: `mentions ${name}: ${m[0].trim()}` });
    }
  }
  return findings;
}

export function checkManifest(path, text) {
  if (!/(^|\/)Cargo\.toml$/.test(path)) return [];
  const findings = [];
  let inTable = false;
  let before = "";
  for (const [i, line] of text.split("\n").entries()) {
    const table = /^\[(.+)\]/.exec(line)?.[1];
    if (table !== undefined) {
      inTable = /(^|\.)(dev-|build-)?dependencies$/.test(table);
      // [dependencies.NAME]
      const one = /(?:^|\.)(?:dev-|build-)?dependencies\.([\w-]+)$/.exec(table);
      if (one && !before.startsWith("#")) findings.push({ line: i + 1, what: `${one[1]}: no comment says why` });
    } else if (inTable) {
      const m = /^([\w-]+)(\.[\w-]+)?\s*=\s*(.*)$/.exec(line);
      const ours = m && (/\bpath\s*=/.test(m[3]) || /\bworkspace\s*=/.test(m[3]) || m[2] === ".workspace");
      if (m && !ours && !before.startsWith("#") && !/\s#\s*\w/.test(m[3])) {
        findings.push({ line: i + 1, what: `${m[1]}: no comment above it says why` });
      }
    }
    before = line.trim();
  }
  return findings;
}

/** True where an SPDX expression can be met with allowed licences only. */
export function licenceAllowed(expression) {
  // The old notation with a slash means "or".
  const tokens = expression.replaceAll("/", " OR ").match(/\(|\)|[^\s()]+/g) ?? [];
  let at = 0;
  const or = () => {
    let ok = and();
    while (tokens[at] === "OR") {
      at++;
      ok = and() || ok;
    }
    return ok;
  };
  const and = () => {
    let ok = one();
    while (tokens[at] === "AND") {
      at++;
      ok = one() && ok;
    }
    return ok;
  };
  const one = () => {
    if (tokens[at] === "(") {
      at++;
      const ok = or();
      if (tokens[at++] !== ")") return false;
      return ok;
    }
    let name = tokens[at++] ?? "";
    if (tokens[at] === "WITH") {
      name += ` WITH ${tokens[at + 1]}`;
      at += 2;
    }
    return LICENCES.has(name);
  };
  const ok = or();
  return ok && at === tokens.length;
}

/** A finding about one dependency, or nothing. */
export function checkLicence({ name, version, licence, development }) {
  if (licence && licenceAllowed(licence)) return [];
  const exception = DEVELOPMENT_ONLY.find((e) => e.name.test(name) && e.licence === licence);
  if (exception && development) return [];
  const why = exception ? "may be used in development only" : "is not on the list of tests/tidy.mjs";
  return [{ line: 1, what: `${name} ${version}: licence ${licence ?? "not given"} ${why}` }];
}

/** The packages of a package-lock.json, except those of the project itself. */
export function npmPackages(text, licenceOf = () => undefined) {
  const lock = JSON.parse(text);
  return Object.entries(lock.packages ?? {})
    .filter(([path, p]) => path.includes("node_modules/") && !p.link)
    .map(([path, p]) => ({
      name: p.name ?? path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length),
      version: p.version,
      licence: p.license ?? licenceOf(path),
      development: p.dev === true || p.devOptional === true,
    }));
}

/** The packages of `cargo metadata`'s answer, except those of the project itself. */
export function cargoPackages(metadata) {
  const byId = new Map(metadata.packages.map((p) => [p.id, p]));
  const nodes = new Map((metadata.resolve?.nodes ?? []).map((n) => [n.id, n]));
  // What is reached over ordinary and build dependencies of the workspace is shipped.
  const shipped = new Set();
  const queue = [...metadata.workspace_members];
  const fuzzing = (id) => byId.get(id)?.metadata?.["cargo-fuzz"] === true;
  while (queue.length > 0) {
    const id = queue.pop();
    if (shipped.has(id) || fuzzing(id)) continue;
    shipped.add(id);
    for (const dep of nodes.get(id)?.deps ?? []) {
      if (dep.dep_kinds.some((k) => k.kind !== "dev")) queue.push(dep.pkg);
    }
  }
  return metadata.packages
    .filter((p) => p.source !== null)
    .map((p) => ({ name: p.name, version: p.version, licence: p.license, development: !shipped.has(p.id) }));
}

// --- The run. ---

/** The project's files: those git knows or would add; without git, all but what is built. */
function files() {
  try {
    const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    const out = execFileSync("git", args, { cwd: TOP, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    return out.split("\0").filter((f) => f && existsSync(join(TOP, f)));
  } catch {
    const walk = (folder) =>
      readdirSync(folder, { withFileTypes: true }).flatMap((e) => {
        const path = join(folder, e.name);
        if (e.isDirectory()) return /^(target|node_modules|dist|pkg|pkg-monitor|\.git)$/.test(e.name) ? [] : walk(path);
        return [relative(TOP, path).split(sep).join("/")];
      });
    return walk(TOP);
  }
}

function checkCargoLicences(path) {
  const args = ["metadata", "--format-version", "1", "--locked", "--all-features", "--manifest-path", join(TOP, path)];
  const options = { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "pipe"] };
  try {
    return cargoPackages(JSON.parse(execFileSync("cargo", args, options))).flatMap(checkLicence);
  } catch (e) {
    return [{ line: 1, what: `cargo metadata failed, licences unknown: ${String(e.stderr || e.message).trim()}` }];
  }
}

function main(args) {
  const licences = !args.includes("--no-licences");
  const all = files();
  const texts = new Map(all.map((path) => [path, readFileSync(join(TOP, path), "utf8")]));
  const testOnly = [...texts].flatMap(([path, text]) => (path.endsWith(".rs") ? testModules(path, text) : []));
  let failures = 0;
  let warnings = 0;
  const report = (path, findings) => {
    for (const { line, what, warn } of findings) {
      console.log(`${path}:${line}: ${warn ? "warning: " : ""}${what}`);
      if (warn) warnings++;
      else failures++;
    }
  };
  for (const [path, text] of texts) {
    report(path, [
      ...checkLength(path, text),
      ...checkModuleDoc(path, text),
      ...checkPanics(path, text, testOnly),
      ...checkFormatFolder(path),
      ...checkLayers(path, text, testOnly),
      ...checkWords(path, text),
      ...checkManifest(path, text),
    ]);
    if (!licences) continue;
    if (/(^|\/)Cargo\.lock$/.test(path)) report(path, checkCargoLicences(path.replace(/lock$/, "toml")));
    if (/(^|\/)package-lock\.json$/.test(path)) {
      const installed = (p) => {
        const file = join(TOP, dirname(path), p, "package.json");
        return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).license : undefined;
      };
      report(path, npmPackages(text, installed).flatMap(checkLicence));
    }
  }
  const skipped = licences ? "" : ", licences not checked";
  console.log(`tidy: ${all.length} files, ${failures} findings, ${warnings} warnings${skipped}`);
  return failures === 0 ? 0 : 1;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = main(process.argv.slice(2));
}

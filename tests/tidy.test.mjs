// Each check of tidy.mjs against files that it must and must not complain about.
// Run with `node --test tests/tidy.test.mjs`.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as tidy from "./tidy.mjs";

/** The lines that a check complains about. */
const lines = (findings) => findings.filter((f) => !f.warn).map((f) => f.line);

test("length: a warning first, then a failure", () => {
  const text = (n) => "x\n".repeat(n);
  assert.deepEqual(tidy.checkLength("a/b.rs", text(800)), []);
  assert.equal(tidy.checkLength("a/b.rs", text(801))[0].warn, true);
  assert.equal(tidy.checkLength("a/b.rs", text(900))[0].warn, true);
  for (const path of ["a.rs", "a.ts", "a.mjs"]) {
    assert.deepEqual(lines(tidy.checkLength(path, text(901))), [901]);
  }
  assert.deepEqual(tidy.checkLength("Cargo.lock", text(5000)), []);
});

test("module doc: the first thing in a Rust file", () => {
  assert.deepEqual(tidy.checkModuleDoc("a.rs", "#![no_std]\n\n//! Reads headers.\n"), []);
  assert.deepEqual(lines(tidy.checkModuleDoc("a.rs", "use core::fmt;\n//! Late.\n")), [1]);
  assert.deepEqual(lines(tidy.checkModuleDoc("a.rs", "//! x\n")), [1]);
  assert.deepEqual(lines(tidy.checkModuleDoc("a.rs", "// A comment.\n")), [1]);
  assert.deepEqual(lines(tidy.checkModuleDoc("a.rs", "")), [1]);
});

test("blank: comments, strings and characters go, code and lines stay", () => {
  const cases = [
    ['let a = "x.unwrap()"; b', "let a =             ; b"],
    ['let a = b"\\"x"; b', "let a =       ; b"],
    ['r#"a " b"# + c', "           + c"],
    ["'\"' + '\\'' + '\\u{1F600}' + f", "    +      +             + f"],
    ["fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"],
    ["a // b.unwrap()", "a              "],
    ["a /* b /* c */ d */ e", "a                   e"],
  ];
  for (const [text, expected] of cases) assert.equal(tidy.blank(text), expected);
  assert.equal(tidy.blank('"a\nb" c').split("\n").length, 2);
});

test("panics: found in live code only", () => {
  const text = [
    "fn a() { x.unwrap(); }",
    '// y.unwrap() in a comment, and in a string: "z.unwrap()"',
    "/// ```\n/// f().unwrap();\n/// ```",
    "fn b() { todo!() }",
    "fn c() { r.unwrap_or(1); unimplemented!(); }",
    "#[cfg(test)]\nmod tests {\n  fn t() { x.unwrap(); { } }\n}",
    "fn d() { x\n  .unwrap_err() }",
    "#[cfg(all(test, unix))]\n#[path = \"p.rs\"]\nmod more;",
    "fn e() { dbg!(1); }",
  ].join("\n");
  assert.deepEqual(lines(tidy.checkPanics("core/src/a.rs", text)), [1, 6, 7, 13, 17]);
  for (const path of ["core/src/a/tests.rs", "core/tests/a.rs", "core/src/a/cancel_tests.rs", "tests/src/lib.rs"]) {
    assert.deepEqual(tidy.checkPanics(path, text), []);
  }
});

test("panics: modules declared for tests are tests", () => {
  const found = tidy.testModules("core/src/a/mod.rs", "#[cfg(test)]\nmod model;\nmod live;\n");
  assert.deepEqual(found, ["core/src/a/model.rs", "core/src/a/model/"]);
  assert.deepEqual(tidy.testModules("core/src/a.rs", "#[cfg(test)] pub(crate) mod b;"), ["core/src/a/b.rs", "core/src/a/b/"]);
  assert.deepEqual(tidy.checkPanics("core/src/a/model.rs", "x.unwrap()", found), []);
  assert.deepEqual(tidy.checkPanics("core/src/a/model/deep.rs", "x.unwrap()", found), []);
  assert.deepEqual(lines(tidy.checkPanics("core/src/a/live.rs", "x.unwrap()", found)), [1]);
});

test("format folders: the same names in each", () => {
  assert.deepEqual(tidy.checkFormatFolder("core/src/format/qed/header.rs"), []);
  assert.deepEqual(tidy.checkFormatFolder("core/src/format/qed/tests/model.rs"), []);
  assert.deepEqual(tidy.checkFormatFolder("core/src/format/probe.rs"), []);
  assert.deepEqual(lines(tidy.checkFormatFolder("core/src/format/qed/parser.rs")), [1]);
});

test("layers: nothing uses what is above it", () => {
  assert.deepEqual(lines(tidy.checkLayers("core/src/io/a.rs", "use crate::format::Driver;")), [1]);
  assert.deepEqual(lines(tidy.checkLayers("core/src/format/a/b.rs", "\nuse crate::{Error, graph::Node};")), [2]);
  assert.deepEqual(tidy.checkLayers("core/src/format/a/b.rs", "use crate::io::Device; // crate::graph"), []);
  assert.deepEqual(tidy.checkLayers("core/src/image/a.rs", "use crate::format::Driver;"), []);
});

test("words: the project speaks of itself alone", () => {
  const ses = "ses" + "sion";
  const cases = [
    [`made in the last ${ses}`, 1],
    [`a ${ses} of operations on a device`, 0],
    [`the ${"ag" + "ent"}s did it`, 1],
    [`${"iss" + "ue"} 12 asks for it`, 1],
    [`as in (${"#"}12)`, 1],
    [`see /${"wo" + "rk"}/main`, 1],
    [`see /${"ro" + "ot"}/.cargo`, 1],
    [`in /tmp/${"w" + "t"}/x`, 1],
    [`send User-${"Ag" + "ent"}: sectora`, 0],
    ["an issue of the format; obsession; reagent", 0],
    [`the folder frame${"wo" + "rk"}/x and ./${"wo" + "rk"}/x`, 0],
    ["/tmp/a, chapter #a, &#12; and #![no_std]", 0],
    ["/home/user/disk.qcow2", 0],
  ];
  for (const [text, n] of cases) assert.equal(tidy.checkWords("a.md", text).length, n, text);
  assert.deepEqual(tidy.checkWords("a.css", `a { color: ${"#"}123 }`), []);
  assert.deepEqual(tidy.checkWords("Cargo.lock", ses), []);
});

test("manifests: every dependency says why", () => {
  const text = [
    "[dependencies]",
    "# Hash maps.",
    'hashbrown = "0.17"',
    'libc = "0.2"',
    'sectora-core = { path = "core" }',
    "serde.workspace = true",
    'rustix = "1" # System calls.',
    "",
    "[dev-dependencies]",
    'proptest = "1"',
    "[features]",
    'std = ["dep:x"]',
    "[target.'cfg(unix)'.dependencies]",
    'nix = "1"',
    "[dependencies.long]",
  ].join("\n");
  assert.deepEqual(lines(tidy.checkManifest("core/Cargo.toml", text)), [4, 10, 14, 15]);
  assert.deepEqual(tidy.checkManifest("core/other.toml", text), []);
});

test("licences: expressions", () => {
  for (const yes of [
    "MIT",
    "MIT OR Apache-2.0",
    "MIT/Apache-2.0",
    "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
    "(MIT OR Apache-2.0) AND Unicode-3.0",
    "MIT OR GPL-3.0-only",
    "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
  ]) assert.equal(tidy.licenceAllowed(yes), true, yes);
  for (const no of [
    "",
    "GPL-2.0-or-later",
    "MIT AND GPL-3.0-only",
    "(MIT OR Apache-2.0) AND NCSA",
    "MPL-2.0",
    "Apache-2.0 WITH Something-else",
    "(MIT",
    "MIT MIT",
    "SEE LICENSE IN LICENSE.txt",
  ]) assert.equal(tidy.licenceAllowed(no), false, no);
});

test("licences: exceptions are for development only", () => {
  const axe = { name: "axe-core", version: "4", licence: "MPL-2.0" };
  assert.deepEqual(tidy.checkLicence({ ...axe, development: true }), []);
  assert.equal(tidy.checkLicence({ ...axe, development: false }).length, 1);
  assert.equal(tidy.checkLicence({ ...axe, name: "other", development: true }).length, 1);
  assert.equal(tidy.checkLicence({ name: "x", version: "1", development: true }).length, 1);
});

test("licences: packages of npm and of cargo", () => {
  const lock = {
    packages: {
      "": { name: "top" },
      wasm: { name: "sectora" },
      "node_modules/sectora": { link: true, resolved: "wasm" },
      "node_modules/a": { version: "1", license: "MIT" },
      "node_modules/a/node_modules/@b/c": { version: "2", dev: true },
    },
  };
  assert.deepEqual(tidy.npmPackages(JSON.stringify(lock), (p) => (p.endsWith("@b/c") ? "ISC" : undefined)), [
    { name: "a", version: "1", licence: "MIT", development: false },
    { name: "@b/c", version: "2", licence: "ISC", development: true },
  ]);
  const p = (name, source = "registry") => ({ id: name, name, version: "1", license: "MIT", source });
  const dep = (pkg, kind) => ({ pkg, dep_kinds: [{ kind }] });
  const metadata = {
    workspace_members: ["top"],
    packages: [p("top", null), p("a"), p("b"), p("c"), p("d")],
    resolve: {
      nodes: [
        { id: "top", deps: [dep("a", null), dep("b", "dev"), dep("c", "build")] },
        { id: "a", deps: [dep("d", null)] },
        { id: "b", deps: [] },
        { id: "c", deps: [] },
        { id: "d", deps: [] },
      ],
    },
  };
  const shipped = tidy.cargoPackages(metadata).filter((q) => !q.development);
  assert.deepEqual(shipped.map((q) => q.name), ["a", "c", "d"]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, cleanName, conflicts, outputName, planWords, toOptions } from "../src/plan.ts";

test("defaults are left to the engine", () => {
  assert.deepEqual(toOptions(DEFAULTS), { format: "qcow2" });
  assert.deepEqual(toOptions({ ...DEFAULTS, format: "raw", compression: "zstd", extendedL2: true }), { format: "raw" });
});

test("every choice reaches the engine", () => {
  const all = { format: "qcow2", compression: "zstd", compat: "1.1", clusterSize: 2 << 20, refcountBits: 64, extendedL2: true, lazyRefcounts: true } as const;
  assert.deepEqual(toOptions(all), {
    format: "qcow2",
    compressed: true,
    compressionType: "zstd",
    clusterSize: 2 << 20,
    refcountBits: 64,
    extendedL2: true,
    lazyRefcounts: true,
  });
  assert.deepEqual(toOptions({ ...DEFAULTS, compat: "0.10" }), { format: "qcow2", compat: "0.10" });
});

test("what version 2 lacks is said before anything is written", () => {
  const old = { ...DEFAULTS, compat: "0.10" } as const;
  assert.deepEqual(conflicts(old), []);
  for (const more of [{ compression: "zstd" }, { extendedL2: true }, { lazyRefcounts: true }, { refcountBits: 32 }] as const) {
    assert.equal(conflicts({ ...old, ...more }).length, 1, JSON.stringify(more));
    assert.deepEqual(conflicts({ ...old, ...more, format: "raw" }), []);
  }
  assert.equal(conflicts({ ...DEFAULTS, extendedL2: true, clusterSize: 8192 }).length, 1);
});

test("names of results have the right ending and are never the source's", () => {
  assert.equal(outputName("disk.img", "qcow2"), "disk.qcow2");
  assert.equal(outputName("disk.qcow2", "raw"), "disk.img");
  assert.equal(outputName("disk.qcow2", "qcow2"), "disk-converted.qcow2");
  assert.equal(outputName("DISK.IMG", "raw"), "DISK-converted.img");
  assert.equal(outputName("noble.server.qcow2", "raw"), "noble.server.img");
  assert.equal(outputName(".qcow2", "raw"), "disk.img");
});

test("typed names lose what file systems refuse", () => {
  assert.equal(cleanName("../../etc/passwd"), "_.._etc_passwd");
  assert.equal(cleanName(" my disk.img "), "my disk.img");
  assert.equal(cleanName("a:b*c?.img"), "a_b_c_.img");
  assert.equal(cleanName(" .. "), undefined);
  assert.equal(cleanName(""), undefined);
  assert.equal(cleanName("x".repeat(500))?.length, 200);
});

test("the plan says how large it gets", () => {
  const measured = { required: 1n << 30n, "fully-allocated": 10n << 30n };
  assert.match(planWords(DEFAULTS, measured), /about 1 GiB.*10 GiB/);
  assert.match(planWords({ ...DEFAULTS, compression: "zlib" }, measured), /at most about 1 GiB/);
  assert.match(planWords({ ...DEFAULTS, format: "raw" }, measured), /raw file of 1 GiB/);
});

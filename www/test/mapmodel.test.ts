import assert from "node:assert/strict";
import { test } from "node:test";
import { CLASSES, MapModel, TABLE_RUNS, cellWords, classify, grid, type MapClass, type Run, runsCaption } from "../src/mapmodel.ts";

const KINDS: Record<MapClass, Omit<Run, "start" | "length">> = {
  data: { depth: 0, present: true, zero: false, data: true, compressed: false },
  compressed: { depth: 0, present: true, zero: false, data: true, compressed: true },
  backing: { depth: 1, present: true, zero: false, data: true, compressed: false },
  zero: { depth: 0, present: true, zero: true, data: false, compressed: false },
  none: { depth: 0, present: false, zero: true, data: false, compressed: false },
};
const run = (is: MapClass, start: bigint, length: bigint): Run => ({ start, length, ...KINDS[is] });

test("every kind of entry has its class", () => {
  for (const is of CLASSES) assert.equal(classify(run(is, 0n, 1n)), is);
  // Allocated clusters that read as zeroes hold nothing worth showing as data.
  assert.equal(classify({ ...run("data", 0n, 1n), zero: true }), "zero");
  assert.equal(classify({ ...run("compressed", 0n, 1n), depth: 2 }), "backing");
});

test("totals are exact and the table joins neighbours", () => {
  const model = new MapModel(1n << 40n);
  model.add(run("data", 0n, 65536n));
  model.add(run("data", 65536n, 65536n));
  model.add(run("none", 131072n, (1n << 40n) - 131072n));
  assert.equal(model.totals.data, 131072n);
  assert.equal(model.totals.none, (1n << 40n) - 131072n);
  assert.deepEqual(model.runs, [
    { start: 0n, length: 131072n, is: "data" },
    { start: 131072n, length: (1n << 40n) - 131072n, is: "none" },
  ]);
  assert.equal(runsCaption(model), "All 2 stretches of the disk, in order");
});

test("one cluster of a huge disk is seen in its cell and in no other, however many cells there are", () => {
  const size = 64n << 40n;
  const model = new MapModel(size);
  const at = size / 2n + 12345n * 65536n;
  model.add(run("none", 0n, at));
  model.add(run("data", at, 65536n));
  model.add(run("none", at + 65536n, size - at - 65536n));
  for (const count of [7, 100, 1000, 1095, 1110, 2976, 16384]) {
    const seen = model.cells(count).flatMap((cell, i) => ((cell.shares[CLASSES.indexOf("data")] ?? 0) > 0 ? [i] : []));
    assert.equal(seen.length, 1, `${count} cells`);
    const { start, end } = model.cellRange(seen[0] ?? -1, count);
    assert.ok(start <= at && at < end);
  }
});

test("cells follow each other without gaps from the first byte to the last", () => {
  const model = new MapModel((1n << 40n) + 512n);
  for (const count of [1, 7, 1095, 2976]) {
    let at = 0n;
    for (let cell = 0; cell < count; cell++) {
      const { start, end } = model.cellRange(cell, count);
      assert.equal(start, at);
      at = end;
    }
    assert.equal(at, model.size);
  }
});

test("shares of a cell add up to one, for any size of disk and number of cells", () => {
  let seed = 1;
  const random = (below: number): number => (seed = (seed * 48271) % 2147483647) % below;
  for (let round = 0; round < 50; round++) {
    const size = BigInt(1 + random(1 << 30)) * BigInt(1 + random(1 << 12));
    const model = new MapModel(size);
    const sums = Object.fromEntries(CLASSES.map((is) => [is, 0n])) as Record<MapClass, bigint>;
    for (let at = 0n; at < size; ) {
      const is = CLASSES[random(CLASSES.length)] ?? "data";
      const rest = size - at;
      const length = BigInt(1 + random(1 << 30)) * 64n;
      const taken = length < rest ? length : rest;
      model.add(run(is, at, taken));
      sums[is] += taken;
      at += taken;
    }
    assert.deepEqual(model.totals, sums);
    for (const cell of model.cells(1 + random(3000))) {
      const sum = cell.shares.reduce((a, b) => a + b, 0);
      assert.ok(Math.abs(sum - 1) < 1e-6, `round ${round}: ${sum}`);
    }
  }
});

test("memory is bounded: the table ends, the count does not", () => {
  const model = new MapModel(1n << 40n);
  for (let i = 0n; i < 2000n; i++) model.add(run(i % 2n ? "data" : "none", i * 65536n, 65536n));
  assert.equal(model.runs.length, TABLE_RUNS);
  assert.equal(model.runCount, 2000);
  assert.equal(runsCaption(model), "The first 500 of 2,000 stretches of the disk, in order");
});

test("disks of no and of a few bytes", () => {
  const none = new MapModel(0n);
  assert.equal(none.summary(), "The disk is empty: its size is zero.");
  assert.equal(none.cells(4).length, 4);
  const few = new MapModel(3n);
  few.add(run("data", 0n, 3n));
  assert.deepEqual(few.cells(6).map((c) => c.shares[0]), [1, 1, 1, 1, 1, 1]);
});

test("the summary says what a person would see", () => {
  const size = 10n << 30n;
  const sparse = new MapModel(size);
  sparse.add(run("none", 0n, size));
  assert.equal(sparse.summary(), "Nothing is stored: all 10 GiB read as zeroes.");
  const mixed = new MapModel(size);
  mixed.add(run("data", 0n, 1n << 30n));
  mixed.add(run("compressed", 1n << 30n, 1n << 30n));
  mixed.add(run("backing", 2n << 30n, 3n << 30n));
  mixed.add(run("none", 5n << 30n, 5n << 30n));
  assert.equal(
    mixed.summary(),
    "2 GiB of 10 GiB (20 %) is data in this file, 50 % of it compressed. 3 GiB (30 %) comes from backing files. " +
      "The other 5 GiB read as zeroes and take no space. The disk changes 3 times between these from start to end.",
  );
});

test("a cell in words names the largest share first", () => {
  const shares = [0.25, 0, 0, 0, 0.75];
  assert.equal(cellWords({ shares }, 0n, 1n << 20n), "0 bytes to 1 MiB: 75 % never written, 25 % data");
  assert.equal(cellWords({ shares: [1, 0, 0, 0, 0] }, 0n, 1n << 20n), "0 bytes to 1 MiB: data");
  assert.equal(cellWords({ shares: [0.001, 0, 0, 0, 0.999] }, 0n, 1n << 20n), "0 bytes to 1 MiB: over 99 % never written, under 1 % data");
});

test("the grid fits its width", () => {
  for (const width of [300, 375, 800, 1104, 3000]) {
    const { columns, rows } = grid(width, 10, 2, 32);
    assert.ok(columns * 12 - 2 <= width && rows >= 12 && rows <= 32);
  }
});

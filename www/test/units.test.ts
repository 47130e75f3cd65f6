import assert from "node:assert/strict";
import { test } from "node:test";
import { duration, exactSize, hex, plural, rate, share, size, timeLeft } from "../src/units.ts";

test("sizes have about three digits and the largest unit that fits", () => {
  const cases: [bigint, string][] = [
    [0n, "0 bytes"],
    [1n, "1 byte"],
    [512n, "512 bytes"],
    [1023n, "1023 bytes"],
    [1024n, "1 KiB"],
    [1536n, "1.5 KiB"],
    [10n * 1024n + 512n, "10.5 KiB"],
    [65536n, "64 KiB"],
    [(1n << 20n) - 1n, "1 MiB"],
    [(1n << 30n) + (1n << 29n), "1.5 GiB"],
    [64n << 40n, "64 TiB"],
    [(1n << 63n) - 1n, "8 EiB"],
  ];
  for (const [bytes, text] of cases) assert.equal(size(bytes), text);
});

test("no size is ever called 1024 of its unit", () => {
  for (let shift = 10n; shift <= 60n; shift += 10n) {
    for (const below of [1n, 10n, 1n << (shift - 10n)]) assert.doesNotMatch(size((1n << shift) - below), /^1024 [KMGTPE]/);
  }
});

test("exact sizes name every byte", () => {
  assert.equal(exactSize(100n), "100 bytes");
  assert.equal(exactSize(10n << 30n), "10 GiB (10,737,418,240 bytes)");
});

test("shares never round something to nothing or a part to all", () => {
  assert.equal(share(0n, 100n), "0 %");
  assert.equal(share(1n, 1n << 40n), "less than 0.1 %");
  assert.equal(share((1n << 40n) - 1n, 1n << 40n), "more than 99.9 %");
  assert.equal(share(1n, 3n), "33.3 %");
  assert.equal(share(5n, 5n), "100 %");
  assert.equal(share(0n, 0n), "0 %");
});

test("times and rates", () => {
  assert.equal(duration(0.25), "0.3 s");
  assert.equal(duration(42), "42 s");
  assert.equal(duration(60), "1 min");
  assert.equal(duration(75), "1 min 15 s");
  assert.equal(duration(3599), "1 h");
  assert.equal(duration(3720), "1 h 2 min");
  assert.equal(timeLeft(0.2), "less than a second left");
  assert.equal(timeLeft(90), "about 1 min 30 s left");
  assert.equal(timeLeft(Infinity), "time left unknown");
  assert.equal(rate(250 * 1024 * 1024), "250 MiB/s");
});

test("plural and hex", () => {
  assert.equal(plural(1, "cluster"), "1 cluster");
  assert.equal(plural(2000n, "cluster"), "2,000 clusters");
  assert.equal(plural(0, "stretch", "stretches"), "0 stretches");
  assert.equal(hex(0x30000n), "0x30000");
});

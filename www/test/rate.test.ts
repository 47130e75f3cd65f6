import assert from "node:assert/strict";
import { test } from "node:test";
import { PaceMeter } from "../src/rate.ts";

test("tells a rate and the time left once there is something to go by", () => {
  const meter = new PaceMeter();
  assert.deepEqual(meter.update(0, 0, 1000), { fraction: 0 });
  assert.deepEqual(meter.update(500, 50, 1000), { fraction: 0.05 });
  assert.deepEqual(meter.update(1000, 100, 1000), { fraction: 0.1, perSecond: 100, secondsLeft: 9 });
});

test("only the last seconds count", () => {
  const meter = new PaceMeter();
  let done = 0;
  for (let at = 0; at <= 10_000; at += 250) meter.update(at, (done += 1000), 1e6);
  let pace = meter.update(10_250, done, 1e6);
  for (let at = 10_500; at <= 20_000; at += 250) pace = meter.update(at, (done += 10), 1e6);
  assert.equal(Math.round(pace.perSecond ?? 0), 40);
});

test("a standstill has no time left, and a new phase starts anew", () => {
  const meter = new PaceMeter();
  meter.update(0, 500, 1000);
  assert.deepEqual(meter.update(2000, 500, 1000), { fraction: 0.5, perSecond: 0 });
  assert.deepEqual(meter.update(3000, 10, 1000), { fraction: 0.01 });
});

test("totals of zero and beyond 2^53 are no trouble", () => {
  assert.deepEqual(new PaceMeter().update(0, 0n, 0n), { fraction: 0 });
  assert.equal(new PaceMeter().update(0, 1n << 62n, 1n << 63n).fraction, 0.5);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { checkVerdicts, errorVerdict } from "../src/words.ts";

const clean = { format: "qcow2", checkErrors: 0 };

test("a clean image is said to be clean, in one box", () => {
  const verdicts = checkVerdicts(clean, "qcow2");
  assert.deepEqual(verdicts.map((v) => [v.tone, v.title]), [["good", "No errors found"]]);
});

test("leaks are waste, not damage", () => {
  const [leak] = checkVerdicts({ ...clean, leaks: 1 }, "qcow2");
  assert.equal(leak?.tone, "warning");
  assert.equal(leak?.title, "1 leaked cluster: wasted space, no damage");
  assert.match(leak?.meaning ?? "", /data is intact/);
});

test("damage comes first, and says what to do", () => {
  const verdicts = checkVerdicts({ ...clean, corruptions: 2n, leaks: 5n, checkErrors: 1 }, "qcow2");
  assert.deepEqual(verdicts.map((v) => v.tone), ["bad", "bad", "warning"]);
  assert.equal(verdicts[0]?.title, "Damaged: 2 errors in the tables");
  assert.match(verdicts[0]?.advice ?? "", /copy/);
});

test("an incomplete check is never called clean", () => {
  const verdicts = checkVerdicts({ ...clean, checkErrors: 3 }, "qcow2");
  assert.ok(verdicts.every((v) => v.tone !== "good"));
});

test("fragmentation is a note with a figure", () => {
  const little = checkVerdicts({ ...clean, allocatedClusters: 1000, fragmentedClusters: 10 }, "qcow2").at(-1);
  assert.equal(little?.title, "Fragmentation: 1 % of the used clusters");
  assert.equal(little?.advice, undefined);
  const much = checkVerdicts({ ...clean, allocatedClusters: 1000, fragmentedClusters: 900 }, "qcow2").at(-1);
  assert.match(much?.advice ?? "", /harms nothing/);
});

test("a format without tables has nothing to check", () => {
  assert.equal(checkVerdicts(null, "raw")[0]?.tone, "note");
});

test("every kind of error has words of its own, and damage, lack and refusal differ", () => {
  const kinds = ["Io", "Unsupported", "Corrupt", "Limit", "Denied", "InUse", "InvalidInput", "NotFound", "NoSpace", "Cancelled", "Bug"];
  const titles = kinds.map((kind) => errorVerdict({ kind, message: "" }, "Opening").title);
  assert.equal(new Set(titles).size, kinds.length);
  const unknown = errorVerdict({ message: "x" }, "Opening").title;
  assert.ok(!titles.includes(unknown));
  assert.equal(errorVerdict({ kind: "Cancelled", message: "" }, "Converting").tone, "note");
  // Names that objects have by themselves are not kinds.
  assert.equal(errorVerdict({ kind: "toString", message: "" }, "Opening").title, unknown);
});

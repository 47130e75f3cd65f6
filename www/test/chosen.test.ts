import assert from "node:assert/strict";
import { test } from "node:test";
import { ChosenFiles, baseName } from "../src/chosen.ts";

const file = (name: string): File => new File([name], name);
const backing = (name: string) => ({ kind: "backing" as const, name, referrer: "top.qcow2" });

test("base names of every kind of path", () => {
  assert.equal(baseName("base.qcow2"), "base.qcow2");
  assert.equal(baseName("/var/lib/images/base.qcow2"), "base.qcow2");
  assert.equal(baseName("../base.qcow2"), "base.qcow2");
  assert.equal(baseName("C:\\vm\\base.qcow2"), "base.qcow2");
  assert.equal(baseName("file:base.qcow2"), "base.qcow2");
  assert.equal(baseName("file:///srv/base.qcow2"), "base.qcow2");
  assert.equal(baseName("odd/"), "odd/");
});

test("references are answered from the chosen files only", () => {
  const chosen = new ChosenFiles();
  const [top, base] = [file("top.qcow2"), file("base.qcow2")];
  chosen.add([top, base]);
  assert.equal(chosen.resolve(backing("/srv/base.qcow2"))?.source, base);
  assert.equal(chosen.resolve(backing("/srv/other.qcow2")), null);
});

test("one file of another name can stand in for a reference, and only for that", () => {
  const chosen = new ChosenFiles();
  chosen.add([file("top.qcow2")]);
  const renamed = file("base (1).qcow2");
  chosen.addFor(backing("/srv/base.qcow2"), [renamed]);
  assert.equal(chosen.find("base.qcow2"), renamed);
  assert.equal(chosen.find("other.qcow2"), undefined);
});

test("of several files added, only names count", () => {
  const chosen = new ChosenFiles();
  chosen.addFor(backing("base.qcow2"), [file("a.qcow2"), file("b.qcow2")]);
  assert.equal(chosen.find("base.qcow2"), undefined);
  const right = file("base.qcow2");
  chosen.addFor(backing("base.qcow2"), [right]);
  assert.equal(chosen.find("base.qcow2"), right);
});

test("the file that no other refers to is shown first, whatever the order", () => {
  const chosen = new ChosenFiles();
  const [base, middle, top] = [file("base"), file("middle"), file("top")];
  chosen.add([base, middle, top]);
  const references = new Map([
    [base, []],
    [middle, ["dir/base"]],
    [top, ["./middle"]],
  ]);
  assert.equal(chosen.top(references), top);
});

test("a loop of references still shows something", () => {
  const chosen = new ChosenFiles();
  const [a, b] = [file("a"), file("b")];
  chosen.add([a, b]);
  assert.equal(chosen.top(new Map([[a, ["b"]], [b, ["a"]]])), a);
  assert.equal(chosen.top(new Map([[a, ["a"]], [b, []]])), a);
});

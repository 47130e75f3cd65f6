import assert from "node:assert/strict";
import { test } from "node:test";
import { type Box, type GraphAnswer, type NodeAnswer, boxWords, chainOptions, neighbour, picture, shortened } from "../src/graphmodel.ts";

/** A graph of nodes by name: who uses whom, and as what. */
function graph(edges: [parent: string, child: string, role: string][], lone: string[] = []): [GraphAnswer, NodeAnswer[]] {
  const names = [...new Set([...lone, ...edges.flatMap(([parent, child]) => [parent, child])])];
  const id = (name: string): bigint => BigInt(names.indexOf(name) + 1);
  const nodes = names.map((name) => ({ id: id(name), type: "block-driver", name }));
  const told = edges.map(([parent, child, name]) => ({ parent: id(parent), child: id(child), name, perm: ["consistent-read"], "shared-perm": [] }));
  const answers = names.map((name) => ({
    "node-name": name,
    drv: name.startsWith("file") ? "file" : "qcow2",
    file: `${name}.img`,
    ro: true,
    image: { "virtual-size": 1n << 20n },
  }));
  return [{ nodes, edges: told }, answers];
}

const CHAIN = graph([
  ["top", "file-top", "file"],
  ["top", "mid", "backing"],
  ["mid", "file-mid", "file"],
  ["mid", "base", "backing"],
  ["base", "file-base", "file"],
]);

const places = (boxes: Box[]): Record<string, [number, number]> => Object.fromEntries(boxes.map((box) => [box.name, [box.column, box.row]]));

test("a chain goes down, files at its side, and no two boxes share a place", () => {
  const drawn = picture(...CHAIN);
  assert.deepEqual(places(drawn.boxes), { top: [0, 0], "file-top": [0, 1], mid: [1, 1], "file-mid": [1, 2], base: [2, 2], "file-base": [2, 3] });
  assert.deepEqual([drawn.columns, drawn.rows], [3, 4]);
  for (const { parent, child } of drawn.lines) assert.ok(child.row > parent.row);
});

test("a node with two users stands below both", () => {
  const drawn = picture(...graph([["a", "b", "file"], ["b", "shared", "file"], ["c", "shared", "backing"]]));
  const seen = new Set(drawn.boxes.map(({ column, row }) => `${column}/${row}`));
  assert.equal(seen.size, drawn.boxes.length);
  for (const { parent, child } of drawn.lines) assert.ok(child.row > parent.row);
});

test("users from outside, and an empty graph", () => {
  const [answer, nodes] = graph([], ["alone"]);
  answer.nodes.push({ id: 9n, type: "block-backend", name: "" });
  answer.edges.push({ parent: 9n, child: 1n, name: "root", perm: [], "shared-perm": [] });
  const drawn = picture(answer, nodes);
  assert.deepEqual([drawn.boxes.length, drawn.lines.length], [1, 0]);
  assert.deepEqual(picture({ nodes: [], edges: [] }, []), { boxes: [], lines: [], columns: 0, rows: 0 });
});

test("arrow keys follow the lines, and the rows", () => {
  const drawn = picture(...CHAIN);
  const at = (name: string): Box => drawn.boxes.find((box) => box.name === name) as Box;
  assert.equal(neighbour(at("top"), "ArrowDown", drawn)?.name, "file-top");
  assert.equal(neighbour(at("file-top"), "ArrowRight", drawn)?.name, "mid");
  assert.equal(neighbour(at("mid"), "ArrowUp", drawn)?.name, "top");
  assert.equal(neighbour(at("mid"), "ArrowRight", drawn), undefined);
  assert.equal(neighbour(at("top"), "ArrowUp", drawn), undefined);
});

test("a box says in words what its place says in the picture", () => {
  const drawn = picture(...CHAIN);
  const mid = drawn.boxes.find((box) => box.name === "mid") as Box;
  assert.equal(boxWords(mid, drawn), "mid qcow2 · 1 MiB · read-only; backing of top; stands on file file-mid.img, backing base");
});

test("long names keep their beginning and their end", () => {
  assert.equal(shortened("short.qcow2", 24), "short.qcow2");
  assert.equal(shortened("a-very-long-name-of-a-disk.qcow2", 16), "a-very-l…k.qcow2");
  assert.equal(shortened("a-very-long-name-of-a-disk.qcow2", 16).length, 16);
});

test("a chain is opened by the files that were chosen and by nothing else", () => {
  const file = (filename: string) => ({ driver: "file", filename, "read-only": true });
  assert.deepEqual(chainOptions([{ filename: "top", format: "qcow2", dataFile: "data" }, { filename: "base", format: "raw" }]), {
    driver: "qcow2",
    "node-name": "image",
    "read-only": true,
    file: file("top"),
    "data-file": file("data"),
    backing: { driver: "raw", "read-only": true, file: file("base") },
  });
  // What was not opened is not followed.
  assert.equal(chainOptions([{ filename: "top", format: "qcow2" }]).backing, null);
});

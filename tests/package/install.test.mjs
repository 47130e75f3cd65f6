// The tarball: what is in it, and that it loads and type-checks wherever Node is.

import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { TOP, install, run } from "./support.mjs";

const folder = install();
const dist = join(folder, "node_modules", "sectora", "dist");

/** Runs a script in the folder that has the package. */
function script(name, text) {
  writeFileSync(join(folder, name), text);
  return run(process.execPath, [name], { cwd: folder }).trim();
}

for (const [name, limit] of [["sectora_bg.wasm", 1.5], ["sectora_monitor_bg.wasm", 2.25]]) {
  test(`${name} is below its limit and holds no path of its builder`, () => {
    const file = join(dist, name);
    assert.ok(statSync(file).size < limit * 2 ** 20);
    const text = readFileSync(file, "latin1");
    assert.ok(!text.includes(TOP) && !/\/(home|root)\//.test(text));
  });
}

test("every entry of the manifest is a file of the tarball", () => {
  const { exports, main, module, types } = JSON.parse(readFileSync(join(dist, "..", "package.json"), "utf8"));
  const leaves = (value) => (typeof value === "string" ? [value] : Object.values(value).flatMap(leaves));
  for (const entry of [...leaves(exports), main, module, types]) {
    assert.ok(statSync(join(dist, "..", entry)).isFile(), entry);
  }
});

test("importing starts nothing and fetches nothing", () => {
  const out = script(
    "quiet.mjs",
    `globalThis.fetch = () => { throw new Error("fetched"); };
     const instantiate = WebAssembly.instantiate;
     WebAssembly.instantiate = () => { throw new Error("instantiated"); };
     const m = await import("sectora");
     WebAssembly.instantiate = instantiate;
     console.log(Object.keys(m).sort().join(" "));`,
  );
  assert.equal(out, "QmpError SectoraError configure create formats measure open startEngine toJson version");
});

test("ES modules and CommonJS share one instance and its classes", () => {
  const out = script(
    "both.mjs",
    `import { createRequire } from "node:module";
     import * as esm from "sectora";
     const cjs = createRequire(import.meta.url)("sectora");
     const image = await cjs.open(new Uint8Array(4096));
     const failed = await esm.open("missing").catch((e) => e);
     console.log(image.size, image.format, failed instanceof cjs.SectoraError, esm.open === cjs.open);
     await image.close();`,
  );
  assert.equal(out, "4096n raw true true");
});

test("a CommonJS script can do the work", () => {
  const out = script(
    "script.cjs",
    `const { open, formats } = require("sectora");
     open(new Uint8Array(1024).fill(7)).then(async (image) => {
       console.log(formats.join(), (await image.read(1000n, 24)).every((byte) => byte === 7));
       await image.close();
     });`,
  );
  assert.equal(out, "raw,qcow2 true");
});

test("a worker of Node runs the engine from the tarball", () => {
  const out = script(
    "worker.mjs",
    `import { startEngine } from "sectora";
     const engine = await startEngine({ where: "worker" });
     const image = await engine.open(new Uint8Array(2048));
     console.log(image.size);
     await engine.close();`,
  );
  assert.equal(out, "2048n");
});

const CONSUMER = `
  const image: Image = await open(new Uint8Array(512), { format: "raw", resolve: (r: Reference) => (r.kind === "backing" ? new Uint8Array(1) : null) });
  const size: bigint = image.size;
  const info: ImageInfo = await image.info();
  if (info["format-specific"]?.type === "qcow2") info["format-specific"].data["refcount-bits"] satisfies number;
  for (const { start, length, depth } of await image.map()) [start + length, depth] satisfies [bigint, number];
  const bytes: Uint8Array = await image.read(0n, 16, { signal: AbortSignal.timeout(1000) });
  const stream: ReadableStream<Uint8Array> = image.stream({ format: "qcow2", clusterSize: 65536 });
  await image.convert({ size: 0n, read: () => bytes, write: async () => {} }, { format: "qcow2", compressed: true, onProgress: (done, total) => void (done * 100n / total) });
  // @ts-expect-error: a raw image has no clusters
  await image.convert("x", { format: "raw", clusterSize: 512 });
  // @ts-expect-error: offsets are bigint
  await image.read(0, 16);
  try { await image.check(); } catch (e) { if (e instanceof SectoraError && e.kind === "Unsupported") e.offset satisfies bigint | undefined; }
  // @ts-expect-error: no such kind
  if (new SectoraError("Io", "x").kind === "Oops") await image.close();
  const engine: Engine = await startEngine();
  await engine.attach("a", bytes, { writable: true });
  const options: qapi.BlockdevOptions = { driver: "qcow2", "node-name": "n", file: { driver: "file", filename: "a" }, backing: null, "cache-size": 1048576 };
  await engine.execute({ execute: "blockdev-add", arguments: options });
  for (const { image, ro } of await engine.execute({ execute: "query-named-block-nodes", id: 7 })) [image["virtual-size"], ro] satisfies [bigint, boolean];
  for await (const { event, data, timestamp } of engine.events(["JOB_STATUS_CHANGE", "BLOCK_WRITE_THRESHOLD"])) {
    if (event === "JOB_STATUS_CHANGE") data.status satisfies string;
    else [data["amount-exceeded"], timestamp.seconds] satisfies [bigint, number];
  }
  // @ts-expect-error: no such command
  await engine.execute({ execute: "nonsense" });
  // @ts-expect-error: it has to have arguments
  await engine.execute({ execute: "blockdev-add" });
  // @ts-expect-error: a member that the driver does not have
  ({ driver: "null-co", filename: "a" }) satisfies qapi.BlockdevOptions;
  try { await (await engine.openNode("n", { writable: true })).write(0n, bytes); } catch (e) { if (e instanceof QmpError && e.class === "DeviceNotFound") e.desc satisfies string; }
  void [size, stream, toJson(info)];
`;
const NAMES = "open, startEngine, QmpError, SectoraError, toJson, type Engine, type Image, type ImageInfo, type Reference, type qapi";

function typeCheck(name, text, options) {
  const file = join(folder, name);
  writeFileSync(file, text);
  const config = { compilerOptions: { noEmit: true, strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, ...options }, files: [name] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  const tsc = join(TOP, "node_modules", "typescript", "bin", "tsc");
  try {
    run(process.execPath, [tsc, "-p", folder]);
  } catch (e) {
    assert.fail(e.stdout);
  }
}

const typeRoots = [join(TOP, "node_modules", "@types")];

test("a strict consumer compiles: ES module in Node, without the DOM's types", () => {
  typeCheck("consumer.mts", `import { ${NAMES} } from "sectora";\n${CONSUMER}`, {
    module: "nodenext",
    target: "es2022",
    lib: ["es2022"],
    types: ["node"],
    typeRoots,
  });
});

test("a strict consumer compiles: CommonJS in Node", () => {
  typeCheck("consumer.cts", `import { ${NAMES} } from "sectora";\nexport async function main() {${CONSUMER}}\n`, {
    module: "nodenext",
    target: "es2022",
    lib: ["es2022"],
    types: ["node"],
    typeRoots,
  });
});

test("a strict consumer compiles: a page through a bundler", () => {
  const opfs = `await image.convert({ opfs: "a.qcow2" }, { format: "qcow2" });
    await image.convert(await (await navigator.storage.getDirectory()).getFileHandle("a", { create: true }), { format: "raw" });`;
  const text = `import { ${NAMES} } from "sectora";\nimport * as slim from "sectora/slim";\n${CONSUMER}\n${opfs}\nvoid slim.startEngine({ wasm: "x", worker: () => new Worker("x") });`;
  typeCheck("consumer.ts", text, {
    module: "esnext",
    moduleResolution: "bundler",
    target: "es2022",
    lib: ["es2022", "dom", "dom.iterable"],
    types: [],
  });
});

test("the types tell nothing of the bindings", () => {
  for (const folder of ["types", "types-cjs"]) {
    for (const file of ["types", "errors", "api", "node", "browser"]) {
      const [name] = readdirSync(join(dist, folder)).filter((found) => found.startsWith(`${file}.d.`));
      assert.doesNotMatch(readFileSync(join(dist, folder, name), "utf8"), /wbg|bindgen|pkg\//, name);
    }
  }
});

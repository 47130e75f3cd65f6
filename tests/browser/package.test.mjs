// The package in Chromium: files, the origin-private file system, streams, the worker and its end.

import assert from "node:assert/strict";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { clean, contents, needsQemu, qemu, qemuJson, run, same, scratch, sha } from "../package/support.mjs";
import { launch, needsChromium } from "./harness.mjs";

const skip = needsChromium.skip || needsQemu.skip;
const folder = scratch();
const file = (name) => join(folder, name);
const MiB = 2 ** 20;
const SIZE = 20 * MiB + 512;
const original = contents(SIZE, 5);

describe("the package in a browser", { skip, timeout: 600_000 }, () => {
  let browser;
  let page;
  before(async () => {
    writeFileSync(file("disk.raw"), original);
    qemu("convert", "-O", "qcow2", file("disk.raw"), file("disk.qcow2"));
    qemu("convert", "-c", "-O", "qcow2", file("disk.raw"), file("packed.qcow2"));
    qemu("create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", file("over.qcow2"));
    run("qemu-io", ["-c", "write -P 6 4M 100k", file("over.qcow2")]);
    qemu("convert", "-O", "raw", file("over.qcow2"), file("over.raw"));
    browser = await launch();
    page = browser.page;
  });
  after(async () => {
    await browser?.close();
    assert.deepEqual(browser?.errors ?? [], []);
  });

  const choose = (...names) => page.setInputFiles("input", names.map(file));

  /** Bytes of the page, through a download of nothing: base64 in parts. */
  async function saved(name, expression) {
    const parts = [];
    const size = await page.evaluate(`(async () => { window.blob = ${expression}; window.blob = await window.blob; return window.blob.size; })()`);
    const STEP = 3 * MiB;
    for (let at = 0; at < size; at += STEP) {
      const text = await page.evaluate(
        async ([at, step]) => {
          const bytes = new Uint8Array(await window.blob.slice(at, at + step).arrayBuffer());
          let out = "";
          for (let i = 0; i < bytes.length; i += 32768) out += String.fromCharCode(...bytes.subarray(i, i + 32768));
          return btoa(out);
        },
        [at, STEP],
      );
      parts.push(Buffer.from(text, "base64"));
    }
    writeFileSync(file(name), Buffer.concat(parts));
    return file(name);
  }
  const opfs = (path) => `(await navigator.storage.getDirectory()).getFileHandle(${JSON.stringify(path)}).then((h) => h.getFile())`;
  const savedOpfs = (name, path) => saved(name, `(async () => ${opfs(path)})()`);

  test("importing fetched neither the worker nor the module", () => {
    assert.deepEqual(browser.requests.filter((path) => /worker|wasm/.test(path)), []);
  });

  test("a chosen file: info, map, check, measure, read", async () => {
    for (const name of ["disk.qcow2", "packed.qcow2"]) {
      await choose(name);
      const found = await page.evaluate(async () => {
        const image = await window.sectora.open(window.files()[0]);
        const out = {
          size: String(image.size),
          info: window.sectora.toJson(await image.info()),
          map: window.sectora.toJson(await image.map()),
          check: window.sectora.toJson(await image.check()),
          measure: window.sectora.toJson(await image.measure({ format: "qcow2" })),
          sha: await window.sha(await image.read(0n, Number(image.size))),
        };
        await image.close();
        return out;
      });
      assert.equal(found.size, String(SIZE));
      assert.equal(found.sha, sha(original));
      const theirs = qemuJson("info", "--output=json", file(name));
      const ours = JSON.parse(found.info);
      assert.equal(ours.filename, name);
      assert.deepEqual(ours["format-specific"], theirs["format-specific"]);
      assert.equal(JSON.parse(found.map).length, qemuJson("map", "--output=json", file(name)).length);
      const { findings, ...check } = JSON.parse(found.check);
      assert.deepEqual(findings, []);
      assert.deepEqual({ ...check, filename: "" }, { ...qemuJson("check", "--output=json", file(name)), filename: "" });
      assert.deepEqual(JSON.parse(found.measure), qemuJson("measure", "--output=json", "-O", "qcow2", file(name)));
    }
  });

  for (const options of [{ format: "raw" }, { format: "qcow2" }, { format: "qcow2", compressed: true }, { format: "qcow2", compressed: true, compressionType: "zstd", clusterSize: 2 * MiB }, { format: "qcow2", extendedL2: true, preallocation: "metadata" }]) {
    test(`converts a chosen file into the origin's storage, and back: ${JSON.stringify(options)}`, async () => {
      await choose("packed.qcow2");
      const back = await page.evaluate(async (options) => {
        const { open } = window.sectora;
        const told = [];
        const image = await open(window.files()[0]);
        const { size } = await image.convert({ opfs: "made/ours.img" }, { ...options, onProgress: (done, total) => told.push([done, total]) });
        await image.close();
        // By its handle as well, and as a source.
        const directory = await (await navigator.storage.getDirectory()).getDirectoryHandle("made");
        const handle = await directory.getFileHandle("ours.img");
        if ((await handle.getFile()).size !== Number(size)) throw new Error("size");
        const again = await open(handle, { format: options.format });
        const raw = await directory.getFileHandle("back.raw", { create: true });
        await again.convert(raw, { format: "raw" });
        await again.close();
        window.made = await handle.getFile();
        const names = [];
        for await (const name of directory.keys()) names.push(name);
        return { sha: await window.sha(await (await raw.getFile()).arrayBuffer()), last: told.at(-1).join(), names: names.sort().join() };
      }, options);
      assert.deepEqual(back, { sha: sha(original), last: `${SIZE},${SIZE}`, names: "back.raw,ours.img" });
      const name = await saved("ours.img", "window.made");
      same(file("disk.raw"), "raw", name, options.format);
      if (options.format === "qcow2") clean(name);
    });
  }

  test("an overlay with its backing file", async () => {
    await choose("over.qcow2", "disk.qcow2");
    const result = await page.evaluate(async () => {
      const { open } = window.sectora;
      const top = window.files().find((f) => f.name === "over.qcow2");
      const denied = await open(top).catch((e) => e);
      const image = await open(top, { resolve: ({ name }) => window.files().find((f) => f.name === name) });
      await image.convert({ opfs: "flat.raw" }, { format: "raw" });
      const depth = (await image.info())["backing-image"].filename;
      await image.close();
      return { kind: denied.kind, wanted: denied.wanted, error: denied instanceof window.sectora.SectoraError, depth };
    });
    assert.deepEqual(result, { kind: "Denied", error: true, depth: "disk.qcow2", wanted: { kind: "backing", name: "disk.qcow2", referrer: "over.qcow2" } });
    same(file("over.raw"), "raw", await savedOpfs("flat.raw", "flat.raw"), "raw");
  });

  test("a stream to saved bytes", async () => {
    await choose("packed.qcow2");
    await page.evaluate(async () => {
      const image = await window.sectora.open(window.files()[0]);
      window.streamed = await new Response(image.stream({ format: "qcow2" })).blob();
      await image.close();
    });
    const name = await saved("streamed.qcow2", "window.streamed");
    same(file("disk.raw"), "raw", name, "qcow2");
    clean(name);
  });

  test("storage of the page's own, as source and target", async () => {
    await choose("disk.raw");
    const result = await page.evaluate(async () => {
      const input = window.files()[0];
      let reads = 0;
      const source = {
        size: BigInt(input.size),
        read: async (offset, length) => (reads++, new Uint8Array(await input.slice(Number(offset), Number(offset) + length).arrayBuffer())),
      };
      let bytes = new Uint8Array(0);
      const target = {
        size: 0n,
        read: (offset, length) => bytes.slice(Number(offset), Number(offset) + length),
        write(offset, data) {
          const end = Number(offset) + data.length;
          if (end > bytes.length) {
            const grown = new Uint8Array(end);
            grown.set(bytes);
            bytes = grown;
          }
          bytes.set(data, Number(offset));
        },
      };
      const image = await window.sectora.open(source, { format: "raw" });
      const { size } = await image.convert(target, { format: "qcow2" });
      await image.close();
      window.custom = new Blob([bytes]);
      return { equal: Number(size) === bytes.length, reads: reads > 0 };
    });
    assert.deepEqual(result, { equal: true, reads: true });
    const name = await saved("custom.qcow2", "window.custom");
    same(file("disk.raw"), "raw", name, "qcow2");
    clean(name);
  });

  test("giving up and failing leave what was there", async () => {
    await choose("disk.raw");
    const result = await page.evaluate(async () => {
      const root = await navigator.storage.getDirectory();
      const directory = await root.getDirectoryHandle("trouble", { create: true });
      const old = await directory.getFileHandle("old.img", { create: true });
      const writable = await old.createWritable();
      await writable.write("what was there");
      await writable.close();
      const out = [];
      const input = window.files()[0];
      const read = async (offset, length) => {
        if (offset > 8_000_000n) await window.hold;
        return new Uint8Array(await input.slice(Number(offset), Number(offset) + length).arrayBuffer());
      };
      const image = await window.sectora.open({ size: input.size, read }, { format: "raw" });
      for (const format of ["raw", "qcow2"]) {
        window.hold = new Promise(() => {});
        const stop = new AbortController();
        setTimeout(() => stop.abort(), 100);
        out.push(await image.convert(old, { format, signal: stop.signal }).catch((e) => e.kind));
        window.hold = Promise.reject(new DOMException("gone", "NotFoundError"));
        window.hold.catch(() => {});
        out.push(await image.convert({ opfs: "trouble/new.img" }, { format }).catch((e) => e.kind));
      }
      await image.close();
      const names = [];
      for await (const name of directory.keys()) names.push(name);
      return { out, names, text: await (await old.getFile()).text() };
    });
    assert.deepEqual(result, { out: ["Cancelled", "NotFound", "Cancelled", "NotFound"], names: ["old.img"], text: "what was there" });
  });

  test("the source in the origin's storage cannot be the target", async () => {
    await choose("disk.qcow2");
    const kinds = await page.evaluate(async () => {
      const first = await window.sectora.open(window.files()[0]);
      await first.convert({ opfs: "same.raw" }, { format: "raw" });
      await first.close();
      const image = await window.sectora.open({ opfs: "same.raw" }, { format: "raw" });
      const kinds = [];
      for (const path of ["same.raw", "/same.raw", "../same.raw", ""]) {
        kinds.push(await image.convert({ opfs: path }, { format: "raw" }).catch((e) => e.kind));
      }
      await image.close();
      kinds.push(await window.sectora.open({ opfs: "missing" }).catch((e) => e.kind));
      kinds.push(await window.sectora.open("path").catch((e) => e.kind));
      return kinds;
    });
    assert.deepEqual(kinds, ["InvalidInput", "InvalidInput", "InvalidInput", "InvalidInput", "NotFound", "InvalidInput"]);
  });

  test("a sparse 1 TiB image, in bounded memory of the worker", async () => {
    qemu("create", "-q", "-f", "qcow2", file("huge.qcow2"), "1T");
    run("qemu-io", ["-c", "write -P 1 0 1M", "-c", "write -P 2 500G 1M", "-c", "write -P 3 1048575M 1M", file("huge.qcow2")]);
    await choose("huge.qcow2");
    await page.evaluate(async () => {
      const image = await window.sectora.open(window.files()[0]);
      await image.convert({ opfs: "huge.qcow2" }, { format: "qcow2", compressed: true });
      await image.close();
    });
    same(file("huge.qcow2"), "qcow2", await savedOpfs("huge2.qcow2", "huge.qcow2"), "qcow2");
  });

  test("an engine here, without a worker, and a slim one", async () => {
    await choose("disk.qcow2");
    const result = await page.evaluate(async () => {
      const here = await window.sectora.startEngine({ where: "here" });
      const image = await here.open(window.files()[0]);
      const first = await window.sha(await image.read(0n, Number(image.size)));
      const refused = await image.convert({ opfs: "x" }, { format: "raw" }).catch((e) => e.kind);
      await here.close();
      const slim = await import("/dist/slim.js");
      const missing = await slim.startEngine({ where: "worker" }).catch((e) => e.kind);
      const engine = await slim.startEngine({ worker: "/dist/worker.js", wasm: fetch("/dist/sectora_bg.wasm") });
      const second = await engine.open(window.files()[0]);
      const size = String(second.size);
      await engine.close();
      const after = await second.info().catch((e) => e.kind);
      return { first, refused, missing, size, after };
    });
    assert.deepEqual(result, { first: sha(original), refused: "Unsupported", missing: "InvalidInput", size: String(SIZE), after: "InvalidInput" });
  });

  describe("long reads in order", () => {
    const LONG = 48 * MiB + 512;
    let whole;
    before(() => {
      // Data, holes longer and shorter than what is read at a time, and an end on no boundary.
      const bytes = contents(LONG, 9);
      bytes.fill(0, 21 * MiB + 4096, 23 * MiB);
      bytes.fill(0, 30 * MiB, 39 * MiB + 512);
      writeFileSync(file("long.raw"), bytes);
      writeFileSync(file("fickle.raw"), Buffer.concat([bytes, bytes]));
      whole = sha(bytes);
      qemu("convert", "-O", "qcow2", file("long.raw"), file("long.qcow2"));
    });

    for (const [name, format] of [["long.qcow2", "raw"], ["long.raw", "qcow2"]]) {
      test(`read ahead, and again after a while: ${name}`, async () => {
        await choose(name);
        await page.evaluate(
          async ([from, format]) => {
            window.image = await window.sectora.open(window.files()[0], { format: from });
            await window.image.convert({ opfs: "long.img" }, { format });
          },
          [name.split(".")[1], format],
        );
        // What was read ahead for has let go meanwhile, and comes back where it is wanted.
        const again = await page.evaluate(async () => {
          await new Promise((later) => setTimeout(later, 3000));
          await window.image.convert({ opfs: "again.img" }, { format: "raw" });
          const made = await (await navigator.storage.getDirectory()).getFileHandle("again.img");
          return window.sha(await (await made.getFile()).arrayBuffer());
        });
        assert.equal(again, whole);
        await page.evaluate(() => window.image.close());
        same(file("long.raw"), "raw", await savedOpfs("long.img", "long.img"), format);
      });
    }

    test("giving up, and a file that changes has its error", async () => {
      await page.exposeFunction("spoil", () => truncateSync(file("fickle.raw"), 512));
      await choose("fickle.raw");
      const kinds = await page.evaluate(async (half) => {
        window.image = await window.sectora.open(window.files()[0], { format: "raw" });
        const stop = new AbortController();
        const give = (done) => done > half && stop.abort();
        const first = await window.image.convert({ opfs: "no.img" }, { format: "qcow2", signal: stop.signal, onProgress: give }).catch((e) => e.kind);
        const stream = window.image.stream({ format: "qcow2" }).getReader();
        for (let got = 0; got < half; ) got += (await stream.read()).value.length;
        await window.spoil();
        const second = await (async () => {
          while (!(await stream.read()).done);
        })().catch((e) => e.kind);
        return [first, second];
      }, 24 * MiB);
      assert.deepEqual(kinds, ["Cancelled", "Io"]);
      await page.evaluate(() => window.image.close());
    });
  });

  test("a worker that cannot be loaded is an error, not silence", async () => {
    const kind = await page.evaluate(() => window.sectora.startEngine({ worker: "/dist/none.js" }).catch((e) => `${e.kind}: ${e.message}`));
    assert.match(kind, /^Bug: the worker has stopped/);
    const wasm = await page.evaluate(() => window.sectora.startEngine({ wasm: "/dist/none.wasm" }).catch((e) => e.kind));
    assert.equal(wasm, "Io");
  });
});

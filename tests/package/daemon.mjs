#!/usr/bin/env node
// The engine of the package as a daemon: QMP over standard input and output, a line a message. All files
// of the working directory are attached under their names, and those that commands may make. For tests;
// `SECTORA_PACKAGE` is the folder where the package is installed. With `SECTORA_MEMORY` the files are read
// into memory, which is attached in their place and written back in the end.

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { load } from "./support.mjs";

const { startEngine, QmpError, toJson } = await load(process.env.SECTORA_PACKAGE);
const engine = await startEngine();
const there = readdirSync(".");
const coming = ["new0", "new1", "overlay"];
/** What stands for the files, by name. */
const memory = new Map();
for (const name of [...there, ...coming]) {
  if (process.env.SECTORA_MEMORY) {
    const contents = there.includes(name) ? readFileSync(name) : Buffer.alloc(0);
    memory.set(name, new Uint8Array(new ArrayBuffer(contents.length, { maxByteLength: 2 ** 26 })));
    memory.get(name).set(contents);
  }
  await engine.attach(name, memory.get(name) ?? name, { writable: true, create: coming.includes(name) });
}

const say = (message) => process.stdout.write(`${toJson(message, 0)}\n`);

const events = engine.events();
const listening = (async () => {
  for await (const event of events) say(event);
})();

const version = await engine.execute({ execute: "query-version" });
// The same as the daemon offers on its standard input; nobody asks for it.
say({ QMP: { version, capabilities: ["oob"] } });

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const id = "id" in request && { id: request.id };
  if (request.execute === "qmp_capabilities") {
    say({ return: {}, ...id });
    continue;
  }
  if (request.execute === "quit") break;
  let answer;
  try {
    answer = { return: await engine.execute(request), ...id };
  } catch (e) {
    if (!(e instanceof QmpError)) throw e;
    answer = { ...id, error: { class: e.class, desc: e.desc } };
  }
  // What happened before the answer has been read by now.
  await new Promise((resolve) => setImmediate(resolve));
  say(answer);
}
await engine.close();
await listening;
for (const [name, bytes] of memory) if (there.includes(name) || bytes.length > 0) writeFileSync(name, bytes);
say({ return: {} });

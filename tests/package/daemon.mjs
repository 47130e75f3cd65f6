#!/usr/bin/env node
// The engine of the package as a daemon: QMP over standard input and output, a line a message. All files
// of the working directory are attached under their names, and those that commands may make. For tests;
// `SECTORA_PACKAGE` is the folder where the package is installed.

import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { load } from "./support.mjs";

const { startEngine, QmpError, toJson } = await load(process.env.SECTORA_PACKAGE);
const engine = await startEngine();
for (const name of readdirSync(".")) await engine.attach(name, name, { writable: true });
for (const name of ["new0", "new1", "overlay"]) await engine.attach(name, name, { writable: true, create: true });

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
say({ return: {} });

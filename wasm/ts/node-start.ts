/** Starting the engine in Node: in this thread or in a worker. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { RemoteEngine } from "./client.js";
import { LocalEngine } from "./engine.js";
import { images } from "./module.js";
import { nodePlatform } from "./node-storage.js";
import type { Modules } from "./remote.js";
import type { Message } from "./rpc.js";
import type { Engine, EngineOptions, WasmInput } from "./types.js";

/** An engine in this thread. */
export async function startHere(given: Modules, onLeak?: (name: string) => void): Promise<LocalEngine> {
  const at = async (input: WasmInput | undefined, name: string) => fromFile((await input) ?? join(__dirname, name));
  await images.load(() => at(given.wasm, "sectora_bg.wasm"));
  return new LocalEngine(nodePlatform, () => at(given.monitorWasm, "sectora_monitor_bg.wasm"), onLeak);
}

/** Node's `fetch` knows no files. */
function fromFile(input: WasmInput): WasmInput {
  if (typeof input === "string" && !/^[a-z]+:/.test(input)) return readFileSync(input);
  const url = typeof input === "string" ? new URL(input) : input;
  return url instanceof URL && url.protocol === "file:" ? readFileSync(fileURLToPath(url)) : url;
}

export async function startNode(options: EngineOptions): Promise<Engine> {
  if ((options.where ?? "here") === "here") return startHere(options, options.onLeak);
  const worker = makeWorker(options);
  try {
    return await RemoteEngine.start(
      {
        send: (message, transfer) => worker.postMessage(message, transfer),
        listen(receive, lost) {
          worker.on("message", (message: Message) => receive(message));
          worker.on("error", lost);
          worker.on("exit", (code) => lost(new Error(`it ended with status ${code}`)));
        },
      },
      { wasm: await options.wasm, monitorWasm: await options.monitorWasm },
      () => worker.terminate(),
      options.onLeak,
    );
  } catch (e) {
    await worker.terminate();
    throw e;
  }
}

function makeWorker({ worker }: EngineOptions): Worker {
  if (typeof worker === "string" || worker instanceof URL) return new Worker(worker);
  if (typeof worker === "function") return worker() as unknown as Worker;
  return (worker as Worker | undefined) ?? new Worker(join(__dirname, "node-worker.cjs"));
}

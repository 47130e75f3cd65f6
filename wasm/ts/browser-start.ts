/** Starting the engine in browsers: in a worker or in this thread. */

import { RemoteEngine } from "./client.js";
import { LocalEngine } from "./engine.js";
import { images } from "./module.js";
import { browserPlatform } from "./browser-storage.js";
import { invalid } from "./errors.js";
import type { Modules } from "./remote.js";
import type { Message, Port } from "./rpc.js";
import type { Engine, EngineOptions, WasmInput } from "./types.js";

/** What the package brings, where it does. */
export interface Defaults {
  wasm?: () => URL;
  monitorWasm?: () => URL;
  worker?: () => Worker;
}

/** A thread that draws has no time for conversions, and no sync access handles. */
function isWindow(): boolean {
  return typeof document === "object";
}

export async function startBrowser(options: EngineOptions, defaults: Defaults): Promise<Engine> {
  const canWork = options.worker !== undefined || defaults.worker !== undefined;
  const where = options.where ?? (isWindow() && canWork ? "worker" : "here");
  if (where === "here") return startHere(options, defaults, options.onLeak);
  const worker = makeWorker(options, defaults);
  try {
    const [wasm, monitorWasm] = [await sendable(options.wasm), await sendable(options.monitorWasm)];
    return await RemoteEngine.start(workerPort(worker), { wasm, monitorWasm }, () => worker.terminate(), options.onLeak);
  } catch (e) {
    worker.terminate();
    throw e;
  }
}

/** An engine in this thread. */
export async function startHere(
  given: Modules,
  defaults: Defaults,
  onLeak?: (name: string) => void,
): Promise<LocalEngine> {
  await images.load(() => moduleOf(given.wasm, defaults.wasm, "wasm"));
  const monitor = () => moduleOf(given.monitorWasm, defaults.monitorWasm, "monitorWasm");
  return new LocalEngine(browserPlatform, monitor, onLeak);
}

async function moduleOf(
  given: WasmInput | undefined,
  byDefault: (() => URL) | undefined,
  name: string,
): Promise<WasmInput> {
  const input = (await given) ?? byDefault?.();
  if (input === undefined) throw invalid(`the module has no default place here: give it as \`${name}\``);
  return input;
}

function makeWorker({ worker }: EngineOptions, defaults: Defaults): Worker {
  if (typeof worker === "string" || worker instanceof URL) return new Worker(worker, { type: "module" });
  if (typeof worker === "function") return worker() as Worker;
  if (worker) return worker as Worker;
  if (!defaults.worker) throw invalid("the worker has no default place here: give it as `worker`");
  return defaults.worker();
}

/** The module in a form that can be sent to a worker. */
async function sendable(wasm: WasmInput | undefined): Promise<WasmInput | undefined> {
  const input = await wasm;
  if (typeof input === "string" || input instanceof URL) return new URL(input, location.href).href;
  if (typeof Request === "function" && input instanceof Request) return WebAssembly.compileStreaming(fetch(input));
  if (typeof Response === "function" && input instanceof Response) return WebAssembly.compileStreaming(input);
  return input;
}

function workerPort(worker: Worker): Port {
  return {
    send: (message, transfer) => worker.postMessage(message, transfer),
    listen(receive, lost) {
      worker.onmessage = ({ data }: MessageEvent<Message>) => receive(data);
      worker.onerror = (event) => {
        event.preventDefault?.();
        lost(new Error(event.message || "it could not be loaded"));
      };
      worker.onmessageerror = () => lost(new Error("a message could not be read"));
    },
  };
}

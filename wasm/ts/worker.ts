/** A module worker that runs the engine for another thread. */

import { startHere } from "./browser-start.js";
import { serve } from "./server.js";
import type { Message } from "./rpc.js";

/** What a dedicated worker has. */
interface WorkerScope {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  onmessage: ((event: MessageEvent) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;

serve(
  {
    send: (message, transfer) => scope.postMessage(message, transfer),
    listen(receive) {
      scope.onmessage = ({ data }: MessageEvent<Message>) => receive(data);
    },
  },
  (modules) =>
    startHere(modules, {
      wasm: () => new URL("./sectora_bg.wasm", import.meta.url),
      monitorWasm: () => new URL("./sectora_monitor_bg.wasm", import.meta.url),
    }),
);

export {};

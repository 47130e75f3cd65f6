/** A worker thread of Node that runs the engine for another. */

import { parentPort } from "node:worker_threads";
import { startHere } from "./node-start.js";
import { serve } from "./server.js";
import type { Message } from "./rpc.js";

if (parentPort) {
  const port = parentPort;
  serve(
    {
      send: (message, transfer) => port.postMessage(message, transfer),
      listen(receive) {
        port.on("message", (message: Message) => receive(message));
      },
    },
    (modules) => startHere(modules),
  );
}

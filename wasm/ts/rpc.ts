/** Calls between two threads: the same on both sides. */

import { SectoraError, cancelled, toData, toError } from "./errors.js";
import type { ErrorData } from "./errors.js";
import type { TaskOptions } from "./types.js";

/** One end of a channel of messages. */
export interface Port {
  send(message: Message, transfer: ArrayBuffer[]): void;
  /** Called once. */
  listen(receive: (message: Message) => void, lost: (why: Error) => void): void;
}

/** Everything that is ever sent. */
export type Message =
  | { type: "call"; id: number; method: string; args: unknown[] }
  | { type: "cancel"; id: number }
  | { type: "progress"; id: number; done: bigint; total: bigint }
  | { type: "done"; id: number; value: unknown }
  | { type: "failed"; id: number; error: ErrorData };

/** What a call may use while it runs. */
export interface CallContext {
  signal: AbortSignal;
  onProgress: (done: bigint, total: bigint) => void;
}

/** Answers one method. What it returns inside a `Moved` is transferred, not copied. */
export type Method = (args: unknown[], context: CallContext) => unknown;

/** A result whose memory goes over to the other side. */
export class Moved {
  constructor(
    readonly value: unknown,
    readonly transfer: ArrayBuffer[],
  ) {}
}

/** Bytes as a result that is moved, where they have memory of their own; copied where not. */
export function moved(bytes: Uint8Array): Moved {
  const own = bytes.byteLength === bytes.buffer.byteLength && bytes.buffer instanceof ArrayBuffer;
  // A Buffer's own slice() would be a view of the same memory.
  const sent = own ? bytes : new Uint8Array(bytes);
  return new Moved(sent, [sent.buffer as ArrayBuffer]);
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: SectoraError): void;
  onProgress?: TaskOptions["onProgress"];
}

export class Peer {
  readonly #port: Port;
  readonly #methods: Readonly<Record<string, Method>>;
  /** Calls of ours that are not answered yet. */
  readonly #waiting = new Map<number, Waiting>();
  /** Calls of theirs that are under way. */
  readonly #running = new Map<number, AbortController>();
  #next = 0;
  #lost: SectoraError | undefined;

  constructor(port: Port, methods: Readonly<Record<string, Method>>) {
    this.#port = port;
    this.#methods = methods;
    port.listen(
      (message) => this.#receive(message),
      (why) => this.lose(new SectoraError("Bug", `the worker has stopped: ${why.message}`, { cause: why })),
    );
  }

  /** Nothing will come any more. */
  lose(why: SectoraError): void {
    this.#lost ??= why;
    for (const { reject } of this.#waiting.values()) reject(why);
    this.#waiting.clear();
    for (const controller of this.#running.values()) controller.abort(why);
  }

  call<T>(method: string, args: unknown[], options: TaskOptions = {}, transfer: ArrayBuffer[] = []): Promise<T> {
    const { signal, onProgress } = options;
    if (this.#lost) return Promise.reject(this.#lost);
    if (signal?.aborted) return Promise.reject(cancelled(signal.reason));
    const id = this.#next++;
    const cancel = () => this.#port.send({ type: "cancel", id }, []);
    const answer = new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject, onProgress });
      this.#port.send({ type: "call", id, method, args }, transfer);
      signal?.addEventListener("abort", cancel, { once: true });
    });
    return answer
      .catch((e: unknown) => {
        const error = toError(e);
        throw error.kind === "Cancelled" && signal?.aborted ? cancelled(signal.reason) : error;
      })
      .finally(() => signal?.removeEventListener("abort", cancel));
  }

  #receive(message: Message): void {
    const { id } = message;
    switch (message.type) {
      case "call":
        void this.#answer(id, message.method, message.args);
        break;
      case "cancel":
        this.#running.get(id)?.abort();
        break;
      case "progress":
        this.#waiting.get(id)?.onProgress?.(message.done, message.total);
        break;
      case "done":
        this.#waiting.get(id)?.resolve(message.value);
        this.#waiting.delete(id);
        break;
      case "failed":
        this.#waiting.get(id)?.reject(toError(message.error));
        this.#waiting.delete(id);
        break;
    }
  }

  async #answer(id: number, name: string, args: unknown[]): Promise<void> {
    const controller = new AbortController();
    this.#running.set(id, controller);
    try {
      const method = this.#methods[name];
      if (!method) throw new SectoraError("Bug", `no such method: ${name}`);
      const onProgress = (done: bigint, total: bigint) =>
        this.#port.send({ type: "progress", id, done, total }, []);
      const result = await method(args, { signal: controller.signal, onProgress });
      if (result instanceof Moved) this.#port.send({ type: "done", id, value: result.value }, result.transfer);
      else this.#port.send({ type: "done", id, value: result }, []);
    } catch (e) {
      this.#port.send({ type: "failed", id, error: toData(e) }, []);
    } finally {
      this.#running.delete(id);
    }
  }
}

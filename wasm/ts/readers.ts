/**
 * Threads that read a blob for the engine's worker: workers of the same script under another name,
 * so that neither bundlers nor a page's policy have to know of a second file.
 *
 * What one cannot do is read in place: where there are no workers inside workers, where they are
 * forbidden, until one is ready, and when one has stopped.
 */

import { cancelled } from "./errors.js";
import type { Readers, StartReaders } from "./blob.js";

/** The name that makes a worker a reader. */
export const READER = "sectora reader";

/** Two keep up with the engine; more are in each other's way. */
const COUNT = 2;

/** To a reader: first the blob, then ranges of it. */
type Order = Blob | { id: number; start: number; end: number };
/** From a reader: that it is there, then bytes, or that the blob could not be read. */
type Answer = "ready" | { id: number; bytes: ArrayBuffer | undefined };

/** A read that has not been answered. `settle` is told the bytes, or that there are none. */
interface Waiting {
  worker: Worker;
  settle(bytes: ArrayBuffer | undefined): void;
  fail(why: unknown): void;
}

/** Starts readers, each a worker of the script at `url`. */
export function readersFrom(url: string): StartReaders {
  return (blob) => new WorkerReaders(url, blob);
}

class WorkerReaders implements Readers {
  readonly #blob: Blob;
  readonly #workers: Worker[] = [];
  /** Those that have answered, in the order in which they are asked. */
  #ready: Worker[] = [];
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;

  constructor(url: string, blob: Blob) {
    this.#blob = blob;
    for (let i = 0; i < COUNT; i++) {
      try {
        this.#start(new Worker(url, { type: "module", name: READER }));
      } catch {
        // There are none here, or they are not allowed.
        return;
      }
    }
  }

  #start(worker: Worker): void {
    this.#workers.push(worker);
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data === "ready") {
        worker.postMessage(this.#blob satisfies Order);
        this.#ready.push(worker);
      } else {
        this.#waiting.get(data.id)?.settle(data.bytes);
        this.#waiting.delete(data.id);
      }
    };
    worker.onmessageerror = () => this.#lose(worker);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#lose(worker);
    };
  }

  /** It will not answer any more. */
  #lose(lost: Worker): void {
    lost.terminate();
    this.#ready = this.#ready.filter((worker) => worker !== lost);
    for (const [id, { worker, settle }] of this.#waiting) {
      if (worker !== lost) continue;
      this.#waiting.delete(id);
      settle(undefined);
    }
  }

  read(start: number, end: number): Promise<Uint8Array> | undefined {
    const worker = this.#ready.shift();
    if (!worker) return undefined;
    this.#ready.push(worker);
    const id = this.#next++;
    const answer = new Promise<ArrayBuffer | undefined>((settle, fail) => {
      this.#waiting.set(id, { worker, settle, fail });
    });
    worker.postMessage({ id, start, end } satisfies Order);
    // Read once more in place, it fails with the error that the caller is to see.
    return answer.then(async (bytes) => new Uint8Array(bytes ?? (await this.#blob.slice(start, end).arrayBuffer())));
  }

  close(): void {
    for (const { fail } of this.#waiting.values()) fail(cancelled());
    this.#waiting.clear();
    for (const worker of this.#workers) this.#lose(worker);
  }
}

/** What a reader has. */
interface ReaderScope {
  postMessage(answer: Answer, transfer: ArrayBuffer[]): void;
  onmessage: ((event: MessageEvent<Order>) => void) | null;
}

/** The life of a reader. */
export function serveReads(scope: ReaderScope): void {
  let blob: Blob | undefined;
  const answer = async ({ id, start, end }: Exclude<Order, Blob>) => {
    const bytes = await blob?.slice(start, end).arrayBuffer().catch(() => undefined);
    scope.postMessage({ id, bytes }, bytes ? [bytes] : []);
  };
  scope.onmessage = ({ data }) => {
    if (data instanceof Blob) blob = data;
    else void answer(data);
  };
  scope.postMessage("ready", []);
}

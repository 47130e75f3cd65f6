/**
 * Reading a blob in order, ahead of who asks.
 *
 * One stream costs far less than as many slices: the browser's processes agree once instead of for
 * every read. It is taken in parts of equal size, into buffers that are used again and again.
 */

import { cancelled } from "./errors.js";

/** The stream is taken in parts of this size … */
const PART = 1024 * 1024;
/** … so many of them beyond what was asked for … */
const AHEAD = 8;
/** … and so many are kept in all, for requests side by side that share them. */
const KEPT = 2 * AHEAD;
/** What is skipped is read as well, up to so many bytes: the hole of a sparse file. Who skips more does not read in order. */
export const SKIP = 4 * PART;

/** A part on its way, or there. */
class Part {
  readonly bytes: Promise<Uint8Array>;
  settle!: (bytes: Uint8Array) => void;
  fail!: (why: unknown) => void;
  /** Those who need it to stay as it is. */
  users = 0;

  constructor() {
    this.bytes = new Promise((settle, fail) => {
      this.settle = settle;
      this.fail = fail;
    });
    // Whoever waits for it learns of it; it is no error if nobody does.
    this.bytes.catch(() => {});
  }
}

/** Reads `length` bytes into memory that is as long or longer, and gives them; the memory moves. */
type Pull = (into: ArrayBuffer, length: number) => Promise<Uint8Array>;

/** One stream over a blob, from a place on. */
export class Ahead {
  readonly #blob: Blob;
  readonly #pull: Pull;
  readonly #stop: () => void;
  readonly #parts = new Map<number, Part>();
  #spare: ArrayBuffer[] = [];
  /** The part that the stream gives next. */
  #next: number;
  /** The last part that anybody wants, so far. */
  #wanted = -1;
  #pumping = false;
  /** Why there is nothing more to be had. */
  #ended: unknown;

  constructor(blob: Blob, offset: number) {
    this.#blob = blob;
    this.#next = Math.floor(offset / PART);
    const stream = blob.slice(this.#next * PART).stream();
    [this.#pull, this.#stop] = pulls(stream);
  }

  /** Whether `[offset, end)` is kept, or what the stream comes to soon. */
  reaches(offset: number, end: number): boolean {
    if (this.#ended !== undefined || end - offset > AHEAD * PART) return false;
    const first = Math.floor(offset / PART);
    if (first >= this.#next) return offset <= Math.max(this.#next, this.#wanted + 1) * PART + SKIP;
    return this.#parts.has(first);
  }

  /** Gives `[offset, end)` to `put`, in order. */
  async fill(offset: number, end: number, put: (bytes: Uint8Array) => void): Promise<void> {
    const [first, last] = [Math.floor(offset / PART), Math.floor((end - 1) / PART)];
    const parts: Part[] = [];
    for (let number = first; number <= last; number++) parts.push(this.#part(number));
    for (const part of parts) part.users += 1;
    this.#wanted = Math.max(this.#wanted, last);
    void this.#pump();
    try {
      for (const [i, part] of parts.entries()) {
        const at = (first + i) * PART;
        put((await part.bytes).subarray(Math.max(offset - at, 0), end - at));
      }
    } finally {
      for (const part of parts) part.users -= 1;
    }
  }

  #part(number: number): Part {
    let part = this.#parts.get(number);
    if (!part) {
      part = new Part();
      this.#parts.set(number, part);
      if (this.#ended !== undefined || number < this.#next) part.fail(this.#ended ?? new Error("passed"));
    }
    return part;
  }

  /** Takes from the stream what is wanted, and some more. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#ended === undefined && this.#next <= this.#wanted + AHEAD && this.#next * PART < this.#blob.size) {
        const part = this.#part(this.#next);
        this.#forget(this.#next - KEPT);
        const length = Math.min(PART, this.#blob.size - this.#next * PART);
        const bytes = await this.#pull(this.#spare.pop() ?? new ArrayBuffer(PART), length);
        this.#next += 1;
        part.settle(bytes);
      }
    } catch (e) {
      this.#end(e);
    } finally {
      this.#pumping = false;
    }
  }

  /** Uses the memory of a part again that nobody comes back to. */
  #forget(number: number): void {
    const part = this.#parts.get(number);
    if (!part) return;
    this.#parts.delete(number);
    if (part.users === 0) void part.bytes.then(({ buffer }) => this.#spare.push(buffer as ArrayBuffer));
  }

  #end(why: unknown): void {
    this.#ended ??= why;
    for (const [number, part] of this.#parts) if (number >= this.#next) part.fail(this.#ended);
    this.#parts.clear();
    this.#spare = [];
    this.#stop();
  }

  /** Ends the stream; what it has not given fails. */
  close(): void {
    this.#end(cancelled());
  }
}

/** How a stream is read into memory of ours, and how it is ended. */
function pulls(stream: ReadableStream<Uint8Array>): [Pull, () => void] {
  try {
    const reader = stream.getReader({ mode: "byob" });
    return [moving(reader), () => void reader.cancel().catch(() => {})];
  } catch {
    const reader = stream.getReader();
    return [copying(reader), () => void reader.cancel().catch(() => {})];
  }
}

function moving(reader: ReadableStreamBYOBReader): Pull {
  return async (into, length) => {
    for (let filled = 0; ; ) {
      const { value, done } = await reader.read(new Uint8Array(into, filled, length - filled));
      if (done || !value) throw early();
      into = value.buffer;
      filled += value.length;
      if (filled === length) return new Uint8Array(into, 0, length);
    }
  };
}

/** For streams that only give memory of their own. */
function copying(reader: ReadableStreamDefaultReader<Uint8Array>): Pull {
  let rest = new Uint8Array(0);
  return async (into, length) => {
    const out = new Uint8Array(into, 0, length);
    for (let filled = 0; ; ) {
      const count = Math.min(rest.length, length - filled);
      out.set(rest.subarray(0, count), filled);
      rest = rest.subarray(count);
      filled += count;
      if (filled === length) return out;
      const { value, done } = await reader.read();
      if (done) throw early();
      rest = value as Uint8Array<ArrayBuffer>;
    }
  };
}

function early(): Error {
  return new Error("the stream has ended early");
}

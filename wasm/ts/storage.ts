/** Storage as the engine sees it, and the kinds that are the same everywhere. */

import { SectoraError, invalid } from "./errors.js";
import type { CustomSource, CustomTarget } from "./types.js";

/** Copies bytes into the engine; they may change afterwards. */
export type Put = (bytes: Uint8Array) => void;

/** See the bindings. Lengths and offsets are exact to 2^53. */
export interface Storage {
  readonly name: string;
  readonly writable: boolean;
  /** True where `readSync` and `writeSync` are to be used, else `read` and `write`. */
  readonly sync: boolean;
  size(): number;
  /** Space taken; -1 where that is not known. */
  allocated(): number;
  readSync?(out: Uint8Array, offset: number): number;
  writeSync?(data: Uint8Array, offset: number): void;
  /** Reads `length` bytes: gives all of them to `put`, in order, before it resolves. */
  fill?(offset: number, length: number, put: Put): Promise<void>;
  write?(offset: number, data: Uint8Array): Promise<void>;
  truncate?(size: number): Promise<void> | void;
  flush?(): Promise<void> | void;
}

/** Storage that was opened for an image. */
export interface OpenedSource {
  storage: Storage;
  /** Whether the storage has a name of its own, rather than one that says what it is. */
  named: boolean;
  /** Equal for two that are the same file, where that can be told. */
  identity?: string | undefined;
  close(): Promise<void>;
}

/** Storage that nodes stand on. */
export interface OpenedDevice {
  storage: Storage;
  /** Only it knows how long the storage is by now: it stays open as long as that is attached. */
  lasting?: boolean;
  close(): Promise<void>;
}

/** Where a new image is written: at any offset, or in order. One of the last two ends it. */
export interface OpenedTarget {
  storage?: Storage;
  write?(chunk: Uint8Array): Promise<void>;
  /** Makes the new image appear. */
  commit(): Promise<void>;
  /** Leaves what was there before. */
  abort(): Promise<void>;
}

/** What a target has to do. */
export interface TargetNeeds {
  /** It is written once, in ascending order, and never read. */
  sequential: boolean;
  /** It is never read. */
  writeOnly: boolean;
  /** Identities of what is read meanwhile. */
  sources: ReadonlySet<string>;
}

/** `value` as a length or offset the engine can count with. */
export function toSize(value: bigint | number, what: string): number {
  const size = Number(value);
  if (!Number.isSafeInteger(size) || size < 0) {
    throw invalid(`${what} is ${value}, which is no size up to 2^53`);
  }
  return size;
}

/** A source that cannot be written. */
export function readOnly(name: string, size: number, fill: NonNullable<Storage["fill"]>): Storage {
  return { name, writable: false, sync: false, size: () => size, allocated: () => -1, fill };
}

export function memorySource(bytes: Uint8Array): OpenedSource {
  return { storage: memoryStorage(bytes), named: false, close: async () => {} };
}

/** What a buffer of JavaScript has that can change its length; newer than the types. */
type Resizable = ArrayBuffer & { resizable?: boolean; resize?(length: number): void };

function memoryStorage(bytes: Uint8Array): Storage {
  const storage: Storage = {
    name: "memory",
    writable: false,
    sync: true,
    size: () => bytes.length,
    allocated: () => bytes.length,
    readSync(out, offset) {
      const part = bytes.subarray(offset, offset + out.length);
      out.set(part);
      return part.length;
    },
  };
  return storage;
}

/** Memory as a device. It changes its length as far as its buffer can. */
export function memoryDevice(bytes: Uint8Array, writable: boolean): OpenedDevice {
  const buffer = bytes.buffer as Resizable;
  const truncate = (size: number) => {
    if (size === bytes.length) return;
    if (!buffer.resizable || bytes.byteOffset !== 0 || bytes.length !== buffer.byteLength) {
      throw new SectoraError("NoSpace", `memory of ${bytes.length} bytes cannot change its length: use a resizable ArrayBuffer`);
    }
    try {
      buffer.resize?.(size);
    } catch (e) {
      throw new SectoraError("NoSpace", `memory cannot be ${size} bytes long: ${(e as Error).message}`);
    }
  };
  const storage: Storage = {
    ...memoryStorage(bytes),
    writable,
    writeSync(data, offset) {
      if (offset + data.length > bytes.length) truncate(offset + data.length);
      bytes.set(data, offset);
    },
    truncate,
    flush: () => {},
  };
  return { storage, close: async () => {} };
}

/** The same as storage of the user's own, for an engine in another thread. */
export function memoryTarget(bytes: Uint8Array): CustomTarget {
  const { storage } = memoryDevice(bytes, true);
  return {
    size: bytes.length,
    name: storage.name,
    read: (offset, length) => bytes.subarray(Number(offset), Number(offset) + length),
    write: (offset, data) => storage.writeSync?.(data, Number(offset)),
    truncate: (size) => storage.truncate?.(Number(size)),
  };
}

/** Storage of the user's as a device. */
export function customDevice(custom: CustomSource | CustomTarget, writable: boolean): OpenedDevice {
  const close = async () => {
    await custom.close?.();
  };
  if (!writable) return { storage: customSource(custom).storage, close };
  if (typeof (custom as CustomTarget).write !== "function") refuseWriting(true, custom.name ?? "storage without write()");
  const { storage, reach } = customStorage(custom as CustomTarget);
  return {
    // What is durable has its whole length.
    storage: { ...storage, flush: async () => { await reach(); await storage.flush?.(); } },
    lasting: true,
    close,
  };
}

/** Refuses to write to what can only be read. */
export function refuseWriting(writable: boolean, what: string): void {
  if (writable) throw new SectoraError("Denied", `${what} cannot be written to in place: attach it for reading only`);
}

function checked(bytes: unknown, length: number): Uint8Array {
  if (!(bytes instanceof Uint8Array)) {
    throw new SectoraError("Io", "read() returned something else than a Uint8Array");
  }
  if (bytes.length !== length) {
    throw new SectoraError("Io", `read() returned ${bytes.length} bytes instead of ${length}`);
  }
  return bytes;
}

export function customSource(source: CustomSource): OpenedSource {
  return {
    storage: readOnly(source.name ?? "source", toSize(source.size, "size"), async (offset, length, put) =>
      put(checked(await source.read(BigInt(offset), length), length)),
    ),
    named: source.name !== undefined,
    close: async () => {
      await source.close?.();
    },
  };
}

/** Storage of the user's to write to, and what makes it as long as the engine believes it to be. */
function customStorage(target: CustomTarget): { storage: Storage; reach: () => Promise<void> } {
  const size = toSize(target.size, "size");
  /** Bytes that are really there; what lies behind them up to `length` reads as zeroes. */
  let written = size;
  let length = size;
  const write = async (offset: number, data: Uint8Array) => {
    // The callee may transfer the bytes away.
    const end = offset + data.length;
    await target.write(BigInt(offset), data);
    written = Math.max(written, end);
    length = Math.max(length, written);
  };
  const storage: Storage = {
    name: target.name ?? "target",
    writable: true,
    sync: false,
    size: () => length,
    allocated: () => -1,
    async fill(offset, length, put) {
      const there = Math.max(0, Math.min(length, written - offset));
      if (there > 0) put(checked(await target.read(BigInt(offset), there), there));
      if (there < length) put(new Uint8Array(length - there));
    },
    write,
    async truncate(to) {
      if (target.truncate) {
        await target.truncate(BigInt(to));
        written = to;
      } else if (to < written) {
        throw new SectoraError("Unsupported", "the target is not empty and has no truncate()");
      }
      length = to;
    },
    async flush() {
      await target.flush?.();
    },
  };
  const reach = async () => {
    if (written < length) await write(length - 1, new Uint8Array(1));
  };
  return { storage, reach };
}

/** Storage of the user's as a target. Without `truncate` it must be empty, and grows by writes. */
export function customTarget(target: CustomTarget): OpenedTarget {
  if (typeof target.write !== "function") throw invalid("the target has no write()");
  const { storage, reach } = customStorage(target);
  return {
    storage,
    async commit() {
      await reach();
      await target.flush?.();
      await target.close?.();
    },
    async abort() {
      await (target.abort ?? target.close)?.call(target);
    },
  };
}

/** Whether it is storage of the user's own. */
export function isCustom(value: unknown): value is CustomSource {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof (value as CustomSource).read === "function" &&
    ["bigint", "number"].includes(typeof (value as CustomSource).size)
  );
}

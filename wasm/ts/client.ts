/** The caller's side of an engine in a worker. */

import { SectoraError, cancelled, invalid } from "./errors.js";
import { Queues, settled } from "./queue.js";
import type { QmpAnswer } from "./queue.js";
import { RemoteNode } from "./remote-node.js";
import { Peer, moved } from "./rpc.js";
import type { Port } from "./rpc.js";
import { OPTIONAL } from "./remote.js";
import type { Modules, Sent, SentImage, SentNode, SentOpen, SentResolved } from "./remote.js";
import { isCustom, memoryTarget } from "./storage.js";
import { pushedStream } from "./stream.js";
import type { Push } from "./stream.js";
import type {
  AttachOptions,
  BlockMeasureInfo,
  BlockNode,
  CheckResult,
  CommandName,
  Commands,
  ConvertOptions,
  ConvertResult,
  CreateOptions,
  CustomTarget,
  Engine,
  EventName,
  EventStream,
  FormatName,
  Image,
  ImageInfo,
  MapEntry,
  MapOptions,
  MeasureOptions,
  NewFormat,
  OpenOptions,
  QmpEvent,
  QmpRequest,
  Reference,
  ResolvedSource,
  Resolver,
  Source,
  StreamOptions,
  Target,
  TaskOptions,
} from "./types.js";

/** Options without what cannot be sent. */
function plain<T extends object>(options: T): Omit<T, "signal" | "onProgress" | "resolve"> {
  const { signal: _, onProgress: __, resolve: ___, ...rest } = options as T & TaskOptions & { resolve?: unknown };
  return rest;
}

export class RemoteEngine implements Engine {
  readonly peer: Peer;
  readonly #end: () => unknown;
  readonly #storage = new Map<number, CustomTarget>();
  readonly #resolvers = new Map<number, { resolve: Resolver; storage: number[] }>();
  readonly streams = new Map<number, Push>();
  readonly #queues = new Queues();
  /** Storage of the caller's own that is attached, by name. */
  readonly #attached = new Map<string, number[]>();
  readonly #leaks: FinalizationRegistry<{ id: number; name: string }>;
  #next = 0;
  #closed: Promise<void> | undefined;

  private constructor(port: Port, end: () => unknown, onLeak?: (name: string) => void) {
    this.#end = end;
    this.peer = new Peer(port, {
      storage: ([id, method, args]) => this.#call(id as number, method as string, args as unknown[]),
      resolve: ([id, reference]) => this.#resolve(id as number, reference as Reference),
      push: async ([stream, chunk]) => {
        const push = this.streams.get(stream as number);
        if (!push) throw cancelled();
        await push(chunk as Uint8Array);
      },
      event: ([event]) => this.#queues.tell(event as QmpEvent),
    });
    this.#leaks = new FinalizationRegistry(({ id, name }) => {
      onLeak?.(name);
      this.peer.call("closeImage", [id]).catch(() => {});
    });
  }

  /** Starts the engine behind `port`; `end` ends the worker. */
  static async start(
    port: Port,
    modules: Modules,
    end: () => unknown,
    onLeak?: (name: string) => void,
  ): Promise<RemoteEngine> {
    const engine = new RemoteEngine(port, end, onLeak);
    try {
      await engine.peer.call("start", [modules]);
    } catch (e) {
      end();
      throw e;
    }
    return engine;
  }

  next(): number {
    return this.#next++;
  }

  /** Node cannot send blobs of files to another thread: they are read here. */
  #blob(blob: Blob, ids: number[]): Sent {
    const read = async (offset: bigint, length: number) =>
      new Uint8Array(await blob.slice(Number(offset), Number(offset) + length).arrayBuffer());
    const name = (blob as Partial<File>).name;
    return this.send({ size: blob.size, read, ...(name !== undefined && { name }) }, ids);
  }

  /** A source or target as it is sent. Storage of the caller's own is kept under `ids`. */
  send(value: Source | Target, ids: number[]): Sent {
    if (value instanceof URL) return { type: "plain", value: value.href.startsWith("file:") ? filePath(value) : value.href };
    if (value instanceof Blob && typeof process === "object") return this.#blob(value, ids);
    if (value instanceof Blob || value instanceof Uint8Array || !isCustom(value)) {
      const fd = (value as { fd?: unknown })?.fd;
      // A handle of Node's stays here; its descriptor is the whole process's.
      if (typeof fd === "number") return { type: "plain", value: fd };
      if (typeof (value as { getSize?: unknown })?.getSize === "function") {
        throw invalid("a sync access handle belongs to its thread: give its file handle, or run the engine there");
      }
      return { type: "plain", value };
    }
    const id = this.next();
    const custom = value as CustomTarget;
    this.#storage.set(id, custom);
    ids.push(id);
    const size = BigInt(custom.size);
    return { type: "custom", id, size, name: custom.name, has: OPTIONAL.filter((method) => custom[method]) };
  }

  release(ids: number[]): void {
    for (const id of ids) this.#storage.delete(id);
  }

  async #call(id: number, method: string, args: unknown[]): Promise<unknown> {
    const storage = this.#storage.get(id);
    if (!storage) throw cancelled();
    switch (method) {
      case "read":
        return moved(copyOf(await storage.read(args[0] as bigint, args[1] as number)));
      case "write":
        return storage.write(args[0] as bigint, args[1] as Uint8Array);
      case "truncate":
        return storage.truncate?.(args[0] as bigint);
      case "flush":
        return storage.flush?.();
      case "abort":
        return storage.abort?.();
      case "close":
        return storage.close?.();
      default:
        throw new SectoraError("Bug", `no such call of storage: ${method}`);
    }
  }

  async #resolve(id: number, reference: Reference): Promise<SentResolved | undefined> {
    const resolver = this.#resolvers.get(id);
    const answer = await resolver?.resolve(reference);
    if (!resolver || answer === null || answer === undefined) return undefined;
    const given = typeof answer === "object" && "source" in answer ? (answer as ResolvedSource) : undefined;
    return { source: this.send(given?.source ?? (answer as Source), resolver.storage), name: given?.name };
  }

  async open(source: Source, options: OpenOptions = {}): Promise<Image> {
    const storage: number[] = [];
    const { resolve, signal } = options;
    let resolver: number | undefined;
    if (resolve) {
      resolver = this.next();
      this.#resolvers.set(resolver, { resolve, storage });
    }
    try {
      const sent: SentOpen = { options: plain(options), resolver };
      const opened = await this.peer.call<SentImage>("open", [this.send(source, storage), sent], { signal });
      const image = new RemoteImage(this, opened, storage, () => this.#leaks.unregister(image));
      this.#leaks.register(image, { id: opened.id, name: opened.name }, image);
      return image;
    } catch (e) {
      this.release(storage);
      throw e;
    } finally {
      if (resolver !== undefined) this.#resolvers.delete(resolver);
    }
  }

  async create(target: Target, options: CreateOptions): Promise<ConvertResult> {
    const storage: number[] = [];
    try {
      const { signal } = options;
      return await this.peer.call("create", [this.send(target, storage), plain(options)], { signal });
    } finally {
      this.release(storage);
    }
  }

  measure(options: NewFormat & { size: bigint | number }): Promise<BlockMeasureInfo> {
    return this.peer.call("measureNew", [plain(options)]);
  }

  async attach(name: string, source: Source, options: AttachOptions = {}): Promise<void> {
    const storage: number[] = [];
    // What is written to memory is to be seen here, not in a copy.
    const given = source instanceof Uint8Array && options.writable ? memoryTarget(source) : source;
    try {
      await this.peer.call("attach", [name, this.send(given, storage), { ...options }]);
    } catch (e) {
      this.release(storage);
      throw e;
    }
    this.release(this.#attached.get(name) ?? []);
    this.#attached.set(name, storage);
  }

  async detach(name: string): Promise<void> {
    await this.peer.call("detach", [name]);
    this.release(this.#attached.get(name) ?? []);
    this.#attached.delete(name);
  }

  async execute<C extends CommandName>(request: QmpRequest<C>): Promise<Commands[C]["returns"]> {
    return settled(await this.peer.call<QmpAnswer>("execute", [sendable(request)]));
  }

  events<E extends EventName = EventName>(filter?: E | readonly E[]): EventStream<QmpEvent<E>> {
    return this.#queues.open(filter);
  }

  async openNode(name: string, options: { writable?: boolean | undefined } = {}): Promise<BlockNode> {
    const writable = options.writable ?? false;
    const sent = await this.peer.call<SentNode>("openNode", [name, writable]);
    return new RemoteNode(this.peer, sent, name, writable);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    try {
      await this.peer.call("close", []);
    } catch (e) {
      // What could not be made durable is told; that it has stopped already is not.
      if ((e as SectoraError).kind !== "Bug") throw e;
    } finally {
      this.#queues.end();
      this.peer.lose(new SectoraError("InvalidInput", "the engine is closed"));
      await this.#end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A request as it can be sent: only what is JSON, and refused here where it is none. */
function sendable(request: object): unknown {
  try {
    return structuredClone(request);
  } catch (e) {
    throw invalid(`the request is no JSON: ${(e as Error).message}`);
  }
}

/** What a caller's `read` returned may be used by the caller again: it is not moved away. */
function copyOf(bytes: unknown): Uint8Array {
  if (!(bytes instanceof Uint8Array)) {
    throw new SectoraError("Io", "read() returned something else than a Uint8Array");
  }
  // A Buffer's own slice() would be a view of the same memory.
  return new Uint8Array(bytes);
}

function filePath(url: URL): string {
  return decodeURIComponent(url.pathname);
}

class RemoteImage implements Image {
  readonly size: bigint;
  readonly format: FormatName;
  readonly name: string;
  readonly #engine: RemoteEngine;
  readonly #id: number;
  readonly #storage: number[];
  readonly #closing: () => void;
  #closed: Promise<void> | undefined;

  constructor(engine: RemoteEngine, opened: SentImage, storage: number[], closing: () => void) {
    this.#engine = engine;
    this.#id = opened.id;
    this.size = opened.size;
    this.format = opened.format as FormatName;
    this.name = opened.name;
    this.#storage = storage;
    this.#closing = closing;
  }

  #call<T>(method: string, args: unknown[], options?: TaskOptions): Promise<T> {
    if (this.#closed) return Promise.reject(invalid(`'${this.name}' is closed`));
    return this.#engine.peer.call<T>(method, [this.#id, ...args], options);
  }

  info(): Promise<ImageInfo> {
    return this.#call("info", []);
  }

  async map(options: MapOptions = {}): Promise<MapEntry[]> {
    const all: MapEntry[] = [];
    for await (const batch of this.mapEntries(options)) all.push(...batch);
    return all;
  }

  async *mapEntries(options: MapOptions = {}): AsyncIterableIterator<MapEntry[]> {
    const { signal, onProgress, start = 0n, length = this.size - start } = options;
    const walk = await this.#call<number>("mapStart", [plain(options)]);
    const peer = this.#engine.peer;
    try {
      for (;;) {
        if (signal?.aborted) throw cancelled(signal.reason);
        const batch = await peer.call<MapEntry[] | undefined>("mapNext", [walk], { signal });
        const last = batch?.at(-1);
        if (!batch || !last) return;
        onProgress?.(last.start + last.length - start, length);
        yield batch;
      }
    } finally {
      await peer.call("mapEnd", [walk]).catch(() => {});
    }
  }

  check(options: TaskOptions = {}): Promise<CheckResult> {
    return this.#call("check", [], options);
  }

  measure(options: MeasureOptions): Promise<BlockMeasureInfo> {
    return this.#call("measure", [plain(options)], options);
  }

  read(offset: bigint, length: number, options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    return this.#call("read", [offset, length], options);
  }

  async convert(target: Target, options: ConvertOptions): Promise<ConvertResult> {
    const storage: number[] = [];
    try {
      return await this.#call("convert", [this.#engine.send(target, storage), plain(options)], options);
    } finally {
      this.#engine.release(storage);
    }
  }

  stream(options: StreamOptions): ReadableStream<Uint8Array> {
    const engine = this.#engine;
    const { signal: outer, onProgress } = options;
    return pushedStream(outer, (push, signal) => {
      const id = engine.next();
      engine.streams.set(id, push);
      return this.#call<void>("stream", [id, plain(options)], { signal, onProgress }).finally(() =>
        engine.streams.delete(id),
      );
    });
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#closing();
      await this.#engine.peer.call("closeImage", [this.#id]).catch(() => {});
      this.#engine.release(this.#storage);
    })();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The engine in this thread: the public calls over the bindings. */

import { SectoraError, cancelled, invalid, toError } from "./errors.js";
import { makeHost } from "./host.js";
import { plainCounts } from "./json.js";
import * as bindings from "./pkg/sectora.js";
import { toSize } from "./storage.js";
import type { OpenedSource, OpenedTarget, TargetNeeds } from "./storage.js";
import { pushedStream } from "./stream.js";
import type {
  BlockGraphInfo,
  BlockMeasureInfo,
  CheckResult,
  ConvertOptions,
  ConvertResult,
  CreateOptions,
  Engine,
  FormatName,
  Image,
  ImageInfo,
  MapEntry,
  MapOptions,
  MeasureOptions,
  NewFormat,
  OpenOptions,
  ReferenceKind,
  ResolvedSource,
  Resolver,
  Source,
  StreamOptions,
  Target,
  TaskOptions,
} from "./types.js";

/** What opens storage here. */
export interface Platform {
  source(source: Source): Promise<OpenedSource>;
  target(target: Target, needs: TargetNeeds): Promise<OpenedTarget>;
}

/** A read is done in parts of this size, so that memory of the module stays bounded. */
const READ_STEP = 4 * 1024 * 1024;
/** Nobody wants more at once, and typed arrays end soon after. */
const READ_MOST = 2 ** 30;
/** Entries of a map in one batch. */
const BATCH = 4096;

/** Why the module has stopped, once it has; there is one in a thread. */
let dead: SectoraError | undefined;
/** Calls under way, to fail when the module stops. */
const waiting = new Set<(error: SectoraError) => void>();
let loading: Promise<void> | undefined;

function panicked(message: string): void {
  dead = new SectoraError("Bug", `the engine has stopped: ${message}`);
  for (const fail of waiting) fail(dead);
  waiting.clear();
}

/** Loads the module into this thread; later calls wait for the first. */
export function load(module: () => Promise<unknown>): Promise<void> {
  loading ??= (async () => {
    const input = await module();
    try {
      await bindings.default({ module_or_path: input as bindings.InitInput });
    } catch (e) {
      throw new SectoraError("Io", `the engine could not be loaded: ${(e as Error).message}`, { cause: e });
    }
    bindings.install(makeHost(panicked) as bindings.Host);
  })();
  loading.catch(() => {
    loading = undefined;
  });
  return loading;
}

/** Runs one call of the bindings: cancelling, progress, and errors as people know them. */
async function run<T>(
  options: TaskOptions | undefined,
  start: (task: bindings.Task) => Promise<unknown>,
  tasks?: Set<bindings.Task>,
): Promise<T> {
  const { signal, onProgress } = options ?? {};
  if (dead) throw dead;
  if (signal?.aborted) throw cancelled(signal.reason);
  const task = new bindings.Task(
    onProgress && ((done: number, total: number) => report(onProgress, done, total)),
  );
  const cancel = () => task.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  tasks?.add(task);
  let fail: (error: SectoraError) => void = () => {};
  try {
    return await new Promise<T>((resolve, reject) => {
      fail = reject;
      waiting.add(fail);
      start(task).then(resolve as (value: unknown) => void, reject);
    });
  } catch (e) {
    const error = toError(e);
    throw error.kind === "Cancelled" && signal?.aborted ? cancelled(signal.reason) : error;
  } finally {
    waiting.delete(fail);
    tasks?.delete(task);
    signal?.removeEventListener("abort", cancel);
    task.free();
  }
}

/** Calls a listener; what it throws is reported as if an event listener had thrown it. */
function report(listener: (done: bigint, total: bigint) => void, done: number, total: number): void {
  try {
    listener(BigInt(done), BigInt(total));
  } catch (e) {
    queueMicrotask(() => {
      throw e;
    });
  }
}

/** What a new image has. */
const NEW = [
  "format",
  "preallocation",
  "compat",
  "clusterSize",
  "refcountBits",
  "compressionType",
  "extendedL2",
  "lazyRefcounts",
  "backing",
];
/** The options that the engine itself reads, by call. */
const OPTIONS = {
  open: ["format", "backing", "snapshot", "name"],
  create: [...NEW, "size"],
  measure: NEW,
  convert: [...NEW, "compressed", "sparseSize"],
  stream: [...NEW, "sparseSize"],
} as const;

/** The options for a call of the bindings. A name that is not known is a mistake, not a wish. */
function own(call: keyof typeof OPTIONS, options: object): object {
  if (typeof options !== "object" || options === null) throw invalid("the options are missing");
  const { signal: _, onProgress: __, resolve: ___, ...rest } = options as Record<string, unknown>;
  for (const name of Object.keys(rest)) {
    if (!(OPTIONS[call] as readonly string[]).includes(name)) {
      throw invalid(`${call} has no option '${name}' (it has: ${OPTIONS[call].join(", ")})`);
    }
  }
  return rest;
}

function isResolved(answer: Source | ResolvedSource): answer is ResolvedSource {
  return typeof answer === "object" && "source" in answer;
}

/** Reports images that were dropped without being closed. */
type Leaks = FinalizationRegistry<string>;

export class LocalEngine implements Engine {
  readonly #platform: Platform;
  readonly #images = new Set<WeakRef<LocalImage>>();
  readonly #leaks: Leaks | undefined;
  #closed = false;

  constructor(platform: Platform, onLeak?: (name: string) => void) {
    this.#platform = platform;
    this.#leaks = onLeak && new FinalizationRegistry(onLeak);
  }

  #check(): void {
    if (this.#closed) throw invalid("the engine is closed");
  }

  async open(source: Source, options: OpenOptions = {}): Promise<Image> {
    this.#check();
    const opened: OpenedSource[] = [];
    const { resolve } = options;
    try {
      const main = await this.#platform.source(source).catch((e: unknown) => {
        throw toError(e);
      });
      opened.push(main);
      const handle = await run<bindings.Image>(options, (task) =>
        bindings.open(
          main.storage as bindings.Storage,
          own("open", options),
          resolve && ((...reference: string[]) => this.#resolve(resolve, opened, reference)),
          task,
        ),
      );
      const image = new LocalImage(this.#platform, handle, opened, () => {
        this.#images.delete(reference);
        this.#leaks?.unregister(image);
      });
      const reference = new WeakRef(image);
      this.#images.add(reference);
      this.#leaks?.register(image, image.name, image);
      return image;
    } catch (e) {
      await closeAll(opened);
      throw e;
    }
  }

  async #resolve(resolve: Resolver, opened: OpenedSource[], reference: string[]): Promise<unknown> {
    const [kind, name = "", referrer = ""] = reference;
    const answer = await resolve({ kind: kind as ReferenceKind, name, referrer });
    if (answer === null || answer === undefined) return undefined;
    const { source, name: given } = isResolved(answer) ? answer : { source: answer, name: undefined };
    const found = await this.#platform.source(source);
    opened.push(found);
    return { storage: found.storage, name: given ?? (found.named ? found.storage.name : undefined) };
  }

  async create(target: Target, options: CreateOptions): Promise<ConvertResult> {
    this.#check();
    // Options that cannot be are refused before the target is touched.
    await this.measure(sized(options));
    const needs = { sequential: false, writeOnly: options.format === "raw", sources: new Set<string>() };
    return writeTo(this.#platform, target, needs, (opened) =>
      run(options, (task) => bindings.create(opened.storage as bindings.Storage, own("create", sized(options)), task)),
    );
  }

  async measure(options: NewFormat & { size: bigint | number }): Promise<BlockMeasureInfo> {
    this.#check();
    return run(undefined, async () => plainCounts(bindings.measureNew(own("create", sized(options)))));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#images].map((image) => image.deref()?.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** With the size as the engine takes it. */
function sized<T extends { size: bigint | number }>(options: T): T {
  if (typeof options.size !== "bigint" && typeof options.size !== "number") throw invalid("size is missing");
  const size = BigInt(typeof options.size === "number" ? toSize(options.size, "size") : options.size);
  if (size < 0n) throw invalid(`size is ${size}`);
  return { ...options, size };
}

async function closeAll(opened: OpenedSource[]): Promise<void> {
  // One that fails does not keep the others open.
  await Promise.allSettled(opened.map((source) => source.close()));
}

/** Opens a target, writes to it, and makes the result appear or takes it back. */
async function writeTo(
  platform: Platform,
  target: Target,
  needs: TargetNeeds,
  write: (opened: OpenedTarget) => Promise<number>,
): Promise<ConvertResult> {
  let opened: OpenedTarget;
  try {
    opened = await platform.target(target, needs);
  } catch (e) {
    throw toError(e);
  }
  try {
    const size = await write(opened);
    await opened.commit();
    return { size: BigInt(size) };
  } catch (e) {
    // The first error is the one to tell.
    await opened.abort().catch(() => {});
    throw toError(e);
  }
}

class LocalImage implements Image {
  readonly size: bigint;
  readonly format: FormatName;
  readonly name: string;
  readonly #platform: Platform;
  readonly #handle: bindings.Image;
  readonly #opened: OpenedSource[];
  readonly #closing: () => void;
  readonly #tasks = new Set<bindings.Task>();
  #closed: Promise<void> | undefined;

  constructor(platform: Platform, handle: bindings.Image, opened: OpenedSource[], closing: () => void) {
    this.#platform = platform;
    this.#handle = handle;
    this.#opened = opened;
    this.#closing = closing;
    this.size = handle.size;
    this.format = handle.format as FormatName;
    this.name = handle.name;
  }

  #run<T>(options: TaskOptions | undefined, start: (task: bindings.Task) => Promise<unknown>): Promise<T> {
    if (this.#closed) return Promise.reject(invalid(`'${this.name}' is closed`));
    return run(options, start, this.#tasks);
  }

  async info(): Promise<ImageInfo> {
    const chain = await this.#run<BlockGraphInfo[]>(undefined, () => this.#handle.info());
    const nest = (below: ImageInfo | undefined, image: BlockGraphInfo): ImageInfo =>
      below ? { ...image, "backing-image": below } : image;
    return plainCounts(chain.reduceRight<ImageInfo | undefined>(nest, undefined) as ImageInfo);
  }

  async map(options: MapOptions = {}): Promise<MapEntry[]> {
    const all: MapEntry[] = [];
    for await (const batch of this.mapEntries(options)) all.push(...batch);
    return all;
  }

  async *mapEntries(options: MapOptions = {}): AsyncIterableIterator<MapEntry[]> {
    if (this.#closed) throw invalid(`'${this.name}' is closed`);
    const start = offsetOf(options.start ?? 0n, this.size, "start");
    const length = offsetOf(options.length ?? this.size - start, this.size - start, "length");
    const { signal } = options;
    const walk = this.#handle.map(start, length);
    try {
      for (;;) {
        const batch = await this.#run<MapEntry[]>({ signal }, (task) => walk.next(BATCH, task));
        if (batch.length === 0) return;
        const last = batch.at(-1) as MapEntry;
        options.onProgress?.(last.start + last.length - start, length);
        yield plainCounts(batch);
      }
    } finally {
      walk.free();
    }
  }

  async check(options: TaskOptions = {}): Promise<CheckResult> {
    const result = await this.#run<CheckResult | undefined>(options, (task) => this.#handle.check(task));
    if (!result) {
      throw new SectoraError("Unsupported", `${this.format} images have no structures to check`, {
        format: this.format,
      });
    }
    return plainCounts(result);
  }

  async measure(options: MeasureOptions): Promise<BlockMeasureInfo> {
    return plainCounts(
      await this.#run<BlockMeasureInfo>(options, (task) => this.#handle.measure(own("measure", options), task)),
    );
  }

  async read(offset: bigint, length: number, options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    const start = offsetOf(offset, this.size, "offset");
    if (!Number.isSafeInteger(length) || length < 0 || length > READ_MOST) {
      throw invalid(`length is ${length}, which is no length up to 2^30`);
    }
    offsetOf(BigInt(length), this.size - start, "offset + length");
    if (length <= READ_STEP) {
      return this.#run(options, (task) => this.#handle.read(start, length, task));
    }
    const out = new Uint8Array(length);
    for (let done = 0; done < length; done += READ_STEP) {
      const part = await this.#run<Uint8Array>(options, (task) =>
        this.#handle.read(start + BigInt(done), Math.min(READ_STEP, length - done), task),
      );
      out.set(part, done);
    }
    return out;
  }

  async convert(target: Target, options: ConvertOptions): Promise<ConvertResult> {
    // Options that cannot be are refused before the target is touched.
    const { compressed: _, sparseSize: __, onProgress: ___, ...format } = options;
    await this.#run(undefined, async () => bindings.measureNew(own("create", { ...format, size: this.size })));
    const qcow2 = options.format === "qcow2";
    const plain = !options.compressed && (options.preallocation ?? "off") === "off" && !(qcow2 && options.backing);
    const needs = {
      sequential: qcow2 && plain,
      writeOnly: !qcow2,
      sources: new Set(this.#opened.flatMap((source) => source.identity ?? [])),
    };
    return writeTo(this.#platform, target, needs, async ({ storage, write }) => {
      if (storage) {
        return this.#run(options, (task) =>
          this.#handle.convert(storage as bindings.Storage, own("convert", options), task),
        );
      }
      let size = 0;
      await this.#run(options, (task) =>
        this.#handle.stream(
          async (chunk: Uint8Array) => {
            size += chunk.length;
            await write?.(chunk);
          },
          own("convert", options),
          task,
        ),
      );
      return size;
    });
  }

  stream(options: StreamOptions): ReadableStream<Uint8Array> {
    return pushedStream(options.signal, (push, signal) =>
      this.#run({ ...options, signal }, (task) => this.#handle.stream(push, own("stream", options), task)),
    );
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#closing();
      for (const task of this.#tasks) task.cancel();
      if (!dead) await this.#handle.close();
      await closeAll(this.#opened);
      if (!dead) this.#handle.free();
    })();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** `value` as an offset up to `end`. */
function offsetOf(value: bigint, end: bigint, what: string): bigint {
  if (typeof value !== "bigint") throw invalid(`${what} must be a bigint, not a ${typeof value}`);
  if (value < 0n || value > end) throw invalid(`${what} is ${value}, which is outside 0 to ${end}`);
  return value;
}

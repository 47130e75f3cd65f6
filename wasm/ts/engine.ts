/** The engine in this thread: the public calls over the bindings. */

import { SectoraError, invalid, toError } from "./errors.js";
import { plainCounts } from "./json.js";
import { images } from "./module.js";
import type { Task } from "./module.js";
import { LocalMonitor } from "./monitor.js";
import { settled } from "./queue.js";
import { offsetOf, readParts } from "./ranges.js";
import type * as bindings from "./pkg/sectora.js";
import { toSize } from "./storage.js";
import type { OpenedDevice, OpenedSource, OpenedTarget, TargetNeeds } from "./storage.js";
import { pushedStream } from "./stream.js";
import type {
  AttachOptions,
  BlockGraphInfo,
  BlockMeasureInfo,
  BlockNode,
  CheckResult,
  CommandName,
  Commands,
  ConvertOptions,
  ConvertResult,
  CreateOptions,
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
  /** Opens storage for a node: in place, for reading or for both. */
  device(source: Source, options: AttachOptions): Promise<OpenedDevice>;
}

/** Entries of a map in one batch. */
const BATCH = 4096;

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
  readonly #monitor: LocalMonitor;
  #closed = false;

  /** `loadMonitor` loads the module of the monitor when that is first used. */
  constructor(platform: Platform, loadMonitor: () => Promise<unknown>, onLeak?: (name: string) => void) {
    this.#platform = platform;
    this.#monitor = new LocalMonitor(platform, loadMonitor);
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
      const handle = await images.run<bindings.Image>(options, (task) =>
        images.bindings.open(
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
      images.run(options, (task) => images.bindings.create(opened.storage as bindings.Storage, own("create", sized(options)), task)),
    );
  }

  async measure(options: NewFormat & { size: bigint | number }): Promise<BlockMeasureInfo> {
    this.#check();
    return images.run(undefined, async () => plainCounts(images.bindings.measureNew(own("create", sized(options)))));
  }

  /** The monitor, as long as the engine is open. */
  get monitor(): LocalMonitor {
    this.#check();
    return this.#monitor;
  }

  async attach(name: string, source: Source, options: AttachOptions = {}): Promise<void> {
    await this.monitor.attach(name, source, options);
  }

  async detach(name: string): Promise<void> {
    await this.monitor.detach(name);
  }

  async execute<C extends CommandName>(request: QmpRequest<C>): Promise<Commands[C]["returns"]> {
    return settled(await this.monitor.execute(request));
  }

  events<E extends EventName = EventName>(filter?: E | readonly E[]): EventStream<QmpEvent<E>> {
    return this.monitor.queues.open(filter);
  }

  async openNode(name: string, options: { writable?: boolean | undefined } = {}): Promise<BlockNode> {
    return this.monitor.open(name, options.writable ?? false);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#images].map((image) => image.deref()?.close()));
    await this.#monitor.close();
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
  readonly #tasks = new Set<Task>();
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
    return images.run(options, start, this.#tasks);
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

  read(offset: bigint, length: number, options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    return readParts(this.size, offset, length, (at, step) =>
      this.#run(options, (task) => this.#handle.read(at, step, task)),
    );
  }

  async convert(target: Target, options: ConvertOptions): Promise<ConvertResult> {
    // Options that cannot be are refused before the target is touched.
    const { compressed: _, sparseSize: __, onProgress: ___, ...format } = options;
    await this.#run(undefined, async () => images.bindings.measureNew(own("create", { ...format, size: this.size })));
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
      if (!images.hasStopped) await this.#handle.close();
      await closeAll(this.#opened);
      if (!images.hasStopped) this.#handle.free();
    })();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

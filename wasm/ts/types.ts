/// <reference lib="esnext.disposable" preserve="true" />

/**
 * The public types of the package.
 *
 * Rules: offsets and sizes are `bigint`, every other number is a `number`; bytes are `Uint8Array`;
 * whatever takes long takes an `AbortSignal` and tells its progress; whatever fails throws a
 * `SectoraError` whose `kind` is for code and whose `message` is for people. Objects that describe
 * images have exactly the member names of QEMU's schema.
 */

import type { Monitor } from "./qmp.js";

export type * from "./qmp.js";
/** The types of commands and events, as QEMU's schema names them. */
export type * as qapi from "./qapi.js";

// ---------------------------------------------------------------------------------------- errors

/** Who is to blame, and so what a caller can do. */
export type ErrorKind =
  /** The storage below failed. */
  | "Io"
  /** Valid, but this engine does not do it. */
  | "Unsupported"
  /** The image breaks a rule of its format. */
  | "Corrupt"
  /** A limit of the format or of the engine is exceeded. */
  | "Limit"
  /** An image wanted a file that it was not given, or the storage is read-only. */
  | "Denied"
  /** Somebody else holds the file. */
  | "InUse"
  /** The caller asked for something that cannot be. */
  | "InvalidInput"
  /** No such file, snapshot or bitmap. */
  | "NotFound"
  /** The storage is full. */
  | "NoSpace"
  /** The caller gave up: an `AbortSignal`, or `close()`. */
  | "Cancelled"
  /** Cannot happen; please report it. */
  | "Bug";

/** `backing`: what unallocated ranges are read from; `data-file`: where the guest's data is. */
export type ReferenceKind = "backing" | "data-file";

/** What an image names: a file that it cannot be read without. */
export interface Reference {
  /** What it is for. */
  kind: ReferenceKind;
  /** The name, exactly as the image has it. */
  name: string;
  /** The name of the image that wants it, as that was opened. */
  referrer: string;
}

// --------------------------------------------------------------------------- sources and targets

/** Bytes that can be read by offset: the interface for storage of your own. */
export interface CustomSource {
  /** Length in bytes. */
  readonly size: bigint | number;
  /**
   * Reads `length` bytes at `offset`. The range lies within `size`, and `length` is at most a few
   * megabytes; fewer bytes than asked for are an error. Several reads may be in flight.
   */
  read(offset: bigint, length: number): Uint8Array | Promise<Uint8Array>;
  /** The name that messages and `info` use. */
  readonly name?: string;
  /** Called when the engine needs it no more. */
  close?(): void | Promise<void>;
}

/** Bytes that can be read and written by offset. */
export interface CustomTarget extends CustomSource {
  /**
   * Writes all of `data` at `offset`. A write past the end makes the storage longer; a gap reads as
   * zeroes. `data` is the callee's only until the promise settles.
   */
  write(offset: bigint, data: Uint8Array): void | Promise<void>;
  /** Returns when everything that was written is durable. */
  flush?(): void | Promise<void>;
  /** Makes it shorter, or longer with zeroes. Without it, only empty storage can be a target. */
  truncate?(size: bigint): void | Promise<void>;
  /** Called instead of the last `flush` when the work failed or was given up. */
  abort?(): void | Promise<void>;
}

/** A file of the origin-private file system, by its path from the root: `disks/new.qcow2`. */
export interface OpfsFile {
  opfs: string;
  /**
   * As a target: whether a finished file has to survive a crash of the machine. `false` is for a
   * file that is only needed for a while, a download's for example: nothing waits for the disk
   * then, and such a crash may leave a damaged file under its name. `true` if it is not said.
   */
  durable?: boolean;
}

/** A `FileSystemFileHandle`, from a picker or from the origin-private file system. */
export interface FileHandleLike {
  readonly kind: "file";
  readonly name: string;
  getFile(): Promise<Blob>;
}

/** A `FileSystemSyncAccessHandle`. */
export interface SyncAccessHandleLike {
  read(buffer: Uint8Array, options?: { at?: number }): number;
  write(buffer: Uint8Array, options?: { at?: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** A `Worker`. */
export interface WorkerLike {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  terminate(): unknown;
}

/** What Node's `fs/promises` opens. */
export interface NodeFileHandle {
  readonly fd: number;
}

/**
 * Where an image is read from.
 *
 * - everywhere: `Blob`, `File`, `Uint8Array`, storage of your own (`CustomSource`)
 * - browsers: `FileSystemFileHandle` (from a picker or from the origin-private file system),
 *   `OpfsFile`; where the engine runs in this thread also `FileSystemSyncAccessHandle`
 * - Node: a path, a `file:` URL, a `FileHandle`, a file descriptor (the last two stay open)
 */
export type Source =
  | Blob
  | Uint8Array
  | CustomSource
  | OpfsFile
  | FileHandleLike
  | SyncAccessHandleLike
  | URL
  | string
  | number
  | NodeFileHandle;

/**
 * Where an image is written to. What was there is replaced, and only when the new image is complete:
 * after a failure or an abort a path, an OPFS file and a picked file hold what they held before
 * (nothing, if they were not there). `FileHandle`s, descriptors, sync access handles and storage of
 * your own are written in place.
 */
export type Target =
  | CustomTarget
  | OpfsFile
  | FileHandleLike
  | SyncAccessHandleLike
  | URL
  | string
  | number
  | NodeFileHandle;

// --------------------------------------------------------------------------------------- options

/** A format by the schema's name. */
export type FormatName = "raw" | "qcow2";

/** For whatever takes long. */
export interface TaskOptions {
  /** Ends the work; it then fails with an error of kind `Cancelled`. */
  signal?: AbortSignal | undefined;
  /** Is told how much is done, and of how much, in bytes of work; `total` may change meanwhile. */
  onProgress?: ((done: bigint, total: bigint) => void) | undefined;
}

/** A file for a reference, where its own name will not do. */
export interface ResolvedSource {
  source: Source;
  /** The name that messages, `info` and further references of the file use. */
  name?: string | undefined;
}

/**
 * Decides about a file that an image names. No answer (`null`, `undefined`) denies it: opening then
 * fails with an error of kind `Denied` that carries the reference as `wanted`.
 */
export type Resolver = (
  reference: Reference,
) =>
  | Source
  | ResolvedSource
  | null
  | undefined
  | Promise<Source | ResolvedSource | null | undefined>;

/** How to open an image. */
export interface OpenOptions {
  /** The format; by default what the contents say. */
  format?: FormatName | undefined;
  /** Decides about backing and data files; by default every one is denied. */
  resolve?: Resolver | undefined;
  /**
   * `ignore`: leave the backing file closed, for a look at the image alone. What it does not hold
   * itself then reads as zeroes.
   */
  backing?: "follow" | "ignore" | undefined;
  /** Read this internal snapshot (its id or name) instead of the active state. */
  snapshot?: string | undefined;
  /** The name that messages and `info` use; by default the source's own. */
  name?: string | undefined;
  /** Gives up opening. */
  signal?: AbortSignal | undefined;
}

/** How the space of a new image is prepared. */
export type Preallocation = "off" | "metadata" | "falloc" | "full";

/** What a new raw image is like. */
export interface RawFormat {
  format: "raw";
  preallocation?: "off" | "falloc" | "full" | undefined;
}

/** What a new qcow2 image is like; defaults are QEMU's. */
export interface Qcow2Format {
  format: "qcow2";
  /** `0.10` is version 2, `1.1` (the default) version 3. */
  compat?: "0.10" | "1.1" | undefined;
  /** Bytes in a cluster: a power of two from 512 to 2 MiB; default 65536. */
  clusterSize?: number | undefined;
  /** Bits in a reference count: a power of two from 1 to 64; default 16. */
  refcountBits?: number | undefined;
  /** How compressed clusters are compressed; default `zlib`. */
  compressionType?: "zlib" | "zstd" | undefined;
  /** Subclusters: 32 in a cluster. */
  extendedL2?: boolean | undefined;
  lazyRefcounts?: boolean | undefined;
  preallocation?: Preallocation | undefined;
  /**
   * Names a backing file in the new image. It is not opened: that it has the contents of the source's
   * own backing file is up to the caller, and only what lies above that is copied.
   */
  backing?: { name: string; format?: FormatName | undefined } | undefined;
}

/** A new image. */
export type NewFormat = RawFormat | Qcow2Format;

/** How to convert. */
export type ConvertOptions = NewFormat &
  TaskOptions & {
    /** Write compressed clusters (qcow2). */
    compressed?: boolean | undefined;
    /**
     * Runs of zeroes of at least so many bytes in the data are not written; default 4096. 0: write
     * everything, known zeroes too.
     */
    sparseSize?: number | undefined;
  };

/** What a conversion did. */
export interface ConvertResult {
  /** Length of the target in bytes. */
  size: bigint;
}

/** How to convert to a stream: in one pass, so without compression and preallocation. */
export type StreamOptions = (Omit<RawFormat, "preallocation"> | Omit<Qcow2Format, "preallocation">) &
  TaskOptions & {
    /** As of `ConvertOptions`. */
    sparseSize?: number | undefined;
  };

/** How to create an empty image. */
export type CreateOptions = NewFormat & {
  /** Virtual size in bytes. */
  size: bigint | number;
  signal?: AbortSignal | undefined;
};

/** What to measure for. */
export type MeasureOptions = NewFormat & TaskOptions;

/** Which part to map. */
export interface MapOptions extends TaskOptions {
  /** The first byte; default 0. */
  start?: bigint | undefined;
  /** Bytes; default to the end. */
  length?: bigint | undefined;
}

// -------------------------------------------------------------------------- what is told of images

/** An internal snapshot. */
export interface SnapshotInfo {
  id: string;
  name: string;
  "vm-state-size": bigint;
  "date-sec": number;
  "date-nsec": number;
  "vm-clock-sec": number;
  "vm-clock-nsec": number;
  icount?: number;
}

/** A dirty bitmap stored in a qcow2 image. */
export interface Qcow2BitmapInfo {
  name: string;
  /** Bytes that one bit stands for. */
  granularity: number;
  flags: ("in-use" | "auto")[];
}

/** The encryption of an image. */
export interface Qcow2EncryptionInfo {
  format: "aes" | "luks";
  [member: string]: unknown;
}

/** What is particular to a qcow2 image. */
export interface ImageInfoSpecificQCow2 {
  compat: "0.10" | "1.1";
  "compression-type": "zlib" | "zstd";
  "refcount-bits": number;
  "lazy-refcounts"?: boolean;
  corrupt?: boolean;
  "extended-l2"?: boolean;
  "data-file"?: string;
  "data-file-raw"?: boolean;
  bitmaps?: Qcow2BitmapInfo[];
  encrypt?: Qcow2EncryptionInfo;
}

/** What is particular to a file. */
export interface ImageInfoSpecificFile {
  "extent-size-hint"?: bigint;
}

/** What is particular to a format. */
export type ImageInfoSpecific =
  | { type: "qcow2"; data: ImageInfoSpecificQCow2 }
  | { type: "file"; data: ImageInfoSpecificFile };

/** An image or file by itself. */
export interface BlockNodeInfo {
  /** The name that it was opened by. */
  filename: string;
  /** The name of its format. */
  format: string;
  /** The size that a guest sees. */
  "virtual-size": bigint;
  /** Bytes that it occupies, where that is known. */
  "actual-size"?: bigint;
  /** The unit of allocation. */
  "cluster-size"?: bigint;
  "dirty-flag"?: boolean;
  encrypted?: boolean;
  compressed?: boolean;
  /** The backing file, as the image names it. */
  "backing-filename"?: string;
  /** The same, resolved against the image's own place. */
  "full-backing-filename"?: string;
  "backing-filename-format"?: string;
  snapshots?: SnapshotInfo[];
  "format-specific"?: ImageInfoSpecific;
}

/** An image with the files it lives in. */
export interface BlockGraphInfo extends BlockNodeInfo {
  children: { name: string; info: BlockGraphInfo }[];
}

/** An image, the files it lives in, and the images it stands on. */
export interface ImageInfo extends BlockGraphInfo {
  /** The backing image, where it was opened. */
  "backing-image"?: ImageInfo;
}

/** One run of bytes with the same status. */
export interface MapEntry {
  start: bigint;
  length: bigint;
  /** How many layers down the chain it was decided; 0 is the image itself. */
  depth: number;
  /** A layer of the chain decides it. */
  present: boolean;
  /** It reads as zeroes. */
  zero: boolean;
  /** Bytes are stored for it. */
  data: boolean;
  /** They are compressed. */
  compressed: boolean;
  /** Where they lie in the file, if they lie there as they are. */
  offset?: bigint;
  /** The name of that file. */
  filename?: string;
}

/** Something that a check found. */
export interface Finding {
  /** `leak`: space is lost, data is safe; `error`: it could not be looked at. */
  kind: "leak" | "corruption" | "error" | "note";
  /** In words. */
  what: string;
  /** Where in the image file. */
  offset?: bigint;
}

/** The result of a check. Counts are absent where they are 0 or the format does not know. */
export interface ImageCheck {
  filename: string;
  format: string;
  "check-errors": number;
  corruptions?: number;
  leaks?: number;
  "image-end-offset"?: bigint;
  "total-clusters"?: number;
  "allocated-clusters"?: number;
  "fragmented-clusters"?: number;
  "compressed-clusters"?: number;
}

/** The result of a check, with what was found: at most 10,000 findings; the counts are complete. */
export interface CheckResult extends ImageCheck {
  findings: Finding[];
}

/** How large a new image will be. */
export interface BlockMeasureInfo {
  /** Bytes when the contents are in it. */
  required: bigint;
  /** Bytes when every cluster is written. */
  "fully-allocated": bigint;
  bitmaps?: bigint;
}

// ------------------------------------------------------------------------------------------- calls

/** An opened image, read-only. Close it when done. */
export interface Image extends AsyncDisposable {
  /** The size that a guest sees, in bytes. */
  readonly size: bigint;
  /** Its format: given, or found. */
  readonly format: FormatName;
  /** The name it was opened by. */
  readonly name: string;
  /** What it is, with its backing chain as far as that was opened. */
  info(): Promise<ImageInfo>;
  /** Its whole allocation map, or a part. For maps of any length see `mapEntries`. */
  map(options?: MapOptions): Promise<MapEntry[]>;
  /** The same, a few thousand entries at a time, in bounded memory. */
  mapEntries(options?: MapOptions): AsyncIterableIterator<MapEntry[]>;
  /** Checks every structure; changes nothing. `Unsupported` for formats without any (raw). */
  check(options?: TaskOptions): Promise<CheckResult>;
  /** How large a new image with its contents will be, without reading the data. */
  measure(options: MeasureOptions): Promise<BlockMeasureInfo>;
  /** Reads what the guest sees. The range must lie within `size`; `length` at most 1 GiB. */
  read(offset: bigint, length: number, options?: { signal?: AbortSignal }): Promise<Uint8Array>;
  /** Writes its contents to `target` as a new image. */
  convert(target: Target, options: ConvertOptions): Promise<ConvertResult>;
  /**
   * The same as a stream of bytes in order. Cancelling the stream ends the work. A stream that
   * errors is incomplete: what was read of it is not an image.
   */
  stream(options: StreamOptions): ReadableStream<Uint8Array>;
  /** Gives everything back. Work that is under way fails with `Cancelled`. */
  close(): Promise<void>;
}

/** An instance of the engine. */
export interface Engine extends AsyncDisposable, Monitor {
  open(source: Source, options?: OpenOptions): Promise<Image>;
  create(target: Target, options: CreateOptions): Promise<ConvertResult>;
  /** How large a new, empty image will be. */
  measure(options: NewFormat & { size: bigint | number }): Promise<BlockMeasureInfo>;
  /** Ends it and everything opened by it. */
  close(): Promise<void>;
}

/**
 * The module, in any form that can be made one: an address, a `Request`, a `Response`, bytes, a
 * `WebAssembly.Module`, or a promise of one of these.
 */
export type WasmInput = string | URL | object;

/** How an engine is started. */
export interface EngineOptions {
  /**
   * `worker`: the engine runs beside this thread (the default in browsers); `here`: in this thread
   * (the default in Node and inside workers).
   */
  where?: "worker" | "here" | undefined;
  /** The module; by default the one in the package. `./slim` has no default. */
  wasm?: WasmInput | undefined;
  /**
   * The module of the monitor (`execute`, `events`, `openNode`), which is loaded when that is first
   * used; by default the one in the package. `./slim` has no default.
   */
  monitorWasm?: WasmInput | undefined;
  /** The worker, where the default (`sectora/worker`, a module worker) cannot be found. */
  worker?: WorkerLike | URL | string | (() => WorkerLike) | undefined;
  /** Is told of images that were dropped without `close()`. */
  onLeak?: ((name: string) => void) | undefined;
}

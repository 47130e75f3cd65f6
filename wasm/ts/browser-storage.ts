/** Storage of browsers: files, the origin-private file system, and files from the save picker. */

import { SectoraError, invalid } from "./errors.js";
import { blobSource } from "./blob.js";
import { customDevice, customSource, customTarget, isCustom, memoryDevice, memorySource, refuseWriting } from "./storage.js";
import type { OpenedDevice, OpenedSource, OpenedTarget, Storage, TargetNeeds } from "./storage.js";
import type { Platform } from "./engine.js";
import type { AttachOptions, CustomTarget, FileHandleLike, OpfsFile, Source, SyncAccessHandleLike, Target } from "./types.js";

/** What is newer than the types of the DOM. */
type SyncHandle = SyncAccessHandleLike;
type OpfsHandle = FileSystemFileHandle & {
  createSyncAccessHandle?(options?: { mode: "read-only" | "readwrite" }): Promise<SyncHandle>;
  move?(parent: FileSystemDirectoryHandle, name: string): Promise<void>;
};

/** Copies from one file to another have parts of this size. */
const COPY = 4 * 1024 * 1024;

export const browserPlatform: Platform = {
  async source(source: Source): Promise<OpenedSource> {
    if (source instanceof Blob) return fileSource(source);
    if (source instanceof Uint8Array) return memorySource(source);
    if (isFileHandle(source)) {
      const path = await opfsPath(source);
      return path === undefined ? fileSource(await source.getFile()) : opfsSource(source as OpfsHandle, path);
    }
    if (isOpfs(source)) return opfsSource(await find(source.opfs), normal(source.opfs));
    if (isSyncHandle(source)) {
      const storage = syncStorage(source, "sync access handle", false);
      return { storage, named: false, close: async () => {} };
    }
    if (isCustom(source)) return customSource(source);
    throw unknown(source, "source");
  },

  async target(target: Target, needs: TargetNeeds): Promise<OpenedTarget> {
    if (isFileHandle(target)) {
      const path = await opfsPath(target);
      return path === undefined ? pickedTarget(target as OpfsHandle, needs) : opfsTarget(path, needs, true);
    }
    if (isOpfs(target)) return opfsTarget(normal(target.opfs), needs, target.durable ?? true);
    if (isSyncHandle(target)) {
      const end = async () => target.flush();
      return { storage: syncStorage(target, "sync access handle", true), commit: end, abort: end };
    }
    if (isCustom(target)) return customTarget(target as CustomTarget);
    throw unknown(target, "target");
  },

  async device(source: Source, { writable = false, create = false }: AttachOptions): Promise<OpenedDevice> {
    if (source instanceof Uint8Array) return memoryDevice(source, writable);
    if (isSyncHandle(source)) {
      return { storage: syncStorage(source, "sync access handle", writable), close: async () => {} };
    }
    if (isOpfs(source)) return opfsDevice(await find(source.opfs, create), normal(source.opfs), writable);
    if (isFileHandle(source)) {
      const path = await opfsPath(source);
      if (path !== undefined) return opfsDevice(source as OpfsHandle, path, writable);
    }
    if (isCustom(source)) return customDevice(source, writable);
    const { storage, close } = await this.source(source);
    refuseWriting(writable, storage.name);
    return { storage, close };
  },
};

/** A private file under a node. */
async function opfsDevice(handle: OpfsHandle, path: string, writable: boolean): Promise<OpenedDevice> {
  const sync = await syncHandle(handle, writable ? "readwrite" : "read-only");
  return { storage: syncStorage(sync, path, writable), close: async () => sync.close() };
}

function unknown(value: unknown, what: string): SectoraError {
  if (["string", "number"].includes(typeof value) || value instanceof URL) {
    return invalid(`a path or descriptor is no ${what} in a browser: use a File, a file handle or { opfs: path }`);
  }
  return invalid(`this is no ${what}: ${Object.prototype.toString.call(value)}`);
}

function isFileHandle(value: unknown): value is FileSystemFileHandle & FileHandleLike {
  return typeof FileSystemFileHandle === "function" && value instanceof FileSystemFileHandle;
}

function isSyncHandle(value: unknown): value is SyncHandle {
  return typeof (value as SyncHandle)?.getSize === "function" && typeof (value as SyncHandle).read === "function";
}

function isOpfs(value: unknown): value is OpfsFile {
  return typeof (value as OpfsFile)?.opfs === "string";
}

function fileSource(blob: Blob): OpenedSource {
  const named = blob instanceof File && blob.name !== "";
  return blobSource(blob, named ? blob.name : "blob", named);
}

// ------------------------------------------------------------------- the origin-private file system

/** The path of a handle in the origin-private file system; `undefined` for one from a picker. */
async function opfsPath(handle: FileSystemHandle): Promise<string | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    return (await root.resolve(handle))?.join("/");
  } catch {
    // There is none in this context.
    return undefined;
  }
}

/** The parts of a path; refuses what is not plainly inside. */
function parts(path: string): string[] {
  const found = path.split("/").filter((part) => part !== "");
  if (found.length === 0 || found.some((part) => part === "." || part === "..")) {
    throw invalid(`'${path}' is no path in the origin-private file system`);
  }
  return found;
}

function normal(path: string): string {
  return parts(path).join("/");
}

/** The directory of a path, made where `create` says so, and the name in it. */
async function parent(path: string, create: boolean): Promise<[FileSystemDirectoryHandle, string]> {
  const names = parts(path);
  const name = names.pop() as string;
  let directory = await navigator.storage.getDirectory();
  for (const part of names) directory = await directory.getDirectoryHandle(part, { create });
  return [directory, name];
}

async function find(path: string, create = false): Promise<OpfsHandle> {
  const [directory, name] = await parent(path, create);
  return directory.getFileHandle(name, { create });
}

async function syncHandle(handle: OpfsHandle, mode: "read-only" | "readwrite"): Promise<SyncHandle> {
  if (!handle.createSyncAccessHandle) {
    throw new SectoraError(
      "Unsupported",
      "the origin-private file system can only be used in a dedicated worker: start the engine with where: 'worker'",
    );
  }
  return handle.createSyncAccessHandle({ mode });
}

async function opfsSource(handle: OpfsHandle, path: string): Promise<OpenedSource> {
  const sync = await syncHandle(handle, "read-only");
  return {
    storage: syncStorage(sync, path, false),
    named: true,
    identity: `opfs:${path}`,
    close: async () => sync.close(),
  };
}

/** A new file beside the final name, which takes its place when it is complete. */
async function opfsTarget(path: string, needs: TargetNeeds, durable: boolean): Promise<OpenedTarget> {
  if (needs.sources.has(`opfs:${path}`)) {
    throw invalid(`'${path}' is being read: it cannot be the target as well`);
  }
  const [directory, name] = await parent(path, true);
  const temporary = await temporaryFile(directory);
  const storage = syncStorage(temporary.sync, path, true);
  return {
    storage: durable ? storage : { ...storage, flush: () => {} },
    async commit() {
      if (durable) temporary.sync.flush();
      temporary.sync.close();
      try {
        if (!temporary.handle.move) throw new SectoraError("Unsupported", "this browser cannot rename files");
        await temporary.handle.move(directory, name);
      } catch (e) {
        await temporary.remove();
        throw e;
      }
    },
    abort: temporary.remove,
  };
}

async function temporaryFile(directory: FileSystemDirectoryHandle) {
  const salt = crypto.getRandomValues(new Uint32Array(2));
  const name = `.sectora-${[...salt].map((n) => n.toString(16).padStart(8, "0")).join("")}.tmp`;
  const handle: OpfsHandle = await directory.getFileHandle(name, { create: true });
  const remove = async () => {
    sync?.close();
    await directory.removeEntry(name).catch(() => {});
  };
  let sync: SyncHandle | undefined;
  try {
    sync = await syncHandle(handle, "readwrite");
  } catch (e) {
    await remove();
    throw e;
  }
  return { handle, sync, remove };
}

function syncStorage(handle: SyncHandle, name: string, writable: boolean): Storage {
  return {
    name,
    writable,
    sync: true,
    size: () => handle.getSize(),
    allocated: () => -1,
    readSync: (out, offset) => handle.read(out, { at: offset }),
    writeSync(data, offset) {
      for (let done = 0; done < data.length; ) {
        const count = handle.write(done === 0 ? data : data.subarray(done), { at: offset + done });
        if (count <= 0) throw new SectoraError("NoSpace", "the origin's storage is full");
        done += count;
      }
    },
    truncate(size) {
      handle.truncate(size);
      // Where the profile is not kept, some browsers stop at a length without saying so.
      if (handle.getSize() !== size) {
        throw new SectoraError("NoSpace", `the origin's storage does not hold a file of ${size} bytes`);
      }
    },
    flush: () => handle.flush(),
  };
}

// --------------------------------------------------------------------------- files from the picker

/** A file that the user has picked for saving: the browser swaps the new one in when it is closed. */
async function pickedTarget(handle: OpfsHandle, needs: TargetNeeds): Promise<OpenedTarget> {
  if (!needs.sequential && !needs.writeOnly) return copiedTarget(handle);
  const file = await handle.createWritable({ keepExistingData: false });
  const end = { commit: () => file.close(), abort: () => file.abort() };
  if (needs.sequential) return { write: (chunk) => file.write(chunk as Uint8Array<ArrayBuffer>), ...end };
  const storage: Storage = {
    name: handle.name,
    writable: true,
    sync: false,
    size: () => 0,
    allocated: () => -1,
    fill: async () => {
      throw new SectoraError("Unsupported", `'${handle.name}' can only be written`);
    },
    write: (position, data) => file.write({ type: "write", position, data: data as Uint8Array<ArrayBuffer> }),
    truncate: (size) => file.truncate(size),
    // It is all or nothing: only closing counts.
    flush: () => {},
  };
  return { storage, ...end };
}

/** An image that has to be read while it is made: it is made in private and copied. */
async function copiedTarget(handle: OpfsHandle): Promise<OpenedTarget> {
  const temporary = await temporaryFile(await navigator.storage.getDirectory());
  return {
    storage: syncStorage(temporary.sync, handle.name, true),
    async commit() {
      const file = await handle.createWritable({ keepExistingData: false });
      try {
        const size = temporary.sync.getSize();
        for (let at = 0; at < size; at += COPY) {
          const part = new Uint8Array(Math.min(COPY, size - at));
          temporary.sync.read(part, { at });
          await file.write(part);
        }
        await file.close();
      } catch (e) {
        await file.abort().catch(() => {});
        throw e;
      } finally {
        await temporary.remove();
      }
    },
    abort: temporary.remove,
  };
}

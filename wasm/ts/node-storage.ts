/** Storage of Node: files by path, handle and descriptor, read straight into the engine's memory. */

import * as fs from "node:fs";
import * as path from "node:path";
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { SectoraError, invalid } from "./errors.js";
import { blobSource } from "./blob.js";
import { customDevice, customSource, customTarget, isCustom, memoryDevice, memorySource, refuseWriting } from "./storage.js";
import type { OpenedDevice, OpenedSource, OpenedTarget, Storage, TargetNeeds } from "./storage.js";
import type { Platform } from "./engine.js";
import type { AttachOptions, CustomTarget, NodeFileHandle, Source, Target } from "./types.js";

/** As the kernel counts space. */
const BLOCK = 512;

export const nodePlatform: Platform = {
  async source(source: Source): Promise<OpenedSource> {
    const name = pathOf(source);
    if (name !== undefined) {
      const fd = fs.openSync(name, "r");
      return fileSource(fd, name, true);
    }
    const fd = descriptorOf(source);
    if (fd !== undefined) return fileSource(fd, `fd:${fd}`, false);
    if (source instanceof Blob) {
      const named = typeof (source as Partial<File>).name === "string";
      return blobSource(source, named ? (source as File).name : "blob", named);
    }
    if (source instanceof Uint8Array) return memorySource(source);
    if (isCustom(source)) return customSource(source);
    throw unknown(source, "source");
  },

  async target(target: Target, needs: TargetNeeds): Promise<OpenedTarget> {
    const name = pathOf(target);
    if (name !== undefined) return pathTarget(name);
    const fd = descriptorOf(target);
    if (fd !== undefined) return descriptorTarget(fd, needs);
    if (isCustom(target)) return customTarget(target as CustomTarget);
    throw unknown(target, "target");
  },

  async device(source: Source, { writable = false, create = false }: AttachOptions): Promise<OpenedDevice> {
    const name = pathOf(source);
    if (name !== undefined) {
      const { O_RDONLY, O_RDWR, O_CREAT } = fs.constants;
      const fd = fs.openSync(name, (writable ? O_RDWR : O_RDONLY) | (create ? O_CREAT : 0), 0o666);
      return fileDevice(fd, name, writable, true);
    }
    const fd = descriptorOf(source);
    if (fd !== undefined) return fileDevice(fd, `fd:${fd}`, writable, false);
    if (source instanceof Uint8Array) return memoryDevice(source, writable);
    if (isCustom(source)) return customDevice(source, writable);
    const { storage, close } = await this.source(source);
    refuseWriting(writable, storage.name);
    return { storage, close };
  },
};

/** A file under a node; closed with it if it is `ours`. */
function fileDevice(fd: number, name: string, writable: boolean, ours: boolean): OpenedDevice {
  const { close } = fileSource(fd, name, ours);
  return { storage: fileStorage(fd, name, writable), close };
}

function unknown(value: unknown, what: string): SectoraError {
  if (typeof (value as { opfs?: unknown })?.opfs === "string") {
    return invalid(`there is no origin-private file system in Node: use a path as ${what}`);
  }
  return invalid(`this is no ${what}: ${Object.prototype.toString.call(value)}`);
}

function pathOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (value instanceof URL) return fileURLToPath(value);
  return undefined;
}

function descriptorOf(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  const { fd } = (typeof value === "object" && value !== null ? value : {}) as Partial<NodeFileHandle>;
  return typeof fd === "number" ? fd : undefined;
}

/** What a descriptor is; only regular files can be read by offset and have a length. */
function regular(fd: number, name: string): fs.BigIntStats {
  const stat = fs.fstatSync(fd, { bigint: true });
  if (stat.isFile()) return stat;
  throw new SectoraError(
    stat.isDirectory() ? "InvalidInput" : "Unsupported",
    `'${name}' is no regular file`,
  );
}

function identity(stat: fs.BigIntStats): string {
  return `file:${stat.dev}:${stat.ino}`;
}

/** A file to read. It is closed with the image if it is `ours`. */
function fileSource(fd: number, name: string, ours: boolean): OpenedSource {
  try {
    const stat = regular(fd, name);
    return {
      storage: fileStorage(fd, name, false),
      named: ours,
      identity: identity(stat),
      async close() {
        if (ours) fs.closeSync(fd);
      },
    };
  } catch (e) {
    if (ours) fs.closeSync(fd);
    throw e;
  }
}

function fileStorage(fd: number, name: string, writable: boolean, durable = true): Storage {
  return {
    name,
    writable,
    sync: true,
    size: () => fs.fstatSync(fd).size,
    allocated: () => fs.fstatSync(fd).blocks * BLOCK,
    readSync: (out, offset) => fs.readSync(fd, out, 0, out.length, offset),
    writeSync(data, offset) {
      for (let done = 0; done < data.length; ) {
        done += fs.writeSync(fd, data, done, data.length - done, offset + done);
      }
    },
    truncate: (size) => fs.ftruncateSync(fd, size),
    flush: () =>
      durable
        ? new Promise((resolve, reject) => fs.fdatasync(fd, (e) => (e ? reject(e) : resolve())))
        : undefined,
  };
}

/** A descriptor of the caller's: written in place. */
function descriptorTarget(fd: number, needs: TargetNeeds): OpenedTarget {
  const name = `fd:${fd}`;
  const stat = regular(fd, name);
  if (needs.sources.has(identity(stat))) {
    throw invalid(`'${name}' is being read: it cannot be the target as well`);
  }
  const end = async () => {};
  return { storage: fileStorage(fd, name, true), commit: end, abort: end };
}

/** A new file beside the final name, which takes its place when it is complete. */
async function pathTarget(name: string): Promise<OpenedTarget> {
  const { final, replaced } = destination(name);
  const temporary = path.join(path.dirname(final), `.sectora-${randomBytes(8).toString("hex")}.tmp`);
  // Anybody may read what is new as the process's mask says; what is replaced keeps its mode.
  const fd = fs.openSync(temporary, "wx+", 0o666);
  let open = true;
  const close = () => {
    if (open) fs.closeSync(fd);
    open = false;
  };
  const remove = () => {
    close();
    fs.rmSync(temporary, { force: true });
  };
  try {
    if (replaced) fs.fchmodSync(fd, replaced.mode & 0o777);
  } catch (e) {
    remove();
    throw e;
  }
  return {
    // Nobody sees it before it is complete, so nothing in between has to be durable.
    storage: fileStorage(fd, name, true, false),
    async commit() {
      close();
      fs.renameSync(temporary, final);
    },
    async abort() {
      remove();
    },
  };
}

/** Where a new file called `name` goes, at the end of all links, and what is there now. */
function destination(name: string): { final: string; replaced?: fs.Stats } {
  const replaced = fs.statSync(name, { throwIfNoEntry: false });
  if (replaced) {
    if (!replaced.isFile()) {
      throw new SectoraError(
        replaced.isDirectory() ? "InvalidInput" : "Unsupported",
        `'${name}' is no regular file, and cannot be replaced`,
      );
    }
    fs.accessSync(name, fs.constants.W_OK);
    return { final: fs.realpathSync(name), replaced };
  }
  let final = path.resolve(name);
  // A link to nothing is a name for the new file; as many as the kernel follows.
  for (let links = 0; links < 40; links++) {
    if (!fs.lstatSync(final, { throwIfNoEntry: false })?.isSymbolicLink()) return { final };
    final = path.resolve(path.dirname(final), fs.readlinkSync(final));
  }
  throw new SectoraError("InvalidInput", `'${name}' has too many levels of symbolic links`);
}

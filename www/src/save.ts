// Where a conversion's result goes. With a save-file picker: straight into the file that the person
// picks. Without: into the origin-private file system, then as a download. Either way the result
// appears under its name only when it is complete.

import type { Target } from "sectora";

/** A place for one result. */
export interface Destination {
  readonly target: Target;
  readonly name: string;
  /** After success. The file to download, where the target is not yet the person's own. */
  finish(): Promise<File | undefined>;
  /** After a failure: leaves nothing that was not there before. */
  discard(): Promise<void>;
}

interface SavePicker {
  showSaveFilePicker(options: {
    suggestedName: string;
    types?: { description: string; accept: Record<string, string[]> }[];
  }): Promise<FileSystemFileHandle>;
}

/** Whether the browser lets a page write a file where the person wants it. */
export function hasPicker(scope: unknown = globalThis): scope is SavePicker {
  return typeof (scope as Partial<SavePicker>).showSaveFilePicker === "function";
}

/** Asks for a place. Must be called in the click itself. `undefined`: the person changed their mind. */
export async function pickDestination(suggestedName: string): Promise<Destination | undefined> {
  const scope: unknown = globalThis;
  if (hasPicker(scope)) {
    let handle: FileSystemFileHandle;
    try {
      handle = await scope.showSaveFilePicker({ suggestedName });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return undefined;
      throw error;
    }
    return pickedFile(handle);
  }
  return privateFile(suggestedName);
}

async function pickedFile(handle: FileSystemFileHandle): Promise<Destination> {
  return {
    target: handle,
    name: handle.name,
    finish: async () => undefined,
    discard: async () => {
      // The picker makes an empty file. Whoever finds one later must not wonder.
      const left = await handle.getFile().catch(() => undefined);
      if (left?.size === 0) await (handle as FileSystemFileHandle & { remove?(): Promise<void> }).remove?.().catch(() => {});
    },
  };
}

/** The folder of all pages; each page has one of its own in it, and a lock of the same name. */
const FOLDER = "sectora-page";
const ownFolder = crypto.randomUUID();
const lockName = (folder: string): string => `${FOLDER}/${folder}`;
let holding: Promise<void> | undefined;

/** Holds this page's lock until the page is gone: other pages see that its folder is in use. */
function holdLock(): Promise<void> {
  holding ??= new Promise<void>((held, failed) => {
    navigator.locks
      .request(lockName(ownFolder), () => {
        held();
        return new Promise<never>(() => {});
      })
      .catch(failed);
  });
  return holding;
}

async function privateFile(name: string): Promise<Destination> {
  await holdLock();
  const root = await navigator.storage.getDirectory();
  const pages = await root.getDirectoryHandle(FOLDER, { create: true });
  const own = await pages.getDirectoryHandle(ownFolder, { create: true });
  // One folder a result: two results may have one name.
  const folder = crypto.randomUUID();
  const place = await own.getDirectoryHandle(folder, { create: true });
  return {
    // It is here only until it has been downloaded: nobody has to wait for the disk.
    target: { opfs: `${FOLDER}/${ownFolder}/${folder}/${name}`, durable: false },
    name,
    finish: async () => await (await place.getFileHandle(name)).getFile(),
    discard: async () => {
      await own.removeEntry(folder, { recursive: true }).catch(() => {});
    },
  };
}

/** Deletes what pages that are gone have left behind. */
export async function sweep(): Promise<void> {
  const root = await navigator.storage?.getDirectory();
  const pages = await root?.getDirectoryHandle(FOLDER).catch(() => undefined);
  if (!pages) return;
  const { held = [] } = await navigator.locks.query();
  const alive = new Set(held.map((lock) => lock.name));
  for await (const name of pages.keys()) {
    if (name !== ownFolder && !alive.has(lockName(name))) await pages.removeEntry(name, { recursive: true }).catch(() => {});
  }
}

/** Room that the browser would give; `undefined` where it does not say. */
export async function roomLeft(): Promise<bigint | undefined> {
  const { quota, usage } = (await navigator.storage?.estimate?.()) ?? {};
  return quota === undefined ? undefined : BigInt(Math.max(0, quota - (usage ?? 0)));
}

/** Hands a file to the browser's downloads. The link stays in the page for a second try. */
export function downloadLink(file: File, name: string): HTMLAnchorElement {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.textContent = "Download again";
  return link;
}

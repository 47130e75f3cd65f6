// What a conversion is asked to do: from the form's values to the engine's options, and in words.

import type { BlockMeasureInfo, ConvertOptions, FormatName } from "sectora";
import { size } from "./units.ts";

/** The form, as plain values. */
export interface Choices {
  format: FormatName;
  compression: "none" | "zlib" | "zstd";
  compat: "1.1" | "0.10";
  clusterSize: number;
  refcountBits: number;
  extendedL2: boolean;
  lazyRefcounts: boolean;
}

export const DEFAULTS: Choices = {
  format: "qcow2",
  compression: "none",
  compat: "1.1",
  clusterSize: 65536,
  refcountBits: 16,
  extendedL2: false,
  lazyRefcounts: false,
};

/** Why the choices do not go together; empty where they do. */
export function conflicts(c: Choices): string[] {
  if (c.format === "raw") return [];
  const out: string[] = [];
  if (c.compat === "0.10") {
    if (c.compression === "zstd") out.push("Version 0.10 cannot have zstd compression: choose zlib, or version 1.1.");
    if (c.extendedL2) out.push("Version 0.10 cannot have subclusters: choose version 1.1.");
    if (c.lazyRefcounts) out.push("Version 0.10 cannot have lazy reference counts: choose version 1.1.");
    if (c.refcountBits !== 16) out.push("Version 0.10 has reference counts of 16 bits.");
  }
  if (c.extendedL2 && c.clusterSize < 16384) out.push("Subclusters need clusters of at least 16 KiB.");
  return out;
}

/** The options for the engine. Only what differs from the defaults is named. */
export function toOptions(c: Choices): ConvertOptions {
  if (c.format === "raw") return { format: "raw" };
  return {
    format: "qcow2",
    ...(c.compression !== "none" && { compressed: true, compressionType: c.compression }),
    ...(c.compat !== DEFAULTS.compat && { compat: c.compat }),
    ...(c.clusterSize !== DEFAULTS.clusterSize && { clusterSize: c.clusterSize }),
    ...(c.refcountBits !== DEFAULTS.refcountBits && { refcountBits: c.refcountBits }),
    ...(c.extendedL2 && { extendedL2: true }),
    ...(c.lazyRefcounts && { lazyRefcounts: true }),
  };
}

/** What will be written and how large it gets. */
export function planWords(c: Choices, measured: BlockMeasureInfo): string {
  const needed = size(measured.required);
  if (c.format === "raw") {
    return `Writes a raw file of ${needed}, as long as the disk. Stretches of zeroes take no space where the file system can leave them out.`;
  }
  if (c.compression !== "none") return `Writes a qcow2 file of at most about ${needed}; compression makes it smaller.`;
  const full = size(measured["fully-allocated"]);
  return `Writes a qcow2 file of about ${needed}.${full === needed ? "" : ` It can grow to ${full} in use.`}`;
}

/** A name for the result: the source's, with the ending of its format, and never the source's own. */
export function outputName(source: string, format: FormatName): string {
  const stem = source.replace(/\.(qcow2|qcow|img|raw|bin|vmdk|vhdx?|vdi|overlay)$/i, "") || "disk";
  const ending = format === "qcow2" ? ".qcow2" : ".img";
  const name = stem + ending;
  return name.toLowerCase() === source.toLowerCase() ? `${stem}-converted${ending}` : name;
}

/** What somebody typed, as a name that every file system takes; `undefined` where nothing is left. */
export function cleanName(typed: string): string | undefined {
  const name = typed.replace(/[\u0000-\u001f\u007f/\\:*?"<>|]/g, "_").replace(/^[\s.]+|[\s.]+$/g, "").slice(0, 200);
  return name || undefined;
}

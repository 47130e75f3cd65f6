// What an image is, as a sentence and as a list of facts. Pure: from the engine's description to text.

import type { ImageInfo, Qcow2BitmapInfo, SnapshotInfo } from "sectora";
import { duration, exactSize, plural, size } from "./units.ts";

/** A term, its value, and for the curious what it means. */
export interface Fact {
  term: string;
  value: string;
  note?: string;
}

/** The image in a sentence. */
export function sentence(info: ImageInfo): string {
  const disk = `a disk of ${size(info["virtual-size"])}`;
  const what = info.format === "raw" ? `A raw image: the plain bytes of ${disk}` : `A ${info.format} image of ${disk}`;
  const backing = info["backing-filename"];
  const chain = chainOf(info).length - 1;
  if (!backing) return `${what}.`;
  if (!info["backing-image"]) return `${what}, seen without its backing file ${backing}.`;
  return `${what}, on top of ${plural(chain, "backing file")}.`;
}

/** The facts of one image, in the order in which one asks for them. `fileSize`: length of the chosen file. */
export function facts(info: ImageInfo, fileSize: bigint): Fact[] {
  const out: Fact[] = [
    { term: "Format", value: info.format },
    { term: "Disk size", value: exactSize(info["virtual-size"]), note: "what a machine that uses it sees" },
    { term: "File size", value: exactSize(fileSize) },
  ];
  if (info["cluster-size"] !== undefined) {
    out.push({ term: "Cluster size", value: exactSize(info["cluster-size"]), note: "the unit in which space is given out" });
  }
  if (info.encrypted) out.push({ term: "Encrypted", value: "yes" });
  const specific = info["format-specific"];
  if (specific?.type === "qcow2") {
    const q = specific.data;
    out.push({ term: "Version", value: q.compat === "1.1" ? "3 (compat 1.1)" : "2 (compat 0.10)" });
    out.push({ term: "Compression type", value: q["compression-type"], note: "for clusters that are compressed, if any" });
    out.push({ term: "Reference counts", value: `${q["refcount-bits"]} bits` });
    if (q["lazy-refcounts"]) out.push({ term: "Lazy reference counts", value: "on" });
    if (q["extended-l2"]) out.push({ term: "Subclusters", value: "on (extended L2 entries)" });
    if (q["data-file"] !== undefined) {
      out.push({ term: "Data file", value: q["data-file"], note: q["data-file-raw"] ? "readable as a raw image too" : "holds the data itself" });
    }
    if (q.corrupt) out.push({ term: "Marked corrupt", value: "yes", note: "a program met damage in it and stopped writing" });
    if (q.encrypt) out.push({ term: "Encryption", value: q.encrypt.format });
  }
  if (info["dirty-flag"]) out.push({ term: "Not closed cleanly", value: "yes", note: "its reference counts may be out of date; the data is fine" });
  return out;
}

/** The image and all below it, top first. */
export function chainOf(info: ImageInfo): ImageInfo[] {
  const out: ImageInfo[] = [];
  for (let at: ImageInfo | undefined = info; at; at = at["backing-image"]) out.push(at);
  return out;
}

export interface SnapshotRow {
  id: string;
  name: string;
  taken: string;
  state: string;
  clock: string;
}

export function snapshotRow(s: SnapshotInfo, locale?: string, timeZone?: string): SnapshotRow {
  const date = new Date(Number(s["date-sec"]) * 1000);
  return {
    id: s.id,
    name: s.name || "(without a name)",
    taken: date.toLocaleString(locale, { dateStyle: "medium", timeStyle: "short", ...(timeZone && { timeZone }) }),
    state: s["vm-state-size"] > 0n ? size(s["vm-state-size"]) : "none",
    clock: duration(Number(s["vm-clock-sec"])),
  };
}

export function bitmapFlags(b: Qcow2BitmapInfo): string {
  const words = { auto: "recording", "in-use": "not saved properly" };
  return b.flags.map((f) => words[f] ?? f).join(", ") || "stopped";
}

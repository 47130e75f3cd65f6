// The allocation map as numbers: totals, a histogram to draw, and the first runs for the table.
//
// Memory does not depend on the image: runs are added one by one and only the histogram and a
// bounded list stay. Offsets and totals are `bigint`; only the picture uses floating point.

import { count, plural, share, size } from "./units.ts";

/** What a stretch of the disk is. The order is that of the legend and of the drawing. */
export const CLASSES = ["data", "compressed", "backing", "zero", "none"] as const;
export type MapClass = (typeof CLASSES)[number];

/** How people call it; `short` for the legend, `long` for the explanation. */
export const CLASS_WORDS: Record<MapClass, { short: string; long: string }> = {
  data: { short: "Data", long: "stored in this file as it is" },
  compressed: { short: "Compressed data", long: "stored compressed" },
  backing: { short: "From a backing file", long: "not in this file: read from a file below it" },
  zero: { short: "Zeroes", long: "recorded as zeroes, takes no space" },
  none: { short: "Never written", long: "reads as zeroes, takes no space" },
};

/** What the model needs of a map entry. */
export interface Run {
  start: bigint;
  length: bigint;
  depth: bigint | number;
  present: boolean;
  zero: boolean;
  data: boolean;
  compressed: boolean;
}

/** A run of one class, neighbours joined. */
export interface ClassRun {
  start: bigint;
  length: bigint;
  is: MapClass;
}

/** Fine enough for any screen, small enough for any machine. */
const BINS = 16384;
/** Runs kept for the table. */
export const TABLE_RUNS = 500;

export function classify(run: Run): MapClass {
  if (run.data && !run.zero) {
    if (Number(run.depth) > 0) return "backing";
    return run.compressed ? "compressed" : "data";
  }
  return run.present ? "zero" : "none";
}

export class MapModel {
  readonly size: bigint;
  readonly totals: Record<MapClass, bigint> = { data: 0n, compressed: 0n, backing: 0n, zero: 0n, none: 0n };
  /** The first runs, neighbours of one class joined. */
  readonly runs: ClassRun[] = [];
  /** How many such runs there are in all. */
  runCount = 0;
  #bins: Float64Array[] = [];
  #binSize: number;
  #last: ClassRun | undefined;

  constructor(virtualSize: bigint) {
    this.size = virtualSize;
    const bins = Number(virtualSize < BigInt(BINS) ? virtualSize : BigInt(BINS));
    this.#binSize = bins > 0 ? Number(virtualSize) / bins : 1;
    for (let i = 0; i < CLASSES.length; i++) this.#bins.push(new Float64Array(Math.max(1, bins)));
  }

  add(run: Run): void {
    const is = classify(run);
    const { start, length } = run;
    if (length <= 0n) return;
    this.totals[is] += length;
    if (this.#last && this.#last.is === is && this.#last.start + this.#last.length === start) {
      this.#last.length += length;
    } else {
      this.#last = { start, length, is };
      this.runCount++;
      if (this.runs.length < TABLE_RUNS) this.runs.push(this.#last);
    }
    this.#spread(CLASSES.indexOf(is), Number(start), Number(start + length));
  }

  #spread(which: number, start: number, end: number): void {
    const bins = this.#bins[which];
    if (!bins) return;
    const from = Math.min(bins.length - 1, Math.floor(start / this.#binSize));
    const to = Math.min(bins.length - 1, Math.ceil(end / this.#binSize) - 1);
    for (let i = from; i <= to; i++) {
      const low = Math.max(start, i * this.#binSize);
      const high = Math.min(end, (i + 1) * this.#binSize);
      bins[i] = (bins[i] ?? 0) + Math.max(0, high - low);
    }
  }

  /** The shares of each class in `cells` equal parts of the disk; the shares of a cell add up to 1. */
  cells(cells: number): Cell[] {
    const out: Cell[] = [];
    for (let c = 0; c < cells; c++) {
      const { from, to } = this.#cellBins(c, cells);
      const shares = this.#bins.map((bins) => bins.subarray(from, to).reduce((a, b) => a + b, 0));
      const all = shares.reduce((a, b) => a + b, 0);
      out.push({ shares: all > 0 ? shares.map((s) => s / all) : shares });
    }
    return out;
  }

  /**
   * The bins of a cell. A bin belongs to one cell, so that nothing shows in two; only where there are
   * more cells than bytes do several cells show the same.
   */
  #cellBins(cell: number, cells: number): { from: number; to: number } {
    const bins = this.#bins[0]?.length ?? 1;
    const from = Math.floor((cell * bins) / cells);
    return { from, to: Math.max(from + 1, Math.floor(((cell + 1) * bins) / cells)) };
  }

  /** Where a cell begins and ends. */
  cellRange(cell: number, cells: number): { start: bigint; end: bigint } {
    const { from, to } = this.#cellBins(cell, cells);
    const bins = BigInt(this.#bins[0]?.length ?? 1);
    return { start: (this.size * BigInt(from)) / bins, end: (this.size * BigInt(to)) / bins };
  }

  /** The picture in a sentence or two: what a person would say who looks at it. */
  summary(): string {
    const { data, compressed, backing, zero, none } = this.totals;
    if (this.size === 0n) return "The disk is empty: its size is zero.";
    const stored = data + compressed;
    const parts: string[] = [];
    if (stored === 0n && backing === 0n) {
      parts.push(`Nothing is stored: all ${size(this.size)} read as zeroes.`);
    } else {
      if (stored > 0n) {
        const how = compressed === 0n ? "" : data === 0n ? ", all of it compressed" : `, ${share(compressed, stored)} of it compressed`;
        parts.push(`${size(stored)} of ${size(this.size)} (${share(stored, this.size)}) is data in this file${how}.`);
      } else {
        parts.push("No data is in this file itself.");
      }
      if (backing > 0n) parts.push(`${size(backing)} (${share(backing, this.size)}) comes from backing files.`);
      const rest = zero + none;
      if (rest > 0n) parts.push(`The other ${size(rest)} read as zeroes and take no space.`);
    }
    if (this.runCount > 1) parts.push(`The disk changes ${plural(this.runCount - 1, "time")} between these from start to end.`);
    return parts.join(" ");
  }
}

/** A part of the picture; shares in the order of `CLASSES`. */
export interface Cell {
  shares: number[];
}

/** A cell in words, for the readout and for screen readers. */
export function cellWords(cell: Cell, start: bigint, end: bigint): string {
  const there = CLASSES.map((is, i) => ({ is, share: cell.shares[i] ?? 0 }))
    .filter((c) => c.share > 0)
    .sort((a, b) => b.share - a.share);
  const where = `${size(start)} to ${size(end)}`;
  const [first] = there;
  if (!first) return `${where}: unknown`;
  if (there.length === 1) return `${where}: ${CLASS_WORDS[first.is].short.toLowerCase()}`;
  const parts = there.map((c) => `${percent(c.share)} ${CLASS_WORDS[c.is].short.toLowerCase()}`);
  return `${where}: ${parts.join(", ")}`;
}

function percent(share: number): string {
  const p = Math.round(share * 100);
  return p === 0 ? "under 1 %" : p === 100 ? "over 99 %" : `${p} %`;
}

/** The table's caption: says when it is not all. */
export function runsCaption(model: MapModel): string {
  if (model.runCount <= model.runs.length) return `All ${plural(model.runCount, "stretch", "stretches")} of the disk, in order`;
  return `The first ${count(model.runs.length)} of ${count(model.runCount)} stretches of the disk, in order`;
}

/** How many columns and rows of square cells fill a width: whole cells, and few enough rows to see at once. */
export function grid(width: number, cell: number, gap: number, maxRows: number): { columns: number; rows: number } {
  const columns = Math.max(8, Math.floor((width + gap) / (cell + gap)));
  const rows = Math.max(12, Math.min(maxRows, Math.round(columns / 5)));
  return { columns, rows };
}

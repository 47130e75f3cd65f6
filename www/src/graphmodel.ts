// The graph of nodes as a picture: which box stands where, what is written in it, and where the arrow
// keys lead. Pure: from the engine's answers to places.

import { size } from "./units.ts";

/** What is needed of `x-debug-query-block-graph`. */
export interface GraphAnswer {
  nodes: { id: bigint; type: string; name: string }[];
  edges: { parent: bigint; child: bigint; name: string; perm: string[]; "shared-perm": string[] }[];
}

/** What is needed of `query-named-block-nodes`. */
export interface NodeAnswer {
  "node-name"?: string;
  drv: string;
  file: string;
  ro: boolean;
  image: { "virtual-size": bigint; "actual-size"?: bigint };
}

/** A node with its place: column and row count from 0. */
export interface Box {
  id: bigint;
  name: string;
  driver: string;
  /** What it is called: the file of a protocol node, the node's own name of others. */
  label: string;
  file: string;
  size: bigint;
  readOnly: boolean;
  column: number;
  row: number;
}

/** The use of one node by another. */
export interface Line {
  parent: Box;
  child: Box;
  /** What the child is to its parent: `file`, `backing` … */
  role: string;
  permissions: string[];
  shared: string[];
}

export interface Picture {
  boxes: Box[];
  lines: Line[];
  columns: number;
  rows: number;
}

/** How a node may be reached from another by an arrow key. */
export type Arrow = "ArrowUp" | "ArrowDown" | "ArrowLeft" | "ArrowRight";

/**
 * Places every node: users above what they use, so that lines go down, and a child as near below its
 * parent as there is room.
 */
export function picture(graph: GraphAnswer, nodes: NodeAnswer[]): Picture {
  const told = new Map(nodes.map((node) => [node["node-name"], node]));
  const boxes = new Map<bigint, Box>();
  for (const { id, type, name } of graph.nodes) {
    const node = told.get(name);
    if (type !== "block-driver" || !node) continue;
    const protocol = !graph.edges.some((edge) => edge.parent === id);
    boxes.set(id, {
      id,
      name,
      driver: node.drv,
      // What no file is has a description in its place.
      label: protocol && node.file && !node.file.includes(":") ? node.file : name,
      file: node.file,
      size: node.image["virtual-size"],
      readOnly: node.ro,
      column: 0,
      row: 0,
    });
  }
  const lines: Line[] = [];
  for (const edge of graph.edges) {
    const [parent, child] = [boxes.get(edge.parent), boxes.get(edge.child)];
    if (parent && child) lines.push({ parent, child, role: edge.name, permissions: edge.perm, shared: edge["shared-perm"] });
  }
  const all = [...boxes.values()];
  settleRows(all, lines);
  const columns = settleColumns(all, lines);
  // As one reads.
  all.sort((a, b) => a.row - b.row || a.column - b.column);
  return { boxes: all, lines, columns, rows: all.reduce((rows, box) => Math.max(rows, box.row + 1), 0) };
}

/** The row of a node is one more than the lowest of its users'. */
function settleRows(boxes: Box[], lines: Line[]): void {
  // A graph without circles settles in as many rounds as it is deep.
  for (let round = 0; round < boxes.length; round++) {
    let moved = false;
    for (const { parent, child } of lines) {
      if (child.row > parent.row) continue;
      child.row = parent.row + 1;
      moved = true;
    }
    if (!moved) return;
  }
}

/** Walks down from the top: the first child stands below its parent, each further one to the right. */
function settleColumns(boxes: Box[], lines: Line[]): number {
  /** The first free column of each row. */
  const free: number[] = [];
  const placed = new Set<Box>();
  const place = (box: Box, column: number): void => {
    if (placed.has(box)) return;
    placed.add(box);
    box.column = Math.max(column, free[box.row] ?? 0);
    free[box.row] = box.column + 1;
    let next = box.column;
    for (const { child } of childrenOf(box, lines)) {
      if (placed.has(child)) continue;
      place(child, next);
      next = child.column + 1;
    }
  };
  for (const box of boxes) if (!lines.some(({ child }) => child === box)) place(box, Math.max(0, ...free.map((n) => n ?? 0)));
  for (const box of boxes) place(box, 0);
  return boxes.reduce((columns, box) => Math.max(columns, box.column + 1), 0);
}

/** What a node uses: its file first. */
export function childrenOf(box: Box, lines: Line[]): Line[] {
  const rank = ({ role }: Line): number => (role === "file" ? 0 : role === "backing" ? 2 : 1);
  return lines.filter(({ parent }) => parent === box).sort((a, b) => rank(a) - rank(b));
}

/** Where an arrow key leads: up to the user, down to the first child, aside in the row. */
export function neighbour(box: Box, key: Arrow, { boxes, lines }: Picture): Box | undefined {
  if (key === "ArrowUp") return lines.find(({ child }) => child === box)?.parent;
  if (key === "ArrowDown") return childrenOf(box, lines)[0]?.child;
  const row = boxes.filter((other) => other.row === box.row).sort((a, b) => a.column - b.column);
  return row[row.indexOf(box) + (key === "ArrowRight" ? 1 : -1)];
}

/** What is written in a box below its label. */
export function boxText(box: Box): string {
  return `${box.driver} · ${size(box.size)}${box.readOnly ? " · read-only" : ""}`;
}

/** A box in a sentence, for those who do not see it: what is written in it, and where its lines lead. */
export function boxWords(box: Box, { lines }: Picture): string {
  const above = lines.filter(({ child }) => child === box).map(({ parent, role }) => `${role} of ${parent.label}`);
  const below = childrenOf(box, lines).map(({ child, role }) => `${role} ${child.label}`);
  return [
    `${shortened(box.label)} ${boxText(box)}`,
    above.join(", "),
    below.length > 0 ? `stands on ${below.join(", ")}` : "",
  ]
    .filter(Boolean)
    .join("; ");
}

/** Letters that fit into a box. */
const LETTERS = 26;

/** A label that fits into a box. */
export function shortened(label: string, most = LETTERS): string {
  if (label.length <= most) return label;
  const half = Math.floor((most - 1) / 2);
  return `${label.slice(0, most - 1 - half)}…${label.slice(-half)}`;
}

/** What is needed of a level of a chain. */
export interface Level {
  filename: string;
  format: string;
  dataFile?: string | undefined;
}

/** The options that open a chain, top first, with every file by the name under which it is attached. */
export function chainOptions(levels: Level[]): Record<string, unknown> {
  const file = (filename: string) => ({ driver: "file", filename, "read-only": true });
  const open = (at: number): Record<string, unknown> | null => {
    const level = levels[at];
    if (!level) return null;
    return {
      driver: level.format,
      "read-only": true,
      file: file(level.filename),
      ...(level.format !== "raw" && { backing: open(at + 1) }),
      ...(level.dataFile !== undefined && { "data-file": file(level.dataFile) }),
    };
  };
  return { ...open(0), "node-name": "image" };
}

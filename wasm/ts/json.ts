/** Descriptions of images as numbers and as text. */

/** The members that are sizes or offsets, and so `bigint`; every other integer is a `number`. */
const SIZES: ReadonlySet<string> = new Set([
  "virtual-size",
  "actual-size",
  "cluster-size",
  "extent-size-hint",
  "vm-state-size",
  "image-end-offset",
  "start",
  "length",
  "offset",
  "required",
  "fully-allocated",
  "bitmaps",
]);

/** Makes counts plain numbers, in place: the engine hands out every 64-bit integer as `bigint`. */
export function plainCounts<T>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  const members = value as Record<string, unknown>;
  for (const name of Object.keys(members)) {
    const member = members[name];
    if (typeof member !== "bigint") plainCounts(member);
    else if (!SIZES.has(name)) members[name] = Number(member);
  }
  return value;
}

/** JSON with every `bigint` as an integer. `indent`: spaces a level; 0 for one line. */
export function toJson(value: unknown, indent = 4): string {
  return text(value, indent, "\n") ?? "null";
}

function text(value: unknown, indent: number, line: string): string | undefined {
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const inner = indent > 0 ? line + " ".repeat(indent) : "";
  const [open, close, parts] = Array.isArray(value)
    ? ["[", "]", value.map((element) => text(element, indent, inner) ?? "null")]
    : ["{", "}", members(value, indent, inner)];
  if (parts.length === 0) return open + close;
  const end = indent > 0 ? line : "";
  return open + inner + parts.join(`,${inner}`) + end + close;
}

function members(value: object, indent: number, inner: string): string[] {
  const colon = indent > 0 ? ": " : ":";
  const parts: string[] = [];
  for (const [name, member] of Object.entries(value)) {
    const shown = text(member, indent, inner);
    if (shown !== undefined) parts.push(JSON.stringify(name) + colon + shown);
  }
  return parts;
}

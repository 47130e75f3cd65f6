// What an image is: facts, the chain it stands on, snapshots and bitmaps.

import { type ImageInfo, type ImageInfoSpecificQCow2, toJson } from "sectora";
import { h, table } from "../dom.ts";
import { bitmapFlags, chainOf, facts, snapshotRow } from "../facts.ts";
import { size } from "../units.ts";

export function showFacts(body: HTMLElement, info: ImageInfo, fileSize: bigint): void {
  const list = facts(info, fileSize).map((fact) =>
    h("div", null, h("dt", null, fact.term), h("dd", null, fact.value, fact.note && h("small", null, fact.note))),
  );
  const json = h("details", null, h("summary", null, "The same as JSON"));
  json.addEventListener("toggle", () => json.append(h("pre", { class: "scroll words", tabIndex: 0 }, toJson(info, 2))), { once: true });
  body.replaceChildren(h("dl", { class: "facts" }, ...list), json);
}

/** The chain, top first; `undefined` where the image stands alone. */
export function chainList(info: ImageInfo): HTMLElement | undefined {
  const chain = chainOf(info);
  const lowest = chain.at(-1);
  const unopened = lowest?.["backing-filename"];
  if (chain.length === 1 && unopened === undefined) return undefined;
  const items = chain.map((at, i) => {
    const names = chain[i - 1]?.["backing-filename"];
    const called = names !== undefined && names !== at.filename ? `, named “${names}” in the image above` : "";
    return h(
      "li",
      null,
      h(
        "div",
        null,
        h("code", null, at.filename),
        h("p", { class: "quiet" }, `${i === 0 ? "this image" : "backing file"}: ${at.format}, a disk of ${size(at["virtual-size"])}${called}`),
      ),
    );
  });
  if (unopened !== undefined) {
    items.push(h("li", null, h("div", null, h("code", null, unopened), h("p", { class: "quiet" }, "backing file, not opened"))));
  }
  return h("ol", { class: "chain" }, ...items);
}

/** The snapshots, each with a button that opens it. */
export function snapshotTable(info: ImageInfo, current: string | undefined, open: (id: string) => void): HTMLElement | undefined {
  const snapshots = info.snapshots ?? [];
  if (snapshots.length === 0) return undefined;
  const rows = snapshots.map((snapshot) => {
    const row = snapshotRow(snapshot);
    const look =
      snapshot.id === current
        ? h("span", { class: "quiet" }, "shown now")
        : h("button", { type: "button", class: "small", onclick: () => open(snapshot.id) }, "Look at it", h("span", { class: "hidden" }, `(${row.name})`));
    return [row.name, row.id, row.taken, row.clock, row.state, look];
  });
  return table("States of the disk kept inside this file", ["Name", "Id", "Taken", "Machine time", "Memory", "Open"], rows);
}

export function bitmapTable(info: ImageInfo): HTMLElement | undefined {
  const specific = info["format-specific"];
  const bitmaps = specific?.type === "qcow2" ? ((specific.data as ImageInfoSpecificQCow2).bitmaps ?? []) : [];
  if (bitmaps.length === 0) return undefined;
  const rows = bitmaps.map((b) => [b.name, size(b.granularity), bitmapFlags(b)]);
  return table("Records of what changed, for incremental backups", ["Name", "Granularity", "State"], rows);
}

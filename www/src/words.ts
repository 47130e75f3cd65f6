// What the engine finds, said for people: what it is, what it means, what to do. Pure functions,
// so that every text can be tested.

import { count, plural, share } from "./units.ts";

/** How a message is to be taken: it decides the symbol and the colour. */
export type Tone = "good" | "note" | "warning" | "bad";

/** A finding: a headline that says it all, the meaning, and what to do. */
export interface Verdict {
  tone: Tone;
  title: string;
  meaning: string;
  advice?: string;
}

/** What `checkVerdicts` needs of a check result. */
export interface CheckNumbers {
  format: string;
  checkErrors: bigint | number;
  corruptions?: bigint | number | undefined;
  leaks?: bigint | number | undefined;
  totalClusters?: bigint | number | undefined;
  allocatedClusters?: bigint | number | undefined;
  fragmentedClusters?: bigint | number | undefined;
  compressedClusters?: bigint | number | undefined;
}

/** A check result in words; the gravest first. `null`: the format keeps nothing that could be wrong. */
export function checkVerdicts(check: CheckNumbers | null, format: string): Verdict[] {
  if (check === null) {
    return [
      {
        tone: "note",
        title: "There is nothing to check",
        meaning: `A ${format} image is the disk’s bytes and nothing else: it has no tables that could be damaged.`,
      },
    ];
  }
  const out: Verdict[] = [];
  const corruptions = BigInt(check.corruptions ?? 0);
  const leaks = BigInt(check.leaks ?? 0);
  const errors = BigInt(check.checkErrors);
  if (corruptions > 0n) {
    out.push({
      tone: "bad",
      title: `Damaged: ${plural(corruptions, "error")} in the tables`,
      meaning:
        "The tables that say where data lies contradict each other or point to places that cannot be. " +
        "Some of the disk may read wrongly, and writing to the image can destroy more.",
      advice:
        "Do not start a machine from it. Keep this file as it is, make a copy, and repair the copy with " +
        "“qemu-img check -r all”. What converts here is what could still be read.",
    });
  }
  if (errors > 0n) {
    out.push({
      tone: "bad",
      title: `The check is not complete: ${plural(errors, "structure")} could not be read`,
      meaning: "Parts of the image could not be looked at, so there may be damage that is not counted here.",
      advice: "See whether the file was copied completely: compare its size, or better a checksum, with the original’s.",
    });
  }
  if (leaks > 0n) {
    out.push({
      tone: "warning",
      title: `${plural(leaks, "leaked cluster")}: wasted space, no damage`,
      meaning: "Space is marked as used but nothing refers to it, as after a crash while the image was written. All data is intact.",
      advice: "Converting the image here leaves the waste behind; so does “qemu-img check -r leaks” in place.",
    });
  }
  if (out.length === 0) {
    out.push({
      tone: "good",
      title: "No errors found",
      meaning: "Every table of the image is consistent, and no space is wasted.",
    });
  }
  const allocated = BigInt(check.allocatedClusters ?? 0);
  const fragmented = BigInt(check.fragmentedClusters ?? 0);
  if (allocated > 0n && fragmented > 0n) out.push(fragmentation(fragmented, allocated));
  return out;
}

function fragmentation(fragmented: bigint, allocated: bigint): Verdict {
  const part = share(fragmented, allocated);
  // Compressed clusters never lie in line, so the figure alone is no reason to worry.
  const much = Number(fragmented) / Number(allocated) > 0.3;
  return {
    tone: "note",
    title: `Fragmentation: ${part} of the used clusters`,
    meaning: `${count(fragmented)} of ${count(allocated)} clusters do not follow their predecessor in the file. ${
      much ? "On a spinning disk reading in order is slower for it." : "That is too little to notice."
    }`,
    ...(much ? { advice: "It harms nothing. Converting writes the data in order again." } : {}),
  };
}

/** What `errorVerdict` needs of an error of the engine. */
export interface KindedError {
  kind?: string | undefined;
  message: string;
}

/** An error of the engine in words. The engine's own text is shown beside it, not in it. */
export function errorVerdict(error: KindedError, doing: string): Verdict {
  const { title, meaning, advice } = KINDS.get(error.kind ?? "") ?? UNKNOWN;
  return { tone: error.kind === "Cancelled" ? "note" : "bad", title: `${doing}: ${title}`, meaning, ...(advice ? { advice } : {}) };
}

interface KindWords {
  title: string;
  meaning: string;
  advice?: string;
}

const UNKNOWN: KindWords = {
  title: "something went wrong",
  meaning: "The reason is below, in the words of the browser.",
};

const KINDS = new Map<string, KindWords>(Object.entries({
  Io: {
    title: "the file could not be read or written",
    meaning: "The browser refused or failed. Often the file was changed, moved or unplugged after it was chosen.",
    advice: "Choose the file again, and see that no running machine uses it.",
  },
  Unsupported: {
    title: "this kind of image is not supported",
    meaning: "The image may be perfectly fine, but it uses something that this page cannot do yet.",
    advice: "The text below names it.",
  },
  Corrupt: {
    title: "the image is damaged",
    meaning: "The file breaks a rule of its format at the place named below. Nothing was changed.",
    advice: "Perhaps it was not copied or downloaded completely: compare its size or checksum with the original’s.",
  },
  Limit: {
    title: "the image asks for too much",
    meaning: "A number in the file exceeds what its format allows or what is safe to use. Damaged and hostile files do that.",
  },
  Denied: {
    title: "not allowed",
    meaning: "The image names another file, or the target may not be written. Nothing is opened that you did not choose.",
  },
  InUse: {
    title: "the file is in use",
    meaning: "Another tab or program holds it.",
    advice: "Close it there and try again.",
  },
  InvalidInput: {
    title: "these options do not go together",
    meaning: "What was asked for cannot be done; the text below says why.",
  },
  NotFound: {
    title: "something is missing",
    meaning: "A file, a snapshot or a bitmap of that name is not there.",
  },
  NoSpace: {
    title: "there is not enough space",
    meaning: "The disk, or what the browser may use of it, is full. The unfinished result was removed.",
    advice: "Free some space, or choose another place.",
  },
  Cancelled: {
    title: "cancelled",
    meaning: "The unfinished result was removed.",
  },
  Bug: {
    title: "a mistake in this program",
    meaning: "It met a state that should be impossible and stopped. Nothing was changed in your file.",
    advice: "Load the page again to go on, and please report it with the text below.",
  },
} satisfies Record<string, KindWords>));

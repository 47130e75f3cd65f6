// The files that the person has chosen, and how references inside images find them: by base name,
// or by an explicit choice for one reference. Nothing else can ever be opened.

import type { Reference, ResolvedSource } from "sectora";

/** `/srv/vm/base.qcow2`, `C:\vm\base.qcow2`, `file:base.qcow2` → `base.qcow2`. */
export function baseName(reference: string): string {
  const path = reference.replace(/^file:(\/\/)?/, "");
  return path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1) || reference;
}

/** What is needed of a `File`. */
export type NamedBlob = Blob & { readonly name: string };

export class ChosenFiles<F extends NamedBlob = File> {
  #byName = new Map<string, F>();
  /** Files that stand for a reference although they are called differently. */
  #standIns = new Map<string, F>();

  /** Adds files; one of the same name takes the place of the older. */
  add(files: Iterable<F>): F[] {
    const added = [...files];
    for (const file of added) this.#byName.set(file.name, file);
    return added;
  }

  /**
   * Adds files in answer to a wanted reference. Where none has its name and there is only one, that
   * one stands in for it: browsers and people rename files.
   */
  addFor(reference: Reference, files: Iterable<F>): void {
    const added = this.add(files);
    const [only] = added;
    if (only && added.length === 1 && !this.#byName.has(baseName(reference.name))) {
      this.#standIns.set(baseName(reference.name), only);
    }
  }

  /** All of them, in the order in which they were chosen. */
  list(): F[] {
    return [...this.#byName.values()];
  }

  find(reference: string): F | undefined {
    const name = baseName(reference);
    return this.#byName.get(name) ?? this.#standIns.get(name);
  }

  /** The engine's question for a file. No answer denies it. */
  readonly resolve = (reference: Reference): (ResolvedSource & { source: F }) | null => {
    const file = this.find(reference.name);
    return file ? { source: file, name: file.name } : null;
  };

  /**
   * Which of them to show first: the first that no other one refers to. `references` has, for each
   * file, the names that it refers to.
   */
  top(references: ReadonlyMap<F, readonly string[]>): F | undefined {
    const below = new Set<F>();
    for (const [file, names] of references) {
      for (const name of names) {
        const found = this.find(name);
        // A file that names itself is still somebody's first choice.
        if (found && found !== file) below.add(found);
      }
    }
    return this.list().find((file) => !below.has(file)) ?? this.list()[0];
  }
}

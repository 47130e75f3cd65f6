/** What every way into the package exports: calls on a default engine, and engines of one's own. */

import { toError } from "./errors.js";
import type {
  BlockMeasureInfo,
  ConvertResult,
  CreateOptions,
  Engine,
  EngineOptions,
  FormatName,
  Image,
  NewFormat,
  OpenOptions,
  Source,
  Target,
} from "./types.js";

declare const __VERSION__: string;

/** The version of the package. */
export const version: string = __VERSION__;

/** The formats that can be opened and written. */
export const formats: readonly FormatName[] = ["raw", "qcow2"];

export interface Api {
  /** Opens an image with the default engine, which is started when first used. */
  open(source: Source, options?: OpenOptions): Promise<Image>;
  /** Makes an empty image with the default engine. */
  create(target: Target, options: CreateOptions): Promise<ConvertResult>;
  /** How large a new, empty image will be. */
  measure(options: NewFormat & { size: bigint | number }): Promise<BlockMeasureInfo>;
  /** Starts an engine of your own. */
  startEngine(options?: EngineOptions): Promise<Engine>;
  /** Options for the default engine; one that runs already is closed. */
  configure(options: EngineOptions): Promise<void>;
}

/** The calls, over a way to start an engine. */
export function makeApi(start: (options: EngineOptions) => Promise<Engine>): Api {
  let options: EngineOptions = {};
  let engine: Promise<Engine> | undefined;
  const running = (): Promise<Engine> => {
    engine ??= startEngine(options);
    // The next call may have more luck.
    engine.catch(() => {
      engine = undefined;
    });
    return engine;
  };
  const startEngine = async (own: EngineOptions = {}): Promise<Engine> => {
    try {
      return await start(own);
    } catch (e) {
      throw toError(e);
    }
  };
  return {
    open: async (source, how) => (await running()).open(source, how),
    create: async (target, how) => (await running()).create(target, how),
    measure: async (how) => (await running()).measure(how),
    startEngine,
    async configure(how) {
      const before = engine;
      options = how;
      engine = undefined;
      await before?.then(
        (old) => old.close(),
        () => {},
      );
    },
  };
}

/** The worker's side: an engine that answers calls. */

import { invalid } from "./errors.js";
import { Moved, Peer, moved } from "./rpc.js";
import type { Method, Port } from "./rpc.js";
import type { Sent, SentImage, SentOpen, SentResolved } from "./remote.js";
import type {
  ConvertOptions,
  CreateOptions,
  CustomTarget,
  Engine,
  Image,
  MapEntry,
  MapOptions,
  MeasureOptions,
  NewFormat,
  Reference,
  Source,
  StreamOptions,
  Target,
  WasmInput,
} from "./types.js";

/** Answers calls at `port` by an engine that `start` makes. */
export function serve(port: Port, start: (wasm: WasmInput | undefined) => Promise<Engine>): void {
  const images = new Map<number, Image>();
  const walks = new Map<number, AsyncIterator<MapEntry[]>>();
  let next = 0;
  let engine: Engine | undefined;

  const running = (): Engine => {
    if (!engine) throw invalid("the engine has not been started");
    return engine;
  };
  const image = (id: unknown): Image => {
    const found = images.get(id as number);
    if (!found) throw invalid("the image is closed");
    return found;
  };
  /** Storage as it was on the other side. */
  const received = (sent: unknown): Source & Target => {
    const source = sent as Sent;
    return (source.type === "plain" ? source.value : custom(peer, source)) as Source & Target;
  };

  const methods: Record<string, Method> = {
    async start([wasm]) {
      engine = await start(wasm as WasmInput | undefined);
    },
    async open([source, sent], { signal }): Promise<SentImage> {
      const { options, resolver } = sent as SentOpen;
      const resolve = async (reference: Reference) => {
        const answer = await peer.call<SentResolved | undefined>("resolve", [resolver, reference]);
        return answer && { source: received(answer.source), name: answer.name };
      };
      const opened = await running().open(received(source), {
        ...options,
        signal,
        resolve: resolver === undefined ? undefined : resolve,
      });
      const id = next++;
      images.set(id, opened);
      return { id, size: opened.size, format: opened.format, name: opened.name };
    },
    create: ([target, options], { signal }) =>
      running().create(received(target), { ...(options as CreateOptions), signal }),
    measureNew: ([options]) => running().measure(options as NewFormat & { size: bigint }),
    info: ([id]) => image(id).info(),
    async mapStart([id, options]) {
      const walk = next++;
      walks.set(walk, image(id).mapEntries(options as MapOptions));
      return walk;
    },
    async mapNext([walk]) {
      const batch = await walks.get(walk as number)?.next();
      return batch?.done === false ? batch.value : undefined;
    },
    async mapEnd([walk]) {
      await walks.get(walk as number)?.return?.();
      walks.delete(walk as number);
    },
    check: ([id], context) => image(id).check(context),
    measure: ([id, options], context) => image(id).measure({ ...(options as MeasureOptions), ...context }),
    read: async ([id, offset, length], { signal }) =>
      moved(await image(id).read(offset as bigint, length as number, { signal })),
    convert: ([id, target, options], context) =>
      image(id).convert(received(target), { ...(options as ConvertOptions), ...context }),
    async stream([id, stream, options], context) {
      const reader = image(id).stream({ ...(options as StreamOptions), ...context }).getReader();
      try {
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return;
          const { value: sent, transfer } = moved(value);
          await peer.call("push", [stream, sent], { signal: context.signal }, transfer);
        }
      } finally {
        await reader.cancel().catch(() => {});
      }
    },
    async closeImage([id]) {
      const closing = images.get(id as number);
      images.delete(id as number);
      await closing?.close();
    },
    async close() {
      await engine?.close();
    },
  };
  const peer = new Peer(port, methods);
}

/** Storage whose calls go back to where it lives. */
function custom(peer: Peer, sent: Sent & { type: "custom" }): CustomTarget {
  const { id, size, name, has } = sent;
  const call = (method: string) => () => peer.call<void>("storage", [id, method, []]);
  const made: Partial<CustomTarget> & { size: bigint } = {
    size,
    read: (offset, length) => peer.call<Uint8Array>("storage", [id, "read", [offset, length]]),
    ...(name !== undefined && { name }),
  };
  if (has.includes("write")) {
    made.write = (offset, data) => {
      const { value, transfer } = moved(data) as Moved;
      return peer.call<void>("storage", [id, "write", [offset, value]], {}, transfer);
    };
  }
  if (has.includes("truncate")) made.truncate = (to) => peer.call<void>("storage", [id, "truncate", [to]]);
  if (has.includes("flush")) made.flush = call("flush");
  if (has.includes("abort")) made.abort = call("abort");
  if (has.includes("close")) made.close = call("close");
  return made as CustomTarget;
}

/** The worker's side: an engine that answers calls. */

import { invalid } from "./errors.js";
import type { LocalEngine } from "./engine.js";
import { Moved, Peer, moved } from "./rpc.js";
import type { Method, Port } from "./rpc.js";
import type { Modules, Sent, SentImage, SentNode, SentOpen, SentResolved } from "./remote.js";
import type {
  AttachOptions,
  BlockNode,
  ConvertOptions,
  CreateOptions,
  CustomTarget,
  Image,
  MapEntry,
  MapOptions,
  MeasureOptions,
  NewFormat,
  QmpRequest,
  Reference,
  Source,
  StreamOptions,
  Target,
} from "./types.js";

/** Answers calls at `port` by an engine that `start` makes. */
export function serve(port: Port, start: (modules: Modules) => Promise<LocalEngine>): void {
  const images = new Map<number, Image>();
  const nodes = new Map<number, BlockNode>();
  const walks = new Map<number, AsyncIterator<MapEntry[]>>();
  let next = 0;
  let engine: LocalEngine | undefined;

  const running = (): LocalEngine => {
    if (!engine) throw invalid("the engine has not been started");
    return engine;
  };
  const image = (id: unknown): Image => {
    const found = images.get(id as number);
    if (!found) throw invalid("the image is closed");
    return found;
  };
  const node = (id: unknown): BlockNode => {
    const found = nodes.get(id as number);
    if (!found) throw invalid("the node is closed");
    return found;
  };
  /** Storage as it was on the other side. */
  const received = (sent: unknown): Source & Target => {
    const source = sent as Sent;
    return (source.type === "plain" ? source.value : custom(peer, source)) as Source & Target;
  };

  const methods: Record<string, Method> = {
    async start([modules]) {
      engine = await start(modules as Modules);
      // Sent at once, so that events of a command arrive before its answer.
      engine.monitor.queues.listener = (event) => void peer.call("event", [event]).catch(() => {});
    },
    attach: ([name, source, options]) => running().attach(name as string, received(source), options as AttachOptions),
    detach: ([name]) => running().detach(name as string),
    // Answers are sent as they are: an error of a command is no failure of the call.
    execute: ([request]) => running().monitor.execute(request as QmpRequest),
    async openNode([name, writable]): Promise<SentNode> {
      const opened = await running().openNode(name as string, { writable: writable as boolean });
      const id = next++;
      nodes.set(id, opened);
      return { id, size: opened.size };
    },
    nodeRead: async ([id, offset, length], { signal }) =>
      moved(await node(id).read(offset as bigint, length as number, { signal })),
    nodeWrite: ([id, offset, data], { signal }) => node(id).write(offset as bigint, data as Uint8Array, { signal }),
    nodeZero: ([id, offset, length], { signal }) => node(id).writeZeroes(offset as bigint, length as bigint, { signal }),
    nodeDiscard: ([id, offset, length], { signal }) => node(id).discard(offset as bigint, length as bigint, { signal }),
    nodeFlush: ([id]) => node(id).flush(),
    async nodeClose([id]) {
      const closing = nodes.get(id as number);
      nodes.delete(id as number);
      await closing?.close();
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

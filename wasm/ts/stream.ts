/** Bytes that somebody pushes, as a stream that is read at its reader's pace. */

/** Bytes that a stream keeps ready. */
const STREAM_AHEAD = 4 * 1024 * 1024;

/** Takes a chunk; resolves when the next is wanted. */
export type Push = (chunk: Uint8Array) => Promise<void>;

/**
 * A stream of what `work` pushes, which ends when that does. Cancelling the stream, or `outer`,
 * aborts the signal that `work` is given.
 */
export function pushedStream(
  outer: AbortSignal | undefined,
  work: (push: Push, signal: AbortSignal) => Promise<unknown>,
): ReadableStream<Uint8Array> {
  const stop = new AbortController();
  const onAbort = () => stop.abort(outer?.reason);
  outer?.addEventListener("abort", onAbort, { once: true });
  if (outer?.aborted) onAbort();
  let wanted: (() => void) | undefined;
  return new ReadableStream<Uint8Array>(
    {
      start: (controller) => {
        const push = async (chunk: Uint8Array) => {
          controller.enqueue(chunk);
          if ((controller.desiredSize ?? 0) > 0) return;
          await new Promise<void>((resolve) => {
            wanted = resolve;
          });
        };
        work(push, stop.signal)
          .then(
            () => controller.close(),
            (e: unknown) => controller.error(e),
          )
          // It was cancelled meanwhile, and is closed.
          .catch(() => {})
          .finally(() => outer?.removeEventListener("abort", onAbort));
      },
      pull: () => {
        wanted?.();
      },
      cancel: (reason) => {
        stop.abort(reason);
        wanted?.();
      },
    },
    { highWaterMark: STREAM_AHEAD, size: (chunk) => chunk.length },
  );
}

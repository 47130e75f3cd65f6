/** What the engine needs of its surroundings besides storage. */

/** A function whose promise resolves after everything else that waits has had its turn. */
function turns(): () => Promise<void> {
  const immediate = (globalThis as { setImmediate?: (then: () => void) => void }).setImmediate;
  if (immediate) return () => new Promise((resolve) => immediate(resolve));
  // Timers of browsers wait for milliseconds; messages do not.
  const { port1, port2 } = new MessageChannel();
  const waiting: (() => void)[] = [];
  port1.onmessage = () => waiting.shift()?.();
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      port2.postMessage(0);
    });
}

/** A timer. One that is not waited for any more is stopped, or it would keep a program from ending. */
function sleep(milliseconds: number) {
  let stop = () => {};
  const done = new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    stop = () => clearTimeout(timer);
  });
  return { done, stop: () => stop() };
}

/** The host object of the bindings. */
export function makeHost(panicked: (message: string) => void) {
  return {
    now: () => performance.now(),
    wallClock: () => Date.now(),
    nextTurn: turns(),
    sleep,
    random: (out: Uint8Array<ArrayBuffer>) => {
      crypto.getRandomValues(out);
    },
    panicked,
  };
}

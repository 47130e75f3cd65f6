// Sizes, rates and times as people read them. Pure functions; `en` numbers, binary units, as the
// reference tools print them.

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** `1536n` → `1.5 KiB`: about three digits, and never `1024 KiB` for just under a MiB. */
export function size(bytes: bigint | number): string {
  let value = Number(bytes);
  let unit = 0;
  while (unit + 1 < UNITS.length && value >= (unit === 0 ? 1024 : 1023.5)) {
    value /= 1024;
    unit++;
  }
  if (unit === 0) return value === 1 ? "1 byte" : `${value} bytes`;
  const digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${trimZeros(value.toFixed(digits))} ${UNITS[unit]}`;
}

/** `1536n` → `1.5 KiB (1,536 bytes)`; below a KiB the number alone. */
export function exactSize(bytes: bigint): string {
  const short = size(bytes);
  return bytes < 1024n ? short : `${short} (${count(bytes)} bytes)`;
}

/** Digits in groups of three. */
export function count(value: bigint | number): string {
  return value.toLocaleString("en");
}

/** `3` and `"cluster"` → `3 clusters`. */
export function plural(value: bigint | number, one: string, many = `${one}s`): string {
  return `${count(value)} ${BigInt(value) === 1n ? one : many}`;
}

/** A share of a whole in words: never `0 %` for something, never `100 %` for less than all. */
export function share(part: bigint, whole: bigint): string {
  if (whole <= 0n || part <= 0n) return "0 %";
  if (part >= whole) return "100 %";
  const percent = (Number(part) / Number(whole)) * 100;
  if (percent < 0.1) return "less than 0.1 %";
  if (percent > 99.9) return "more than 99.9 %";
  return `${trimZeros(percent.toFixed(1))} %`;
}

/** Bytes per second. */
export function rate(bytesPerSecond: number): string {
  return `${size(Math.round(bytesPerSecond))}/s`;
}

/** A time to wait, roughly: nobody wants to see seconds of an hour. */
export function timeLeft(seconds: number): string {
  if (!Number.isFinite(seconds)) return "time left unknown";
  if (seconds < 1) return "less than a second left";
  return `about ${duration(seconds)} left`;
}

/** `75` → `1 min 15 s`. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 1) return `${seconds.toFixed(1)} s`;
  if (s < 60) return `${s} s`;
  if (s < 600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  const m = Math.round(s / 60);
  if (m < 60) return `${m} min`;
  return m % 60 ? `${Math.floor(m / 60)} h ${m % 60} min` : `${m / 60} h`;
}

/** An offset as the specifications write it. */
export function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}

function trimZeros(text: string): string {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

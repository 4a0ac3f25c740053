// Numbers as text.

export const figure = (value, digits = 4) =>
  value === null || value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(digits);

export const signed = (value, digits = Math.abs(value) < 0.01 ? 5 : 3) =>
  (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

export const count = (value) =>
  value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US");

/** Three digits or so, whatever the size. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size >= 100 || size === 0) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}

export const share = (value) => (value === null || value === undefined ? "–" : `${short(100 * value)} %`);

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1e-3) return `${short(1e6 * seconds)} µs`;
  return seconds < 1 ? `${short(1e3 * seconds)} ms` : `${short(seconds)} s`;
}

export const bytes = (value) =>
  value >= 1e6 ? `${short(value / 1e6)} MB` : `${short(value / 1e3)} KB`;

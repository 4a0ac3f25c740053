// Ten minutes of what the service says of itself, a point a second, in this page's memory.

import { data } from "./api.js";

export const KEPT_POINTS = 600;
const GAP_SECONDS = 3;
const QUANTILE_POINTS = 15;

/** Points by name; `seconds` are their times, null stands for a gap. */
export const series = { seconds: [] };
let families = {};
let hashes = {};
let snapshots = [];

export const latest = () => families;

/** The samples of a metric that have these labels. */
export const samples = (name, labels = {}) =>
  (families[name] ?? []).filter((each) =>
    Object.entries(labels).every(([key, value]) => each.labels[key] === value));

const total = (found, name, match) =>
  (found[name] ?? []).filter((each) => match(each.labels)).reduce((sum, each) => sum + each.value, 0);

/** A histogram's counts by bound, its number and its sum, over all samples that match. */
function histogram(found, name, match) {
  const counts = new Map();
  let sum = 0;
  for (const each of found[name] ?? []) {
    if (!match(each.labels)) continue;
    each.le.forEach((bound, place) =>
      counts.set(bound ?? Infinity, (counts.get(bound ?? Infinity) ?? 0) + each.counts[place]));
    sum += each.sum;
  }
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  return { bounds, counts: bounds.map((bound) => counts.get(bound)), sum };
}

function less(now, before) {
  const earlier = new Map(before.bounds.map((bound, place) => [bound, before.counts[place]]));
  return {
    bounds: now.bounds,
    counts: now.counts.map((count, place) => count - (earlier.get(now.bounds[place]) ?? 0)),
    sum: now.sum - before.sum,
  };
}

/** The value below which a share of a histogram lies, by linear interpolation inside a bucket. */
export function quantile({ bounds, counts }, wanted) {
  const all = counts.at(-1) ?? 0;
  if (all <= 0) return null;
  const rank = wanted * all;
  const place = counts.findIndex((count) => count >= rank);
  if (!Number.isFinite(bounds[place])) return bounds[place - 1] ?? null;
  const low = place ? bounds[place - 1] : 0;
  const below = place ? counts[place - 1] : 0;
  const inside = counts[place] - below;
  return low + (bounds[place] - low) * (inside > 0 ? (rank - below) / inside : 1);
}

const mean = ({ counts, sum }) => (counts.at(-1) > 0 ? sum / counts.at(-1) : null);
const scoring = (labels) => labels.route !== "operation";
const any = () => true;

function point(now, before, window, seconds) {
  const rate = (name, match) => (total(now, name, match) - total(before, name, match)) / seconds;
  const over = (name, match) => less(histogram(now, name, match), histogram(window, name, match));
  const latency = over("ctr_request_seconds", scoring);
  const gauge = (name) => total(now, name, any);
  const found = {
    "requests predict": rate("ctr_requests", (labels) => labels.route === "predict"),
    "requests rank": rate("ctr_requests", (labels) => labels.route === "rank"),
    rows: rate("ctr_rows", any),
    refused: rate("ctr_refused_requests", any),
    p50: quantile(latency, 0.5),
    p99: quantile(latency, 0.99),
    queued: gauge("ctr_queued_rows"),
    batch: mean(over("ctr_batch_rows", any)),
    cpu: rate("process_cpu_seconds", any),
    memory: gauge("process_resident_memory_bytes"),
  };
  for (const stage of ["encode", "queue", "engine", "response"]) {
    found[stage] = mean(over(`ctr_${stage}_seconds`, any));
  }
  return found;
}

function push(seconds, values) {
  const names = new Set([...Object.keys(series), ...Object.keys(values)]);
  names.delete("seconds");
  const length = series.seconds.length;
  series.seconds.push(seconds);
  for (const name of names) {
    series[name] ??= new Array(length).fill(null);
    series[name].push(values[name] ?? null);
  }
  if (series.seconds.length > KEPT_POINTS) for (const name of Object.keys(series)) series[name].shift();
}

/** The counts of a histogram since the oldest snapshot that is kept: of the last seconds. */
export const recent = (name, match = any) =>
  less(histogram(families, name, match), histogram(snapshots[0]?.families ?? {}, name, match));

/** How much a counter has grown over the points that are kept of it. */
export const grown = (name, match) =>
  total(families, name, match) - total(snapshots[0]?.families ?? families, name, match);

/** Ask for what has changed, and add a point. */
export async function look(slot) {
  const have = Object.values(hashes).join(",");
  const answer = await data("now", { have, slot });
  hashes = answer.hashes;
  families = Object.fromEntries(
    Object.keys(hashes).map((name) => [name, answer.changed[name] ?? families[name]]));
  const before = snapshots.at(-1);
  const passed = before ? answer.seconds - before.seconds : 0;
  // Counters begin at 0 again where the service does.
  const restarted = before && total(families, "ctr_requests", any) < total(before.families, "ctr_requests", any);
  if (passed > GAP_SECONDS || restarted) {
    snapshots = [];
    push(answer.seconds - 0.5, {});
  } else if (passed > 0) {
    push(answer.seconds, point(families, before.families, snapshots[0].families, passed));
  }
  snapshots.push({ seconds: answer.seconds, families });
  if (snapshots.length > QUANTILE_POINTS) snapshots.shift();
  return answer;
}

// Drawings: lines over time by uPlot, bars and waterfalls as SVG by hand.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";

const HEIGHT = 150;
const LEAST_SECONDS = 30;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const COLOURS = ["--one", "--two", "--three", "--four"];

/** The ends of an axis of time: half a minute at least. */
function lately(_, low, high) {
  const last = high ?? Date.now() / 1000;
  return [Math.min(low ?? last, last - LEAST_SECONDS), last];
}

function options(width, height, labels, shown, time, axes) {
  const grid = { stroke: colour("--line"), width: 1 };
  const font = "12px system-ui, sans-serif";
  const axis = { stroke: colour("--calm"), grid, ticks: { show: false }, font };
  const scales = { x: time ? { time, range: lately } : { time }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), (high || 1) * 1.08] } };
  if (axes.right) scales[axes.right.scale] = axes.right.range;
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales,
    axes: [
      { ...axis, space: 70 },
      { ...axis, size: 56, space: 34, values: (_, values) => values.map(shown) },
      ...(axes.right ? [{ ...axis, side: 1, scale: axes.right.scale, size: 44, grid: { show: false },
        values: (_, values) => values.map((each) => (Number.isInteger(each) ? String(each) : "")) }] : []),
    ],
    series: [
      {},
      ...labels.map((label, place) => ({
        label,
        scale: axes.right && place === labels.length - 1 ? axes.right.scale : "y",
        stroke: colour(COLOURS[place]),
        width: 1.6,
        points: { show: false },
      })),
    ],
  };
}

/** Lines over `x`; `lines` are arrays by label, `shown` writes a number. */
export function Lines({ title, x, lines, shown, time = true, height = HEIGHT, right }) {
  const place = useRef(null);
  const plot = useRef(null);
  const labels = Object.keys(lines);
  const values = [x, ...Object.values(lines)];
  useEffect(() => {
    const make = () => {
      plot.current?.destroy();
      const width = Math.max(160, place.current.clientWidth);
      plot.current = new uPlot(
        options(width, height, labels, shown, time, { right }), values, place.current);
    };
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const resized = new ResizeObserver(() =>
      plot.current.setSize({ width: Math.max(160, place.current.clientWidth), height }));
    make();
    resized.observe(place.current);
    dark.addEventListener("change", make);
    return () => {
      resized.disconnect();
      dark.removeEventListener("change", make);
      plot.current.destroy();
      plot.current = null;
    };
  }, [labels.join("\n")]);
  useEffect(() => { plot.current?.setData(values); });
  return html`<figure class="lines" aria-label=${title}>
    <figcaption>${labels.map((label, number) => html`<span key=${label}>
      <svg width="12" height="8" aria-hidden="true"><rect y="2" width="12" height="3" rx="1.5" class="colour-${number}" /></svg>
      ${label} <b>${shown(lines[label].at(-1))}</b></span>`)}</figcaption>
    <div ref=${place} aria-hidden="true"></div>
  </figure>`;
}

/** Two shares beside each other for each bin, such as now and in training. */
export function Pairs({ bins, first, second, names }) {
  const most = Math.max(...first, ...second, 1e-9);
  return html`<div class="pairs" role="img" aria-label="${names.join(" and ")} by bin; the table below has the numbers">
    ${bins.map((bin, place) => html`<span class="pair" key=${place} title="${bin}: ${names[0]} ${(100 * first[place]).toFixed(1)} %, ${names[1]} ${(100 * second[place]).toFixed(1)} %">
      <svg width="100%" height="80" aria-hidden="true">
        <rect class="colour-0" x="8%" width="40%" y="${100 - (100 * first[place]) / most}%" height="${(100 * first[place]) / most}%" />
        <rect class="colour-1" x="52%" width="40%" y="${100 - (100 * second[place]) / most}%" height="${(100 * second[place]) / most}%" />
      </svg></span>`)}
  </div>`;
}

/** A step of a waterfall: its name, where it begins and ends, and a text for its size. */
export function Waterfall({ steps, shown }) {
  const ends = steps.flatMap((each) => [each.from, each.to]);
  const low = Math.min(0, ...ends);
  const high = Math.max(0, ...ends);
  const width = high - low || 1;
  const at = (value) => (100 * (value - low)) / width;
  return html`<ol class="waterfall">
    ${steps.map((each) => {
      const start = Math.min(at(each.from), at(each.to));
      const length = Math.max(Math.abs(at(each.to) - at(each.from)), 0.4);
      const kind = each.total ? "still" : each.to >= each.from ? "up" : "down";
      return html`<li key=${each.name} class=${each.total ? "total" : ""}>
        <span class="name" title=${each.name}>${each.name}${each.note && html` <small>${each.note}</small>`}</span>
        <svg class="track" width="100%" height="18" aria-hidden="true">
          <line class="zero" x1="${at(0)}%" x2="${at(0)}%" y1="0" y2="18" />
          <rect class="bar ${kind}" x="${start}%" width="${length}%" y="3" height="12" rx="2" />
        </svg>
        <b class="figure">${shown(each)}</b>
      </li>`;
    })}
  </ol>`;
}

/** Bars from a common zero, to the left where negative. */
export function Bars({ rows, shown, tone }) {
  const ends = rows.map((each) => each.value);
  const low = Math.min(0, ...ends);
  const high = Math.max(0, ...ends);
  const width = high - low || 1;
  const zero = (100 * -low) / width;
  return html`<ol class="waterfall">
    ${rows.map((each) => html`<li key=${each.name} class=${each.marked ? "total" : ""}>
      <span class="name" title=${each.name}>${each.name}${each.note && html` <small>${each.note}</small>`}</span>
      <svg class="track" width="100%" height="18" aria-hidden="true">
        <line class="zero" x1="${zero}%" x2="${zero}%" y1="0" y2="18" />
        <rect class="bar ${tone?.(each) ?? ""}" x="${Math.min(zero, zero + (100 * each.value) / width)}%"
          width="${Math.max(Math.abs((100 * each.value) / width), 0.3)}%" y="3" height="12" rx="2" />
      </svg>
      <b class="figure">${shown(each)}</b>
    </li>`)}
  </ol>`;
}

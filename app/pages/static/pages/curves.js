// Small drawings of one look: lines and dots with both axes, as SVG by hand.

import { html } from "./vendor/htm-preact.js";
import { short } from "./figures.js";

const WIDTH = 360;
const HEIGHT = 190;
const LEFT = 46;
const BOTTOM = 24;
const TICKS = 4;

function scales(lines, fixed) {
  const points = lines.flatMap((line) => line.x.map((x, place) => [x, line.y[place]]))
    .filter(([, y]) => y !== null && y !== undefined);
  const ends = (numbers) => [Math.min(...numbers), Math.max(...numbers)];
  const [left, right] = fixed ?? ends(points.map(([x]) => x));
  let [low, high] = fixed ?? ends(points.map(([, y]) => y));
  if (high === low) { high += 0.5; low -= 0.5; }
  return {
    x: (value) => LEFT + ((value - left) / (right - left || 1)) * (WIDTH - LEFT - 8),
    y: (value) => 8 + (1 - (value - low) / (high - low)) * (HEIGHT - BOTTOM - 8),
    across: Array.from({ length: TICKS }, (_, place) => left + ((right - left) * place) / (TICKS - 1)),
    up: Array.from({ length: TICKS }, (_, place) => low + ((high - low) * place) / (TICKS - 1)),
    left, right, low, high,
  };
}

function Frame({ scale, label, children }) {
  return html`<svg class="drawing" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${label}>
    ${scale.up.map((value) => html`<line class="zero" x1=${LEFT} x2=${WIDTH - 8} y1=${scale.y(value)} y2=${scale.y(value)} />
      <text x=${LEFT - 6} y=${scale.y(value) + 4} text-anchor="end">${short(value)}</text>`)}
    ${scale.across.map((value) => html`<text x=${scale.x(value)} y=${HEIGHT - 6} text-anchor="middle">${short(value)}</text>`)}
    ${children}
  </svg>`;
}

const path = (line, scale) => line.x
  .map((x, place) => [x, line.y[place]])
  .filter(([, y]) => y !== null && y !== undefined)
  .map(([x, y], place) => `${place ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(y).toFixed(1)}`)
  .join("");

/** Lines of {name, x, y}, in the colours of their places. */
export function Curves({ lines, label }) {
  const scale = scales(lines);
  return html`<${Frame} scale=${scale} label=${label}>
    ${lines.map((line, place) => html`<path key=${line.name} class="line stroke-${place}" d=${path(line, scale)} />`)}
  <//>`;
}

/** The same with a dot at each point, over the diagonal. */
export function Dots({ lines, label }) {
  const top = Math.max(...lines.flatMap((line) => [...line.x, ...line.y])) * 1.05;
  const scale = scales(lines, [0, top]);
  return html`<${Frame} scale=${scale} label=${label}>
    <line class="diagonal" x1=${scale.x(0)} y1=${scale.y(0)} x2=${scale.x(top)} y2=${scale.y(top)} />
    ${lines.map((line, place) => html`<g key=${line.name}><path class="line stroke-${place}" d=${path(line, scale)} />
      ${line.x.map((x, dot) => html`<circle class="colour-${place}" cx=${scale.x(x)} cy=${scale.y(line.y[dot])} r="2.6" />`)}</g>`)}
  <//>`;
}

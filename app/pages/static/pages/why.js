// Why: what each field adds to a score, two candidates beside each other, and what another value
// would change.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { data, explain, score } from "./api.js";
import { Bars, Lines, Waterfall } from "./charts.js";
import { figure, short, signed } from "./figures.js";
import {
  OOV_NUMBER, OOV_TEXT, candidateValues, contextValues, nameOf, readProfile, request, valueOf,
} from "./request.js";
import { Problem, WithForm } from "./shared.js";

const MOST_STEPS = 14;
const MOST_PAIRS = 12;
const CURVE_POINTS = 25;
const MOST_BARS = 14;
const HOURS = 24;

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
const words = (value) =>
  value === undefined ? "missing" : Array.isArray(value) ? value.join(", ") || "empty" : String(value);

const ownValue = (field, candidate) => ({ ...contextValues(), ...candidateValues(candidate) })[field];
const isFilled = (field) => request.profile.fields.includes(field);

/** The value that a row is scored with, as far as it may be shown: the request's, or the profile's. */
const valueIn = (field, candidate) =>
  isFilled(field) ? request.profile.values[field] : ownValue(field, candidate);

/** The words for it. */
function wordsIn(field, candidate) {
  const value = valueIn(field, candidate);
  if (!isFilled(field)) return words(value);
  return value === undefined ? "from the profile" : `${words(value)}, from the profile`;
}

/** The largest first; those beyond a number become one. */
function largest(pairs, most) {
  const sorted = [...pairs].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const rest = sorted.slice(most);
  if (!rest.length) return sorted;
  const sum = rest.reduce((total, each) => total + each.value, 0);
  return [...sorted.slice(0, most), { name: `${rest.length} others`, value: sum, other: true }];
}

function stepsOf(found, candidate) {
  const fields = Object.entries(found.shapley).map(([name, value]) => ({ name, value }));
  const steps = [{ name: "average row", from: 0, to: found.baseline_logit, total: true }];
  let at = found.baseline_logit;
  for (const each of largest(fields, MOST_STEPS)) {
    steps.push({
      name: each.name,
      note: each.other ? null : wordsIn(each.name, candidate),
      from: at,
      to: at + each.value,
    });
    at += each.value;
  }
  steps.push({ name: "this candidate", from: 0, to: found.logit, total: true });
  return steps;
}

const shownStep = (step) => (step.total ? figure(step.to, 3) : signed(step.to - step.from));

function Parts({ found }) {
  if (!found.first_order) return null;
  const rows = [
    { name: "bias", value: found.bias },
    ...Object.entries(found.first_order).map(([name, value]) => ({ name, value, note: "alone" })),
    ...(found.pairs ?? []).map((each) => ({ name: each.fields.join(" × "), value: each.value, note: "together" })),
    ...(found.deep === null || found.deep === undefined ? [] : [{ name: "deep part", value: found.deep }]),
  ];
  return html`<section class="card"><h2>Terms of the network</h2>
    <p class="calm"><small>The formula's own terms, which add up to the logit ${figure(found.logit, 3)}: each value alone,
      pairs of values, and what the deep part makes of all of them.</small></p>
    <${Bars} rows=${largest(rows, MOST_PAIRS)} shown=${(each) => signed(each.value)}
      tone=${(each) => (each.value < 0 ? "down" : "up")} /></section>`;
}

function One({ found, candidate }) {
  const method = found.method === "sampled"
    ? `estimated from sampled orders of the fields; standard error at most ${short(Math.max(0, ...Object.values(found.standard_error ?? {})))}`
    : "exact";
  return html`<section class="card"><h2>${nameOf(candidate)}</h2>
    <p>Score <b class="figure">${figure(found.score, 4)}</b>. <span class="calm">An average row of the training data has ${figure(sigmoid(found.baseline_logit), 4)} before calibration;
      each field moves the logit up or down from there.</span></p>
    <${Waterfall} steps=${stepsOf(found, candidate)} shown=${shownStep} />
    <p class="calm"><small>Shapley values of the fields, ${method}; logits before calibration.</small></p></section>`;
}

function Two({ answer, first, second }) {
  const rows = answer.difference.shapley.map(({ field, value }) => ({
    name: field,
    value,
    note: isFilled(field) ? wordsIn(field, first)
      : valueIn(field, first) === undefined && valueIn(field, second) === undefined ? null
        : words(valueIn(field, first)) === words(valueIn(field, second)) ? words(valueIn(field, first))
          : `${words(valueIn(field, first))} | ${words(valueIn(field, second))}`,
  }));
  const [a, b] = answer.candidates;
  const pairs = answer.difference.pairs?.map(({ fields, value }) => ({ name: fields.join(" × "), value }));
  return html`<section class="card wide"><h2>${answer.difference.logit >= 0 ? "Why the first is before the second" : "Why the second is before the first"}</h2>
    <p>${nameOf(first)} <b class="figure">${figure(a.score, 4)}</b>, ${nameOf(second)} <b class="figure">${figure(b.score, 4)}</b>;
      logits differ by <b class="figure">${signed(answer.difference.logit)}</b>.</p>
    <p class="calm"><small>To the right: for the first. To the left: for the second. Values: first | second.</small></p>
    <${Bars} rows=${largest(rows, MOST_STEPS)} shown=${(each) => signed(each.value)}
      tone=${(each) => (each.value < 0 ? "other" : "")} />
    ${pairs && html`<h3>Pairs of values that differ most</h3>
      <${Bars} rows=${largest(pairs, MOST_PAIRS).filter((each) => !each.other)} shown=${(each) => signed(each.value)}
        tone=${(each) => (each.value < 0 ? "other" : "")} />`}
  </section>`;
}

function Explained({ first, second }) {
  const [state, setState] = useState({ answer: null, error: null });
  useEffect(() => {
    let current = true;
    const context = contextValues();
    const body = second
      ? { context, candidates: [first, second].map((each) => ({ features: candidateValues(each) })) }
      : { context, candidate: candidateValues(first) };
    setState({ answer: null, error: null });
    explain(body).then(
      ({ content }) => { if (current) setState({ answer: content, error: null }); },
      (error) => { if (current) setState({ answer: null, error }); });
    return () => { current = false; };
  }, [first.key, second?.key]);
  const { answer, error } = state;
  if (error) return html`<${Problem} error=${error} />`;
  if (!answer) return html`<p class="calm">Explaining…</p>`;
  if (answer.candidates && second) {
    return html`<div class="grid halves"><${Two} answer=${answer} first=${first} second=${second} />
      <${One} found=${answer.candidates[0]} candidate=${first} />
      <${One} found=${answer.candidates[1]} candidate=${second} /></div>`;
  }
  return html`<div class="grid halves"><${One} found=${answer} candidate=${first} /><${Parts} found=${answer} /></div>`;
}

/** Values of a field that are worth a look: {label, value}, and whether they are numbers on a line. */
async function variants(field, now) {
  if (field.kind === "numeric" && field.range) {
    const [low, high] = field.range;
    const values = Array.from({ length: CURVE_POINTS }, (_, place) => low + ((high - low) * place) / (CURVE_POINTS - 1));
    if (typeof now === "number") values.push(now);
    values.sort((a, b) => a - b);
    return { line: true, found: [...new Set(values)].map((value) => ({ label: short(value), value, x: value })) };
  }
  if (field.kind === "time") {
    const start = typeof now === "number" ? now : now ? Date.parse(now) / 1000 : Date.now() / 1000;
    const hours = field.parts.includes("hour");
    const step = hours ? 3600 : 86400;
    const number = hours ? HOURS : 7;
    return { line: false, found: Array.from({ length: number }, (_, place) => {
      const value = Math.round(start + place * step);
      const iso = new Date(1000 * value).toISOString();
      return { label: place === 0 ? "as it is" : hours ? `${iso.slice(11, 16)} UTC` : iso.slice(0, 10), value };
    }) };
  }
  const known = field.dtype === "boolean" ? ["true", "false"]
    : field.completes ? (await data("values", { field: field.name })).values : [];
  const list = field.kind === "multi_categorical";
  const found = known.slice(0, MOST_BARS).map((text) => ({
    label: text,
    value: valueOf(field, { mode: "value", text, list: [text] }),
  }));
  const present = words(now);
  if (now !== undefined && !found.some((each) => words(each.value) === present)) found.unshift({ label: present, value: now });
  const oov = field.dtype === "integer" ? Number(OOV_NUMBER) : OOV_TEXT;
  if (field.dtype !== "boolean") found.push({ label: "OOV", value: list ? [oov] : oov });
  if (!field.required) found.push({ label: "missing", value: undefined });
  return { line: false, found };
}

/** Rank candidates for a context, as a service does: profiles fill what the context lacks. */
async function scoresOf(context, candidates) {
  const { content } = await score("rank", { context, candidates: candidates.map((features) => ({ features })) });
  const found = [];
  for (const each of content.ranking) found[each.index] = each.score;
  return found;
}

/** Score a candidate and all others with each value of a field; rank 1 is the best. */
async function ranks(field, candidate, values) {
  const others = request.candidates.filter((each) => each !== candidate).map(candidateValues);
  const context = contextValues();
  const own = candidateValues(candidate);
  // A null is a missing value, which no profile fills.
  const changed = (base, value) => ({ ...base, [field.name]: value ?? null });
  const placed = (score, rest) => ({ score, rank: rest.filter((one) => one > score).length + 1 });
  if (field.side === "context") {
    return Promise.all(values.map(async (each) => {
      const [score, ...rest] = await scoresOf(changed(context, each.value), [own, ...others]);
      return { ...each, ...placed(score, rest) };
    }));
  }
  // A candidate's value changes nothing for the others.
  const found = await scoresOf(context, [...values.map(({ value }) => changed(own, value)), ...others]);
  const rest = found.slice(values.length);
  return values.map((each, place) => ({ ...each, ...placed(found[place], rest) }));
}

function WhatIf({ candidate }) {
  const fields = [...request.form.fields].sort((a, b) => (a.side === b.side ? 0 : a.side === "candidate" ? -1 : 1));
  const [name, setName] = useState(fields[0].name);
  const [state, setState] = useState({ rows: null, error: null });
  const field = fields.find((each) => each.name === name);
  const now = valueIn(name, candidate);
  useEffect(() => {
    let current = true;
    const ask = async () => {
      const { line, found } = await variants(field, now);
      const rows = await ranks(field, candidate, found);
      if (current) setState({ line, rows, of: name, error: null });
    };
    ask().catch((error) => { if (current) setState({ rows: null, error }); });
    return () => { current = false; };
  }, [name, candidate.key]);
  const { rows, line, error } = state;
  const all = request.candidates.length;
  return html`<section class="card wide">
    <div class="row"><h2>With another value</h2>
      <label class="inline">Field <select value=${name} onChange=${(event) => setName(event.target.value)}>
        ${fields.map((each) => html`<option key=${each.name} value=${each.name}>${each.name} (${each.side})</option>`)}
      </select></label></div>
    <p class="calm">Score and rank of ${nameOf(candidate)} among ${all} candidate${all === 1 ? "" : "s"} as <b>${name}</b> changes; all else stays.
      Now: ${wordsIn(name, candidate)}. <small>OOV: a value that training never saw.</small></p>
    <${Problem} error=${error} />
    ${rows && state.of === name && (line
      ? html`<${Lines} title="Score and rank by ${name}" time=${false} height=${220} x=${rows.map((each) => each.x)}
          lines=${{ score: rows.map((each) => each.score), rank: rows.map((each) => each.rank) }}
          shown=${(value) => (value === null || value === undefined ? "–" : String(Number(value.toFixed(4))))}
          right=${{ scale: "rank", range: () => [all + 0.5, 0.5] }} />
        <p class="calm"><small>The legend shows the values at the right end.</small></p>`
      : html`<${Bars} rows=${rows.map((each) => ({ name: each.label, value: each.score, rank: each.rank, marked: words(each.value) === words(now) && !(isFilled(name) && now === undefined) }))}
          shown=${(each) => `${figure(each.value, 4)} #${each.rank}`} tone=${(each) => (each.marked ? "" : "still")} />`)}
  </section>`;
}

const asked = () => Number(/\?(\d+)/.exec(location.hash)?.[1] ?? 0);

function Choice({ label, chosen, choose, none }) {
  return html`<label class="inline">${label} <select value=${chosen ?? ""}
    onChange=${(event) => choose(event.target.value === "" ? null : Number(event.target.value))}>
    ${none && html`<option value="">none</option>`}
    ${request.candidates.map((each, place) => html`<option key=${each.key} value=${place}>${place + 1}. ${nameOf(each)}</option>`)}
  </select></label>`;
}

const contextWords = () => [
  ...Object.entries(contextValues()).map(([name, value]) => `${name} ${words(value)}`),
  ...request.profile.fields.map((name) => `${name} ${wordsIn(name)}`),
].join(" · ");

function Chosen({ port }) {
  const [first, setFirst] = useState(Math.min(asked(), request.candidates.length - 1));
  const [second, setSecond] = useState(null);
  useEffect(() => {
    const follow = () => { if (location.hash.startsWith("#/why?")) setFirst(Math.min(asked(), request.candidates.length - 1)); };
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  const [looked, setLooked] = useState(false);
  useEffect(() => { readProfile().then(() => setLooked(true)); }, []);
  const candidate = request.candidates[first];
  if (!looked) return html`<p class="calm">Loading…</p>`;
  if (!candidate) return html`<p>There is no candidate: add one on the page <a href="#/try">Try</a>.</p>`;
  const other = second === null || second === first ? null : request.candidates[second];
  return html`<section class="card"><div class="row start">
      <${Choice} label="Candidate" chosen=${first} choose=${setFirst} />
      ${port.explain && html`<${Choice} label="beside" chosen=${second} choose=${setSecond} none />`}
      <a href="#/try">Change the request</a></div>
      <p class="calm">Context: ${contextWords() || "no values"}</p>
    </section>
    ${port.explain ? html`<${Explained} first=${candidate} second=${other} />`
      : html`<p class="calm">This port explains no scores; see CTR_EXPLAIN.</p>`}
    <${WhatIf} candidate=${candidate} />`;
}

export const Why = ({ port, denied }) => html`
  <h1>Why</h1>
  <${WithForm} denied=${denied}>${() => html`<${Chosen} port=${port} />`}<//>`;

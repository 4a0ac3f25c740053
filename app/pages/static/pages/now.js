// Now: what goes on in the service, asked for once a second while the page is seen.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { ApiError } from "./api.js";
import { Lines, Pairs } from "./charts.js";
import { Dots } from "./curves.js";
import { bytes, count, duration, figure, share, short } from "./figures.js";
import { grown, latest, look, recent, samples, series } from "./history.js";
import { told } from "./shared.js";

const EACH_MS = 1000;

/** Ask once a second while the page is seen; `at` changes with each answer. */
function useLive(slot, denied) {
  const [state, setState] = useState({ answer: null, error: null });
  useEffect(() => {
    let current = true;
    let timer;
    const ask = async () => {
      try {
        const answer = await look(slot);
        if (current) setState({ answer, error: null });
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) denied();
        else if (current) setState((before) => ({ ...before, error }));
      }
      if (current && !document.hidden) timer = setTimeout(ask, EACH_MS);
    };
    const seen = () => {
      clearTimeout(timer);
      if (!document.hidden) ask();
    };
    document.addEventListener("visibilitychange", seen);
    ask();
    return () => {
      current = false;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [slot]);
  return state;
}

const pick = (...names) => Object.fromEntries(names.map((name) => [name, series[name] ?? []]));

function Chart({ title, note, lines, shown }) {
  return html`<section class="card">
    <h2>${title}</h2>
    ${note && html`<p class="calm"><small>${note}</small></p>`}
    <${Lines} title=${title} x=${series.seconds} lines=${lines} shown=${shown} />
  </section>`;
}

const valueOf = (name, labels) => samples(name, labels)[0]?.value;

/** Each slot with its shares of missing and OOV values beside training's, and its drift. */
function slotRows() {
  const drift = latest().drift?.slots ?? {};
  const names = samples("ctr_training_missing_share").map((each) => each.labels.slot);
  const rows = valueOf("ctr_rows") ?? 0;
  const part = (name, slot) => (rows ? (valueOf(name, { slot }) ?? 0) / rows : null);
  return names.map((slot) => ({
    slot,
    missing: part("ctr_missing_values", slot),
    missingBefore: valueOf("ctr_training_missing_share", { slot }),
    oov: part("ctr_oov_values", slot),
    oovBefore: valueOf("ctr_training_oov_share", { slot }),
    ...drift[slot],
  })).sort((a, b) => (b.drifted ?? 0) - (a.drifted ?? 0)
    || (b.psi ?? 0) - (b.threshold ?? 0) - ((a.psi ?? 0) - (a.threshold ?? 0)));
}

function Slots({ chosen, choose }) {
  const rows = slotRows();
  const drifted = rows.filter((each) => each.drifted);
  return html`<section class="card wide">
    <h2>Values, beside training</h2>
    <p class="calm">${drifted.length
      ? html`<span class="tag bad">${drifted.length} drifted</span> ${drifted.map((each) => each.slot).join(", ")}:
        what comes now is not what the network was trained on.`
      : html`<span class="tag good">no drift</span> Values come as they did in training, as far as their number tells.`}
      ${" "}<small>OOV: values that training never saw, or too rarely. Requests of these pages are left out of drift.</small></p>
    <div class="table" tabindex="0" role="region" aria-label="Values by field">
    <table>
      <caption class="hidden">Shares of missing and OOV values, and drift, by field</caption>
      <thead><tr><th scope="col">field</th><th scope="col">state</th>
        <th scope="col" class="number">PSI</th><th scope="col" class="number">threshold</th>
        <th scope="col" class="number">OOV</th><th scope="col" class="number">in training</th>
        <th scope="col" class="number">missing</th><th scope="col" class="number">in training</th></tr></thead>
      <tbody>${rows.map((each) => html`<tr key=${each.slot} aria-selected=${each.slot === chosen}>
        <th scope="row"><button class="quiet" aria-pressed=${each.slot === chosen}
          onClick=${() => choose(each.slot === chosen ? "" : each.slot)}>${each.slot}</button></th>
        <td>${each.drifted ? html`<span class="tag bad">drifted</span>`
          : each.count ? html`<span class="tag good">as trained</span>` : html`<span class="tag">no values</span>`}</td>
        <td class="number">${figure(each.psi, 3)}</td><td class="number">${figure(each.threshold, 3)}</td>
        <td class="number">${share(each.oov)}</td><td class="number calm">${share(each.oovBefore)}</td>
        <td class="number">${share(each.missing)}</td><td class="number calm">${share(each.missingBefore)}</td>
      </tr>`)}</tbody>
    </table></div>
    <${Detail} slot=${chosen} />
  </section>`;
}

function Detail({ slot }) {
  const detail = latest().drift?.detail;
  if (!slot) return html`<p class="calm"><small>Choose a field to see its values now beside those of training.</small></p>`;
  if (detail?.slot !== slot) return null;
  const names = ["now", "training"];
  const rows = detail.bins.map((bin, place) => [bin === "oov" ? "OOV" : bin, detail.window[place], detail.trained[place]])
    .filter(([, now, before]) => now > 0 || before > 0);
  const moved = [...rows].sort((a, b) => Math.abs(b[1] - b[2]) - Math.abs(a[1] - a[2])).slice(0, 12);
  return html`<h3>${slot}: <span class="key-0">now</span> beside <span class="key-1">training</span></h3>
    <${Pairs} bins=${rows.map((each) => each[0])} first=${rows.map((each) => each[1])}
      second=${rows.map((each) => each[2])} names=${names} />
    <div class="table"><table><caption>Values whose share has changed most</caption>
      <thead><tr><th scope="col">value</th><th scope="col" class="number">now</th><th scope="col" class="number">training</th></tr></thead>
      <tbody>${moved.map(([bin, now, before]) => html`<tr key=${bin}><th scope="row" class="value">${bin}</th>
        <td class="number">${share(now)}</td><td class="number">${share(before)}</td></tr>`)}</tbody></table></div>`;
}

function Scores() {
  const score = latest().drift?.score;
  const version = samples("ctr_score")[0];
  if (!score?.count) return null;
  const names = ["now", "validation"];
  const bins = score.bins.map(([low, high]) => `${figure(low ?? 0, 3)} to ${figure(high ?? 1, 3)}`);
  return html`<section class="card">
    <h2>Scores</h2>
    <p class="calm"><small><span class="key-0">now</span> beside <span class="key-1">validation</span>:
      ${" "}${count(version?.counts.at(-1))} scores of ${version?.labels.version}; PSI ${figure(score.psi, 3)}, ${score.drifted ? "drifted" : "not drifted"} (threshold ${figure(score.threshold, 3)})</small></p>
    <${Pairs} bins=${bins} first=${score.window} second=${score.trained} names=${names} />
    <p class="row calm"><small>${figure(0, 1)}</small><small>score</small><small>${figure(1, 1)}</small></p>
  </section>`;
}

function Refusals() {
  const found = samples("ctr_refused_requests").sort((a, b) => b.value - a.value);
  return html`<section class="card">
    <h2>Refused</h2>
    <p class="calm"><small>requests without scores since the start, and in the last seconds</small></p>
    ${found.length === 0 ? html`<p>None.</p>` : html`<div class="table"><table>
      <thead><tr><th scope="col">route</th><th scope="col">reason</th><th scope="col" class="number">all</th><th scope="col" class="number">now</th></tr></thead>
      <tbody>${found.map(({ labels, value }) => html`<tr key=${`${labels.route} ${labels.reason}`}>
        <td>${labels.route}</td><td>${labels.reason.replaceAll("_", " ")}</td><td class="number">${count(value)}</td>
        <td class="number">${count(grown("ctr_refused_requests", (each) => each.route === labels.route && each.reason === labels.reason))}</td></tr>`)}</tbody>
    </table></div>`}
  </section>`;
}

function Batches() {
  const { bounds, counts } = recent("ctr_batch_rows");
  const all = counts.at(-1) ?? 0;
  const bins = counts.map((each, place) => each - (place ? counts[place - 1] : 0));
  return html`<section class="card"><h2>Batch sizes</h2>
    <p class="calm"><small>rows of the engine's runs, of the last seconds</small></p>
    ${all <= 0 ? html`<p>No run.</p>` : html`<div class="table"><table class="spark">
      <thead><tr><th scope="col">rows up to</th><th scope="col" class="number">runs</th><th scope="col"><span class="hidden">share</span></th></tr></thead>
      <tbody>${bins.map((each, place) => each > 0 && html`<tr key=${bounds[place]}>
        <td>${Number.isFinite(bounds[place]) ? count(bounds[place]) : "more"}</td><td class="number">${count(each)}</td>
        <td><svg width="100%" height="8" aria-hidden="true"><rect class="bar" height="8" rx="2" width="${(100 * each) / all}%" /></svg></td></tr>`)}</tbody>
    </table></div>`}
  </section>`;
}

/** Labelled events by version, and click rates beside scores by the score's bin. */
function Feedback() {
  const versions = [...new Set(samples("ctr_feedback_labels").map((each) => each.labels.version))];
  if (!versions.length) return null;
  const sum = (name, labels) => samples(`ctr_feedback_${name}`, labels).reduce((total, each) => total + each.value, 0);
  const rows = versions.map((version) => {
    const labels = sum("labels", { version });
    const bins = samples("ctr_feedback_labels", { version }).map(({ labels: { up_to }, value }) => ({
      predicted: sum("predicted", { version, up_to }) / value,
      observed: sum("clicks", { version, up_to }) / value,
    })).sort((one, other) => one.predicted - other.predicted);
    return { version, labels, bins, predicted: sum("predicted", { version }), clicks: sum("clicks", { version }), loss: sum("log_loss", { version }) / labels };
  });
  return html`<section class="card"><h2>Calibration from feedback</h2>
    <p class="calm"><small>observed click rate by mean score, of labelled events since the start; on the line: calibrated</small></p>
    <${Dots} label="Observed click rate by score" lines=${rows.map((each) => ({
      name: each.version, x: each.bins.map((bin) => bin.predicted), y: each.bins.map((bin) => bin.observed) }))} />
    <div class="table"><table><thead><tr><th scope="col">version</th><th scope="col" class="number">events</th>
        <th scope="col" class="number">predicted / observed</th><th scope="col" class="number">log loss</th></tr></thead>
      <tbody>${rows.map((each, place) => html`<tr key=${each.version}><th scope="row" class="value">
          <svg width="12" height="8" aria-hidden="true"><rect y="2" width="12" height="3" rx="1.5" class="colour-${place}" /></svg> <code>${each.version}</code></th>
        <td class="number">${count(each.labels)}</td><td class="number">${figure(each.clicks ? each.predicted / each.clicks : null, 3)}</td>
        <td class="number">${figure(each.loss)}</td></tr>`)}</tbody></table></div></section>`;
}

/** Both sides of a canary, as far as they are counted. */
function Trial() {
  const sides = samples("ctr_trial_rows");
  if (!sides.length) return null;
  const total = (labels, outcome) => samples("ctr_trial_requests", { ...labels, outcome })[0]?.value ?? 0;
  return html`<section class="card"><h2>Canary</h2><p class="calm"><small>since it began</small></p>
    <div class="table"><table><thead><tr><th scope="col">side</th><th scope="col" class="number">rows</th>
        <th scope="col" class="number">answered</th><th scope="col" class="number">failed</th></tr></thead>
      <tbody>${sides.map(({ labels, value }) => html`<tr key=${labels.role}><th scope="row">${labels.role}</th>
        <td class="number">${count(value)}</td><td class="number">${count(total(labels, "answered"))}</td>
        <td class="number">${count(total(labels, "failed"))}</td></tr>`)}</tbody></table></div></section>`;
}

function Facts({ answer }) {
  const info = samples("ctr_bundle_info")[0]?.labels ?? {};
  return html`<p class="calm">${answer.network} · ${answer.version} · ${info.provider?.replace("ExecutionProvider", "")}
    ${" "}${info.precision} · ${count(valueOf("ctr_rows") ?? 0)} rows since the start
    ${valueOf("ctr_catalogue_items") !== undefined && html` · ${count(valueOf("ctr_catalogue_items"))} items`}</p>`;
}

export function Now({ denied }) {
  const [slot, setSlot] = useState("");
  const { answer, error } = useLive(slot, denied);
  return html`
    <h1>Now</h1>
    ${error && html`<p role="alert" class="alert">${told(error)} Asking again each second.</p>`}
    ${!answer && !error && html`<p class="calm">Loading…</p>`}
    ${answer && html`<${Facts} answer=${answer} />
    <div class="grid">
      <${Chart} title="Requests" note="answered, each second" lines=${pick("requests predict", "requests rank")} shown=${short} />
      <${Chart} title="Latency" note="of scoring requests, the last 15 seconds" lines=${pick("p50", "p99")} shown=${duration} />
      <${Chart} title="Stages" note="means of the last 15 seconds" lines=${pick("encode", "queue", "engine", "response")} shown=${duration} />
      <${Chart} title="Rows" note="scored, each second" lines=${pick("rows")} shown=${short} />
      <${Chart} title="Queue and batches" note="rows that wait; mean rows of a run" lines=${pick("queued", "batch")} shown=${short} />
      <${Chart} title="Refused" note="requests without scores, each second" lines=${pick("refused")} shown=${short} />
      <${Slots} chosen=${slot} choose=${setSlot} />
      <${Scores} />
      <${Batches} />
      <${Refusals} />
      <${Feedback} />
      <${Trial} />
      <${Chart} title="CPU" note="cores in use" lines=${pick("cpu")} shown=${short} />
      <${Chart} title="Memory" note="of all processes, shared pages counted in each" lines=${pick("memory")} shown=${(each) => (each === null || each === undefined ? "–" : bytes(each))} />
    </div>`}`;
}

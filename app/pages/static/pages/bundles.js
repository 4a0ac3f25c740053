// Bundles: what is there, what serves, their figures beside each other, and the operator's choice.

import { html, useState } from "./vendor/htm-preact.js";
import { admin, data } from "./api.js";
import { Curves, Dots } from "./curves.js";
import { bytes, count, duration, figure, share, short, signed } from "./figures.js";
import { Problem, useAnswer } from "./shared.js";

const MOST_COMPARED = 4;
const TONES = { serving: "good", canary: "warn", shadow: "warn", held: "warn", refused: "bad", unreadable: "bad" };

const quality = (bundle) => bundle.metrics?.test ?? bundle.metrics?.validation ?? {};

const wide = (figures, name) => {
  const low = figures[`${name}_lower`];
  const high = figures[`${name}_upper`];
  return low === undefined || low === null ? "" : ` ± ${figure((high - low) / 2, 4)}`;
};

function Difference({ value, beside, digits, better }) {
  if (value === undefined || beside === undefined || value === null || beside === null || value === beside) return null;
  const change = value - beside;
  const good = better === "higher" ? change > 0 : change < 0;
  return html` <small class=${good ? "better" : "worse"}>${signed(change, digits)}</small>`;
}

/** Buttons that ask once more before they act. */
function Action({ label, danger, act }) {
  const [sure, setSure] = useState(false);
  if (!sure) return html`<button class=${danger ? "danger" : ""} onClick=${() => setSure(true)}>${label}</button>`;
  return html`<span class="sure"><button class="primary" onClick=${() => { setSure(false); act(); }}>${label}: yes</button>
    <button class="quiet" onClick=${() => setSure(false)}>no</button></span>`;
}

function TrialForm({ act }) {
  const [mode, setMode] = useState("canary");
  const [percent, setPercent] = useState("5");
  const [key, setKey] = useState("");
  return html`<form class="trial" onSubmit=${(event) => {
    event.preventDefault();
    const part = Number(percent) / 100;
    act(mode, mode === "canary" ? { share: part, key } : { share: part });
  }}>
    <label class="inline">as <select value=${mode} onChange=${(event) => setMode(event.target.value)}>
      <option value="canary">canary: answers a share of the users</option>
      <option value="shadow">shadow: scores after the answers</option></select></label>
    <label class="inline">share <input type="number" min="0.1" max="100" step="any" value=${percent}
      onInput=${(event) => setPercent(event.target.value)} /> %</label>
    ${mode === "canary" && html`<label class="inline">by field <input required value=${key} placeholder="user_id"
      onInput=${(event) => setKey(event.target.value)} /></label>`}
    <button>Begin</button>
  </form>`;
}

function Actions({ bundle, listing, act }) {
  const path = `bundles/${encodeURIComponent(bundle.version)}`;
  const trial = listing.trial?.version === bundle.version;
  const free = ["available", "held", "refused"].includes(bundle.state);
  return html`<div class="row start">
    ${free && html`<${Action} label="Activate" act=${() => act("POST", `${path}/activate`)} />`}
    ${trial && html`<${Action} label="Promote" act=${() => act("POST", `${path}/promote`)} />
      <${Action} label="Stop" danger act=${() => act("POST", `${path}/stop`)} />`}
    ${"trial" in listing && free && !listing.trial && html`
      <${TrialForm} act=${(mode, body) => act("POST", `${path}/${mode}`, body)} />`}
    ${bundle.state === "serving" && listing.current && html`
      <${Action} label="Follow the newest again" act=${() => act("DELETE", "current")} />`}
  </div>`;
}

function Row({ bundle, serving, chosen, toggle }) {
  const found = quality(bundle);
  const beside = serving && serving !== bundle ? quality(serving) : {};
  return html`<tr aria-selected=${chosen}>
    <td><input type="checkbox" checked=${chosen} onChange=${toggle} aria-label="compare ${bundle.version}" /></td>
    <th scope="row"><code>${bundle.version}</code>
      ${bundle.reason && html`<br /><small class="calm">${bundle.reason}</small>`}</th>
    <td><span class="tag ${TONES[bundle.state] ?? ""}">${bundle.state}</span></td>
    <td>${bundle.network ?? "–"}${bundle.int8 ? " + int8" : ""}</td>
    <td class="number">${figure(found.auc)}${wide(found, "auc")}<${Difference} value=${found.auc} beside=${beside.auc} digits=${4} better="higher" /></td>
    <td class="number">${figure(found.log_loss)}<${Difference} value=${found.log_loss} beside=${beside.log_loss} digits=${4} better="lower" /></td>
    <td class="number">${figure(found.calibration, 3)}</td>
    <td class="number">${count(bundle.rows)}</td>
    <td class="number">${bundle.bytes ? bytes(bundle.bytes) : "–"}</td>
  </tr>`;
}

/** Settings in which bundles differ. */
function Settings({ bundles }) {
  const names = [...new Set(bundles.flatMap((each) => Object.keys(each.config ?? {})))];
  const text = (value) => (value === undefined ? "–" : JSON.stringify(value));
  const differing = names.filter((name) => new Set(bundles.map((each) => text(each.config?.[name]))).size > 1);
  if (bundles.length < 2) return null;
  if (!differing.length) return html`<p class="calm">Trained with the same settings.</p>`;
  return html`<div class="table"><table><caption>Settings that differ</caption>
    <thead><tr><th scope="col">setting</th>${bundles.map((each) => html`<th scope="col" key=${each.version}><code>${each.version}</code></th>`)}</tr></thead>
    <tbody>${differing.map((name) => html`<tr key=${name}><th scope="row">${name}</th>
      ${bundles.map((each) => html`<td key=${each.version}>${text(each.config?.[name])}</td>`)}</tr>`)}</tbody></table></div>`;
}

function Reports({ bundles, denied }) {
  const wanted = bundles.filter((each) => each.report);
  const names = wanted.map((each) => each.version);
  const [text, setText] = useState(null);
  const { answer } = useAnswer(
    () => Promise.all(names.map((name) => data(`bundles/${encodeURIComponent(name)}/report`))), denied, [names.join()]);
  const told = (answer ?? []).filter((each) => names.includes(each.version));
  const drawn = told.filter((each) => each.figures);
  const lines = (name) => drawn.map((each) => ({ name: each.version, x: each.figures.history.map((one) => one.epoch), y: each.figures.history.map((one) => one[name]) }));
  return html`
    ${drawn.length > 0 && html`
      <section class="card"><h2>Learning</h2><p class="calm"><small>log loss on the validation part, by epoch</small></p>
        <${Curves} lines=${lines("log_loss")} label="Log loss by epoch" /></section>
      <section class="card"><h2>AUC</h2><p class="calm"><small>on the validation part, by epoch</small></p>
        <${Curves} lines=${lines("auc")} label="AUC by epoch" /></section>
      <section class="card"><h2>Reliability</h2><p class="calm"><small>observed click rate by mean score, test part; on the line: calibrated</small></p>
        <${Dots} lines=${drawn.map((each) => ({ name: each.version, x: each.figures.reliability.predicted, y: each.figures.reliability.observed }))}
          label="Observed click rate by score" /></section>`}
    ${told.length > 0 && html`<section class="card wide"><div class="row start"><h2>Reports of the trainer</h2>
      ${told.map((each) => html`<button key=${each.version} aria-expanded=${text === each.version}
        onClick=${() => setText(text === each.version ? null : each.version)}><code>${each.version}</code></button>`)}</div>
      ${told.filter((each) => each.version === text).map((each) => html`<pre class="code" tabindex="0">${each.text}</pre>`)}
    </section>`}`;
}

const SIDES = [
  ["requests", count], ["failed", count], ["rows", count],
  ["mean_score", (value) => figure(value, 4)], ["p99_ms", (value) => (value === null ? "–" : `${short(value)} ms`)],
];
const SHADOW = [
  ["rows", count], ["logit_shift", (value) => figure(value, 4)], ["shared_top", share],
  ["mean_score", (value) => figure(value, 4)], ["live_mean_score", (value) => figure(value, 4)],
];
const spaced = (name) => name.replaceAll("_", " ");

/** The bundle on trial, with the figures of both sides. */
function Trial({ trial }) {
  if (!trial) return null;
  return html`<section class="card"><div class="row"><h2>On trial</h2><span class="tag warn">${trial.mode}, ${trial.state}</span></div>
    <p><code>${trial.version}</code> takes ${share(trial.share)} of ${trial.key ? html`the values of <code>${trial.key}</code>` : "the requests"}.</p>
    ${trial.canary && html`<div class="table"><table><thead><tr><th scope="col">since it began</th>
        <th scope="col" class="number">the one that serves</th><th scope="col" class="number">canary</th></tr></thead>
      <tbody>${SIDES.map(([name, shown]) => html`<tr key=${name}><th scope="row">${spaced(name)}</th>
        <td class="number">${shown(trial.live?.[name] ?? null)}</td><td class="number">${shown(trial.canary[name])}</td></tr>`)}</tbody></table></div>`}
    ${trial.shadow && html`<dl class="facts">${SHADOW.map(([name, shown]) => html`<dt>${spaced(name)}</dt><dd>${shown(trial.shadow[name])}</dd>`)}</dl>`}
  </section>`;
}

export function Bundles({ denied }) {
  const { answer: listing, error, again } = useAnswer(() => data("bundles"), denied);
  const [picked, setPicked] = useState(null);
  const [outcome, setOutcome] = useState(null);
  const [problem, setProblem] = useState(null);
  const act = async (method, path, body) => {
    setProblem(null);
    setOutcome("Working: it is loaded and verified, and all workers have to agree…");
    try {
      const answer = await admin(method, path, body);
      setOutcome(answer.previous ? `${answer.version} serves; before: ${answer.previous}.` : "Done.");
    } catch (failed) {
      if (failed.status === 401) denied();
      setOutcome(null);
      setProblem(failed);
    }
    again();
  };
  if (!listing) return html`<h1>Bundles</h1><${Problem} error=${error} />${!error && html`<p class="calm">Loading…</p>`}`;
  const serving = listing.bundles.find((each) => each.state === "serving");
  const chosen = picked ?? listing.bundles.slice(0, 2).map((each) => each.version);
  const compared = listing.bundles.filter((each) => chosen.includes(each.version)).slice(0, MOST_COMPARED);
  const toggle = (version) => setPicked(chosen.includes(version) ? chosen.filter((each) => each !== version) : [...chosen, version]);
  return html`<h1>Bundles</h1>
    <${Problem} error=${error ?? problem} />
    <p aria-live="polite">${outcome}</p>
    <${Trial} trial=${listing.trial} />
    <section class="card"><div class="row"><h2>In the directory</h2><button class="quiet" onClick=${again}>Look again</button></div>
      <p class="calm">${listing.current ? html`<code>CURRENT</code> names ${listing.current}: newer bundles are not taken up by themselves.`
        : "The newest bundle that passes is taken up by itself."} Small figures are the difference from the one that serves.</p>
      <div class="table" tabindex="0" role="region" aria-label="Bundles"><table>
        <thead><tr><th scope="col"><span class="hidden">compare</span></th><th scope="col">bundle</th><th scope="col">state</th><th scope="col">network</th>
          <th scope="col" class="number">test AUC</th><th scope="col" class="number">log loss</th>
          <th scope="col" class="number">calibration</th><th scope="col" class="number">rows</th><th scope="col" class="number">size</th></tr></thead>
        <tbody>${listing.bundles.map((each) => html`<${Row} key=${each.version} bundle=${each} serving=${serving}
          chosen=${chosen.includes(each.version)} toggle=${() => toggle(each.version)} />`)}</tbody>
      </table></div></section>
    <div class="grid">
      ${compared.map((each, place) => html`<section class="card" key=${each.version}>
        <h2><svg width="12" height="8" aria-hidden="true"><rect y="2" width="12" height="3" rx="1.5" class="colour-${place}" /></svg> <code>${each.version}</code></h2>
        <dl class="facts">
          <dt>trained</dt><dd>${each.created?.slice(0, 16).replace("T", " ") ?? "–"} UTC, ${duration(each.training?.seconds)}</dd>
          <dt>best</dt><dd>epoch ${figure(each.training?.best?.epoch, 1)}${each.training?.stopped_early ? ", stopped early" : ""}</dd>
          <dt>parameters</dt><dd>${count(each.training?.parameters)}</dd>
          <dt>calibrated</dt><dd>${each.training?.calibration ?? "no"}</dd>
        </dl>
        <${Actions} bundle=${each} listing=${listing} act=${act} />
      </section>`)}
      <${Reports} bundles=${compared} denied=${denied} />
      ${compared.length > 1 && html`<section class="card wide"><${Settings} bundles=${compared} /></section>`}
    </div>`;
}

// Try: a request made by hand, its scores, and the same request for other programs.

import { html, useState } from "./vendor/htm-preact.js";
import { data, publicAddress, score } from "./api.js";
import { Fields } from "./fields.js";
import { duration, figure } from "./figures.js";
import {
  candidateValues, fieldsOf, nameOf, newCandidate, predictBody, rankBody, request, startFrom,
  contextValues,
} from "./request.js";
import { Problem, Tabs, WithForm } from "./shared.js";

const TOP = 20;

const indented = (body) => JSON.stringify(body, null, 2);

function pythonOf(path, body) {
  return [
    "import json",
    "import urllib.request",
    "",
    `body = json.loads(r"""${indented(body).replaceAll('"""', '\\"\\"\\"')}""")`,
    "request = urllib.request.Request(",
    `    "${publicAddress()}/${path}", json.dumps(body).encode(),`,
    '    {"content-type": "application/json"},',
    ")",
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}

function codeOf(kind, path, body) {
  if (kind === "JSON") return indented(body);
  if (kind === "Python") return pythonOf(path, body);
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl -s ${publicAddress()}/${path} \\\n  -H 'content-type: application/json' \\\n  -d '${quoted}'`;
}

function Code({ path, body }) {
  const [kind, setKind] = useState("curl");
  return html`<section class="card" aria-label="The request for other programs">
    <div class="row"><h2>For other programs</h2>
      <${Tabs} names=${["curl", "Python", "JSON"]} chosen=${kind} choose=${setKind} label="Form of the request" /></div>
    <pre class="code" tabindex="0">${codeOf(kind, path, body)}</pre>
  </section>`;
}

/** Problems of an error by place: of the context, and of each candidate, texts by field. */
function placed(error, path) {
  const found = { context: {}, candidates: {} };
  for (const each of error?.details ?? []) {
    const [, place, name] = /^(context|candidates\[\d+\]\.features|instances\[\d+\])\.(.*)$/.exec(each.path) ?? [];
    if (!place) continue;
    const number = /\[(\d+)\]/.exec(place)?.[1];
    const field = request.form.fields.find((one) => name === one.name || name.startsWith(`${one.name}[`));
    if (!field) continue;
    const of = path === "rank" && number === undefined ? found.context
      : field.side === "context" ? found.context
        : (found.candidates[number] ??= {});
    of[field.name] = each.problem;
  }
  return found;
}

function Candidate({ candidate, place, open, toggle, change, remove, problems }) {
  return html`<li class="candidate">
    <div class="row">
      <button type="button" class="fold" aria-expanded=${open} onClick=${toggle}>
        <span class="place">${place + 1}</span> ${nameOf(candidate)}</button>
      <button type="button" class="quiet" aria-label="remove candidate ${place + 1}" onClick=${remove}>Remove</button>
    </div>
    ${(open || Object.keys(problems).length > 0) && html`<${Fields} fields=${fieldsOf("candidate")}
      entries=${candidate.entries} prefix="candidate-${candidate.key}" problems=${problems}
      change=${(entries) => change({ ...candidate, entries, name: null })} />`}
  </li>`;
}

/** Items of a ranking of the whole catalogue, as candidates that Why can explain; null for one that is gone. */
async function asCandidates(ranking) {
  const { items } = await data("ranked", { ids: JSON.stringify(ranking.map((each) => each.id)) });
  return items.map((item, place) => item && newCandidate(item.features, item.title ?? `id ${ranking[place].id}`));
}

function Result({ result }) {
  const { answer, ms, names, path, items } = result;
  // Why takes the items of a ranking as the candidates of the request.
  const explained = items?.filter((each) => each);
  const rows = path === "rank"
    ? answer.ranking.map((each, place) => ({
      name: items ? items[place]?.name ?? `id ${each.id}` : names[each.index],
      score: each.score,
      index: items ? explained.indexOf(items[place]) : each.index,
    }))
    : answer.predictions.map((each, index) => ({ name: names[index], score: each, index }));
  const most = Math.max(...rows.map((each) => each.score ?? 0), 1e-12);
  return html`<section class="card" aria-label="Scores">
    <div class="row"><h2>${path === "rank" ? "Ranking" : "Scores"}</h2>
      <small class="calm">${duration(ms / 1000)} from here and back · ${answer.version}</small></div>
    ${answer.degraded && html`<p class="alert">Degraded: ${answer.degraded.join(", ")}</p>`}
    <ol class="scores">
      ${rows.map((each, place) => html`<li key=${place}>
        <span class="place">${path === "rank" ? place + 1 : each.index + 1}</span>
        <span class="name">${each.name}</span>
        <svg class="track" aria-hidden="true" width="100%" height="8">
          <rect class="bar" width="${(100 * (each.score ?? 0)) / most}%" height="8" rx="2" /></svg>
        <b class="figure">${figure(each.score, 4)}</b>
        ${each.index >= 0 && html`<a href="#/why?${each.index}" onClick=${() => { if (items) request.candidates = explained; }}
          aria-label="why ${items ? each.name : `candidate ${each.index + 1}`} has its score">Why</a>`}
      </li>`)}
    </ol>
    <p class="calm"><small>A score is the probability of a click. ${path === "rank"
      ? "Highest first." : "In the order of the request."}
      ${items && " Why makes these items the candidates of the request."}</small></p>
  </section>`;
}

function Form() {
  const [, redraw] = useState(0);
  const [open, setOpen] = useState(null);
  const [result, setResult] = useState(null);
  const [error, setError] = useState(null);
  const [path, setPath] = useState("rank");
  const [busy, setBusy] = useState(false);
  const [everything, setEverything] = useState(false);
  const changed = () => { setError(null); redraw((before) => before + 1); };
  const all = path === "rank" && everything;
  const body = all
    ? { context: contextValues(), candidates: { all: true }, top_k: TOP }
    : path === "rank" ? rankBody() : predictBody();
  const ask = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const { content, ms } = await score(path, body);
      const names = all ? [] : request.candidates.map(nameOf);
      const items = all ? await asCandidates(content.ranking) : null;
      setResult({ answer: content, ms, path, names, items });
      setError(null);
    } catch (problem) {
      setError(problem);
      setResult(null);
    }
    setBusy(false);
  };
  const problems = placed(error, path);
  const examples = request.form.examples;
  return html`<form class="columns" onSubmit=${ask}>
    <div>
      <section class="card">
        <div class="row"><h2>Context</h2>
          ${examples.length > 0 && html`<label class="inline">Start from
            <select onChange=${(event) => {
              if (event.target.value !== "") startFrom(examples[Number(event.target.value)]);
              setResult(null);
              changed();
            }}>
              <option value="">golden request…</option>
              ${examples.map((each, place) => html`<option value=${place}>
                request ${place + 1}, ${each.candidates.length} candidates</option>`)}
            </select></label>`}
        </div>
        <p class="calm">What all candidates share: the person, the moment, the page.</p>
        <${Fields} fields=${fieldsOf("context")} entries=${request.context} prefix="context"
          problems=${problems.context}
          change=${(entries) => { request.context = entries; changed(); }} />
      </section>
      <section class="card">
        <div class="row"><h2>Candidates</h2>
          <button type="button" class="quiet" onClick=${() => {
            const last = request.candidates.at(-1);
            const added = newCandidate(last ? candidateValues(last) : {});
            request.candidates = [...request.candidates, added];
            setOpen(added.key);
            changed();
          }}>Add one</button></div>
        ${all
          ? html`<p class="calm">All items of the catalogue; the ${TOP} with the highest scores are shown.</p>`
          : html`<ol class="candidates">
          ${request.candidates.map((each, place) => html`<${Candidate} key=${each.key} candidate=${each}
            place=${place} open=${open === each.key} problems=${problems.candidates[place] ?? {}}
            toggle=${() => setOpen(open === each.key ? null : each.key)}
            change=${(now) => { request.candidates = request.candidates.map((one) => (one === each ? now : one)); changed(); }}
            remove=${() => { request.candidates = request.candidates.filter((one) => one !== each); changed(); }} />`)}
        </ol>`}
        ${request.form.items > 0 && html`<label class="inline check"><input type="checkbox" checked=${everything}
          onChange=${(event) => { setEverything(event.target.checked); changed(); }} />
          rank the whole catalogue instead (${request.form.items.toLocaleString("en-US")} items)</label>`}
      </section>
    </div>
    <div>
      <section class="card act">
        <div class="row">
          <${Tabs} names=${["rank", "predict"]} chosen=${path} label="Endpoint"
            choose=${(name) => { setPath(name); setResult(null); changed(); }} />
          <button class="primary" disabled=${busy}>${path === "rank" ? "Rank" : "Score"}</button>
        </div>
        <p class="calm"><code>POST /${path}</code> ${path === "rank"
          ? "orders the candidates for the context."
          : "scores each candidate with the context, in the order given."}</p>
      </section>
      <div aria-live="polite">
        <${Problem} error=${error} />
        ${result && html`<${Result} result=${result} />`}
      </div>
      <${Code} path=${path} body=${body} />
    </div>
  </form>`;
}

export const Try = ({ denied }) => html`
  <h1>Try</h1>
  <${WithForm} denied=${denied}>${() => html`<${Form} />`}<//>`;

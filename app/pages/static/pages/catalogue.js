// Catalogue: items of the store, their raw values, and the indices that they have.

import { html, useState } from "./vendor/htm-preact.js";
import { admin, data } from "./api.js";
import { count } from "./figures.js";
import { newCandidate, request } from "./request.js";
import { Problem, WithForm, useAnswer } from "./shared.js";

const WAIT_MS = 250;
let waiting;

const shown = (value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value));

/** The indices of a value; a list is padded with rows 0, which say nothing. */
const indices = (found) => (Array.isArray(found) ? found.filter((each) => each !== 0).join(", ") || "none" : shown(found));

function Item({ id, denied }) {
  const { answer, error } = useAnswer(() => admin("GET", `items/${encodeURIComponent(id)}`), denied, [id]);
  const [added, setAdded] = useState(null);
  if (!answer || String(answer.id) !== String(id)) return html`<section class="card"><${Problem} error=${error} /></section>`;
  const fields = new Set(request.form.fields.filter((each) => each.side === "candidate").map((each) => each.name));
  const names = [...new Set([...Object.keys(answer.features), ...Object.keys(answer.indices ?? {})])];
  const add = () => {
    const title = answer.features.title ?? answer.features.name;
    request.candidates = [...request.candidates, newCandidate(answer.features, typeof title === "string" ? title : null)];
    setAdded(id);
  };
  return html`<section class="card"><div class="row"><h2>Item ${shown(answer.id)}</h2>
      <button onClick=${add}>Add to Try</button></div>
    <p aria-live="polite" class="calm">${added === id && html`It is candidate ${request.candidates.length} of the page <a href="#/try">Try</a>.`}</p>
    ${answer.refused && html`<div class="alert"><p>The bundle in use refuses it:</p><ul>${Object.entries(answer.refused)
      .map(([name, problem]) => html`<li><code>${name}</code> ${problem}</li>`)}</ul></div>`}
    <div class="table"><table><thead><tr><th scope="col">field</th><th scope="col">raw value</th><th scope="col">indices</th></tr></thead>
      <tbody>${names.map((name) => html`<tr key=${name}><th scope="row">${name}</th>
        <td class="value">${name in answer.features ? shown(answer.features[name]) : html`<span class="tag">missing</span>`}</td>
        <td class="value"><code>${fields.has(name) ? indices(answer.indices?.[name]) : ""}</code>
          ${!fields.has(name) && html`<small class="calm">no field of the bundle</small>`}</td></tr>`)}</tbody></table></div>
    <p class="calm"><small>An index is a row of the table of embeddings.</small></p>
  </section>`;
}

function Search({ denied }) {
  const [text, setText] = useState("");
  const [wanted, setWanted] = useState("");
  const [chosen, setChosen] = useState(null);
  const { answer, error } = useAnswer(() => data("items", { search: wanted }), denied, [wanted]);
  const typed = (event) => {
    const value = event.target.value;
    setText(value);
    clearTimeout(waiting);
    waiting = setTimeout(() => setWanted(value.trim()), WAIT_MS);
  };
  const items = answer?.items ?? [];
  const columns = [...new Set(items.flatMap((each) => Object.keys(each.features)))].slice(0, 4);
  return html`<div class="columns">
    <section class="card"><label for="search">Search by id or text</label>
      <input id="search" class="search" type="search" autocomplete="off" value=${text} onInput=${typed} />
      <${Problem} error=${error} />
      ${answer && html`<p class="calm" aria-live="polite">${items.length}${answer.whole ? "" : " or more"} of ${count(answer.count)} items</p>
      <div class="table" tabindex="0" role="region" aria-label="Items"><table><thead><tr><th scope="col">id</th>${columns.map((name) => html`<th scope="col" key=${name}>${name}</th>`)}</tr></thead>
        <tbody>${items.map((each) => html`<tr key=${each.id} aria-selected=${each.id === chosen}>
          <th scope="row"><button class="quiet" aria-pressed=${each.id === chosen} onClick=${() => setChosen(each.id)}>${shown(each.id)}</button></th>
          ${columns.map((name) => html`<td class="value" key=${name}>${shown(each.features[name])}</td>`)}</tr>`)}</tbody></table></div>`}
    </section>
    ${chosen === null ? html`<p class="calm">Choose an item to see its values and indices.</p>`
      : html`<${Item} id=${chosen} denied=${denied} />`}
  </div>`;
}

export const Catalogue = ({ denied }) => html`
  <h1>Catalogue</h1>
  <${WithForm} denied=${denied}>${({ form }) => (form.items === null
    ? html`<p>This service has no store of items: see <code>CTR_STORE</code>.</p>`
    : html`<${Search} denied=${denied} />`)}<//>`;

// What several pages show: a question's state, errors, a loaded form.

import { html, useCallback, useEffect, useState } from "./vendor/htm-preact.js";
import { ApiError, data } from "./api.js";
import { request, useForm } from "./request.js";

const AGAIN_MS = 1000;

/** A text for whatever a question failed by. */
export const told = (error) =>
  error instanceof ApiError ? error.message : "The service does not answer.";

export function Problem({ error }) {
  if (!error) return null;
  return html`<div role="alert" class="alert">
    <p>${told(error)}</p>
    ${error.details?.length > 0 && html`<ul>
      ${error.details.map((each) => html`<li><code>${each.path}</code> ${each.problem}</li>`)}
    </ul>`}
  </div>`;
}

/** The answer to a question, asked when the page opens and again while the service is away. */
export function useAnswer(question, denied, wanted = []) {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let current = true;
    let timer;
    question().then(
      (found) => { if (current) { setAnswer(found); setError(null); } },
      (problem) => {
        if (!current) return;
        if (problem.status === 401) { denied(); return; }
        setError(problem);
        if (!(problem instanceof ApiError) || problem.status === 503) {
          timer = setTimeout(() => setTurn((before) => before + 1), AGAIN_MS);
        }
      },
    );
    return () => { current = false; clearTimeout(timer); };
  }, [turn, ...wanted]);
  const again = useCallback(() => setTurn((before) => before + 1), []);
  return { answer, error, again };
}

/** Load the form of the bundle in use; `Page` gets it once it is there. */
export function WithForm({ denied, children }) {
  const { answer, error } = useAnswer(async () => {
    const form = await data("form");
    useForm(form);
    return form;
  }, denied);
  if (!answer) return html`<${Problem} error=${error} />${!error && html`<p class="calm">Loading…</p>`}`;
  return children(request);
}

export function Tabs({ names, chosen, choose, label }) {
  return html`<div class="tabs" role="group" aria-label=${label}>
    ${names.map((name) => html`<button type="button" key=${name} aria-pressed=${name === chosen}
      onClick=${() => choose(name)}>${name}</button>`)}
  </div>`;
}

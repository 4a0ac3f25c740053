// The frame of all pages: navigation, the key, and what to say while the service does not answer.

import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { ApiError, data, hasKey, readPort, useKey } from "./api.js";
import { Bundles } from "./bundles.js";
import { Catalogue } from "./catalogue.js";
import { Now } from "./now.js";
import { Try } from "./try.js";
import { Why } from "./why.js";

const PAGES = {
  try: ["Try", Try],
  why: ["Why", Why],
  now: ["Now", Now],
  bundles: ["Bundles", Bundles],
  catalogue: ["Catalogue", Catalogue],
};
const PUBLIC = ["try", "why", "now"];
const AGAIN_MS = 1000;

const chosen = () => location.hash.replace(/^#\/?/, "").split("?")[0] || "try";

function KeyForm({ accepted }) {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState("");
  const submit = async (event) => {
    event.preventDefault();
    useKey(text.trim());
    try {
      await data("form");
      accepted();
    } catch (error) {
      if (error instanceof ApiError && error.status !== 401) return accepted();
      useKey("");
      setProblem(error instanceof ApiError ? "This is no valid key." : "The service does not answer.");
    }
    return undefined;
  };
  return html`<main id="content" class="key">
    <h1>Admin key</h1>
    <p>These pages are open to holders of a key of the admin port. It stays in the memory of this
      page: reload the page, and it is gone.</p>
    <form onSubmit=${submit}>
      <label for="key">Key</label>
      <input id="key" type="password" autocomplete="off" required value=${text}
        onInput=${(event) => setText(event.target.value)} />
      <button class="primary">Open</button>
    </form>
    <p role="alert" class="problem">${problem}</p>
  </main>`;
}

function App({ port }) {
  const [page, setPage] = useState(chosen());
  const [open, setOpen] = useState(!port.admin || hasKey());
  useEffect(() => {
    const follow = () => setPage(chosen());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  const shown = port.admin ? Object.keys(PAGES) : PUBLIC;
  const name = shown.includes(page) ? page : "try";
  const [title, Page] = PAGES[name];
  useEffect(() => { document.title = `${title} · deepfm-serving`; }, [title]);
  const lock = () => { useKey(""); setOpen(false); };
  return html`
    <a class="skip" href="#content" onClick=${(event) => {
      event.preventDefault();
      document.querySelector("main").focus();
    }}>Skip to the content</a>
    <header>
      <span class="brand"><img src="icon.svg" alt="" width="22" height="22" /> deepfm-serving</span>
      <nav aria-label="Pages">
        ${open && shown.map((each) => html`<a key=${each} href="#/${each}"
          aria-current=${each === name ? "page" : undefined}>${PAGES[each][0]}</a>`)}
      </nav>
      ${port.admin && open && html`<button class="quiet" onClick=${lock}>Lock</button>`}
    </header>
    ${open
      ? html`<main id="content" tabindex="-1" key=${name}><${Page} port=${port} denied=${lock} /></main>`
      : html`<${KeyForm} accepted=${() => setOpen(true)} />`}`;
}

async function start() {
  const place = document.getElementById("app");
  for (;;) {
    try {
      const port = await readPort();
      return render(html`<${App} port=${port} />`, place);
    } catch (error) {
      const text = error instanceof ApiError ? error.message : "The service does not answer; trying again.";
      render(html`<main><p role="alert">${text}</p></main>`, place);
      if (error instanceof ApiError) return undefined;
    }
    await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
  }
}

start();

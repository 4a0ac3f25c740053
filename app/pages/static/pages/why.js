import { html } from "./vendor/htm-preact.js";
export const Why = () => html`<h1>Why</h1>`;

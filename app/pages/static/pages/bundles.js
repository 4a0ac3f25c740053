import { html } from "./vendor/htm-preact.js";
export const Bundles = () => html`<h1>Bundles</h1>`;

import { html } from "./vendor/htm-preact.js";
export const Catalogue = () => html`<h1>Catalogue</h1>`;

// Inputs for the fields of a form, made from the feature spec.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { data } from "./api.js";
import { OOV_NUMBER, OOV_TEXT } from "./request.js";
import { count } from "./figures.js";

const WAIT_MS = 120;
const HINTS = {
  numeric: "number",
  time: "2026-01-31T18:30:00 or seconds",
  integer: "integer",
  string: "text",
};

/** Known values that begin with what is typed, asked for while the field has the focus. */
function useKnown(field, text, asked) {
  const [known, setKnown] = useState([]);
  useEffect(() => {
    if (!asked || !field.completes) return undefined;
    let current = true;
    const timer = setTimeout(async () => {
      try {
        const found = await data("values", { field: field.name, begins: text });
        if (current) setKnown(found.values);
      } catch {
        if (current) setKnown([]);
      }
    }, WAIT_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [field.name, text, asked]);
  return known;
}

const label = (field) => {
  const words = [];
  if (field.kind === "multi_categorical") words.push("list");
  if (field.kind === "numeric" || field.kind === "time") words.push(field.kind);
  else if (field.dtype !== "string") words.push(field.dtype);
  if (field.known) words.push(`${count(field.known)} known`);
  if (field.required) words.push("required");
  return words.join(", ");
};

function Scalar({ field, id, entry, change }) {
  const [focus, setFocus] = useState(false);
  const known = useKnown(field, entry.text, focus);
  if (field.dtype === "boolean") {
    return html`<select id=${id} value=${entry.text}
      onChange=${(event) => change({ ...entry, text: event.target.value })}>
      <option value="true">true</option><option value="false">false</option>
    </select>`;
  }
  return html`
    <input id=${id} value=${entry.text} autocomplete="off" spellcheck=${false}
      list=${field.completes ? `${id}-known` : undefined}
      inputmode=${field.kind === "numeric" ? "decimal" : undefined}
      placeholder=${HINTS[field.kind] ?? HINTS[field.dtype]}
      onFocus=${() => setFocus(true)} onBlur=${() => setFocus(false)}
      onInput=${(event) => change({ ...entry, text: event.target.value })} />
    ${field.completes && html`<datalist id="${id}-known">
      ${known.map((value) => html`<option key=${value} value=${value}></option>`)}
    </datalist>`}`;
}

function List({ field, id, entry, change }) {
  const [text, setText] = useState("");
  const [focus, setFocus] = useState(false);
  const known = useKnown(field, text, focus);
  const input = useRef(null);
  const add = (value) => {
    if (value.trim() !== "") change({ ...entry, list: [...entry.list, value.trim()] });
    setText("");
  };
  const remove = (place) => {
    change({ ...entry, list: entry.list.filter((_, each) => each !== place) });
    input.current?.focus();
  };
  const typed = (event) => {
    const value = event.target.value;
    // What a list of known values offers comes as one change.
    if (known.includes(value) && event.inputType === "insertReplacementText") add(value);
    else setText(value);
  };
  const pressed = (event) => {
    if (event.key === "Enter" || event.key === ",") {
      event.preventDefault();
      add(text);
    } else if (event.key === "Backspace" && text === "" && entry.list.length) {
      remove(entry.list.length - 1);
    }
  };
  return html`<span class="chips">
    ${entry.list.map((value, place) => html`<span class="chip" key=${`${place} ${value}`}>
      ${value}<button type="button" aria-label="remove ${value}" onClick=${() => remove(place)}>×</button>
    </span>`)}
    <input id=${id} ref=${input} value=${text} autocomplete="off" spellcheck=${false}
      list=${field.completes ? `${id}-known` : undefined} placeholder="add a value"
      onFocus=${() => setFocus(true)}
      onBlur=${() => { setFocus(false); add(text); }} onInput=${typed} onKeyDown=${pressed} />
    ${field.completes && html`<datalist id="${id}-known">
      ${known.map((value) => html`<option key=${value} value=${value}></option>`)}
    </datalist>`}
  </span>`;
}

function Field({ field, id, entry, change, problem }) {
  const modes = [["value", "value"], ["missing", "missing"]];
  if (field.known !== undefined && field.dtype !== "boolean") modes.push(["oov", "OOV"]);
  const Input = field.kind === "multi_categorical" ? List : Scalar;
  const oov = field.dtype === "integer" ? OOV_NUMBER : OOV_TEXT;
  return html`<div class="field">
    <label for=${id}><b>${field.name}</b> <small>${label(field)}</small></label>
    <div class="entry">
      ${entry.mode === "value"
        ? html`<${Input} field=${field} id=${id} entry=${entry} change=${change} />`
        : html`<input id=${id} disabled value=${entry.mode === "oov" ? oov : "absent"} />`}
      <select class="mode" aria-label="${field.name}: kind of value" value=${entry.mode}
        onChange=${(event) => change({ ...entry, mode: event.target.value })}>
        ${modes.map(([value, text]) => html`<option value=${value}>${text}</option>`)}
      </select>
    </div>
    ${problem && html`<p class="problem">${problem}</p>`}
  </div>`;
}

/** The inputs of one side; `problems` are texts by field. */
export function Fields({ fields, entries, prefix, change, problems = {} }) {
  return html`<div class="fields">
    ${fields.map((field, place) => html`<${Field} key=${field.name} field=${field}
      id="${prefix}-${place}" entry=${entries[field.name]} problem=${problems[field.name]}
      change=${(entry) => change({ ...entries, [field.name]: entry })} />`)}
  </div>`;
}

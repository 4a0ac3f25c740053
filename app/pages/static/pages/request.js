// The request that the pages Try and Why share: a context and its candidates, as typed.

import { data } from "./api.js";

// What is typed for a field: {mode: "value" | "missing" | "oov", text, list}.
export const OOV_TEXT = "never-seen-before";
export const OOV_NUMBER = "987654321987";

const NO_PROFILE = { fields: [], values: {} };

/** `profile` are the fields that the context has from its profile, and those values that may be shown. */
export const request = { form: null, version: null, context: {}, candidates: [], profile: NO_PROFILE };

let following = 0;

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** The entry of a raw value; nothing stands in the field of one that is not there. */
export function entryOf(field, value) {
  if (value === undefined && field.kind !== "multi_categorical") return { mode: "value", text: "", list: [] };
  if (value === undefined || value === null) return { mode: "missing", text: "", list: [] };
  if (field.kind === "multi_categorical") {
    const list = Array.isArray(value) ? value : [value];
    return { mode: "value", text: "", list: list.map(asText) };
  }
  return { mode: "value", text: asText(value), list: [] };
}

function scalar(field, text) {
  if (field.kind === "numeric") return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
  if (field.kind === "time") return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text;
  if (field.dtype === "boolean") return text === "true" ? true : text === "false" ? false : text;
  // Integers beyond 2^53 stay text, which is the same value.
  if (field.dtype === "integer" && /^-?\d{1,15}$/.test(text)) return Number(text);
  return text;
}

/** The raw value of an entry; undefined for a missing one. */
export function valueOf(field, entry) {
  if (!entry || entry.mode === "missing") return undefined;
  const list = field.kind === "multi_categorical";
  if (entry.mode === "oov") {
    const value = field.dtype === "integer" ? Number(OOV_NUMBER) : OOV_TEXT;
    return list ? [value] : value;
  }
  if (list) return entry.list.map((each) => scalar(field, each));
  return entry.text === "" ? undefined : scalar(field, entry.text);
}

export const fieldsOf = (side) => request.form.fields.filter((field) => field.side === side);

/** The values of a side, by field, as JSON has them. */
export function valuesOf(side, entries) {
  const found = {};
  for (const field of fieldsOf(side)) {
    const value = valueOf(field, entries[field.name]);
    if (value !== undefined) found[field.name] = value;
  }
  return found;
}

const entriesOf = (side, values) =>
  Object.fromEntries(fieldsOf(side).map((field) => [field.name, entryOf(field, values[field.name])]));

export const newCandidate = (values, name) => ({
  key: ++following,
  name: name ?? null,
  entries: entriesOf("candidate", values),
});

/** Begin with a golden request. */
export function startFrom(example) {
  request.context = entriesOf("context", example.context);
  request.candidates = example.candidates.map((values) => newCandidate(values));
}

/** Take up a form; the request stays as it is while the bundle is the same. */
export function useForm(form) {
  const same = request.version === form.version;
  request.form = form;
  request.version = form.version;
  if (same) return;
  if (form.examples.length) startFrom(form.examples[0]);
  else {
    request.context = entriesOf("context", {});
    request.candidates = [newCandidate({})];
  }
}

/** The name of a candidate: its own, or what tells it from others in few words. */
export function nameOf(candidate) {
  if (candidate.name) return candidate.name;
  const values = valuesOf("candidate", candidate.entries);
  const words = Object.entries(values)
    .slice(0, 3)
    .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") : value}`);
  return words.join(" · ") || "no values";
}

export const contextValues = () => valuesOf("context", request.context);
export const candidateValues = (candidate) => valuesOf("candidate", candidate.entries);

/** Look up the profile that fills this context; without one, or an answer, nothing is filled. */
export async function readProfile() {
  request.profile = NO_PROFILE;
  const key = contextValues()[request.form.profile_key];
  if (key === undefined) return;
  const found = await data("profile", { key: JSON.stringify(key) }).catch(() => NO_PROFILE);
  const own = contextValues();
  request.profile = { ...found, fields: found.fields.filter((name) => own[name] === undefined) };
}

export const rankBody = () => ({
  context: contextValues(),
  candidates: request.candidates.map((each) => ({ features: candidateValues(each) })),
});

export const predictBody = () => ({
  instances: request.candidates.map((each) => ({ ...contextValues(), ...candidateValues(each) })),
});

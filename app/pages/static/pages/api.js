// Questions to the service. The key is kept here, in memory, and nowhere else.

let port = null;
let key = "";

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message ?? `status ${status}`);
    this.status = status;
    this.code = error.code;
    this.details = error.details ?? [];
  }
}

export const useKey = (given) => { key = given; };
export const hasKey = () => key !== "";

/** What this port offers: whether it is the admin port, where data are, whether it explains. */
export async function readPort() {
  const answer = await fetch("port.json");
  if (!answer.ok) throw new ApiError(answer.status, (await answer.json()).error);
  port = await answer.json();
  return port;
}

async function send(address, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  if (options.body !== undefined) headers["content-type"] = "application/json";
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  const start = performance.now();
  const answer = await fetch(address, { ...options, headers, body, cache: "no-store" });
  const text = await answer.text();
  const ms = performance.now() - start;
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new ApiError(answer.status, { message: `an answer that is no JSON (${answer.status})` });
  }
  if (!answer.ok) throw new ApiError(answer.status, content.error ?? {});
  return { content, ms };
}

/** Data of the pages. */
export async function data(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return (await send(port.data + path + (query ? `?${query}` : ""))).content;
}

/** Scores: the answer, and the milliseconds that it took from here. */
export const score = (path, body) => send(port.scoring + path, { method: "POST", body });

/** An operation of the admin port, by its path below /admin/. */
export const admin = async (method, path, body) =>
  (await send(`../admin/${path}`, { method, body })).content;

/** The address that other programs send scoring requests to, as far as it is known here. */
export const publicAddress = () =>
  port.admin
    ? `http://${location.hostname}:${port.public_port ?? "PORT"}`
    : new URL("..", location.href).href.replace(/\/$/, "");

/** The parts of a score. */
export const explain = (body) => score("explain", body);

// Requests to the server; every refusal is an error with its sentence.

export class Refused extends Error {
  constructor(message, status, more = {}) {
    super(message);
    this.status = status;
    Object.assign(this, more);
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, { credentials: "same-origin", ...options });
  } catch {
    throw new Refused("The server does not answer. It may have been stopped: start it again with xsen2 app.", 0);
  }
  let body = null;
  const text = await response.text();
  try {
    body = JSON.parse(text);
  } catch {
    body = { error: text };
  }
  if (!response.ok) throw new Refused(body.error ?? `The server answers ${response.status}.`, response.status, body);
  return body;
}

const send = (path, body, method = "POST") =>
  ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });

export const about = () => ask("about");
export const measure = (area) => send("area", { area });
export const search = (query) => send("search", query);
export const jobs = async () => (await ask("jobs")).jobs;
export const job = (id) => ask(`jobs/${id}`);
export const start = (request) => send("jobs", request);
export const cancel = (id) => send(`jobs/${id}/cancel`);
export const retry = (id) => send(`jobs/${id}/retry`);
export const remove = (id) => send(`jobs/${id}`, {}, "DELETE");
export const pixel = (id, x, y) => ask(`jobs/${id}/pixel?x=${x}&y=${y}`);
export const series = (id, index) => ask(`jobs/${id}/series?index=${index}`);
export const file = (id, kind, date) => `api/jobs/${id}/${kind}/${date}.tif`;
export const store = (id) => `api/jobs/${id}/store.zarr.zip`;
export const image = (id, kind, date) => ({ url: file(id, kind, date) });
export const openScene = null; // what browser/engine.js alone can do

// Requests to the server that this page came from.

import { askKey, headers } from "./key.js";

/** Why a request failed. `param`: the field that the server names, where it names one. */
export class RequestError extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

/** The answer to a request that succeeded. Asks for the key as long as the server wants another one. */
export async function send(path, options = {}) {
  for (;;) {
    const response = await reach(path, { ...options, headers: headers(options.headers) });
    if (response.ok) return response;
    const error = await failure(response);
    if (response.status !== 401 || options.quiet || !(await askKey(error.message))) throw error;
  }
}

export async function getJson(path, options = {}) {
  return (await send(path, options)).json();
}

export function postJson(path, body, options = {}) {
  return getJson(path, { ...options, ...asJson(body) });
}

/** The parsed data of each event of a streamed answer; ends at [DONE]. RequestError where the server reports one. */
export async function* events(path, body, signal) {
  const response = await send(path, { ...asJson(body), signal });
  for await (const data of lines(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new RequestError(event.error.message, 0, event.error.param);
    yield event;
  }
  throw new RequestError("the answer broke off: the server closed the connection");
}

const asJson = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("the server does not answer; is it still running?");
  }
}

async function failure(response) {
  const told = await response.json().catch(() => ({}));
  const error = told.error ?? { message: `the server answered ${response.status}` };
  return new RequestError(error.message, response.status, error.param);
}

/** The data lines of a stream of server-sent events. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const found = (rest + value).split("\n");
      rest = found.pop();
      for (const line of found) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/* Requests to the service. */
import { t } from "./words.js";

/* The address of a path of the service, which a proxy may offer below a path of its own. */
export const at = (path) => new URL(`.${path}`, document.baseURI).href;

/* Sign this browser in; the key itself is kept nowhere. */
export const signIn = async (key) =>
  (await call("/v1/session", { method: "POST", headers: { authorization: `Bearer ${key}` } })).json();

/* The answer to a request. Throws an Error with the service's own words, its status, and the param and code that it names. */
export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(at(path), options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(t("unreachable"));
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(told.error?.message ?? t("failed", { status: answer.status })),
    { status: answer.status, param: told.error?.param, code: told.error?.code });
}

export const get = async (path, signal) => (await call(path, { signal })).json();

/* Send JSON, or a FormData as it is. */
export function send(method, path, body, { signal, headers = {} } = {}) {
  const isForm = body instanceof FormData;
  if (body !== undefined && !isForm) headers = { ...headers, "content-type": "application/json" };
  return call(path, { method, headers, body: isForm || body === undefined ? body : JSON.stringify(body), signal });
}

export const post = (path, body, options) => send("POST", path, body, options);

/* The data of the events of a stream, each { id, event, data } with data from JSON. */
export async function* events(answer) {
  const decoder = new TextDecoder(), reader = answer.body.getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const fields = { event: "message", data: "" };
      for (const line of block.split(/\r?\n/)) {
        const [, name, rest] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name === "data") fields.data += rest;
        else if (name) fields[name] = rest;
      }
      if (fields.data && fields.data !== "[DONE]") yield { ...fields, data: JSON.parse(fields.data) };
    }
  }
}

/* The seed of a request, or those of a mix, as people read them. */
export const seedOf = ({ seed, mix }) => (mix ? mix.map((one) => one.seed).join("+") : seed);

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

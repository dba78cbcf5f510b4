// Requests to this server: the API key, and errors as exceptions.

const NAME = "trtllm-openai.key";

/** The API key, kept for this tab, or until it is forgotten. */
export const key = {
  get: () => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "",
  remembered: () => localStorage.getItem(NAME) !== null,
  set(value, remember) {
    key.forget();
    if (value) (remember ? localStorage : sessionStorage).setItem(NAME, value);
  },
  forget() {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  },
};

/** An answer that is an error. `code` and `param` are the server's; `status` 0: it was not reached. */
export class ApiError extends Error {
  constructor(status, message, detail = {}) {
    super(message);
    this.status = status;
    this.code = detail.code ?? "";
    this.param = detail.param ?? "";
    this.requestId = detail.request_id ?? "";
  }
}

/** The address of a path of the API, also where a proxy puts the server below a path of its own. */
export const address = (path) => new URL(path, document.baseURI.split("#")[0]).href;

let onKeyNeeded = async () => false;
/** `handler(message)` asks for a key. Resolves to whether there is a new one to try with. */
export function whenKeyNeeded(handler) {
  onKeyNeeded = handler;
}

/** Fetch; `body` is sent as JSON. Asks for a key where one is needed, unless `quiet`. Throws `ApiError`. */
export async function request(path, { body, signal, quiet = false } = {}) {
  for (;;) {
    const sent = key.get();
    const headers = sent ? { authorization: `Bearer ${sent}` } : {};
    const options = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      headers["content-type"] = "application/json";
      Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    }
    let response;
    try {
      response = await fetch(address(path), options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, String(error.message ?? error));
    }
    if (response.ok) return response;
    const error = await failure(response);
    if (error.status !== 401 || quiet || !(await onKeyNeeded(sent ? error.message : ""))) throw error;
  }
}

async function failure(response) {
  const text = await response.text();
  try {
    const detail = JSON.parse(text).error;
    return new ApiError(response.status, detail.message, detail);
  } catch {
    return new ApiError(response.status, text.slice(0, 300) || response.statusText);
  }
}

/** The error of a stream's event. */
export const streamError = (detail) => new ApiError(200, detail.message ?? "error", detail);

export const getJson = async (path, options) => (await request(path, options)).json();

// Asks the admin API. A change bears the session's CSRF token. Errors are `Refused`, with words that a person can use.

const base = new URL("admin/api", new URL(location.pathname, location.origin)).pathname;

export const SESSION_OVER = "ccproxy-session-over";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let csrf = "";

export const address = (path) => base + path;

export const get = (path, query) => ask("GET", path + search(query));
export const post = (path, body) => ask("POST", path, body);
export const put = (path, body) => ask("PUT", path, body);
export const remove = (path) => ask("DELETE", path);

export async function logIn(token) {
  return entered(await post("/session", { token }));
}

// The session that this browser has, null for none. Its cookie can't be seen from here: a note beside it says whether
// to ask.
export async function resume() {
  if (!note.read()) return null;
  try {
    return entered(await get("/session"));
  } catch {
    return null;
  }
}

export async function logOut() {
  note.write("");
  await remove("/session");
  csrf = "";
}

function entered(session) {
  csrf = session.csrf;
  note.write("yes");
  return session;
}

const note = {
  read() {
    try {
      return localStorage.getItem("ccproxy-logged-in");
    } catch {
      return "perhaps"; // no storage: ask
    }
  },
  write(value) {
    try {
      localStorage.setItem("ccproxy-logged-in", value);
    } catch {
      // no storage: it is asked again
    }
  },
};

function search(query) {
  const given = Object.entries(query ?? {}).filter(
    ([, value]) => value !== "" && value !== null && value !== undefined,
  );
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function ask(method, path, body) {
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-ccproxy-csrf"] = csrf;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(base + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    throw new Refused(0, "The proxy does not respond. Is it running? `ccproxy up` starts it.");
  }
  if (answer.status === 401 && path !== "/session") dispatchEvent(new Event(SESSION_OVER));
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, told(answer.status, found));
  return found;
}

function told(status, found) {
  const message = found?.error?.message ?? `The proxy responded with status ${status}.`;
  return message.charAt(0).toUpperCase() + message.slice(1);
}

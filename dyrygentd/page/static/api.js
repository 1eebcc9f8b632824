// Talks to whoever served the page. Every answer is JSON, every error a `Trouble` with words for people.
import { useEffect, useRef, useState } from "./html.js";

/** What went wrong: `detail` says what happened, `next` what to do, `code` is for programs. */
export class Trouble extends Error {
  constructor(detail, { code = "", next = "", status = 0 } = {}) {
    super(detail);
    Object.assign(this, { detail, code, next, status });
  }
}

const quoted = (part) => encodeURIComponent(part);

/** Path of a workflow, or of something below it: `of("REF", "nodes", "NODE")`. */
export const of = (ref, ...parts) => `/v1/workflows/${[ref, ...parts].map(quoted).join("/")}`;

/** A path with its query; what is empty is left out, what is a list is repeated. */
export function withQuery(path, query) {
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {}))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== undefined && each !== null && each !== "") given.append(key, each);
  const text = given.toString();
  return text ? `${path}${path.includes("?") ? "&" : "?"}${text}` : path;
}

async function asked(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("the daemon does not answer", {
      code: "unreachable",
      next: "it may be starting again, or `dyrygentctl ui` has ended; this page tries again by itself",
    });
  }
}

function troubleOf(path, status, body) {
  if (status === 404 && body?.code === "route-not-found" && path.startsWith("/v1/"))
    return new Trouble("this daemon is older than the page and does not know that", { code: "older", status });
  return new Trouble(body?.detail ?? `the answer was ${status}`, { code: body?.code, next: body?.next_step, status });
}

async function exchange(path, options) {
  const response = await asked(path, options);
  const body = await response.json().catch(() => null);
  if (response.ok && response.status !== 202) return body;
  throw troubleOf(path, response.status, body);
}

/** Ask for something. */
export const get = (path, query, signal) => exchange(withQuery(path, query), { signal });

/** Why a stream was refused, which an `EventSource` does not tell; null if it would be given now. */
export async function refusalOf(path) {
  const stop = new AbortController();
  try {
    const response = await asked(path, { signal: stop.signal });
    return response.ok ? null : troubleOf(path, response.status, await response.json().catch(() => null));
  } catch (error) {
    return error;
  } finally {
    stop.abort();
  }
}

/** Do something; only where the page may. The header tells that no form of another page sent it. */
export const post = (path, document) =>
  exchange(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Dyrygentd-Page": "1" },
    body: JSON.stringify(document),
  });

/**
 * Keep asking while the page is seen: `{data, error, at, again}`. What was known stays shown when an answer fails to come.
 * An `error` of an answer that will not change (not found, forbidden) is not asked again.
 */
export function usePolled(target, everyMs = 2000) {
  const [state, setState] = useState({ target });
  const again = useRef(() => {});
  useEffect(() => {
    if (!target) return undefined;
    const stop = new AbortController();
    let timer = 0;
    let busy = false;
    const ask = async () => {
      clearTimeout(timer);
      if (busy) return;
      busy = true;
      let rests = false;
      try {
        const data = await get(target, null, stop.signal);
        setState({ target, data, at: Date.now() });
      } catch (error) {
        if (stop.signal.aborted) return;
        rests = [400, 403, 404, 405, 409].includes(error.status);
        setState((known) => ({ ...(known.target === target ? known : {}), target, error, ...(rests ? { data: undefined } : {}) }));
      } finally {
        busy = false;
      }
      if (everyMs && !rests && !document.hidden && !stop.signal.aborted) timer = setTimeout(ask, everyMs);
    };
    const seen = () => (document.hidden ? clearTimeout(timer) : ask());
    again.current = ask;
    document.addEventListener("visibilitychange", seen);
    window.addEventListener("online", seen);
    ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      window.removeEventListener("online", seen);
    };
  }, [target, everyMs]);
  const current = state.target === target ? state : { target };
  return { ...current, again: () => again.current() };
}

// Workflows, newest first, with filters that stand in the address.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "./html.js";
import { get, usePolled, withQuery } from "./api.js";
import { Rows } from "./rows.js";
import { Name, Problem, State, StateBar, When, count, duration, inline, link, useTitle } from "./parts.js";

const STATES = ["running", "paused", "scheduled", "failed", "cancelled", "succeeded"];
const PAGE = 200;
/** Beyond it a filter finds more than leafing. */
const LOADED_MAX = 5000;
const SINCE = [["", "any time"], ["3600", "an hour"], ["86400", "a day"], ["604800", "a week"]];

/** Pages below the first one, which is asked for again and again. */
function usePages(target) {
  const first = usePolled(target, 3000);
  const [rest, setRest] = useState({ target, pages: [], next: undefined });
  const busy = useRef(false);
  const mine = rest.target === target ? rest : { target, pages: [], next: undefined };
  // Where the next page begins: the cursor of the first one moves on with what is new, so it is taken when leafing begins.
  const next = mine.pages.length ? mine.next : first.data?.next;
  const more = useCallback(async () => {
    if (busy.current || !next || mine.pages.length * PAGE >= LOADED_MAX) return;
    busy.current = true;
    try {
      const page = await get(target, { cursor: next });
      setRest((known) => ({ target, pages: [...(known.target === target ? known.pages : []), page.workflows], next: page.next }));
    } catch {
      // It is asked for again when the end comes into sight.
    } finally {
      busy.current = false;
    }
  }, [target, next, mine.pages.length]);
  const items = useMemo(() => {
    const seen = new Map();
    for (const each of [...(first.data?.workflows ?? []), ...mine.pages.flat()]) if (!seen.has(each.id)) seen.set(each.id, each);
    return [...seen.values()];
  }, [first.data, mine.pages]);
  return { items, more: next ? more : null, error: first.error, again: first.again, isThere: Boolean(first.data) };
}

const COLUMNS = [
  { key: "state", title: "state", className: "narrow", cell: (it) => html`<${State} state=${it.state} />` },
  { key: "name", title: "name", className: "grow", cell: (it) => html`<a href=${link("w", it.id)}><${Name} text=${it.name} /></a>${it.error && html` <span class="alarm-text short" title=${inline(it.error)}>${inline(it.error)}</span>`}` },
  { key: "labels", title: "labels", className: "wide-only", cell: (it) => html`<span class="labels">${Object.entries(it.labels ?? {}).slice(0, 3).map(([key, value]) => html`<a key=${key} class="label" href=${link("workflows", { label: `${key}=${value}` })}><${Name} text=${`${key}=${value}`} /></a>`)}</span>` },
  { key: "nodes", title: "nodes", className: "bar-cell under", cell: (it) => html`<${StateBar} states=${it.counts} />` },
  { key: "tasks", title: "tasks", className: "number", cell: (it) => html`${count(it.tasks)}<span class="narrow-only"> tasks</span>` },
  { key: "created", title: "created", className: "time first", cell: (it) => html`<${When} at=${it.created_at} />` },
  { key: "took", title: "took", className: "time", cell: (it) => html`<span class="narrow-only">${it.finished_at ? "took" : "for"} </span>${duration((it.finished_at ?? Date.now() / 1000) - it.created_at)}` },
];

export function List({ query, go }) {
  useTitle("workflows");
  const states = query.getAll("state");
  const name = query.get("name") ?? "";
  const label = query.get("label") ?? "";
  const since = query.get("since") ?? "";
  const [text, setText] = useState(name);
  const change = (changed) => go(link("workflows", { state: states, name, label, since, ...changed }));
  // Rounded to minutes: the address of a page has to stay the same to be asked for again.
  const from = since && /^\d+$/.test(since) ? Math.floor(Date.now() / 60000) * 60 - Number(since) : "";
  const target = withQuery("/v1/workflows", { state: states, label: label.includes("=") ? label : "", since: from, limit: PAGE });
  const { items, more, error, again, isThere } = usePages(target);
  const wanted = text.trim().toLowerCase();
  const found = useMemo(() => items.filter((it) => !wanted || it.name.toLowerCase().includes(wanted) || it.id.startsWith(wanted)), [items, wanted]);
  useEffect(() => {
    const timer = setTimeout(() => text !== name && change({ name: text }), 300);
    return () => clearTimeout(timer);
  }, [text]);
  const toggle = (word) => change({ state: states.includes(word) ? states.filter((each) => each !== word) : [...states, word] });
  return html`
    <h1>Workflows</h1>
    <div class="filters" role="search">
      <label>name or id <input type="search" value=${text} onInput=${(event) => setText(event.target.value)} placeholder="part of it" /></label>
      <label>label <input type="text" value=${label} onChange=${(event) => change({ label: event.target.value.trim() })} placeholder="key=value" /></label>
      <label>created within <select value=${since} onChange=${(event) => change({ since: event.target.value })}>
        ${SINCE.map(([value, words]) => html`<option key=${value} value=${value}>${words}</option>`)}</select></label>
      <div class="choices" role="group" aria-label="states">${STATES.map((word) => html`<button key=${word} type="button" aria-pressed=${String(states.includes(word))} onClick=${() => toggle(word)}><${State} state=${word} /></button>`)}</div>
    </div>
    <p class="quiet" role="status">${isThere ? `${count(found.length)} shown${more ? ", more are loaded as you scroll" : ""}` : "asking …"}</p>
    <${Problem} error=${error} again=${again} />
    <${Rows} label="workflows" columns=${COLUMNS} items=${found} identify=${(it) => it.id} more=${more} empty=${isThere ? "no workflow fits" : "…"} />`;
}

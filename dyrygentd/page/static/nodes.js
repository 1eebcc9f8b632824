// The nodes of a workflow, or of a box of it.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "./html.js";
import { get, of, withQuery } from "./api.js";
import { Rows, inOrder, turned } from "./rows.js";
import { Name, Problem, State, When, count, duration, inline, link } from "./parts.js";

const PAGE = 500;
/** More than anybody reads; a filter finds the others. */
const LOADED_MAX = 5000;

/** How long a node's present attempt took, or has taken. */
const secondsOf = (node) => (node.dispatched_at ? (node.finished_at ?? Date.now() / 1000) - node.dispatched_at : undefined);

const columnsFor = (reference) => [
  { key: "state", title: "state", className: "narrow", sort: (it) => it.state, cell: (it) => html`<${State} state=${it.state} />` },
  { key: "name", title: "name", className: "grow", sort: (it) => it.name, cell: (it) => html`<a href=${link("w", reference, "n", it.name)}><${Name} text=${it.name} /></a>${it.error && html` <span class="alarm-text short" title=${inline(it.error)}>${inline(it.error)}</span>`}${it.hold && html` <span class="quiet">${inline(it.hold)}</span>`}` },
  { key: "task", title: "task", className: "task under", sort: (it) => it.task, cell: (it) => html`<${Name} text=${it.task ?? it.kind ?? ""} />` },
  { key: "attempt", title: "attempt", className: "number", sort: (it) => it.attempt ?? 0, cell: (it) => it.attempt ? html`<span class="narrow-only">attempt </span>${it.attempt}` : "" },
  { key: "dispatched", title: "dispatched", className: "time", sort: (it) => it.dispatched_at, cell: (it) => html`<${When} at=${it.dispatched_at} />` },
  { key: "took", title: "took", className: "time first", sort: secondsOf, cell: (it) => duration(secondsOf(it)) },
];

/** Read pages one after the other; `again` begins anew, and keeps what is shown until the new first page is there. */
function useNodes(target) {
  const [state, setState] = useState({ target, nodes: [], next: undefined, error: null });
  const round = useRef(0);
  const busy = useRef(false);
  const read = useCallback(async (cursor) => {
    if (busy.current && cursor) return;
    const mine = cursor ? round.current : ++round.current;
    busy.current = true;
    try {
      const page = await get(target, cursor ? { cursor } : null);
      if (mine !== round.current) return;
      setState((known) => ({ target, nodes: cursor ? [...known.nodes, ...page.nodes] : page.nodes, next: page.next, error: null, isThere: true }));
    } catch (error) {
      if (mine === round.current) setState((known) => ({ ...(known.target === target ? known : { nodes: [] }), target, error }));
    } finally {
      if (mine === round.current) busy.current = false;
    }
  }, [target]);
  useEffect(() => {
    read();
    return () => { round.current += 1; };
  }, [read]);
  const { nodes, next } = state;
  const more = useCallback(() => { if (next && nodes.length < LOADED_MAX) read(next); }, [next, nodes.length, read]);
  return { ...state, more: next && nodes.length < LOADED_MAX ? more : null, again: () => read() };
}

/**
 * `stamp` changes when the workflow does; then the first page is read again, unless somebody has leafed on.
 * Of one that `hasFailed` those are shown first that did, if the address asks for nothing else.
 */
export function Nodes({ reference, path, query, choose, stamp, hasFailed }) {
  const states = query.getAll("state");
  const name = query.get("name") ?? "";
  const [text, setText] = useState(name);
  const [sorted, setSorted] = useState(null);
  const target = withQuery(of(reference, "nodes"), { state: states, limit: PAGE, path, name });
  const { nodes, next, more, error, again, isThere } = useNodes(target);
  const columns = useMemo(() => columnsFor(reference), [reference]);
  const wanted = text.trim().toLowerCase();
  const found = useMemo(() => inOrder(wanted ? nodes.filter((it) => it.name.toLowerCase().includes(wanted)) : nodes, columns, sorted), [nodes, wanted, sorted, columns]);
  useEffect(() => {
    if (hasFailed && !states.length && !name && !path) choose({ state: ["failed"] });
  }, []);
  useEffect(() => {
    if (isThere && nodes.length <= PAGE) again();
  }, [stamp]);
  useEffect(() => {
    const timer = setTimeout(() => text !== name && choose({ name: text }), 300);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<div class="filters" role="search">
      <label>name <input type="search" value=${text} onInput=${(event) => setText(event.target.value)} placeholder="part of it" /></label>
      <button type="button" onClick=${again}>read again</button>
    </div>
    <p class="quiet" role="status">${isThere ? `${count(found.length)} shown${next ? (more ? ", more are loaded as you scroll" : `; only the first ${count(LOADED_MAX)} are read: filter by state or name`) : ""}${sorted ? `, sorted by ${sorted.key} as far as read` : ""}` : error ? "" : "asking …"}</p>
    <${Problem} error=${error} again=${again} />
    <${Rows} label="nodes" columns=${columns} items=${found} identify=${(it) => it.name} more=${more} sorted=${sorted}
      onSort=${(key) => setSorted(turned(sorted, key))} empty=${isThere ? "no node fits" : "…"} />`;
}

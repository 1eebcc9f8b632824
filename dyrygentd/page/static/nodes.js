// The nodes of a workflow, or of a box of it; and one of them: how it stands and why, what it was given, what became of it.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "./html.js";
import { get, of, usePolled, withQuery } from "./api.js";
import { Acts, Advice, actsOnNode } from "./acts.js";
import { Rows, inOrder, turned } from "./rows.js";
import { Command, Decided, Name, Problem, State, StateBar, Waiting, When, clock, count, duration, inline, link, shell, useTitle } from "./parts.js";

const PAGE = 500;
/** More than anybody reads; a filter finds the others. */
const LOADED_MAX = 5000;

/** How long a node's present attempt took, or has taken. */
const secondsOf = (node) => (node.dispatched_at ? (node.finished_at ?? Date.now() / 1000) - node.dispatched_at : undefined);

const columnsFor = (reference) => [
  { key: "state", title: "state", className: "narrow", sort: (it) => it.state, cell: (it) => html`<${State} state=${it.state} />` },
  { key: "name", title: "name", className: "grow", sort: (it) => it.name, cell: (it) => html`<a href=${link("w", reference, "n", it.name)}><${Name} text=${it.name} /></a>${it.error && html` <span class="alarm-text short" title=${inline(it.error)}>${inline(it.error)}</span>`}${it.child ? html` <a class="quiet" href=${link("w", it.child.id)}>${it.child.state}</a>` : it.hold && html` <span class="quiet">${inline(it.hold)}</span>`}` },
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

const FINISHED = ["succeeded", "skipped", "failed", "cancelled", "blocked"];

function Facts({ rows }) {
  const there = rows.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return html`<dl class="facts">${there.map(([key, value]) => html`<div key=${key}><dt>${key}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** Of facts of any depth the lines `key: value`, at most so many. */
export function flat(value, prefix = "", found = []) {
  if (found.length >= 60) return found;
  if (value && typeof value === "object")
    for (const [key, each] of Object.entries(value)) flat(each, prefix ? `${prefix} ${key}` : key, found);
  else if (value !== null && value !== "" && value !== undefined) found.push([prefix, value]);
  return found;
}

const isTime = (key, value) => typeof value === "number" && value > 1e9 && value < 1e10 && /(_at|since|time|until)$/.test(key);

function Why({ reference, name, state, decided, since }) {
  const why = usePolled(of(reference, "nodes", name, "explain"), FINISHED.includes(state) ? 0 : 10000);
  if (!why.data) return why.error ? html`<${Problem} error=${why.error} again=${why.again} />` : html`<${Waiting} what="the reason" />`;
  const facts = flat(why.data.facts?.[name] ?? why.data.facts ?? {});
  return html`<section class="part"><h2>Why</h2>
    <p class="said">${inline(why.data.verdict)}</p>
    <${Decided} entry=${decided ?? why.data.decided} since=${since} />
    ${why.data.next_step && html`<p class="quiet"><${Advice} reference=${reference} words=${why.data.next_step} node=${name} /></p>`}
    ${why.data.blocked_by && html`<p>blocked by <a href=${link("w", reference, "n", why.data.blocked_by)}><${Name} text=${why.data.blocked_by} /></a></p>`}
    ${(why.data.problems ?? []).map((words) => html`<p key=${words} class="alarm-text">${inline(words)}</p>`)}
    ${facts.length > 0 && html`<h3>What broker and worker say</h3><${Facts} rows=${facts.map(([key, value]) => [inline(key), isTime(key, value) ? `${clock(value)} UTC` : inline(value)])} />`}
  </section>`;
}

const UNDER_WAY = ["dispatching", "dispatched"];
const span = (seconds) => (!seconds ? "" : seconds < 1 ? `${Math.round(seconds * 1000)} ms` : duration(seconds));

/** A link to the log of an attempt; nothing if the daemon does not know where logs are. */
const logOf = (it, words) => /^https?:/.test(it.logs ?? "") && html`<a href=${it.logs} rel="noopener noreferrer" target="_blank">${words}</a>`;

/** What each attempt did, oldest first; one alone is told by the facts above it. */
function Attempts({ attempts, leftOut }) {
  if (attempts.length < 2 && !leftOut && !attempts.some((it) => it.waited_s >= 1)) return null;
  // What matters first: a narrow screen shows the beginning of a row.
  const columns = [
    ["attempt", (it) => html`${it.number} ${logOf(it, "log")}`],
    ["how it ended", (it) => UNDER_WAY.includes(it.state) ? "under way" : inline(it.error ? `${it.state}: ${it.error}` : it.state)],
    ["ran", (it) => span((it.ended_at ?? Date.now() / 1000) - (it.started_at ?? it.sent_at))],
    ["sent", (it) => it.sent_at && clock(it.sent_at)],
    ["started", (it) => it.started_at && clock(it.started_at)],
    ["ended", (it) => it.ended_at && clock(it.ended_at)],
    ["paused", (it) => span(it.backoff_s)],
    ["waited", (it) => span(it.waited_s)],
    ["worker", (it) => it.worker && inline(it.worker)],
  ].filter(([, told]) => attempts.some(told));
  return html`<section class="part"><h2>Attempts</h2>
    ${leftOut > 0 && html`<p class="quiet">${leftOut} earlier ones are not kept one by one.</p>`}
    <p class="quiet">Times are UTC. It pauses until it is due to be tried again, and then waits for its turn.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="attempts"><table class="attempts">
      <thead><tr>${columns.map(([title]) => html`<th key=${title} scope="col">${title}</th>`)}</tr></thead>
      <tbody>${attempts.map((it) => html`<tr key=${it.number}>${columns.map(([title, told]) => html`<td key=${title}>${told(it) || ""}</td>`)}</tr>`)}</tbody>
    </table></div></section>`;
}

export function Node({ reference, name, mode }) {
  const whole = usePolled(of(reference), 0).data;
  useTitle(whole ? `${name} · ${whole.name}` : name);
  const shown = usePolled(of(reference, "nodes", name), 2000);
  const it = shown.data;
  if (!it) return html`<h1><${Name} text=${name} /></h1>${shown.error ? html`<${Problem} error=${shown.error} again=${shown.again} />` : html`<${Waiting} what="the node" />`}`;
  const after = it.after ?? [];
  const took = it.dispatched_at ? (it.finished_at ?? Date.now() / 1000) - it.dispatched_at : undefined;
  return html`
    <nav class="crumbs" aria-label="where this is"><a href=${link("workflows")}>workflows</a> › <a href=${link("w", reference)}><${Name} text=${whole?.name ?? reference} /></a>${it.section && html` › <a href=${link("w", reference, { path: it.section })}><${Name} text=${it.section} /></a>`}</nav>
    <h1><${State} state=${it.state} /> <${Name} text=${it.name} /></h1>
    <${Problem} error=${shown.error} />
    <div class="toolbar"><${Acts} acts=${actsOnNode(reference, it)} mode=${mode} done=${shown.again} /></div>
    ${it.error && html`<section class="part"><h2>Error</h2><pre class="error" tabindex="0">${inline(it.error)}</pre></section>`}
    <${Why} reference=${reference} name=${name} state=${it.state} decided=${it.decided} since=${it.gate_since} />
    <section class="part"><h2>${it.attempt ? `Attempt ${it.attempt}` : "Not dispatched yet"}</h2>
      <${Facts} rows=${[
        ["task", it.task && html`<${Name} text=${it.task} />`],
        ["kind", it.kind !== "task" && it.kind],
        ["workflow", it.child && html`<a href=${link("w", it.child.id)}><${Name} text=${it.child.name} /></a> ${it.child.state} <${StateBar} states=${it.child.counts} />`],
        ["task id", it.task_id && html`<${Command} text=${it.task_id} />`],
        ["dispatched", it.dispatched_at && html`${clock(it.dispatched_at)} UTC, <${When} at=${it.dispatched_at} />`],
        ["finished", it.finished_at && html`${clock(it.finished_at)} UTC, <${When} at=${it.finished_at} />`],
        ["took", duration(took)],
        ["log", it.attempts?.length > 0 && logOf(it.attempts.at(-1), "at whatever keeps it")],
        ["worker's last word", it.reported && inline(it.reported)],
        ["held", it.hold && `${it.hold}${it.held_until ? ` until ${clock(it.held_until)} UTC` : ""}`],
        ["blocked by", it.blocked_by && html`<a href=${link("w", reference, "n", it.blocked_by)}><${Name} text=${it.blocked_by} /></a>`],
        ["given out again", it.redelivered ? `${it.redelivered} times by the broker` : ""],
        ["late", it.late && inline(it.late)],
        ["may run on", it.may_run_on && "its task was revoked, and no end of it has been seen"],
        ["at the end of its section", it.section_end],
        ["pool", it.pool && html`<${Name} text=${it.pool} />`],
        ["rule", it.rule !== "all_succeeded" && it.rule],
        ["when", it.when && html`<${Name} text=${it.when} />`],
        ["cause", it.cause && html`<${Name} text=${it.cause} />`],
      ]} />
    </section>
    <${Attempts} attempts=${it.attempts ?? []} leftOut=${it.attempts_left_out ?? 0} />
    ${it.arguments && html`<section class="part"><h2>Arguments</h2><p class="quiet">shortened, and without what is redacted</p><pre tabindex="0">${inline(it.arguments)}</pre></section>`}
    ${!mode.acts && !it.arguments && html`<p class="quiet">Arguments and payload are shown to those who may act: <${Command} text=${`dyrygentctl show ${shell(reference, `--node=${it.name}`)}`} /></p>`}
    ${it.payload !== undefined && html`<section class="part"><h2>Payload</h2><pre tabindex="0">${inline(JSON.stringify(it.payload, null, 1))}</pre></section>`}
    ${it.is_output && html`<${Result} reference=${reference} />`}
    ${after.length > 0 && html`<section class="part"><h2>Waits for ${after.length}</h2><ul class="inline">${after.slice(0, 50).map((each) => html`<li key=${each}><a href=${link("w", reference, "n", each)}><${Name} text=${each} /></a></li>`)}</ul>
      ${after.length > 50 && html`<p class="quiet">and ${after.length - 50} more</p>`}</section>`}
    <p><${Command} text=${`dyrygentctl explain ${shell(reference)} ${it.name.startsWith("-") ? "-- " : ""}${shell(it.name)}`} /></p>`;
}

const RESULT_MAX = 4000;

function Result({ reference }) {
  const shown = usePolled(`${of(reference)}?result=true`, 0);
  if (!shown.data || shown.data.result === undefined) return null;
  const text = JSON.stringify(shown.data.result, null, 1) ?? "null";
  return html`<section class="part"><h2>Result</h2><pre tabindex="0">${inline(text.slice(0, RESULT_MAX))}${text.length > RESULT_MAX ? " …" : ""}</pre></section>`;
}

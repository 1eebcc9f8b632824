// One workflow: how it stands, what it waits for, and five ways to look into it.
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { of, usePolled, withQuery } from "./api.js";
import { POLL_MS, useFold } from "./fold.js";
import { Acts, Advice, actsOnWorkflow } from "./acts.js";
import { namesOf } from "./boxes.js";
import { Graph } from "./graph.js";
import { Timeline } from "./timeline.js";
import { Nodes } from "./nodes.js";
import { Journal } from "./journal.js";
import { of as counted } from "./parts.js";
import { Command, Counts, Decided, Name, Problem, StateBar, State, Waiting, When, clock, count, duration, inline, isFinished, link, shell, useTitle } from "./parts.js";

const ID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const TABS = [["graph", "Graph"], ["timeline", "Timeline"], ["causes", "Causes"], ["nodes", "Nodes"], ["journal", "Journal"]];

/** What a range of sections was called when it was opened; its address has a number alone. */
const titles = new Map();
const TITLES_MAX = 2000;
/** Of a timeline: three pixels each on a wide screen. */
const BINS = 240;
/** Reasons that take no more room than what stands below them can spare. */
const OPEN_MAX = 3;

function Crumbs({ reference, path, query, toRoot }) {
  const parts = path ? path.split("/") : [];
  const to = (number) => link("w", reference, { tab: query.get("tab"), path: parts.slice(0, number).join("/") });
  return html`<nav class="crumbs" aria-label="which part"><a href=${to(0)} aria-current=${parts.length ? undefined : "location"}>${toRoot}</a>
    ${parts.map((part, number) => {
      const at = parts.slice(0, number + 1).join("/");
      return html`<span key=${at}> › <a href=${to(number + 1)} aria-current=${number + 1 === parts.length ? "location" : undefined}><${Name} text=${titles.get(`${reference} ${at}`) ?? part} /></a></span>`;
    })}</nav>`;
}

function Estimate({ reference, state }) {
  const it = usePolled(isFinished(state) ? "" : of(reference, "estimate"), 5000).data;
  if (!it) return null;
  const way = it.path ?? [];
  return html`<p class="said">${inline(it.words)}</p>
    ${way.length > 1 && html`<details><summary>the longest way: ${count(it.path_nodes)} nodes${it.path_s ? `, ${duration(it.path_s)}` : ""}</summary>
      <ol class="way">${way.map((each) => html`<li key=${each.name}><${State} state=${each.state} title=${false} /> <a href=${link("w", reference, "n", each.name)}><${Name} text=${each.name} /></a>
        ${each.seconds ? html` <span class="quiet">${duration(each.seconds)}</span>` : ""}</li>`)}</ol>
      ${it.path_nodes > way.length && html`<p class="quiet">and ${count(it.path_nodes - way.length)} more</p>`}</details>`}`;
}

/** Who is meant by what is advised about a group: all of it, if it has a cause or its names are known. */
function meantBy({ code, cause, node, count: number = 1, examples = [] }) {
  const isNamed = number > 1 && number <= examples.length && code !== "running";
  if (cause && (code === "failed" || code === "lost" || (code === "cancelled" && number > examples.length))) return { cause };
  return { nodes: isNamed ? examples : [node] };
}

function Standing({ reference, it }) {
  // It begins with the name, and that is a link.
  const text = it.text.startsWith(`'${it.node}' `) ? it.text.slice(it.node.length + 3) : it.text;
  return html`<li><a href=${link("w", reference, "n", it.node)}><${Name} text=${it.node} /></a>${" "}
    <span class="said">${inline(text)}</span>${it.count > 1 && html` <b>${count(it.count)} nodes</b>`}
    <${Decided} entry=${it.decided} since=${it.gate_since} />
    ${it.next_step && html`<div class="quiet"><${Advice} reference=${reference} words=${it.next_step} node=${it.node} meant=${meantBy(it)} /></div>`}</li>`;
}

function Why({ reference, state }) {
  const why = usePolled(of(reference, "explain"), isFinished(state) ? 0 : 10000);
  useEffect(() => { if (why.data) why.again(); }, [state]);
  const it = why.data;
  if (!it) return html`<${Problem} error=${why.error} again=${why.again} />`;
  const standings = (it.standings ?? []).slice(0, 8);
  const first = standings[0];
  const step = it.next_step && (first?.code === "failed" && first.next_step === it.next_step
    ? html`<a href=${link("w", reference, { tab: "causes" })}>what failed, by cause</a>`
    : html`<${Advice} reference=${reference} words=${it.next_step} node=${first?.node} meant=${first && meantBy(first)} />`);
  return html`<div class="why">
    <p class="verdict-line">${inline(it.verdict)}${step && html` <span class="quiet">${step}</span>`}</p>
    <${Decided} entry=${it.decided} />
    ${(it.problems ?? []).map((words) => html`<p key=${words} class="alarm-text">${inline(words)}</p>`)}
    ${standings.length > 0 && html`<details open=${standings.length <= OPEN_MAX}><summary>${isFinished(state) ? "what did not succeed" : "what its nodes wait for"}</summary><ul>${standings.map((each, place) => html`<${Standing} key=${place} reference=${reference} it=${each} />`)}</ul></details>`}
  </div>`;
}

/** The workflow whose node this one does. */
const Above = ({ workflow, node }) => html` › <a href=${link("w", workflow)}>${workflow.slice(0, 8)}</a> › <a href=${link("w", workflow, "n", node)}><${Name} text=${node} /></a>`;

function Head({ it, mode, again, choose, query, isDrawn }) {
  const states = { ...it.counts };
  const picked = query.get("tab") === "nodes" ? query.getAll("state") : [];
  const toggle = (word) => choose({ tab: "nodes", state: picked.includes(word) ? picked.filter((each) => each !== word) : [...picked, word] });
  const people = Object.entries(it.waits_for_person ?? {});
  return html`<header class="head">
    <nav class="crumbs" aria-label="where this is"><a href=${link("workflows")}>workflows</a>${it.parent && Above(it.parent)}</nav>
    <h1><${State} state=${it.state} /> <${Name} text=${it.name} /></h1>
    <p class="quiet meta"><span>${count(it.tasks)} tasks</span> <span>created <${When} at=${it.created_at} /></span>
      <span>${it.finished_at ? html`took ${duration(it.finished_at - it.created_at)}` : html`under way for ${duration(Date.now() / 1000 - it.created_at)}`}</span>
      ${it.start_at && it.state === "scheduled" && html`<span>starts <${When} at=${it.start_at} /></span>`}
      ${it.deadline_at && !it.finished_at && html`<span>deadline ${clock(it.deadline_at)} UTC</span>`}
      ${it.priority !== undefined && it.priority !== 0 && html`<span>priority ${it.priority}</span>`}
      <${Command} text=${it.id} />
      ${Object.entries(it.labels ?? {}).map(([key, value]) => html`<a key=${key} class="label" href=${link("workflows", { label: `${key}=${value}` })}><${Name} text=${`${key}=${value}`} /></a>`)}</p>
    <${StateBar} states=${states} />
    <${Counts} states=${states} onPick=${toggle} picked=${picked} />
    ${it.below && html`<p class="said">In workflows of its nodes:</p><${StateBar} states=${it.below.counts} />`}
    ${people.length > 0 && html`<p class="person"><b>Waits for a person:</b> ${people.map(([why, number]) => `${count(number)} ${{ gate: "at a gate", operator: "held by an operator", lost: "lost" }[why] ?? inline(why)}`).join(", ")}</p>`}
    ${it.keeps_failing > 0 && html`<p class="person"><b>Keeps failing:</b> <a href=${link("w", it.id, { tab: "causes" })}>${counted(it.keeps_failing, "node")}, tried again</a></p>`}
    ${(it.problems ?? []).map((words) => html`<p key=${words} class="alarm-text">${inline(words)}</p>`)}
    ${it.error && html`<p class="alarm-text error-line">${inline(it.error)}</p>`}
    ${isDrawn && html`<${Estimate} reference=${it.id} state=${it.state} />`}
    <${Why} reference=${it.id} state=${it.state} />
    <div class="toolbar"><${Acts} acts=${actsOnWorkflow(it)} mode=${mode} done=${again} /></div>
  </header>`;
}

function Tabs({ reference, query, at, choose }) {
  const key = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = (TABS.findIndex(([word]) => word === at) + step + TABS.length) % TABS.length;
    choose({ tab: TABS[place][0] });
    event.currentTarget.children[place].focus();
    event.preventDefault();
  };
  return html`<div class="tabs" role="tablist" aria-label="ways to look" onKeyDown=${key}>
    ${TABS.map(([word, title]) => html`<button key=${word} type="button" role="tab" id=${`tab-${word}`} aria-controls="panel"
      aria-selected=${String(word === at)} tabindex=${word === at ? 0 : -1} onClick=${() => choose({ tab: word })}>${title}</button>`)}
  </div>`;
}

/** The boxes of a fold as a table: what the graph shows, for whoever does not see it. */
function Boxes({ fold, onOpen, onNode }) {
  const names = namesOf(fold.boxes);
  const isNode = (box) => box.kind === "node";
  return html`<div class="scroll" tabindex="0" role="region" aria-label="boxes"><table class="boxes"><thead><tr>
      <th scope="col">box</th><th scope="col">nodes</th><th scope="col">states</th><th scope="col">what matters</th></tr></thead>
    <tbody>${fold.boxes.map((box, at) => html`<tr key=${box.path}>
      <th scope="row"><button type="button" class="link" onClick=${() => (isNode(box) ? onNode(box.title) : onOpen(box.path))}><${Name} text=${names[at]} /></button></th>
      <td class="number">${count(box.nodes)}</td><td><${StateBar} states=${box.states} /></td>
      <td>${box.error ? html`<span class="alarm-text short">${inline(box.error)}</span>` : box.held ? html`held: ${inline(box.hold)} <button type="button" class="link" onClick=${() => onNode(box.held)}><${Name} text=${box.held} /></button>` : box.longest_since ? html`<span class="quiet">longest since <${When} at=${box.longest_since} /></span>` : ""}</td>
    </tr>`)}</tbody></table></div>`;
}

function Folded({ folded: { fold, error, again, crowded }, open, show }) {
  const [asTable, setAsTable] = useState(() => localStorage.getItem("boxes") === "table");
  const choose = (is) => {
    setAsTable(is);
    localStorage.setItem("boxes", is ? "table" : "picture");
  };
  useEffect(() => {
    if (titles.size > TITLES_MAX) titles.clear();
    const names = namesOf(fold?.boxes ?? []);
    fold?.boxes.forEach((box, at) => { if (box.kind !== "node") titles.set(`${fold.id} ${box.path}`, names[at]); });
  }, [fold]);
  if (!fold) return error ? html`<${Problem} error=${error} again=${again} />` : html`<${Waiting} what="the fold" />`;
  return html`<${Problem} error=${error} />
    <div role="status">${crowded && html`<p class="crowded">${inline(crowded)}: the boxes are asked for every ${POLL_MS.crowded / 1000} s instead.</p>`}</div>
    ${asTable ? html`<${Boxes} fold=${fold} onOpen=${open} onNode=${show} />` : html`<${Graph} fold=${fold} onOpen=${open} onNode=${show} />`}
    <button type="button" class="small" onClick=${() => choose(!asTable)}>${asTable ? "as a picture" : "as a table"}</button>`;
}

function Times({ reference, path, open, show, state }) {
  const shown = usePolled(withQuery(of(reference, "timeline"), { path, bins: BINS }), isFinished(state) ? 0 : 5000);
  if (!shown.data) return shown.error ? html`<${Problem} error=${shown.error} again=${shown.again} />` : html`<${Waiting} what="the timeline" />`;
  return html`<${Problem} error=${shown.error} /><${Timeline} timeline=${shown.data} onOpen=${open} onNode=${show} />
    <p><${Command} text=${`dyrygentctl timeline ${shell(reference)}`} /></p>`;
}

/** What has failed, and not for good: a task that fails for the fortieth time is what somebody looks for here. */
function TriedAgain({ reference, causes }) {
  const found = causes.tried_again.slice().sort((one, other) => other.most - one.most), number = causes.tried_again_count;
  return html`<section class="part" aria-labelledby="tried-again"><h2 id="tried-again">Tried again <span class="quiet">${counted(number, "node")}</span></h2>
    <ul class="causes">${found.map((each) => html`<li key=${each.cause}>
      <p class="said">${inline(each.text)}</p>
      <p>${each.nodes.map((name) => html` <a key=${name} href=${link("w", reference, "n", name)}><${Name} text=${name} /></a>`)}${each.count > each.nodes.length && html` <span class="quiet">and ${count(each.count - each.nodes.length)} more</span>`}</p>
      <p class="quiet"><${Name} text=${each.cause} /></p></li>`)}</ul>
  </section>`;
}

function Causes({ it, mode, again }) {
  const shown = usePolled(of(it.id, "causes"), isFinished(it.state) ? 0 : 5000);
  useEffect(() => { if (shown.data) shown.again(); }, [it.counts?.failed, it.state]);
  if (!shown.data) return shown.error ? html`<${Problem} error=${shown.error} again=${shown.again} />` : html`<${Waiting} what="the causes" />`;
  const causes = shown.data.causes ?? [];
  const retries = shown.data.tried_again?.length > 0 && html`<${TriedAgain} reference=${it.id} causes=${shown.data} />`;
  if (!causes.length) return retries || html`<p class="quiet">Nothing has failed.</p>`;
  return html`${retries}<ol class="causes">${causes.slice(0, 100).map((cause) => html`<li key=${cause.id} value=${cause.number}>
    <h2><${Name} text=${cause.cause} /></h2>
    <p><b class="large">${count(cause.count)}</b> ${cause.count === 1 ? "node" : "nodes"}${cause.lost ? ` (${count(cause.lost)} lost)` : ""}:
      ${(cause.nodes ?? []).slice(0, 5).map((name) => html` <a key=${name} href=${link("w", it.id, "n", name)}><${Name} text=${name} /></a>`)}${cause.count > 5 && html` <span class="quiet">and ${count(cause.count - 5)} more</span>`}</p>
    ${cause.example && html`<pre class="error" tabindex="0">${inline(cause.example)}</pre>`}
    ${/^https?:/.test(cause.logs ?? "") && html`<p><a href=${cause.logs} rel="noopener noreferrer" target="_blank">log of the first</a></p>`}
    <${Acts} mode=${mode} done=${() => (shown.again(), again())} acts=${[
      { verb: "retry", ref: it.id, cause: String(cause.id), about: `Try again cause ${cause.number} of '${it.name}'`, number: cause.count },
      { verb: "skip", ref: it.id, cause: String(cause.id), about: `Go on without cause ${cause.number} of '${it.name}'`, number: cause.count, alarm: true, dependents: cause.number <= 100 ? (cause.dependents ?? 0) : undefined, takers: cause.takers },
    ]} />
  </li>`)}</ol>${causes.length > 100 && html`<p class="quiet">and ${count(causes.length - 100)} further causes</p>`}`;
}

export function Workflow({ reference, query, go, mode }) {
  const shown = usePolled(of(reference), 2000);
  const it = shown.data;
  useTitle(it?.name ?? reference);
  const path = query.get("path") ?? "";
  const tab = TABS.find(([word]) => word === query.get("tab"))?.[0] ?? "graph";
  // The boxes take longest, so they are asked for first; an id is known, and what a name means tells the workflow.
  const folded = useFold(tab === "graph" ? it?.id ?? (ID.test(reference) ? reference : "") : "", path, it?.state);
  const choose = (changed) => go(link("w", reference, { tab: query.get("tab"), path, state: query.getAll("state"), name: query.get("name"), ...changed }));
  // To open a box is a step that the browser's back button takes back.
  const open = (to) => {
    const child = folded.fold?.boxes.find((box) => box.path === to)?.child;
    location.hash = child ? link("w", child.id) : link("w", reference, { tab: query.get("tab"), path: to });
  };
  const show = (name) => { location.hash = link("w", reference, "n", name); };
  const isDrawn = useRef(false);
  isDrawn.current ||= tab !== "graph" || Boolean(folded.fold ?? folded.error);
  const stamp = useMemo(() => JSON.stringify(it?.counts ?? {}), [it]);
  if (!it) return html`<h1><${Name} text=${reference} /></h1>${shown.error ? html`<${Problem} error=${shown.error} again=${shown.again} />` : html`<${Waiting} what="the workflow" />`}`;
  return html`
    <${Problem} error=${shown.error} />
    <${Head} it=${it} mode=${mode} again=${shown.again} choose=${choose} query=${query} isDrawn=${isDrawn.current} />
    <${Tabs} reference=${reference} query=${query} at=${tab} choose=${choose} />
    ${path && ["graph", "timeline", "nodes"].includes(tab) && html`<${Crumbs} reference=${reference} path=${path} query=${query} toRoot="all of it" />`}
    <div id="panel" role="tabpanel" aria-labelledby=${`tab-${tab}`}>
      ${tab === "graph" && html`<${Folded} key=${path} folded=${folded} open=${open} show=${show} />`}
      ${tab === "timeline" && html`<${Times} key=${path} reference=${it.id} path=${path} open=${open} show=${show} state=${it.state} />`}
      ${tab === "causes" && html`<${Causes} it=${it} mode=${mode} again=${shown.again} />`}
      ${tab === "nodes" && html`<${Nodes} key=${path} reference=${it.id} path=${path} query=${query} choose=${choose} stamp=${stamp} hasFailed=${it.state === "failed" && it.counts?.failed > 0} />`}
      ${tab === "journal" && html`<${Journal} reference=${it.id} />`}
    </div>`;
}

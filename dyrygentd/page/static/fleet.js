// All of the daemon at one look: what is broken, what waits for a person, what goes on.
import { html, useEffect, useRef, useState } from "./html.js";
import { usePolled } from "./api.js";
import { Acts } from "./acts.js";
import { Command, Name, Problem, State, StateBar, Waiting, When, count, duration, inline, link, useTitle } from "./parts.js";
import { of as counted } from "./parts.js";

/** Samples of a few minutes; what was before the page was opened only the daemon's metrics know. */
const SAMPLES = 150;

const KINDS = [
  ["problem", "Keeps the daemon from its work", "failed"],
  ["person", "Waits for a person", "held"],
  ["stuck", "Is stuck", "retrying"],
  ["failed", "Keeps failing, or failed lately", "failed"],
  ["busy", "Is at its bound", "ready"],
  ["notice", "Good to know", "waiting"],
];

/** Where all of it is that is not shown, as the commands say it. */
const REST = {
  "person lost": "dyrygentctl list --state running --all",
  "person gate": "dyrygentctl list --state running --all",
  "person hold": "dyrygentctl list --state running --all",
  "person paused": "dyrygentctl list --state paused --all",
  "failed keeps-failing": "dyrygentctl --json explain",
  "failed failing": "dyrygentctl list --state running --all",
  "failed failed": "dyrygentctl list --state failed --all",
};

/** What a button may do about it: only where all that is meant is named. */
function actOn({ kind, code, workflow, name, nodes = [], count: number }) {
  const act = (verb, words, more = {}) => ({ verb, ref: workflow, about: `${words} '${name}'`, number, ...more });
  if (kind !== "person" || !workflow) return null;
  if (code === "lost") return act("retry", "Try again what was lost in", { cause: "lost" });
  if (["gate", "hold"].includes(code) && number === nodes.length) return act("release", "Let go what is held in", { nodes });
  if (code === "paused") return { ...act("resume", "Go on with"), number: undefined };
  return null;
}

function Item({ item, mode, again }) {
  const act = mode.acts ? actOn(item) : null;
  const commands = act ? [] : (item.next_steps ?? []).filter((step) => step.startsWith("dyrygentctl "));
  const words = (item.next_steps ?? []).filter((step) => !step.startsWith("dyrygentctl "));
  return html`<li>
    <div>${item.kind === "busy" && item.workflow ? html`<span class="quiet">waits:</span> ` : ""}${item.workflow && html`<a href=${link("w", item.workflow, item.kind === "failed" ? { tab: "causes" } : {})}><${Name} text=${item.name || item.workflow} /></a> `}
      <span class="said">${inline(item.text)}</span>
      ${item.nodes?.length > 0 && item.workflow && html` <span class="quiet">${item.nodes.slice(0, 3).map(
        (node) => html`<a key=${node} href=${link("w", item.workflow, "n", node)}><${Name} text=${node} /></a> `,
      )}${item.count > 3 && html`<a href=${link("w", item.workflow, { tab: "nodes" })}>of ${counted(item.count, "node")}</a>`}</span>`}</div>
    ${words.map((step) => html`<div key=${step} class="quiet">${inline(step)}</div>`)}
    ${act && html`<${Acts} acts=${[act]} mode=${mode} done=${again} />`}
    ${commands.slice(0, 2).map((step) => html`<${Command} key=${step} text=${step} />`)}
  </li>`;
}

function Findings({ overview, mode, again }) {
  return KINDS.map(([kind, title, mark]) => {
    const items = overview.items.filter((item) => item.kind === kind);
    if (!items.length) return null;
    const rest = Object.entries(overview.left_out ?? {}).filter(([key]) => key.split(" ")[0] === kind);
    const more = rest.reduce((sum, [, number]) => sum + number, 0);
    // How many failed in a day nobody counts.
    const least = rest.some(([key]) => key === "failed failed") ? " or more" : "";
    return html`<section key=${kind} class=${`findings mark-${mark}`} aria-labelledby=${`of-${kind}`}>
      <h2 id=${`of-${kind}`}>${title} <span class="quiet">${count(items.length + more)}${least}</span></h2>
      <ul>${items.map((item, place) => html`<${Item} key=${`${item.code} ${item.workflow} ${place}`} item=${item} mode=${mode} again=${again} />`)}</ul>
      ${rest.map(([key, number]) => html`<p key=${key} class="quiet">and ${key === "failed failed"
        ? html`<a href=${link("workflows", { state: "failed" })}>more (failed)</a>`
        : `${count(number)} more${key.includes(" ") ? ` (${key.split(" ")[1]})` : ""}`}: <${Command} text=${REST[key] ?? "dyrygentctl --json explain"} /></p>`)}
    </section>`;
  });
}

/** Tasks that ended in each second between two answers, as long as the page is open. */
function useRates(stats) {
  const kept = useRef({ samples: [] });
  const [, draw] = useState(0);
  useEffect(() => {
    const counters = stats.data?.engine?.counters;
    if (!counters) return;
    const now = { at: stats.at / 1000, good: counters.succeeded, bad: counters.failed, up: stats.data.uptime_s };
    const { last, samples } = kept.current;
    kept.current.last = now;
    // After a restart the daemon counts from 0.
    if (last && now.at > last.at && now.up >= last.up) {
      const rate = (one, other) => Math.max(0, (one - other) / (now.at - last.at));
      samples.push([now.at, rate(now.good, last.good), rate(now.bad, last.bad)]);
      if (samples.length > SAMPLES) samples.shift();
      draw((number) => number + 1);
    }
  }, [stats.at]);
  return kept.current.samples;
}

const CHART = { width: 600, height: 64 };

/** A line through samples; beside it stands what a picture cannot say. */
function Line({ samples, column, most, className }) {
  const step = CHART.width / (SAMPLES - 1);
  const points = samples.map((sample, place) => {
    const x = CHART.width - (samples.length - 1 - place) * step;
    return `${x.toFixed(1)},${(CHART.height - 2 - (sample[column] / most) * (CHART.height - 6)).toFixed(1)}`;
  });
  return html`<polyline class=${className} points=${points.join(" ")} />`;
}

function Rates({ samples }) {
  const last = samples.at(-1);
  const most = Math.max(1, ...samples.map((sample) => Math.max(sample[1], sample[2])));
  return html`<div class="tile wide"><h2>Throughput</h2>
    <svg class="chart" viewBox=${`0 0 ${CHART.width} ${CHART.height}`} preserveAspectRatio="none" aria-hidden="true">
      <${Line} samples=${samples} column=${1} most=${most} className="ink-succeeded" />
      <${Line} samples=${samples} column=${2} most=${most} className="ink-failed" />
    </svg>
    <p class="quiet">${last ? html`<b>${last[1].toFixed(1)}</b> succeeded/s · <b>${last[2].toFixed(1)}</b> failed/s · at most ${most.toFixed(1)}/s in the last ${duration(last[0] - samples[0][0])}` : "measured as long as this page is open"}</p></div>`;
}

function Tiles({ stats }) {
  const { engine, store } = stats;
  const states = engine.workflow_states ?? {};
  return html`
    <div class="tile"><h2>Workflows under way</h2><p class="large">${count(engine.workflows)}</p>
      <p class="quiet">${["running", "paused", "scheduled"].filter((word) => states[word]).map((word) => `${count(states[word])} ${word}`).join(" · ") || "none"}</p></div>
    <div class="tile"><h2>Nodes</h2><${StateBar} states=${engine.nodes} label="nodes of all workflows under way" />
      <p class="quiet">${count(engine.nodes.waiting)} waiting · ${count(engine.nodes.held)} held · ${count(engine.nodes.ready)} ready</p></div>
    <div class="tile"><h2>In flight</h2><p class="large">${count(engine.in_flight)}</p>
      <meter min="0" max=${engine.in_flight_max || 1} value=${engine.in_flight} aria-label=${`${engine.in_flight} of ${engine.in_flight_max} places`}></meter>
      <p class="quiet">of ${count(engine.in_flight_max)} places${engine.oldest_ready_s > 1 ? ` · ready for ${duration(engine.oldest_ready_s)}` : ""}</p></div>
    <div class="tile"><h2>Health</h2><p>${engine.broker_up ? "broker answers" : html`<b class="alarm-text">broker does not answer</b>`}</p>
      <p>${store.problem ? html`<b class="alarm-text">${inline(store.problem)}</b>` : "database writes"}</p><p class="quiet">up ${duration(stats.uptime_s)}</p></div>`;
}

function Table({ title, heads, rows }) {
  if (!rows.length) return null;
  return html`<section class="part"><h2>${title}</h2><div class="scroll" tabindex="0" role="region" aria-label=${title}><table><thead><tr>${heads.map((head) => html`<th key=${head} scope="col">${head}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${row[0]}><th scope="row"><${Name} text=${row[0]} /></th>${row.slice(1).map((cell, place) => html`<td key=${place}>${cell}</td>`)}</tr>`)}</tbody></table></div></section>`;
}

const ROWS_MAX = 12;

function Tables({ stats }) {
  const ended = (sums) => sums.succeeded + sums.failed;
  const busiest = Object.entries(stats.queues).sort((one, other) => other[1].dispatched - one[1].dispatched).slice(0, ROWS_MAX);
  const queues = busiest.map(([name, sums]) => [
    name, count(sums.succeeded), count(sums.failed), ended(sums) ? duration(sums.seconds / ended(sums)) : "",
  ]);
  const pools = (stats.engine.pools ?? []).slice().sort((one, other) => other.waiting - one.waiting).slice(0, ROWS_MAX)
    .map((pool) => [pool.name, `${count(pool.used)} of ${count(pool.size)}`, count(pool.waiting)]);
  const slow = Object.entries(stats.tasks).filter(([, sums]) => sums.failed || sums.lost).sort((one, other) => other[1].failed - one[1].failed).slice(0, ROWS_MAX)
    .map(([name, sums]) => [name, count(sums.failed), count(sums.retried), count(sums.lost), count(sums.succeeded)]);
  return html`<div class="columns">
    <${Table} title="Queues" heads=${["queue", "succeeded", "failed", "mean"]} rows=${queues} />
    <${Table} title="Pools" heads=${["pool", "taken", "waiting"]} rows=${pools} />
    <${Table} title="Tasks that fail" heads=${["task", "failed", "retried", "lost", "succeeded"]} rows=${slow} />
  </div>`;
}

function Latest() {
  const page = usePolled("/v1/workflows?limit=8", 5000);
  if (!page.data) return html`<${Problem} error=${page.error} again=${page.again} />`;
  return html`<section class="part"><h2>Latest workflows <a class="small" href=${link("workflows")}>all</a></h2>
    ${page.data.workflows.length === 0 && html`<p class="quiet">None yet.</p>`}
    <ul class="latest">${page.data.workflows.map((each) => html`<li key=${each.id}><${State} state=${each.state} />
      <a href=${link("w", each.id)}><${Name} text=${each.name} /></a><${StateBar} states=${each.counts} />
      <span class="quiet"><${When} at=${each.created_at} /></span></li>`)}</ul></section>`;
}

export function Fleet({ mode }) {
  useTitle("");
  const overview = usePolled("/v1/explain", 10000);
  const stats = usePolled("/v1/stats", 2000);
  const samples = useRates(stats);
  const status = overview.data?.status;
  return html`
    <h1>Overview</h1>
    ${overview.data
      ? html`<p class=${`verdict is-${status}`} aria-live="polite"><span class="sign" aria-hidden="true">${{ ok: "✓", attention: "!", problem: "✕" }[status] ?? "?"}</span> ${inline(overview.data.verdict)}</p>`
      : !overview.error && html`<${Waiting} what="the overview" />`}
    <${Problem} error=${overview.error} again=${overview.again} />
    ${overview.data && html`<${Findings} overview=${overview.data} mode=${mode} again=${overview.again} />`}
    <div class="tiles">${stats.data ? html`<${Tiles} stats=${stats.data} />` : null}<${Rates} samples=${samples} /></div>
    ${!stats.data && html`<${Problem} error=${stats.error} again=${stats.again} />`}
    <${Latest} />
    ${stats.data && html`<${Tables} stats=${stats.data} />`}`;
}

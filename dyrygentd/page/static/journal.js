// Who did what to a workflow, the newest first, in as few lines as tell it.
import { html } from "./html.js";
import { of, usePolled } from "./api.js";
import { Command, Name, Problem, Waiting, When, clock, count, inline, link, of as counted, shell } from "./parts.js";

/** Lines, and names of nodes in one of them. */
const LINES_MAX = 200, NAMES_MAX = 3;
/** Each command is a process of its own, and who is meant is the person. */
const PROCESS = /(\(uid \d+), pid \d+\)$/;

/**
 * Fold entries, the oldest first, into lines, the newest first: what was done again and again is one line.
 *
 * A line is its newest entry with `times`, `since` of the first of them, and `isSame`: its nodes are those of the line above.
 */
export function linesOf(entries) {
  const lines = [];
  for (const entry of entries.toReversed()) {
    const by = (entry.by ?? "").replace(PROCESS, "$1)");
    const whose = JSON.stringify([entry.nodes, entry.count]);
    const what = JSON.stringify([entry.verb, by, entry.why, entry.detail]);
    const above = lines.at(-1);
    const isSame = Boolean(entry.nodes?.length) && above?.whose === whose;
    if (isSame && above.what === what) Object.assign(above, { times: above.times + 1, since: entry.at });
    else lines.push({ ...entry, by, whose, what, isSame, times: 1, since: entry.at });
  }
  return lines;
}

function Whom({ reference, line }) {
  const { nodes = [], isSame, count: number = nodes.length } = line;
  if (!number) return null;
  if (isSame) return html` <span class="quiet ditto" role="img" aria-label=${number > 1 ? "the same nodes" : inline(nodes[0])} title=${inline(nodes[0])}>″</span>`;
  const names = nodes.slice(0, NAMES_MAX).map((name) => html` <a key=${name} href=${link("w", reference, "n", name)}><${Name} text=${name} /></a>`);
  return html`<span class="quiet">${number > 1 && ` ${counted(number, "node")}:`}${names}${number > names.length && " …"}</span>`;
}

function Line({ reference, line }) {
  const [who, about = ""] = line.by.split(/ (?=\()/);
  return html`<tr>
    <td><${When} at=${line.at} ago=${false} /></td>
    <td>${inline(line.verb)}<${Whom} reference=${reference} line=${line} />${line.detail && html` <span class="quiet">${inline(line.detail)}</span>`}
      ${line.times > 1 && html` <b>${count(line.times)} times</b> <span class="quiet">since ${clock(line.since)}</span>`}</td>
    <td><${Name} text=${who} />${about && html` <span class="quiet wide-only">${inline(about)}</span>`}</td>
    <td class="said">${inline(line.why)}</td></tr>`;
}

export function Journal({ reference }) {
  const shown = usePolled(of(reference, "journal"), 5000);
  if (!shown.data) return shown.error ? html`<${Problem} error=${shown.error} again=${shown.again} />` : html`<${Waiting} what="the journal" />`;
  const lines = linesOf(shown.data.entries ?? []);
  if (!lines.length) return html`<p class="quiet">Nobody did anything to it.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="journal"><table class="journal">
    <thead><tr>${["when (UTC)", "what", "who", "why"].map((head) => html`<th key=${head} scope="col">${head}</th>`)}</tr></thead>
    <tbody>${lines.slice(0, LINES_MAX).map((line) => html`<${Line} key=${`${line.since} ${line.what} ${line.whose}`} reference=${reference} line=${line} />`)}</tbody></table></div>
    ${lines.length > LINES_MAX && html`<p class="quiet">and ${count(lines.length - LINES_MAX)} earlier lines: <${Command} text=${`dyrygentctl events ${shell(reference)}`} /></p>`}`;
}

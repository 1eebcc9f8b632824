// What a person may do: buttons where the page may act, commands to copy where it may not.
import { html, useEffect, useRef, useState } from "./html.js";
import { of, post } from "./api.js";
import { Command, Problem, count, inline, of as counted, shell } from "./parts.js";

const WHY_MAX = 1000;

/** What is done to whom: `{verb, ref, nodes, cause, about, number, alarm}`; `about` says it in words, with the number. */
export function commandOf({ verb, ref, nodes = [], cause, flags = [] }) {
  const names = nodes.some((name) => name.startsWith("-")) ? ["--", ...nodes] : nodes;
  return `dyrygentctl ${shell(verb, ref, ...(cause ? ["--cause", cause] : []), ...flags, ...names)}`;
}

const VERB = /^(retry|release|skip|resume|rerun)(?: (.*))?$/s;
const NULL = " --value null";

/** Of `retry NODE`, as the daemon writes it, the command to paste; nothing if it is no verb. */
function commandIn(words, ref, node, meant) {
  const [, verb, rest = ""] = VERB.exec(words) ?? [];
  if (!verb) return "";
  const act = { verb, ref };
  if (!rest) return commandOf(act);
  if (rest === node) return commandOf({ ...act, ...meant });
  if (rest === node + NULL) return commandOf({ ...act, ...meant, flags: ["--value", "null"] });
  if (rest.startsWith("--from ")) return commandOf({ ...act, flags: ["--from", rest.slice(7)] });
  return commandOf(rest.startsWith("--") ? { ...act, flags: rest.split(" ") } : { ...act, nodes: [rest] });
}

/** What the daemon advises about a node, with commands to paste; `meant` is who is meant instead of the node: `{nodes}` or `{cause}`. */
export function Advice({ reference, words, node = "", meant = { nodes: [node] } }) {
  const parts = words.split("`");
  // Any text may be a name, and one with a backtick could pass for a command.
  if (node.includes("`") || parts.length % 2 === 0) return inline(words);
  return parts.map((part, place) => {
    if (place % 2 === 0) return inline(part);
    const command = commandIn(part, reference, node, meant);
    return command ? html`<${Command} key=${place} text=${command} />` : html`<code key=${place}>${inline(part)}</code>`;
  });
}

/** What runs without that which is skipped; of a daemon that does not count it, that it does. */
function behind({ dependents, takers = 0 }) {
  if (dependents === undefined) return "It counts as succeeded. What waits for it runs without it, and gets null in place of its value.";
  const waits = dependents === 1 ? "waits for it and runs" : "wait for it and run";
  const taken = takers === 0 ? "none of them takes its value" : `${count(takers)} of them ${takers === 1 ? "takes its value and gets" : "take its value and get"} null`;
  return `It counts as succeeded. ${counted(dependents, "node")} ${waits} without it; ${taken}.`;
}

function Confirm({ act, close }) {
  const dialog = useRef(null);
  const [why, setWhy] = useState("");
  const [state, setState] = useState({});
  useEffect(() => dialog.current.showModal(), []);
  const perform = async () => {
    setState({ busy: true });
    try {
      const { verb, ref, nodes = [], cause } = act;
      const changed = await post(of(ref, verb), { why, ...(nodes.length ? { nodes } : {}), ...(cause ? { cause } : {}) });
      close(changed.is_changed ? `done: ${act.about}` : "it was so already");
    } catch (error) {
      setState({ error });
    }
  };
  const key = (event) => event.key === "Enter" && !state.busy && (event.preventDefault(), perform());
  return html`<dialog ref=${dialog} aria-labelledby="confirm-title" onClose=${() => close("")}>
    <h2 id="confirm-title">${inline(act.about)}?</h2>
    ${act.number !== undefined && html`<p><b class="large">${count(act.number)}</b> ${act.number === 1 ? "node is" : "nodes are"} meant.</p>`}
    ${act.verb === "skip" && html`<p class="said">${behind(act)}</p>`}
    <label>reason, for the journal
      <input type="text" value=${why} maxlength=${WHY_MAX} autofocus onInput=${(event) => setWhy(event.target.value)} onKeyDown=${key} /></label>
    <p class="quiet">The same in a terminal: <code>${inline(commandOf(act))}</code></p>
    <${Problem} error=${state.error} />
    <div class="buttons">
      <button type="button" onClick=${() => dialog.current.close()}>leave it</button>
      <button type="button" class=${act.alarm ? "alarm" : "main"} disabled=${state.busy} onClick=${perform}>${act.verb}</button>
    </div>
  </dialog>`;
}

/** What is known later pushes the page down; a button that was pressed is meant, also where it is no longer under the pointer. */
const hold = (event) => event.currentTarget.setPointerCapture(event.pointerId);

/** Buttons for acts; where the page only reads, the commands that do the same. */
export function Acts({ acts, mode, done }) {
  const [open, setOpen] = useState(null);
  const [told, setTold] = useState("");
  if (!acts.length) return null;
  if (!mode.acts) {
    const [first, ...others] = acts;
    const one = html`<${Command} text=${commandOf(first)} />`;
    return others.length === 0 ? one : html`${one}<details class="commands"><summary>other commands</summary>
      <ul>${others.map((act) => html`<li key=${commandOf(act)}>${inline(act.about)}<br /><${Command} text=${commandOf(act)} /></li>`)}</ul></details>`;
  }
  const close = (words) => {
    setOpen(null);
    if (words) {
      setTold(words);
      done?.();
    }
  };
  return html`<span class="acts">
    ${acts.map((act) => html`<button key=${commandOf(act)} type="button" class=${act.alarm ? "alarm" : ""} title=${inline(act.about)}
      onPointerDown=${hold} onClick=${() => setOpen(act)}>${act.verb}</button>`)}
    <span role="status" class="quiet">${inline(told)}</span>
    ${open && html`<${Confirm} act=${open} close=${close} />`}
  </span>`;
}

/** What may be done to a workflow as it stands. */
export function actsOnWorkflow(it) {
  const counts = it.counts ?? {};
  const sum = (...words) => words.reduce((found, word) => found + (counts[word] ?? 0), 0);
  const unfinished = sum("waiting", "held", "ready", "dispatching", "dispatched", "retrying");
  const bad = sum("failed", "cancelled", "blocked");
  const act = (verb, words, number, more = {}) => ({ verb, ref: it.id, about: `${words} '${it.name}'`, number, ...more });
  const found = [];
  if (bad && it.state !== "scheduled") found.push(act("retry", "Try again what failed in", bad));
  if (it.state === "running" || it.state === "scheduled") found.push(act("pause", "Dispatch nothing more of", unfinished));
  if (it.state === "paused") found.push(act("resume", "Go on with", unfinished));
  if (it.state === "scheduled") found.push(act("release", "Start now", unfinished));
  if (!it.finished_at) found.push(act("cancel", "End now", unfinished, { alarm: true }));
  return found;
}

/** What may be done to a node as it stands. */
export function actsOnNode(ref, node) {
  const act = (verb, words, more = {}) => ({ verb, ref, nodes: [node.name], about: `${words} '${node.name}'`, number: 1, ...more });
  const { state, kind } = node;
  const found = [];
  if (state === "failed" || state === "cancelled" || (state === "held" && node.hold === "lost")) found.push(act("retry", "Try again"));
  if (state === "retrying") found.push(act("retry", "Try at once"));
  if ((state === "held" && ["gate", "operator"].includes(node.hold)) || node.is_on_hold) found.push(act("release", kind === "gate" && state === "held" ? "Open the gate" : "Let go"));
  if (["waiting", "ready", "retrying", "held"].includes(state) && !node.is_on_hold) found.push(act("hold", "Keep from being dispatched:"));
  if (!["succeeded", "skipped", "dispatching", "dispatched"].includes(state)) found.push(act("skip", "Go on without", { alarm: true, dependents: node.dependents ?? 0, takers: node.takers }));
  return found;
}

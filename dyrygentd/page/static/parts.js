// Small things that every view shows: states, times, names, commands, errors.
import { html, useEffect, useState } from "./html.js";

/** States of nodes: `[word, letter, title]`, in the order of a bar. */
export const STATES = [
  ["failed", "F", "failed"],
  ["blocked", "B", "blocked"],
  ["cancelled", "C", "cancelled"],
  ["retrying", "T", "retrying"],
  ["held", "H", "held"],
  ["dispatched", "R", "in flight"],
  ["dispatching", "R", "being sent"],
  ["ready", "r", "ready"],
  ["waiting", "·", "waiting"],
  ["skipped", "K", "skipped"],
  ["succeeded", "S", "succeeded"],
];
const LETTER = Object.fromEntries(STATES.map(([word, letter]) => [word, letter]));
const TITLE = Object.fromEntries(STATES.map(([word, , title]) => [word, title]));
const WORKFLOW_LETTER = { scheduled: "r", running: "R", paused: "H", succeeded: "S", failed: "F", cancelled: "C" };

/** Whether a workflow has come to its end. */
export const isFinished = (state) => ["succeeded", "failed", "cancelled"].includes(state);

/** A whole number as people read it: `12 345`. What knows languages takes 20 ms to be made, before anything is seen. */
export const count = (number) => String(Math.round(number ?? 0)).replace(/\B(?=(?:\d{3})+$)/g, "\u202f");

/** `count` and a noun: `1 node`, `2 nodes`. */
export const of = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// What moves the cursor, turns the line round, or is not seen at all.
const HARMFUL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A user's text with what could mislead made visible: `\u202e` instead of the character. */
export function inline(text) {
  return String(text ?? "").replace(HARMFUL, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A user's name; it neither turns what stands around it, nor takes more room than there is. */
export function Name({ text, className = "" }) {
  const safe = inline(text);
  return html`<bdi class=${`name ${className}`} title=${safe.length > 24 ? safe : undefined}>${safe}</bdi>`;
}

/** A state by shape, letter and colour. */
export function State({ state, title = true }) {
  const letter = LETTER[state] ?? WORKFLOW_LETTER[state] ?? "?";
  const word = TITLE[state] ?? state;
  return html`<span class=${`state s-${state}`}
    ><span class="mark" aria-hidden=${title ? "true" : undefined} role=${title ? undefined : "img"} aria-label=${title ? undefined : word}
      title=${word}>${letter}</span>${title && html` <span class="word">${word}</span>`}</span>`;
}

/** How many are in each state, as a bar, with the same in words for who does not see it. */
export function StateBar({ states, label = "nodes by state" }) {
  const there = STATES.filter(([word]) => states?.[word]);
  const all = there.reduce((sum, [word]) => sum + states[word], 0);
  const words = there.map(([word, , title]) => `${count(states[word])} ${title}`).join(", ") || "none";
  return html`<span class="bar" role="img" aria-label=${`${label}: ${words}`} title=${words}>
    ${there.map(([word, letter]) => html`<span key=${word} class=${`s-${word}`} style=${{ flexGrow: states[word] }}>${states[word] > all * 0.04 && letter}</span>`)}
  </span>`;
}

/** Counts with their marks; `onPick` makes them buttons. */
export function Counts({ states, onPick, picked = [] }) {
  const there = STATES.filter(([word]) => states?.[word] || picked.includes(word));
  return html`<ul class="counts">
    ${there.map(([word, , title]) => {
      const inside = html`<${State} state=${word} title=${false} /> <b>${count(states?.[word])}</b> ${title}`;
      return html`<li key=${word}>${
        onPick
          ? html`<button type="button" aria-pressed=${String(picked.includes(word))} onClick=${() => onPick(word)}>${inside}</button>`
          : inside
      }</li>`;
    })}
  </ul>`;
}

/** Who brought it about, when and why; of a gate since when it waits. */
export function Decided({ entry, since }) {
  if (since) return html`<div class="quiet decided">waits since ${clock(since)} UTC, <${When} at=${since} /></div>`;
  if (!entry) return null;
  return html`<div class="quiet decided">${inline(entry.verb)} by ${inline(entry.by)} at ${clock(entry.at)} UTC, <${When} at=${entry.at} />${entry.why && `: ${inline(entry.why)}`}</div>`;
}

/** Seconds in words: `3.2 s`, `5 min`, `2 h 10 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (seconds === undefined || seconds === null || Number.isNaN(seconds)) return "";
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.round((s % 86400) / 3600)} h`;
}

/** A time of day in UTC, as in everything that the daemon writes: `14:03:21`, with the date if it is another day's. */
export function clock(at) {
  const iso = new Date(at * 1000).toISOString();
  const today = new Date().toISOString().slice(0, 10);
  return iso.slice(0, 10) === today ? iso.slice(11, 19) : `${iso.slice(0, 10)} ${iso.slice(11, 16)}`;
}

/** A point in time, with how long ago that is. */
export function When({ at, ago = true }) {
  if (!at) return null;
  const s = Date.now() / 1000 - at;
  const far = Math.abs(s) < 1 ? "now" : s > 0 ? `${duration(s)} ago` : `in ${duration(-s)}`;
  const iso = new Date(at * 1000).toISOString();
  return html`<time datetime=${iso} title=${`${iso.slice(0, 19).replace("T", " ")} UTC`}>${ago ? far : clock(at)}</time>`;
}

/** A word of a shell, quoted where it needs it. What steers a terminal is written as text: pasted as it is, a name could press keys. */
function quoted(word) {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  const plain = word.replaceAll("\\", "\\\\").replaceAll("'", "\\'").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
  const written = plain.replace(HARMFUL, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return inline(word) === word && !/[\n\t]/.test(word) ? `'${word.replaceAll("'", "'\\''")}'` : `$'${written}'`;
}

/** Words of a shell, to paste. */
export const shell = (...words) => words.map((word) => quoted(String(word))).join(" ");

/** A command to copy. On plain HTTP a browser gives no clipboard; then the text is selected. */
export function Command({ text }) {
  const [told, setTold] = useState("");
  const copy = async (event) => {
    const code = event.currentTarget.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(inline(text));
      setTold("copied");
    } catch {
      getSelection().selectAllChildren(code);
      setTold("selected");
    }
    setTimeout(() => setTold(""), 2000);
  };
  return html`<span class="command"><code>${inline(text)}</code
    ><button type="button" class="small" onClick=${copy} aria-label=${`copy the command ${inline(text)}`}>${told || "copy"}</button></span>`;
}

/** What the browser's tab is called. */
export const useTitle = (words) => useEffect(() => { document.title = words ? `${inline(words).slice(0, 80)} · dyrygentd` : "dyrygentd"; }, [words]);

/** What went wrong, and what to do about it. */
export function Problem({ error, again }) {
  if (!error) return null;
  return html`<div class="problem" role="alert">
    <strong>${inline(error.detail ?? error.message)}</strong>${error.next && html`<span> ${inline(error.next)}</span>`}
    ${again && html` <button type="button" class="small" onClick=${again}>try again</button>`}
  </div>`;
}

/** What is shown until something is there. */
export const Waiting = ({ what }) => html`<p class="quiet" role="status">asking for ${what} …</p>`;

/** The page's own links: `link("w", REF, {tab: "nodes"})` is `#/w/REF?tab=nodes`. */
export function link(...parts) {
  const query = typeof parts.at(-1) === "object" ? parts.pop() : {};
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(query))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== undefined && each !== null && each !== "") given.append(key, each);
  const text = given.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

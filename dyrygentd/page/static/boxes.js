// What is drawn of a folded workflow, and what is said of it: texts that fit, bars for all boxes at once, words for who does not see.
//
// One element draws one state in all boxes, so the number of elements hardly grows with what the boxes count.
import { STATES, count, duration, inline, of } from "./parts.js";
import { BOX } from "./layout.js";

/** A bar in a box; its letters are shown where their part of the bar is wide enough. */
const BAR = { x: 12, y: 32, width: BOX.width - 24, height: 16, letter: 15, base: 12, least: 3 };
const FAR_BAR = { ...BAR, y: 12, height: 36, letter: 26, base: 26, least: 6 };
const STACK = 4;
/** Texts that are kept as they were measured; a fold has some 900. What is plain is measured by its letters, of which there are few. */
const MEASURED_MAX = 4000;
const SANS = "system-ui, sans-serif";
export const FONTS = { title: `600 13px ${SANS}`, far: `600 26px ${SANS}`, small: `12px ${SANS}` };

const PLAIN = /^[\x20-\x7e]*$/;
const measured = new Map();
/** `{font: widths of letters}`. What is drawn is narrower at most, where two letters stand closer together. */
const letters = new Map();
let pen = null;
let segments = null;

/** What people take for letters. What knows them is made once, by the first name that needs it, since that takes 10 ms. */
function lettersOf(text) {
  if (PLAIN.test(text)) return [...text];
  segments ??= globalThis.Intl?.Segmenter ? new Intl.Segmenter(undefined, { granularity: "grapheme" }) : { segment: (all) => [...all].map((segment) => ({ segment })) };
  return Array.from(segments.segment(text), (each) => each.segment);
}

/** Width of a text in pixels. */
function widthOf(text, font) {
  if (PLAIN.test(text)) return plainWidthOf(text, font);
  const key = `${font}\n${text}`;
  let width = measured.get(key);
  if (width === undefined) {
    width = measure(text, font);
    if (measured.size >= MEASURED_MAX) measured.clear();
    measured.set(key, width);
  }
  return width;
}

function plainWidthOf(text, font) {
  let known = letters.get(font);
  if (!known) letters.set(font, (known = new Float64Array(128)));
  let width = 0;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text.charCodeAt(at);
    width += known[letter] ||= measure(text[at], font);
  }
  return width;
}

function measure(text, font) {
  pen ??= document.createElement("canvas").getContext("2d");
  pen.font = font;
  return pen.measureText(text).width;
}

/** A text as it fits, shortened in the middle, since names of a family differ at either end. */
export function fitting(text, width, font) {
  const safe = inline(text).slice(0, 2000);
  const whole = widthOf(safe, font);
  if (whole <= width) return safe;
  const parts = lettersOf(safe);
  const cut = (kept) => `${parts.slice(0, Math.ceil(kept / 2)).join("")}…${kept > 1 ? parts.slice(-Math.floor(kept / 2)).join("") : ""}`;
  // Most letters are about as wide as others, so the first guess is nearly right.
  let kept = Math.floor((parts.length * width) / whole);
  while (kept > 0 && widthOf(cut(kept), font) > width) kept -= 1;
  while (kept + 1 < parts.length && widthOf(cut(kept + 1), font) <= width) kept += 1;
  return cut(kept);
}

/** The name of a box as it fits; of a range, what its ends have in common goes first. */
export function titleOf(box, name, width, font) {
  const ends = ["sections", "page"].includes(box.kind) ? box.title.split(" … ") : [];
  if (ends.length === 2) {
    let same = 0;
    while (same < ends[0].length && ends[0][same] === ends[1][same]) same += 1;
    // A number is not cut in two.
    const [first, last] = ends.map((end) => end.slice(ends[0].slice(0, same).replace(/\d+$/, "").length));
    const shorter = [box.title, `${ends[0]} … ${last}`, `${first} … ${last}`].map(inline);
    const fits = shorter.find((text) => widthOf(text, font) <= width);
    if (fits && last) return fits;
  }
  return fitting(name, width, font);
}

/** What boxes are called. Those of one task have one title, so the key that opens each stands before it, as in the terminal. */
export function namesOf(boxes) {
  const titles = new Map();
  for (const { title } of boxes) titles.set(title, (titles.get(title) ?? 0) + 1);
  return boxes.map(({ kind, path, title }) => {
    const key = path.split("/").at(-1);
    return titles.get(title) > 1 && kind !== "node" && key !== title ? `${key} ${title}` : title;
  });
}

const levelsOf = ({ first_level: first = 1, last_level: last = 1 }) => (first < last ? `levels ${first} to ${last}` : `level ${first}`);

/** Counts by letter, since there are two words for what runs: `[[letter, word, title, count]]`, what is worst first. */
export function countsOf(states) {
  const found = [];
  for (const [word, letter, title] of STATES) {
    if (!states[word]) continue;
    const known = found.find((each) => each[1] === "dispatched" && word === "dispatching");
    if (known) known[3] += states[word];
    else found.push([letter, word, title, states[word]]);
  }
  return found;
}

/** Counts as a line that fits: in words, or by their letters, what is worst first. */
export function countsLine(box, width) {
  const counts = countsOf(box.states);
  if (!counts.length) return box.joins ? "joins what comes before" : "";
  const words = counts.map(([, , title, number]) => (box.kind === "node" ? title : `${count(number)} ${title}`)).join(", ");
  if (widthOf(words, FONTS.small) <= width) return words;
  const letters = counts.map(([letter, , , number]) => `${letter === "·" ? "w" : letter}\u00a0${count(number)}`);
  const line = (kept) => letters.slice(0, kept).join("\u00a0 ") + (kept < letters.length ? "\u00a0 …" : "");
  let kept = letters.length;
  while (kept > 1 && widthOf(line(kept), FONTS.small) > width) kept -= 1;
  return line(kept);
}

/** What a person would ask for first: `{node, state, text}`, or null. */
export function foremost(box, now) {
  if (box.failed) return { node: box.failed, state: "failed", text: `${box.failed}${box.error ? `: ${box.error}` : ""}` };
  if (box.held) return { node: box.held, state: "held", text: `${box.held}${box.hold ? `: ${box.hold}` : ""}` };
  if (box.longest) {
    const since = box.longest_since ? ` for ${duration(now - box.longest_since)}` : "";
    return { node: box.longest, state: "dispatched", text: `${box.longest}${since}` };
  }
  return null;
}

/** The line below the counts; what is called as another one is told by its place. */
export function detailLine(box, name, now, width) {
  const first = foremost(box, now);
  // That a node is the only one of its box need not be said again.
  const text = first && first.node === box.title ? first.text.slice(box.title.length).replace(/^: /, "").trim() : first?.text;
  if (text) return fitting(text, width, FONTS.small);
  const words = [name !== box.title && levelsOf(box), box.share >= 0.005 && `${Math.round(box.share * 100)} % of what is left to do`];
  return fitting(words.filter(Boolean).join(", "), width, FONTS.small);
}

const KINDS = {
  section: "section", sections: "sections", group: "tasks of one kind", levels: "levels", page: "nodes", node: "node", child: "workflow",
};

/** All of a box in words. */
export function wordsOf(boxes, names, at, before, after, now) {
  const box = boxes[at];
  const counts = countsOf(box.states).map(([, , title, number]) => `${count(number)} ${title}`).join(", ");
  const first = foremost(box, now);
  const named = (places) => {
    const some = places.slice(0, 3).map((place) => inline(names[place])).join(", ");
    return places.length > 3 ? `${some} and ${places.length - 3} more` : some;
  };
  return [
    `${KINDS[box.kind] ?? box.kind} ${inline(names[at])}`,
    names[at] !== box.title && levelsOf(box),
    box.kind === "node" ? counts.replace(/^1 /, "") : `${of(box.nodes, "node")}${counts && `: ${counts}`}`,
    first && `${{ failed: "first failure", held: "held", dispatched: "longest" }[first.state]}: ${inline(first.text)}`,
    box.share >= 0.005 && `${Math.round(box.share * 100)} % of what is left to do`,
    before.length > 0 && `after ${named(before)}`,
    after.length > 0 && `before ${named(after)}`,
  ].filter(Boolean).join("; ");
}

/** Whether a search finds a box. */
export function isFound(box, name, query) {
  return [name, box.task, box.failed, box.held, box.longest, box.error].some((text) => text?.toLowerCase().includes(query));
}

/** Bars of all boxes: `[{word, letter, d, x, y}]`, one for each state; `x, y` are places of its letters. */
export function barsOf(boxes, places, isFar) {
  const form = isFar ? FAR_BAR : BAR;
  const bars = new Map(STATES.map(([word, letter]) => [word, { word, letter, d: "", x: [], y: [] }]));
  boxes.forEach((box, at) => {
    const all = countsOf(box.states);
    const sum = all.reduce((total, each) => total + each[3], 0);
    let x = places[at].x + form.x;
    const y = places[at].y + form.y;
    // What is there at all is seen, however few.
    const free = form.width - all.length * form.least;
    for (const [, word, , number] of all) {
      const width = form.least + (free * number) / sum;
      const bar = bars.get(word);
      bar.d += `M${round(x)} ${round(y)}h${round(width)}v${form.height}h${round(-width)}z`;
      if (width >= form.letter) {
        bar.x.push(round(x + width / 2));
        bar.y.push(round(y + form.base));
      }
      x += width;
    }
  });
  return [...bars.values()].filter((bar) => bar.d);
}

/** The second outline of what can be opened, for all boxes. */
export function stacksOf(boxes, places) {
  let d = "";
  boxes.forEach((box, at) => {
    if (box.kind === "node") return;
    const { x, y } = places[at];
    d += `M${round(x + STACK + 3)} ${round(y + BOX.height + STACK)}H${round(x + BOX.width + STACK - 3)}`;
    d += `q3 0 3 -3V${round(y + STACK + 3)}`;
  });
  return d;
}

/** Edges as few paths: `[{weight: 1 | 2 | 3, d}]`, and their heads as one. */
export function edgesOf(edges) {
  const paths = ["", "", ""];
  let heads = "";
  for (const { d, x, y, weight } of edges) {
    paths[weight >= 100 ? 2 : weight >= 10 ? 1 : 0] += d;
    heads += headAt(x, y);
  }
  return { paths: paths.map((d, at) => ({ weight: at + 1, d })).filter((path) => path.d), heads };
}

function headAt(x, y) {
  return `M${round(x)} ${round(y)}l-7 -4v8z`;
}

function round(number) {
  return Math.round(number * 10) / 10;
}

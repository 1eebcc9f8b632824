// Where the time of a workflow went: one row a box, on a canvas, so that a hundred thousand nodes cost what ten do.
//
// A row has lanes of its own for what ran, for what waited and for what ended: thousands that wait would press the few that run flat.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { namesOf } from "./boxes.js";
import { clock, count, duration, inline } from "./parts.js";

const AXIS = 22, ROW = 38;
/** Of a row: where a lane begins, and how high it is. */
const LANES = { ran: [9, 16], waited: [26, 3], paused: [29, 3], ended: [33, 3] };
/** Of these a screen shows fewer. */
const ROWS_AT_ONCE = 25;
/** No browser draws a canvas higher than that. */
const PIXELS_MAX = 16000;
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
const TICK_WIDTH = 90;
/** What is drawn: a colour of the page, and words. */
const LEGEND = [
  ["running", "s-dispatched", "in flight"], ["again", "s-retrying", "in flight again, after a failure"], ["waiting", "s-waited", "waiting"],
  ["backoff", "s-backoff", "pauses before it is tried again"],
  ["ended", "s-succeeded", "ended well"], ["failed", "s-failed", "▼ failed"],
];

/**
 * Draw a `TimelineView`.
 *
 * @param onOpen Called with the path of a box.
 * @param onNode Called with the name of a node.
 */
export function Timeline({ timeline, onOpen, onNode }) {
  const bins = timeline.rows[0]?.running.length ?? 0;
  const [at, setAt] = useState({ row: 0, bin: 0 });
  const [isShown, setShown] = useState(false);
  const [range, setRange] = useState(null);
  const frame = useRef(null);
  const legend = useRef(null);
  // A finished workflow that is asked for again is what it was.
  const key = `${timeline.id} ${timeline.path} ${timeline.state} ${timeline.until} ${timeline.rows.length} ${bins}`;
  // Rows of one task have one title, and are told apart as their boxes are.
  const shown = useMemo(() => {
    const names = namesOf(timeline.rows);
    return { ...timeline, rows: timeline.rows.map((row, place) => ({ ...row, name: names[place] })) };
  }, [key]);
  useEffect(() => setRange(null), [timeline.id, timeline.path]);
  const [from, to] = range && range[1] <= bins ? range : [0, bins];
  const width = useWidth(frame);
  const scheme = useScheme();
  useLayoutEffect(() => {
    return width ? draw(frame.current.querySelector("canvas"), shown, { from, to, width, colours: coloursOf(legend.current) }) : undefined;
  }, [shown, from, to, width, scheme]);
  const row = Math.min(at.row, shown.rows.length - 1), bin = Math.min(Math.max(at.bin, from), to - 1);
  const zoom = (by, around = bin) => {
    const size = Math.max(2, Math.min(bins, Math.round((to - from) * by)));
    const start = Math.max(0, Math.min(bins - size, Math.round(around - ((around - from) * size) / (to - from))));
    setRange(size < bins ? [start, start + size] : null);
  };
  const move = (rows, steps) => {
    const next = Math.max(0, Math.min(bins - 1, bin + steps));
      const shift = next < from ? next - from : Math.max(0, next - to + 1);
    if (shift) setRange([from + shift, to + shift]);
    setAt({ row: Math.max(0, Math.min(shown.rows.length - 1, row + rows)), bin: next });
    setShown(true);
  };
  const open = (each) => (each.kind === "node" ? onNode?.(each.title) : onOpen?.(each.path));
  const onKey = (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : {
      ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1), ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0),
      PageUp: () => move(0, -10), PageDown: () => move(0, 10), Home: () => move(0, -bins), End: () => move(0, bins),
      Enter: () => open(shown.rows[row]), "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => setRange(null),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };
  const placeOf = (event) => {
    const box = frame.current.getBoundingClientRect();
    const part = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
    const place = Math.floor((event.clientY - box.top - AXIS) / ROW);
    return { row: Math.max(0, Math.min(shown.rows.length - 1, place)), bin: from + Math.floor(part * (to - from)) };
  };
  const [began, setBegan] = useState(null);
  const point = (event) => { setAt(placeOf(event)); setShown(true); };
  const release = (event) => {
    const end = placeOf(event).bin;
    if (began !== null && Math.abs(end - began) > 1) setRange([Math.min(began, end), Math.max(began, end) + 1]);
    setBegan(null);
  };
  const labels = useMemo(() => html`<${Labels} rows=${shown.rows} open=${open} />`, [shown, onOpen, onNode]);
  const table = useMemo(() => html`<${Table} timeline=${shown} />`, [shown]);
  if (!bins) return html`<p class="quiet">No time has gone anywhere yet.</p>`;
  const said = tellBin(shown, row, bin);
  return html`<div class="timeline">
    <div class="graph-tools">
      <ul class="legend" ref=${legend}>${LEGEND.map(([name, look, words]) => html`<li key=${name}><span class=${look} data-name=${name}></span>${words}</li>`)}</ul>
      <span class="graph-buttons">
        <button type="button" aria-label="zoom out" disabled=${!range} onClick=${() => zoom(2)}>−</button>
        <button type="button" aria-label="zoom in" onClick=${() => zoom(0.5)}>+</button>
        <button type="button" disabled=${!range} onClick=${() => setRange(null)}>all of it</button>
      </span>
    </div>
    <p class="readout">${isShown ? said : `${clock(timeline.since)} to ${clock(timeline.until)} UTC, ${timeline.bin_s < 1 ? `${Math.round(timeline.bin_s * 1000)} ms` : duration(timeline.bin_s)} a step; drag to look closer.`}</p>
    <div class="timeline-rows">
      ${labels}
      <div class="timeline-frame" ref=${frame} tabindex="0" role="slider" aria-label="time" aria-valuemin="0" aria-valuemax=${bins - 1}
        aria-valuenow=${bin} aria-valuetext=${said} onKeyDown=${onKey} onFocus=${() => setShown(true)} onDblClick=${() => setRange(null)}
        onPointerMove=${point} onPointerDown=${(event) => setBegan(placeOf(event).bin)} onPointerUp=${release}
        onPointerLeave=${() => { setShown(false); setBegan(null); }}>
        <canvas aria-hidden="true"></canvas>
        ${isShown && width > 0 && html`<${Cursor} ...${{ from, to, width, row, bin, began }} />`}
      </div>
    </div>
    ${timeline.rows_left_out > 0 && html`<p class="quiet">${count(timeline.rows_left_out)} further boxes are not drawn; those with failures and with the most time are.</p>`}
    ${table}
  </div>`;
}

/** Names of the rows, which open them. */
function Labels({ rows, open }) {
  return html`<ol class="timeline-labels"><li class="quiet">UTC</li>
    ${rows.map((row) => {
      const most = Math.max(...row.running.map((some, bin) => some + row.again[bin]));
      const title = inline(row.name);
      return html`<li key=${row.path}><button type="button" class="plain" title=${title} onClick=${() => open(row)}><bdi>${title}</bdi></button>
        <span class="quiet">${most > 0 ? (row.nodes > 1 ? `up to ${count(Math.ceil(most))} at once` : "ran") : "nothing ran"}</span></li>`;
    })}
  </ol>`;
}

/** What is pointed at. Its place is set on the element, since the policy lets no markup do it. */
function Cursor({ from, to, width, row, bin, began }) {
  const element = useRef(null);
  useLayoutEffect(() => {
    const [first, last] = began === null ? [bin, bin] : [Math.min(began, bin), Math.max(began, bin)];
    const step = width / (to - from);
    const { style } = element.current;
    style.left = `${(first - from) * step}px`;
    style.width = `${Math.max(1, (last - first + 1) * step)}px`;
    style.top = began === null ? `${AXIS + row * ROW}px` : `${AXIS}px`;
    style.height = began === null ? `${ROW}px` : "";
    element.current.classList.toggle("chosen", began !== null);
  });
  return html`<div class="timeline-cursor" ref=${element}></div>`;
}

/** The same in numbers, for who does not see it; made when it is opened. */
function Table({ timeline }) {
  const [isOpen, setOpen] = useState(false);
  const sum = (some) => some.reduce((all, each) => all + each, 0);
  return html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}><summary>as a table</summary>
    ${isOpen && html`<div class="timeline-table"><table>
      <caption>where the time went; times are UTC</caption>
      <thead><tr>${["box", "nodes", "first", "last", "in flight", "of it again", "pauses", "waiting", "ended well", "failed"].map(
        (title) => html`<th key=${title} scope="col">${title}</th>`)}</tr></thead>
      <tbody>${timeline.rows.map((row) => html`<tr key=${row.path}><th scope="row"><bdi>${inline(row.name)}</bdi></th>
        <td>${count(row.nodes)}</td><td>${row.first ? clock(row.first) : ""}</td><td>${row.last ? clock(row.last) : ""}</td>
        ${[sum(row.running) + sum(row.again), sum(row.again), sum(row.backoff ?? []), sum(row.waiting)].map((all, at) => html`<td key=${at}>${duration(all * timeline.bin_s)}</td>`)}
        <td>${count(sum(row.ended))}</td><td>${count(sum(row.failed))}</td></tr>`)}</tbody>
    </table></div>`}</details>`;
}

function mean(number) {
  return number >= 10 || Number.isInteger(number) ? count(Math.round(number)) : number.toFixed(1);
}

/** One step of one row in words. */
function tellBin(timeline, at, bin) {
  const row = timeline.rows[at];
  if (!row) return "";
  const begin = timeline.since + bin * timeline.bin_s;
  const parts = [["running", "in flight"], ["again", "again"], ["backoff", "pausing"], ["waiting", "waiting"]]
    .filter(([key]) => row[key]?.[bin] > 0).map(([key, word]) => `${mean(row[key][bin])} ${word}`);
  const ends = [["ended", "ended well"], ["failed", "failed"]]
    .filter(([key]) => row[key][bin] > 0).map(([key, word]) => `${count(row[key][bin])} ${word}`);
  const words = [...parts, ...ends].join(", ") || "nothing";
  return `${timeOf(begin, timeline)} to ${timeOf(begin + timeline.bin_s, timeline)} UTC, ${inline(row.name)}: ${words}`;
}

/** A time as exact as a step is. */
function timeOf(at, { bin_s: step }) {
  return step < 1 ? new Date(at * 1000).toISOString().slice(11, 23) : clock(at);
}

// --- the canvas --------------------------------------------------------------------------------------------------------

function useWidth(frame) {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.floor(frame.current?.clientWidth ?? 0));
    const watch = new ResizeObserver(measure);
    if (frame.current) watch.observe(frame.current);
    measure();
    return () => watch.disconnect();
  }, [Boolean(frame.current)]);
  return width;
}

/** Changes when colours do, or the sharpness of the screen. */
function useScheme() {
  const [scheme, setScheme] = useState(0);
  useEffect(() => {
    const change = () => setScheme((known) => known + 1);
    const asked = [matchMedia("(prefers-color-scheme: dark)"), matchMedia(`(resolution: ${devicePixelRatio}dppx)`)];
    const watch = new MutationObserver(change);
    watch.observe(document.documentElement, { attributes: true, attributeFilter: ["data-scheme"] });
    for (const each of asked) each.addEventListener("change", change);
    return () => {
      watch.disconnect();
      for (const each of asked) each.removeEventListener("change", change);
    };
  }, []);
  return scheme;
}

/** A canvas knows no variables of a style sheet, so colours are those of the legend. */
function coloursOf(legend) {
  const style = getComputedStyle(legend);
  const found = { ink: style.color, line: style.borderColor };
  for (const each of legend.querySelectorAll("[data-name]")) found[each.dataset.name] = getComputedStyle(each).backgroundColor;
  return found;
}

/** Draw a screenful at once, and the others frame by frame; return what ends that. */
function draw(canvas, timeline, { from, to, width, colours }) {
  const height = AXIS + timeline.rows.length * ROW;
  const sharpness = Math.min(devicePixelRatio || 1, PIXELS_MAX / height);
  canvas.width = Math.round(width * sharpness);
  canvas.height = Math.round(height * sharpness);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(sharpness, sharpness);
  drawAxis(pen, timeline, { from, to, width, height, colours });
  let [at, frame] = [0, 0];
  const some = () => {
    for (const last = Math.min(at + ROWS_AT_ONCE, timeline.rows.length); at < last; at += 1) {
      const top = AXIS + at * ROW;
      pen.fillStyle = colours.line;
      pen.fillRect(0, top, width, 1);
      drawRow(pen, timeline.rows[at], { top, from, to, width, colours });
    }
    frame = at < timeline.rows.length ? requestAnimationFrame(some) : 0;
  };
  some();
  return () => cancelAnimationFrame(frame);
}

function drawAxis(pen, timeline, { from, to, width, height, colours }) {
  const begin = timeline.since + from * timeline.bin_s;
  const span = (to - from) * timeline.bin_s;
  const tick = TICKS.find((each) => (each * width) / span >= TICK_WIDTH) ?? TICKS.at(-1) * Math.ceil((span * TICK_WIDTH) / width / TICKS.at(-1));
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (let at = Math.ceil(begin / tick) * tick; at < begin + span; at += tick) {
    const x = Math.round(((at - begin) / span) * width);
    pen.fillStyle = colours.line;
    pen.fillRect(x, AXIS - 6, 1, height);
    const text = new Date(at * 1000).toISOString();
    const isDay = at % 86400 === 0;
    pen.fillStyle = colours.ink;
    const words = isDay ? text.slice(5, 10) : text.slice(11, tick < 60 ? 19 : 16);
    if (x + pen.measureText(words).width < width) pen.fillText(words, x + 3, AXIS / 2 - 1);
  }
}

function drawRow(pen, row, { top, from, to, width, colours }) {
  // An older daemon counts pauses as waiting.
  const { running, again, waiting, backoff = [], ended, failed } = row;
  const most = (some) => Math.max(...some) || 1;
  const high = most(running.map((some, bin) => some + again[bin]));
  const step = width / (to - from);
  // What is there at all is seen, however little.
  const part = (value, most, room) => (value > 0 ? Math.max(1.5, (value / most) * room) : 0);
  const lane = (colour, values, below, bar) => {
    pen.fillStyle = colour;
    drawLane(pen, { values, below, from, to, step }, bar);
  };
  const [begin, room] = LANES.ran;
  const floor = top + begin + room;
  const ran = (bin) => part(running[bin], high, room);
  lane(colours.running, running, running, (bin) => [floor - ran(bin), ran(bin)]);
  lane(colours.again, again, running, (bin) => {
    const height = Math.min(room - ran(bin), part(again[bin], high, room)) || 1.5;
    return [floor - ran(bin) - height, height];
  });
  for (const [name, values, colour] of [["waited", waiting, colours.waiting], ["paused", backoff, colours.backoff], ["ended", ended, colours.ended]]) {
    const highest = most(values);
    lane(colour, values, values, (bin) => {
      pen.globalAlpha = 0.25 + (0.75 * values[bin]) / highest;
      return [top + LANES[name][0], LANES[name][1]];
    });
    pen.globalAlpha = 1;
  }
  pen.fillStyle = colours.failed;
  for (let bin = from; bin < to; bin += 1) {
    if (!failed[bin]) continue;
    const x = Math.round((bin - from) * step);
    pen.beginPath();
    pen.moveTo(x + step / 2 - 4, top + 2);
    pen.lineTo(x + step / 2 + 4, top + 2);
    pen.lineTo(x + step / 2, top + 9);
    pen.fill();
  }
}

/** Draw what is not 0; steps of equal values, above equal ones, are one rectangle, so that hours of nothing new cost nothing. */
function drawLane(pen, { values, below, from, to, step }, bar) {
  const gap = step > 6 ? 1 : 0;
  for (let bin = from, end; bin < to; bin = end) {
    end = bin + 1;
    while (!gap && end < to && values[end] === values[bin] && below[end] === below[bin]) end += 1;
    if (!(values[bin] > 0)) continue;
    // Whole pixels, or a row of equal bars would look woven.
    const x = Math.round((bin - from) * step);
    const [y, height] = bar(bin);
    pen.fillRect(x, y, Math.max(1, Math.round((end - from) * step) - x - gap), height);
  }
}

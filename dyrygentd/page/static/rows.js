// A table of any length of which only the rows in sight are in the document.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";

/** On a phone a row has two lines, so that all columns fit; the style sheet says which stands where. */
const ROW = 34, ROW_NARROW = 56;
const BESIDE = 8;
const NARROW = "(max-width: 640px)";

function useRowHeight() {
  const [isNarrow, setNarrow] = useState(() => matchMedia(NARROW).matches);
  useEffect(() => {
    const asked = matchMedia(NARROW);
    const change = () => setNarrow(asked.matches);
    asked.addEventListener("change", change);
    return () => asked.removeEventListener("change", change);
  }, []);
  return isNarrow ? ROW_NARROW : ROW;
}

/**
 * `columns`: `[{key, title, cell(item), className, sort}]`; `more` is called when the end comes into sight.
 * `className` of a cell on a phone: `narrow` and `grow` begin the first line, `first` ends it, `under` begins the second.
 * What a screen reader hears are rows of a table with their true number.
 */
export function Rows({ label, columns, items, identify, more, sorted, onSort, total, empty = "none" }) {
  const box = useRef(null);
  const height = useRowHeight();
  const [seen, setSeen] = useState({ from: 0, to: 40 });
  const look = () => {
    const element = box.current;
    if (!element) return;
    const from = Math.max(0, Math.floor(element.scrollTop / height) - BESIDE);
    const to = Math.ceil((element.scrollTop + element.clientHeight) / height) + BESIDE;
    setSeen((known) => (known.from === from && known.to === to ? known : { from, to }));
  };
  useLayoutEffect(look, [items.length, height]);
  useEffect(() => {
    const watcher = new ResizeObserver(look);
    watcher.observe(box.current);
    return () => watcher.disconnect();
  }, [height]);
  useEffect(() => {
    if (more && seen.to + 20 > items.length) more();
  }, [more, seen.to, items.length]);
  const shown = items.slice(seen.from, seen.to);
  const move = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.closest("[role=row]")) return;
    const row = event.target.closest("[role=row]");
    const next = step > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (next?.querySelector("a, button")) {
      next.querySelector("a, button").focus();
      event.preventDefault();
    }
  };
  return html`<div class="rows" role="table" aria-label=${label} aria-rowcount=${(total ?? items.length) + 1} ref=${box} onScroll=${look} onKeyDown=${move} tabindex="0">
    <div role="rowgroup" class="rows-head"><div role="row" class="row" aria-rowindex="1">
      ${columns.map(({ key, title, className = "", sort }) => html`<div key=${key} role="columnheader" class=${`cell ${className}`}
        aria-sort=${sorted?.key === key ? (sorted.down ? "descending" : "ascending") : undefined}>
        ${sort && onSort
          ? html`<button type="button" class="sort" onClick=${() => onSort(key)}>${title}<span aria-hidden="true">${sorted?.key === key ? (sorted.down ? " ↓" : " ↑") : ""}</span></button>`
          : title}
      </div>`)}
    </div></div>
    <div class="rows-all" role="rowgroup" style=${{ height: `${Math.max(1, items.length) * height}px` }}>
      <div class="rows-seen" role="presentation" style=${{ transform: `translateY(${seen.from * height}px)` }}>
        ${shown.map((item, place) => html`<div key=${identify(item)} role="row" class="row" aria-rowindex=${seen.from + place + 2}>
          ${columns.map(({ key, cell, className = "" }) => html`<div key=${key} role="cell" class=${`cell ${className}`}>${cell(item)}</div>`)}
        </div>`)}
      </div>
      ${items.length === 0 && html`<div role="row" class="row"><div role="cell" class="cell quiet">${empty}</div></div>`}
    </div>
  </div>`;
}

/** `{key, down}` after another click on a column. */
export const turned = (sorted, key) => (sorted?.key === key ? (sorted.down ? null : { key, down: true }) : { key, down: false });

/** A copy in the order of a column. */
export function inOrder(items, columns, sorted) {
  const by = columns.find(({ key }) => key === sorted?.key)?.sort;
  if (!by) return items;
  const sign = sorted.down ? -1 : 1;
  return [...items].sort((one, other) => {
    const [a, b] = [by(one), by(other)];
    if (a === b) return 0;
    if (a === undefined || a === null) return 1;
    if (b === undefined || b === null) return -1;
    return sign * (a < b ? -1 : 1);
  });
}

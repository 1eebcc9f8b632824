// A folded workflow as a picture: boxes in layers, with bars of what they count; to pan, zoom, search and open.
//
// Where it is looked at is kept out of Preact: a drag or a wheel only sets one attribute. Nothing is animated.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { of } from "./parts.js";
import { BOX, layout } from "./layout.js";
import {
  FONTS, barsOf, countsLine, detailLine, edgesOf, foremost, isFound, namesOf, stacksOf, titleOf, wordsOf,
} from "./boxes.js";

const SCALES = { least: 0.05, most: 2.5, step: 1.25 };
/** Below that, letters of the usual size are no longer read: titles only, in large ones. */
const FAR = 0.65;
/** A phone: the picture is as long as it has to be, and is scrolled with the page. */
const NARROW = 600;
/** Pixels: of a drag that is no click, kept free around what is brought into view, of a step by key. */
const DRAG = 4, CLEAR = 24, STEP = 80;
/** Whether somebody chose to follow what runs, in this box or in the one around it. */
let wanted = null;
/** `{id, from}` of a box that was left by key: whoever did goes on in the next one, where they came from. */
let left = null;

/**
 * Draw a `FoldView`.
 *
 * @param onOpen Called with the path of a box, or of the one around what is shown.
 * @param onNode Called with the name of a node.
 * @param follow Whether what runs is kept in view from the start; a button changes it.
 * @param query What is highlighted from the start; a field changes it.
 */
export function Graph({ fold, onOpen, onNode, follow = false, query = "" }) {
  const frame = useRef(null);
  const size = useSize(frame);
  const [isFollowing, setKept] = useState(wanted ?? follow);
  const setFollowing = (is) => { wanted = is; setKept(is); };
  const [search, setSearch] = useState(query);
  const [at, setAt] = useState(() => Math.max(0, left?.id === fold.id ? fold.boxes.findIndex((box) => box.path === left.from) : 0));
  useEffect(() => setSearch(query), [query]);
  const drawing = useDrawing(fold, size);
  const view = useView(frame, drawing, size, () => setFollowing(false));
  const needle = search.trim().toLowerCase();
  const names = useMemo(() => namesOf(fold.boxes), [fold]);
  const found = useMemo(() => fold.boxes.map((box, place) => !needle || isFound(box, names[place], needle)), [fold, needle]);
  useFollowed(fold, isFollowing, view, drawing);
  const here = Math.min(at, fold.boxes.length - 1);
  const go = (place) => {
    setAt(place);
    view.show([place]);
    frame.current.querySelector(`[data-at="${place}"] [role]`)?.focus({ preventScroll: !view.isPage });
  };
  const open = (place) => {
    const box = fold.boxes[place];
    if (box.kind === "node") onNode?.(box.title);
    else onOpen?.(box.path);
  };
  const ask = (place) => {
    const first = foremost(fold.boxes[place], 0);
    if (first) onNode?.(first.node);
  };
  const up = () => fold.path && onOpen?.(fold.path.split("/").slice(0, -1).join("/"));
  const onKey = (event) => {
    const act = keyOf(event, { fold, drawing, here, go, open, ask, up, view });
    if (!act) return;
    event.preventDefault();
    const isLeft = event.key === "Backspace" || (["Enter", " "].includes(event.key) && fold.boxes[here].kind !== "node");
    left = isLeft ? { id: fold.id, from: fold.path } : null;
    act();
  };
  const hits = found.filter(Boolean).length;
  const toFound = (event) => {
    if (event.key !== "Enter" || !hits) return;
    const next = found.findIndex((is, place) => is && place > here);
    go(needle && next < 0 ? found.indexOf(true) : Math.max(0, next));
  };
  return html`<div class="graph">
    <div class="graph-tools">
      <input type="search" aria-label="highlight boxes" placeholder="highlight" value=${search}
        onInput=${(event) => setSearch(event.target.value)} onKeyDown=${toFound} />
      <span role="status" class="quiet">${needle && `${hits} of ${of(fold.boxes.length, "box").replace(/xs$/, "xes")}`}</span>
      <span class="graph-buttons">
        <button type="button" aria-label="zoom out" title="zoom out (−)" onClick=${() => view.zoom(1 / SCALES.step)}>−</button>
        <button type="button" aria-label="zoom in" title="zoom in (+)" onClick=${() => view.zoom(SCALES.step)}>+</button>
        <button type="button" title="show all of it (0)" onClick=${() => view.fit()}>fit</button>
        <button type="button" aria-pressed=${String(isFollowing)} title="keep what runs in view"
          onClick=${() => setFollowing(!isFollowing)}>follow</button>
      </span>
    </div>
    <div class="graph-frame" ref=${frame}>
      ${drawing && html`<${Picture} ...${{ fold, names, drawing, view, found, needle, here, setAt, open, ask, onKey }} />`}
    </div>
    <p class="graph-notes quiet">
      ${fold.edges_left_out > 0 && html`<span>${of(fold.edges_left_out, "further edge")} not drawn. </span>`}
      <span>Arrows go from box to box, Enter opens, Backspace goes up, n shows the first failure, + − 0 zoom.</span>
    </p>
  </div>`;
}

// --- the picture -------------------------------------------------------------------------------------------------------

function Picture({ fold, names, drawing, view, found, needle, here, setAt, open, ask, onKey }) {
  const [hover, setHover] = useState(-1);
  const [focus, setFocus] = useState(-1);
  const svg = useRef(null);
  const isFar = view.isFar;
  useLayoutEffect(() => view.attach(svg.current), [view, drawing]);
  useEffect(() => {
    if (left?.id === fold.id) svg.current.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
    left = null;
  }, []);
  const edges = useMemo(() => edgesOf(drawing.edges), [drawing]);
  const stacks = useMemo(() => stacksOf(fold.boxes, drawing.boxes), [fold, drawing]);
  const bars = useMemo(() => barsOf(fold.boxes, drawing.boxes, isFar), [fold, drawing, isFar]);
  // What stays the same is not looked at again: neither boxes when another one is hovered over, nor the others when one changes.
  const known = useRef(new Map());
  const boxes = useMemo(
    () => {
      const now = Date.now() / 1000;
      const kept = known.current;
      known.current = new Map();
      return fold.boxes.map((box, at) => {
        const state = { isFar, isHere: at === here, isFaint: !found[at], isFound: Boolean(needle && found[at]) };
        const key = JSON.stringify([drawing.key, box, names[at], state, box.longest && Math.floor(now / 5)]);
        const drawn = kept.get(key) ?? html`<${Box} key=${box.path} ...${{ fold, names, drawing, at, now, ...state }} />`;
        known.current.set(key, drawn);
        return drawn;
      });
    },
    [fold, drawing, found, needle, here, isFar],
  );
  const chosen = hover >= 0 ? hover : focus;
  const near = chosen < 0 ? null : [drawing.into[chosen] ?? [], drawing.out[chosen] ?? []].map((some) => edgesOf(some));
  const placeOf = (event) => Number(event.target.closest?.("[data-at]")?.dataset.at ?? -1);
  const focused = (event) => {
    const place = placeOf(event);
    setFocus(place);
    if (place >= 0) setAt(place);
  };
  const click = (event) => {
    const place = placeOf(event);
    if (place < 0 || view.wasDragged) return;
    setAt(place);
    if (event.target.closest(".detail") && foremost(fold.boxes[place], 0)) ask(place);
    else open(place);
  };
  return html`<svg ref=${svg} class=${isFar ? "far" : undefined} width=${view.width} height=${view.height} role="group"
    aria-label=${`graph of ${of(fold.boxes.length, "box").replace(/xs$/, "xes")}`} onKeyDown=${onKey} onClick=${click}
    onPointerOver=${(event) => setHover(placeOf(event))} onPointerLeave=${() => setHover(-1)}
    onFocusIn=${focused} onFocusOut=${() => setFocus(-1)}>
    <defs><pattern id="graph-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"
      ><rect width="2" height="6" /></pattern></defs>
    <g class="scene">
      <g aria-hidden="true">
        ${edges.paths.map(({ weight, d }) => html`<path key=${weight} class=${`edge w${weight}`} d=${d} />`)}
        <path class="heads" d=${edges.heads} />
        ${near?.map((some, side) => html`<g key=${side} class=${side ? "after" : "before"}>
          ${some.paths.map(({ weight, d }) => html`<path key=${weight} class=${`edge w${weight}`} d=${d} />`)}
          <path class="heads" d=${some.heads} /></g>`)}
        <path class="stacks" d=${stacks} />
      </g>
      ${boxes}
      <g class="bars" aria-hidden="true">
        ${bars.map(({ word, letter, d, x, y }) => html`<g key=${word} class=${`s-${word}`}>
          <path d=${d} />
          ${(word === "failed" || word === "blocked") && html`<path class="hatch" d=${d} />`}
          ${x.length > 0 && html`<text x=${x.join(" ")} y=${y.join(" ")}>${letter.repeat(x.length)}</text>`}</g>`)}
      </g>
    </g>
  </svg>`;
}

function Box({ fold, names, drawing, at, now, isFar, isHere, isFaint, isFound }) {
  const box = fold.boxes[at];
  const { x, y } = drawing.boxes[at];
  const width = BOX.width - 24;
  const words = wordsOf(fold.boxes, names, at, drawing.before[at], drawing.after[at], now);
  const first = foremost(box, now);
  const name = ["box", box.nodes === 0 && "joins", first && `has-${first.state}`, isFaint && "faint", isFound && "found"];
  // What is written stands beside the button, whose name says all of it: shortened, it would contradict that name.
  return html`<g class=${name.filter(Boolean).join(" ")} data-at=${at} transform=${`translate(${x} ${y})`}>
    <g role="button" tabindex=${isHere ? "0" : "-1"} aria-label=${words}>
      <title>${words}</title>
      <rect width=${BOX.width} height=${BOX.height} rx=${box.kind === "node" ? 14 : 4} />
    </g>
    <text class="title" aria-hidden="true" x="12" y=${isFar ? 79 : 22}>${titleOf(box, names[at], width, isFar ? FONTS.far : FONTS.title)}</text>
    ${!isFar && html`<text class="counts" aria-hidden="true" x="12" y="64">${countsLine(box, width)}</text>
      <text class="detail" aria-hidden="true" x="12" y="82">${detailLine(box, names[at], now, width)}</text>`}
  </g>`;
}

// --- where it is looked at ---------------------------------------------------------------------------------------------

/** How much room there is, in steps, so that a picture does not change with each pixel. */
function useSize(frame) {
  const [size, setSize] = useState(null);
  useLayoutEffect(() => {
    const measure = () => {
      const width = frame.current?.clientWidth;
      if (!width) return;
      const height = Math.max(320, Math.round((window.innerHeight * 0.68) / 40) * 40);
      setSize((known) => (known?.width === width && known.height === height ? known : { width, height }));
    };
    const watch = new ResizeObserver(measure);
    watch.observe(frame.current);
    addEventListener("resize", measure);
    measure();
    return () => {
      watch.disconnect();
      removeEventListener("resize", measure);
    };
  }, []);
  return size;
}

/** Lay out anew only if the boxes are others, or the room has another shape. */
function useDrawing(fold, size) {
  const kept = useRef({ key: null, drawing: null });
  if (!size) return null;
  const view = { width: Math.max(NARROW - 1, Math.round(size.width / 200) * 200), height: size.height };
  if (size.width < NARROW) view.width = NARROW - 1;
  const key = `${fold.id} ${fold.path} ${fold.boxes.length} ${view.width} ${view.height} ${fold.edges.map((edge) => `${edge.before}-${edge.after}`)}`;
  if (kept.current.key !== key) {
    const drawing = layout(fold.boxes.length, fold.edges, view);
    const lists = () => fold.boxes.map(() => []);
    Object.assign(drawing, { key, into: lists(), out: lists(), before: lists(), after: lists() });
    for (const edge of drawing.edges) {
      drawing.out[edge.before].push(edge);
      drawing.into[edge.after].push(edge);
      drawing.after[edge.before].push(edge.after);
      drawing.before[edge.after].push(edge.before);
    }
    kept.current = { key, drawing };
  }
  return kept.current.drawing;
}

function useView(frame, drawing, size, onMoved) {
  const [, setSeen] = useState("");
  const kept = useRef(null);
  kept.current ??= new View();
  const view = kept.current;
  view.onSeen = setSeen;
  view.onMoved = onMoved;
  view.take(drawing, size);
  useEffect(() => {
    const element = frame.current;
    const listeners = Object.entries({
      wheel: (event) => view.wheel(event), pointerdown: (event) => view.press(event), pointermove: (event) => view.drag(event),
      pointerup: (event) => view.release(event), pointercancel: (event) => view.release(event),
    });
    for (const [name, listener] of listeners) element.addEventListener(name, listener, { passive: false });
    return () => { for (const [name, listener] of listeners) element.removeEventListener(name, listener); };
  }, [view]);
  return view;
}

/** Which part of a picture is seen, and how large. */
class View {
  constructor() {
    Object.assign(this, { x: 0, y: 0, scale: 1, width: 0, height: 0, drawing: null, size: null, scene: null });
    Object.assign(this, { isFar: false, isPage: false, isMoved: false, wasDragged: false, pointers: new Map() });
  }

  /** Take what is drawn, and the room for it; where somebody has looked is kept while it is the same picture. */
  take(drawing, size) {
    if (!drawing || (drawing === this.drawing && size === this.size)) return;
    const isOther = drawing !== this.drawing;
    Object.assign(this, { drawing, size, width: size.width, isPage: size.width < NARROW });
    if (isOther || !this.isMoved) this.toWhole();
  }

  attach(svg) {
    this.scene = svg.querySelector(".scene");
    this.draw();
  }

  toWhole() {
    const { width, height } = this.drawing;
    this.scale = Math.min(this.width / width, this.isPage ? 1 : Math.min(1, this.size.height / height));
    this.height = this.isPage ? Math.ceil(height * this.scale) : Math.min(this.size.height, Math.max(120, Math.ceil(height * this.scale)));
    this.x = (this.width - width * this.scale) / 2;
    this.y = (this.height - height * this.scale) / 2;
    this.isMoved = false;
    this.isFar = this.scale < FAR;
  }

  fit() {
    this.toWhole();
    this.draw();
  }

  draw() {
    this.scene?.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.scale})`);
    this.isFar = this.scale < FAR;
    // Drawn anew only if what is drawn differs.
    this.onSeen(`${this.isFar} ${this.height}`);
  }

  /** Zoom around a point of the frame, or its middle. */
  zoom(by, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(SCALES.most, Math.max(SCALES.least, this.scale * by));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.isMoved = true;
    this.draw();
  }

  /** Zoom around a box, which stays in view. */
  zoomOn(place, by) {
    const { x, y } = this.drawing.boxes[place];
    this.zoom(by, this.x + (x + BOX.width / 2) * this.scale, this.y + (y + BOX.height / 2) * this.scale);
    this.show([place]);
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.isMoved = true;
    this.draw();
  }

  /** Move as little as is needed to see boxes, or the first of them if they are too far apart. */
  show(places) {
    if (this.isPage || !places.length) return;
    const corners = places.map((place) => this.drawing.boxes[place]);
    const bounds = (some) => [
      Math.min(...some.map((box) => box.x)), Math.min(...some.map((box) => box.y)),
      Math.max(...some.map((box) => box.x)) + BOX.width, Math.max(...some.map((box) => box.y)) + BOX.height,
    ];
    let [left, top, right, bottom] = bounds(corners);
    if ((right - left) * this.scale > this.width || (bottom - top) * this.scale > this.height)
      [left, top, right, bottom] = bounds(corners.slice(0, 1));
    const shift = (from, to, start, room) => {
      const [low, high] = [start + from * this.scale, start + to * this.scale];
      return low < CLEAR ? CLEAR - low : high > room - CLEAR ? Math.max(CLEAR - low, room - CLEAR - high) : 0;
    };
    const [x, y] = [shift(left, right, this.x, this.width), shift(top, bottom, this.y, this.height)];
    if (x || y) this.pan(x, y);
  }

  /** The page scrolls, unless somebody is at work in the picture. */
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey && !event.currentTarget.contains(document.activeElement)) return;
    event.preventDefault();
    const { left, top } = event.currentTarget.getBoundingClientRect();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 20 : 1);
    this.zoom(Math.exp(-Math.max(-200, Math.min(200, pixels)) / 400), event.clientX - left, event.clientY - top);
    this.onMoved();
  }

  press(event) {
    if (this.isPage || event.button > 0) return;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 1) this.wasDragged = false;
    this.gone = 0;
  }

  drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const [x, y] = [event.clientX - last.x, event.clientY - last.y];
    this.gone += Math.abs(x) + Math.abs(y);
    if (!this.wasDragged && this.gone < DRAG) return;
    if (!this.wasDragged) {
      this.wasDragged = true;
      event.currentTarget.setPointerCapture(event.pointerId);
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (others.length) {
      const { left, top } = event.currentTarget.getBoundingClientRect();
      const apart = (point) => Math.hypot(point.x - others[0].x, point.y - others[0].y) || 1;
      this.zoom(apart({ x: event.clientX, y: event.clientY }) / apart(last), others[0].x - left, others[0].y - top);
    } else this.pan(x, y);
    this.onMoved();
  }

  release(event) {
    this.pointers.delete(event.pointerId);
  }
}

/** Keep what runs in view. */
function useFollowed(fold, isFollowing, view, drawing) {
  useEffect(() => {
    if (!isFollowing || !drawing) return;
    const runs = (box) => box.states.dispatched || box.states.dispatching || box.states.retrying;
    view.show(fold.boxes.flatMap((box, at) => (runs(box) ? [at] : [])));
  }, [fold, isFollowing, drawing]);
}

// --- keys --------------------------------------------------------------------------------------------------------------

/** What a key does, or null. */
function keyOf(event, { fold, drawing, here, go, open, ask, up, view }) {
  if (event.ctrlKey || event.metaKey || event.altKey || !fold.boxes.length) return null;
  const [sideways, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (sideways || down) {
    if (event.shiftKey) return () => view.pan(-sideways * STEP, -down * STEP);
    return () => go(nextOf(drawing, here, sideways, down));
  }
  return {
    Enter: () => open(here), " ": () => open(here), Backspace: up, n: () => ask(here), "+": () => view.zoomOn(here, SCALES.step),
    "=": () => view.zoomOn(here, SCALES.step), "-": () => view.zoomOn(here, 1 / SCALES.step), 0: () => view.fit(), Home: () => go(0),
    End: () => go(fold.boxes.length - 1),
  }[event.key] ?? null;
}

/** The next box in a direction: along an edge if there is one, or else the nearest. */
function nextOf(drawing, here, sideways, down) {
  const from = drawing.boxes[here];
  const along = sideways > 0 ? drawing.after[here] : sideways < 0 ? drawing.before[here] : [];
  const far = (place) => {
    const { x, y } = drawing.boxes[place];
    // What is aside counts more than what is ahead, so that a row is followed to its end.
    return sideways ? Math.abs(x - from.x) + 3 * Math.abs(y - from.y) : Math.abs(y - from.y) + 3 * Math.abs(x - from.x);
  };
  const ahead = drawing.boxes.map((_, place) => place).filter((place) => {
    const { x, y } = drawing.boxes[place];
    return sideways ? (x - from.x) * sideways > BOX.width / 2 : (y - from.y) * down > BOX.height / 2;
  });
  const best = (some) => some.reduce((found, place) => (found < 0 || far(place) < far(found) ? place : found), -1);
  const next = best(along.length ? along : ahead);
  return next < 0 ? here : next;
}

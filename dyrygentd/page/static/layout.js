/**
 * Where the boxes and edges of a fold stand. Pure: the same boxes and edges always give the same picture, whatever they count.
 *
 * Layers go from left to right. A long row of layers is wrapped into bands, as words are into lines, and a layer of many boxes
 * is a block of rows, so that the whole fits a screen with letters as large as can be. So each edge goes to the right, or down to
 * a lower band. No edge goes through a box: between layers there are channels, between rows lanes, and between bands gutters.
 */

import { partsOf } from "./layers.js";

export const BOX = { width: 216, height: 92 };
/** Between layers, between rows, between the boxes of one row, around all. */
const CHANNEL = 48, ROW_GAP = 24, BOX_GAP = 30, MARGIN = 30;
/** Of an edge that passes a layer; of what stands beside it; between edges in a gutter, and above and below them. */
const THIN = 6, THIN_GAP = 10, TRACK = 7, GUTTER = 16;
/** More edges than that are not led around from one band to the next. */
const TRACKS_MAX = 8;
/** How wide a line may be, in boxes: the widest first, because fewer breaks are easier to read. */
const WIDTHS = [40, 28, 21, 16, 12, 9, 7, 6, 5, 4, 3, 2];
/** Below so many pixels one box a line, to be scrolled as a list is. */
const NARROW = 600;
/** By how much letters have to grow for a further break, and from which size on they are large enough. */
const GAIN = 1.08, READABLE = 0.8;

/**
 * Lay out a fold.
 *
 * @param count Number of boxes.
 * @param edges `[{before, after, weight}]`: places of boxes.
 * @param view `{width, height}` of the screen, of which only the proportion and what fits matter.
 * @returns `{width, height, boxes: [{x, y, layer}], edges: [{number, before, after, weight, d, x, y}], crossings, naive}`;
 *     `x, y` of a box is its upper left corner, of an edge its end; `number` is its place in what was given.
 */
export function layout(count, edges, view = { width: 1200, height: 700 }) {
  const parts = partsOf(count, edges);
  for (const part of parts) part.after = part.layers.map(linksAfter);
  // Single boxes come last, so that they fill rows of their own.
  const order = [...parts].sort((one, other) => (one.boxes.length < 2) - (other.boxes.length < 2));
  let best = null;
  for (const boxes of view.width < NARROW ? [1] : WIDTHS) {
    const tried = packed(order, boxes * (BOX.width + CHANNEL) - CHANNEL, view, []);
    if (!best || tried.scale > best.scale * GAIN) best = tried;
    // From the best width on it only gets worse.
    if (tried.scale < best.scale / 2) break;
  }
  const { width, height } = packed(order, best.line, view, ["up", "down", "up", "down", "up"]);
  const drawn = { boxes: new Array(count), edges: [] };
  for (const part of order) draw(part, drawn);
  drawn.edges.sort((one, other) => one.number - other.number);
  const sum = (key) => parts.reduce((all, part) => all + part[key], 0);
  return { width, height, ...drawn, crossings: sum("crossings"), naive: sum("naive") };
}

/** Place all parts on shelves of some width; return how large that is. ``sweeps`` bring boxes near to what they are linked with. */
function packed(parts, line, view, sweeps) {
  let [x, y, shelf, width] = [MARGIN, MARGIN, 0, 0];
  for (const part of parts) {
    place(part, line, view, sweeps);
    if (x > MARGIN && x + part.width > MARGIN + line) [x, y, shelf] = [MARGIN, y + shelf + ROW_GAP, 0];
    [part.x, part.y] = [x, y];
    width = Math.max(width, x + part.width);
    shelf = Math.max(shelf, part.height);
    x += part.width + BOX_GAP;
  }
  const height = y + shelf + MARGIN;
  width += MARGIN;
  return { line, width, height, scale: Math.min(view.width / width, view.height / height, READABLE) };
}

// --- places ------------------------------------------------------------------------------------------------------------

/** Place the items of a part: its bands, their layers, and the rows in them. */
function place(part, line, view, sweeps) {
  if (part.boxes.length === 1) {
    const rows = rowsOf(part.layers[0], 1);
    part.bands = [{ first: 0, last: 0, top: 0, tracks: [], right: BOX.width }];
    part.spans = [{ x: 0, width: BOX.width, rows, columns: 1 }];
    [part.width, part.height] = [BOX.width, BOX.height];
    rows[0].y = rows[0].items[0].y = BOX.height / 2;
    return;
  }
  part.bands = [];
  const tallest = Math.max(6 * (BOX.height + ROW_GAP), (line * view.height) / view.width);
  part.spans = part.layers.map((layer) => spanOf(layer, line, tallest));
  let [first, x] = [0, 0];
  part.spans.forEach((span, at) => {
    if (at > first && x + span.width > line) {
      const last = breakBefore(part, first, at);
      if (last >= first) {
        part.bands.push({ first, last });
        first = last + 1;
        x = 0;
        for (let again = first; again < at; again += 1) x = stand(part, again, x);
      }
    }
    x = stand(part, at, x);
  });
  part.bands.push({ first, last: part.spans.length - 1 });
  let top = 0;
  part.width = 0;
  for (const band of part.bands) {
    const height = placeBand(part, band, sweeps);
    const last = part.spans[band.last];
    band.right = last.x + last.width;
    band.top = top;
    band.bottom = top + height;
    band.tracks = tracksAfter(part, band);
    const around = Math.max(0, band.tracks.length - 1) * TRACK;
    top = band.bottom + 2 * GUTTER + around;
    part.width = Math.max(part.width, band.right + (band.tracks.length && 12 + around));
    part.height = band.bottom;
    for (let at = band.first; at <= band.last; at += 1) {
      for (const row of part.spans[at].rows) {
        row.y += band.top;
        for (const item of row.items) item.y = row.y;
      }
    }
  }
}

function stand(part, at, x) {
  part.spans[at].x = x;
  return x + part.spans[at].width + channelAfter(part, at);
}

/** Many edges need more room to bend in. */
function channelAfter(part, at) {
  return CHANNEL + Math.min(64, part.after[at].links);
}

/** A layer's block: how many boxes stand in a row of it. */
function spanOf(layer, line, tallest) {
  const boxes = layer.reduce((sum, item) => sum + (item.box >= 0), 0);
  const most = Math.max(1, Math.floor((line + BOX_GAP) / (BOX.width + BOX_GAP)));
  const columns = Math.min(most, Math.max(1, Math.ceil((boxes * (BOX.height + ROW_GAP)) / tallest)));
  return { x: 0, width: columns * (BOX.width + BOX_GAP) - BOX_GAP, rows: rowsOf(layer, columns), columns };
}

/** Put the items of a layer into rows; a thin one has a row of its own, below boxes whose row is not full yet. */
function rowsOf(layer, columns) {
  const rows = [];
  let [open, waiting] = [null, []];
  for (const item of layer) {
    if (item.box < 0) {
      if (open && open.items.length < columns) waiting.push(item);
      else rows.push(rowWith(item));
      continue;
    }
    if (!open || open.items.length === columns) {
      rows.push(...waiting.map(rowWith));
      waiting = [];
      open = rowWith(item);
      rows.push(open);
    } else {
      item.row = open;
      open.items.push(item);
    }
  }
  return rows.concat(waiting.map(rowWith));
}

function rowWith(item) {
  item.row = { items: [item], height: item.box < 0 ? THIN : BOX.height, isThin: item.box < 0, y: 0 };
  return item.row;
}

/** Return after which layer to break, at ``at`` at the latest; -1 if too many edges would have to be led around. */
function breakBefore(part, first, at) {
  for (let last = at - 1; last >= first; last -= 1) if (part.after[last].keys.length <= TRACKS_MAX) return last;
  return -1;
}

/** The links after a layer, and what they have in common: those of one beginning, or of one end, share a way. */
function linksAfter(layer) {
  const [from, to] = [new Set(), new Set()];
  let links = 0;
  for (const item of layer) {
    links += item.down.length;
    if (item.down.length) from.add(item);
    for (const after of item.down) to.add(after);
  }
  const isByEnd = from.size > to.size;
  return { links, isByEnd, keys: [...(isByEnd ? to : from)] };
}

/** Upper items take the inner way on the right. */
function tracksAfter(part, band) {
  if (band.last + 1 >= part.layers.length) return [];
  return [...part.after[band.last].keys].sort((one, other) => other.at - one.at);
}

/** Place the rows of a band; return its height. */
function placeBand(part, band, sweeps) {
  const spans = part.spans.slice(band.first, band.last + 1);
  for (const span of spans) {
    span.gaps = span.rows.map((row, at) => (at ? apart(span.rows[at - 1], row, span.columns) : row.height / 2));
    let y = 0;
    span.rows.forEach((row, at) => {
      y += span.gaps[at];
      row.y = y;
    });
    span.height = y + (span.rows.length ? span.rows.at(-1).height / 2 : 0);
  }
  const tallest = Math.max(...spans.map((span) => span.height));
  for (const span of spans) for (const row of span.rows) row.y += (tallest - span.height) / 2;
  for (const side of sweeps) {
    for (const span of side === "up" ? spans : [...spans].reverse()) align(span, side, band);
  }
  const low = Math.min(...spans.map((span) => span.rows[0].y - span.rows[0].height / 2));
  const high = Math.max(...spans.map((span) => span.rows.at(-1).y + span.rows.at(-1).height / 2));
  for (const span of spans) for (const row of span.rows) row.y = Math.round(row.y - low);
  return Math.round(high - low);
}

/** Return how far the middles of two rows have to be from each other at least. */
function apart(upper, lower, columns) {
  const gap = (upper.isThin || lower.isThin) && columns === 1 ? THIN_GAP : ROW_GAP;
  return upper.height / 2 + lower.height / 2 + (upper.isThin && lower.isThin ? THIN : gap);
}

/** Bring rows as near to the mean of their neighbours as their order allows: an isotonic regression, by pooling. */
function align(span, side, band) {
  const pools = [];
  let shift = 0;
  span.rows.forEach((row, at) => {
    if (at) shift += span.gaps[at];
    const { wish, weight } = wishOf(row, side, band);
    pools.push({ value: wish - shift, weight, rows: 1 });
    while (pools.length > 1 && pools.at(-2).value >= pools.at(-1).value) {
      const [lower, upper] = [pools.pop(), pools.at(-1)];
      const both = upper.weight + lower.weight;
      upper.value = (upper.value * upper.weight + lower.value * lower.weight) / both;
      upper.weight = both;
      upper.rows += lower.rows;
    }
  });
  let [at, down] = [0, 0];
  for (const pool of pools) {
    for (let row = 0; row < pool.rows; row += 1, at += 1) {
      if (at) down += span.gaps[at];
      span.rows[at].y = pool.value + down;
    }
  }
}

function wishOf(row, side, band) {
  let [sum, count] = [0, 0];
  for (const item of row.items) {
    for (const other of item[side]) {
      if (other.layer < band.first || other.layer > band.last) continue;
      sum += other.row.y;
      count += 1;
    }
  }
  return count ? { wish: sum / count, weight: row.isThin ? 2 : 1 } : { wish: row.y, weight: 0.1 };
}

// --- ways --------------------------------------------------------------------------------------------------------------

function draw(part, drawn) {
  part.bandOf = part.layers.map((_, at) => part.bands.find((band) => at >= band.first && at <= band.last));
  for (const layer of part.layers) {
    for (const item of layer) {
      if (item.box < 0) continue;
      drawn.boxes[item.box] = { x: part.x + leftOf(part, item), y: part.y + item.y - BOX.height / 2, layer: item.layer };
    }
  }
  for (const { link, items, isLoose } of part.chains) {
    const [first, last] = [items[0], items.at(-1)];
    const way = new Way(part.x, part.y);
    way.from(leftOf(part, first) + BOX.width, first.y);
    if (isLoose) way.bend(leftOf(part, last), last.y);
    else for (let at = 0; at + 1 < items.length; at += 1) lead(part, way, items[at], items[at + 1]);
    const { number, before, after, weight } = link;
    drawn.edges.push({ number, before, after, weight, d: way.d, x: part.x + way.x, y: part.y + way.y });
  }
}

function columnOf(item) {
  return item.row.items.indexOf(item);
}

function leftOf(part, item) {
  return part.spans[item.layer].x + columnOf(item) * (BOX.width + BOX_GAP);
}

/** Lead an edge from an item to one of the next layer. */
function lead(part, way, from, to) {
  const [span, next] = [part.spans[from.layer], part.spans[to.layer]];
  const [band, below] = [part.bandOf[from.layer], part.bandOf[to.layer]];
  const isBeside = from.box >= 0 && columnOf(from) < from.row.items.length - 1;
  if (isBeside) way.bend(leftOf(part, from) + BOX.width + BOX_GAP, from.y + BOX.height / 2 + ROW_GAP / 3);
  way.right(span.x + span.width);
  const isBehind = to.box >= 0 && columnOf(to) > 0;
  const y = isBehind ? to.y - BOX.height / 2 - ROW_GAP / 3 : to.y;
  if (band === below) way.bend(next.x, y);
  else {
    const track = band.tracks.indexOf(part.after[from.layer].isByEnd ? to : from);
    const out = 12 + track * TRACK;
    const under = band.bottom + GUTTER + (band.tracks.length - 1 - track) * TRACK;
    way.around(band.right + out, under, -12 - (band.tracks.length - 1 - track) * 2, y, next.x);
  }
  if (isBehind) {
    way.right(leftOf(part, to) - BOX_GAP);
    way.bend(leftOf(part, to), to.y);
  } else if (to.box < 0) way.right(next.x + next.width);
}

/** The path of one edge, as SVG spells it. */
class Way {
  constructor(left, top) {
    [this.left, this.top, this.x, this.y, this.d] = [left, top, 0, 0, ""];
  }

  from(x, y) {
    this.d = `M${this.at(x, y)}`;
  }

  at(x, y) {
    [this.x, this.y] = [x, y];
    return `${round(this.left + x)} ${round(this.top + y)}`;
  }

  right(x) {
    if (x > this.x + 0.05) this.d += `L${this.at(x, this.y)}`;
  }

  /** Go to the right in the shape of an S. */
  bend(x, y) {
    if (Math.abs(y - this.y) < 0.5) return void (this.d += `L${this.at(x, y)}`);
    const half = (this.x + x) / 2 + this.left;
    this.d += `C${round(half)} ${round(this.top + this.y)} ${round(half)} ${round(this.top + y)} ${this.at(x, y)}`;
  }

  /** Go out on the right, under the band, back on the left, and in again. */
  around(out, under, back, y, x) {
    const corners = [[out, this.y], [out, under], [back, under], [back, y], [x, y]];
    for (let at = 0; at + 1 < corners.length; at += 1) this.corner(corners[at], corners[at + 1]);
    this.d += `L${this.at(x, y)}`;
  }

  corner([x, y], [nextX, nextY]) {
    const size = Math.min(6, Math.abs(x - this.x) + Math.abs(y - this.y), (Math.abs(nextX - x) + Math.abs(nextY - y)) / 2);
    const [backX, backY] = [Math.sign(this.x - x) * size, Math.sign(this.y - y) * size];
    this.d += `L${this.at(x + backX, y + backY)}Q${round(this.left + x)} ${round(this.top + y)} `;
    this.d += this.at(x + Math.sign(nextX - x) * size, y + Math.sign(nextY - y) * size);
  }
}

function round(number) {
  return Math.round(number * 10) / 10;
}

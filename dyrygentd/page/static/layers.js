/**
 * Which boxes of a fold stand in which layer, and in which order there, so that few edges cross.
 *
 * Longest paths give the layers: a box stands where it can begin at the earliest. An edge over several layers becomes a row of
 * thin items, one a layer, so that it is kept clear of the boxes between. Sweeps by barycenter then order each layer, and the
 * order with the fewest crossings is kept; the first one tried is that of the definition, so the result is never worse. Pure.
 */

/** Thin items of long edges, in all: beyond them an edge is drawn behind the boxes. */
const THIN_MAX = 1000;
const SWEEPS = 6;

/** Return the parts of a fold that are not connected, in the order of their first boxes. */
export function partsOf(count, edges) {
  const links = linksOf(count, edges);
  const level = levelsOf(count, links);
  const members = componentsOf(count, links);
  const byPart = members.map(() => []);
  const partOf = new Int32Array(count);
  members.forEach((boxes, part) => boxes.forEach((box) => { partOf[box] = part; }));
  links.forEach((link) => byPart[partOf[link.before]].push(link));
  const budget = { thin: THIN_MAX };
  return members.map((boxes, part) => partOfBoxes(boxes, byPart[part], level, budget));
}

/** Return how many edges cross between the layers, in the order in which they stand. */
export function crossingsOf(layers) {
  let crossings = 0;
  for (const layer of layers) layer.forEach((item, at) => { item.at = at; });
  for (let upper = 0; upper + 1 < layers.length; upper += 1) crossings += between(layers[upper], layers[upper + 1].length);
  return crossings;
}

/** Edges that can be drawn: between boxes that there are, once each, and in no circle. */
function linksOf(count, edges) {
  const into = new Int32Array(count);
  const out = Array.from({ length: count }, () => []);
  const seen = new Set();
  const sound = edges.map((edge, number) => ({ before: edge.before, after: edge.after, weight: edge.weight, number }))
    .filter(({ before, after }) => {
      const key = before * count + after;
      if (!(out[before] && out[after]) || before === after || seen.has(key)) return false;
      return seen.add(key);
    });
  for (const { before, after } of sound) { out[before].push(after); into[after] += 1; }
  const order = [];
  for (let box = 0; box < count; box += 1) if (!into[box]) order.push(box);
  for (let next = 0; next < order.length; next += 1) {
    for (const after of out[order[next]]) { into[after] -= 1; if (!into[after]) order.push(after); }
  }
  for (let box = 0; box < count; box += 1) if (into[box] > 0) order.push(box);
  const place = new Int32Array(count);
  order.forEach((box, at) => { place[box] = at; });
  return sound.filter(({ before, after }) => place[before] < place[after])
    .sort((one, other) => place[one.before] - place[other.before] || one.number - other.number);
}

/** Links are sorted by where they begin, so each layer is final when it is used. */
function levelsOf(count, links) {
  const level = new Int32Array(count);
  for (const { before, after } of links) level[after] = Math.max(level[after], level[before] + 1);
  return level;
}

function componentsOf(count, links) {
  const root = Array.from({ length: count }, (_, box) => box);
  const find = (box) => {
    let at = box;
    while (root[at] !== at) { root[at] = root[root[at]]; at = root[at]; }
    return at;
  };
  for (const { before, after } of links) {
    const [one, other] = [find(before), find(after)];
    root[Math.max(one, other)] = Math.min(one, other);
  }
  const found = new Map();
  for (let box = 0; box < count; box += 1) {
    const first = find(box);
    if (!found.has(first)) found.set(first, []);
    found.get(first).push(box);
  }
  return [...found.values()];
}

function partOfBoxes(boxes, links, level, budget) {
  const layers = [];
  const itemOf = new Map();
  for (const box of boxes) {
    const item = itemAt(layers, level[box], box);
    itemOf.set(box, item);
  }
  // Short ones first: what is left without thin items is what is hardest to follow anyway.
  const bySpan = [...links].sort((one, other) => spanOf(level, one) - spanOf(level, other) || one.number - other.number);
  const chains = bySpan.map((link) => {
    const [first, last] = [itemOf.get(link.before), itemOf.get(link.after)];
    const thin = spanOf(level, link) - 1;
    if (thin > budget.thin) return { link, items: [first, last], isLoose: true };
    budget.thin -= thin;
    const items = [first];
    for (let at = level[link.before] + 1; at < level[link.after]; at += 1) items.push(itemAt(layers, at, -1));
    items.push(last);
    for (let at = 0; at + 1 < items.length; at += 1) {
      items[at].down.push(items[at + 1]);
      items[at + 1].up.push(items[at]);
    }
    return { link, items, isLoose: false };
  });
  const naive = layers.length > 1 ? crossingsOf(layers) : 0;
  const crossings = naive ? sweep(layers, naive) : 0;
  return { boxes, layers, chains, naive, crossings };
}

function spanOf(level, link) {
  return level[link.after] - level[link.before];
}

function itemAt(layers, layer, box) {
  while (layers.length <= layer) layers.push([]);
  const item = { box, layer, at: layers[layer].length, up: [], down: [], y: 0, row: null };
  layers[layer].push(item);
  return item;
}

/** Order the layers in place; return how many crossings are left. */
function sweep(layers, naive) {
  let best = naive;
  let kept = layers.map((layer) => [...layer]);
  for (let round = 0; round < SWEEPS && best; round += 1) {
    const side = round % 2 ? "down" : "up";
    const order = layers.map((_, at) => (round % 2 ? layers.length - 1 - at : at));
    for (const at of order) sortBy(layers[at], side);
    const crossings = crossingsOf(layers);
    if (crossings < best) {
      best = crossings;
      kept = layers.map((layer) => [...layer]);
    }
  }
  kept.forEach((layer, at) => layers[at].splice(0, layer.length, ...layer));
  crossingsOf(layers);
  return best;
}

/** Sort a layer by the mean place of what its items are linked with; those without links keep theirs. */
function sortBy(layer, side) {
  const linked = layer.filter((item) => item[side].length);
  for (const item of linked) {
    let sum = 0;
    for (const other of item[side]) sum += other.at;
    item.mean = sum / item[side].length;
  }
  linked.sort((one, other) => one.mean - other.mean || one.at - other.at);
  let next = 0;
  layer.forEach((item, at) => { if (item[side].length) { layer[at] = linked[next]; next += 1; } });
  layer.forEach((item, at) => { item.at = at; });
}

/** Count pairs of edges that cross, by a tree of sums over the places in the lower layer. */
function between(upper, size) {
  const sums = new Int32Array(size + 1);
  let [crossings, seen] = [0, 0];
  for (const item of upper) {
    const places = item.down.map((other) => other.at);
    for (const place of places) {
      let before = 0;
      for (let at = place + 1; at > 0; at -= at & -at) before += sums[at];
      crossings += seen - before;
    }
    for (const place of places) for (let at = place + 1; at <= size; at += at & -at) sums[at] += 1;
    seen += places.length;
  }
  return crossings;
}

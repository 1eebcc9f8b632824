// The boxes of a fold as a table: what the graph shows, for whoever does not see it.
import { html } from "./html.js";
import { namesOf } from "./boxes.js";
import { Name, StateBar, When, count, inline } from "./parts.js";

export function Boxes({ fold, onOpen, onNode }) {
  const names = namesOf(fold.boxes);
  const isNode = (box) => box.kind === "node";
  return html`<div class="scroll" tabindex="0" role="region" aria-label="boxes"><table class="boxes"><thead><tr>
      <th scope="col">box</th><th scope="col">nodes</th><th scope="col">states</th><th scope="col">what matters</th></tr></thead>
    <tbody>${fold.boxes.map((box, at) => html`<tr key=${box.path}>
      <th scope="row"><button type="button" class="link" onClick=${() => (isNode(box) ? onNode(box.title) : onOpen(box.path))}><${Name} text=${names[at]} /></button></th>
      <td class="number">${count(box.nodes)}</td><td><${StateBar} states=${box.states} /></td>
      <td>${box.error ? html`<span class="alarm-text short">${inline(box.error)}</span>` : box.held ? html`held: ${inline(box.hold)} <button type="button" class="link" onClick=${() => onNode(box.held)}><${Name} text=${box.held} /></button>` : box.longest_since ? html`<span class="quiet">longest since <${When} at=${box.longest_since} /></span>` : ""}</td>
    </tr>`)}</tbody></table></div>`;
}

// One node.
import { html } from "./html.js";
import { of, usePolled } from "./api.js";
import { Name, Problem, State, Waiting } from "./parts.js";

export function Node({ reference, name }) {
  const node = usePolled(of(reference, "nodes", name));
  if (!node.data) return node.error ? html`<${Problem} error=${node.error} again=${node.again} />` : html`<${Waiting} what="the node" />`;
  return html`<h1><${State} state=${node.data.state} /> <${Name} text=${node.data.name} /></h1>`;
}

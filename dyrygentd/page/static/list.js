// Workflows, newest first.
import { html } from "./html.js";
import { usePolled, withQuery } from "./api.js";
import { Name, Problem, State, Waiting, link } from "./parts.js";

export function List({ query }) {
  const page = usePolled(withQuery("/v1/workflows", { state: query.getAll("state"), name: query.get("name") }));
  if (!page.data) return page.error ? html`<${Problem} error=${page.error} again=${page.again} />` : html`<${Waiting} what="workflows" />`;
  return html`<h1>Workflows</h1><ul>${page.data.workflows.map(
    (each) => html`<li key=${each.id}><${State} state=${each.state} /> <a href=${link("w", each.id)}><${Name} text=${each.name} /></a></li>`,
  )}</ul>`;
}

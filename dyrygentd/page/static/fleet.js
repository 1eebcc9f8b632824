// All of the daemon at one look: what is broken, what waits for a person, what goes on.
import { html } from "./html.js";
import { usePolled } from "./api.js";
import { Problem, Waiting, inline } from "./parts.js";

export function Fleet() {
  const overview = usePolled("/v1/explain", 3000);
  if (!overview.data) return overview.error ? html`<${Problem} error=${overview.error} again=${overview.again} />` : html`<${Waiting} what="the overview" />`;
  return html`<h1>Overview</h1><p>${inline(overview.data.verdict)}</p>`;
}

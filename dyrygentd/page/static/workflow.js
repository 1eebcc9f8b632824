// One workflow.
import { html } from "./html.js";
import { of, usePolled } from "./api.js";
import { Name, Problem, State, StateBar, Waiting } from "./parts.js";

export function Workflow({ reference }) {
  const shown = usePolled(of(reference));
  if (!shown.data) return shown.error ? html`<${Problem} error=${shown.error} again=${shown.again} />` : html`<${Waiting} what="the workflow" />`;
  const it = shown.data;
  return html`<h1><${State} state=${it.state} /> <${Name} text=${it.name} /></h1><${StateBar} states=${it.counts} />`;
}

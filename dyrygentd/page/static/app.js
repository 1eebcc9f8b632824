// The page begins here: which view the address names, what is around each of them.
import { html, render, useEffect, useRef, useState } from "./html.js";
import { get, usePolled } from "./api.js";
import { duration, inline, link } from "./parts.js";
import { Fleet } from "./fleet.js";
import { List } from "./list.js";
import { Workflow } from "./workflow.js";
import { Node } from "./nodes.js";

/** Read `#/w/REF?tab=nodes` as `{parts: ["w", "REF"], query}`. */
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { parts, query: new URLSearchParams(query), hash: location.hash };
}

function View({ at, mode, go }) {
  const [first, ref, word, node] = at.parts;
  if (first === "workflows") return html`<${List} query=${at.query} go=${go} mode=${mode} />`;
  if (first === "w" && ref && word === "n" && node) return html`<${Node} key=${`${ref} ${node}`} reference=${ref} name=${node} mode=${mode} />`;
  if (first === "w" && ref) return html`<${Workflow} key=${ref} reference=${ref} query=${at.query} go=${go} mode=${mode} />`;
  if (first) return html`<h1>Nothing here</h1><p>No view is called so. <a href="#/">All of the daemon</a></p>`;
  return html`<${Fleet} mode=${mode} />`;
}

/** A link to the dashboards, if the daemon knows where they are; they lead back to this page. */
function grafanaLink(address) {
  if (!/^https?:/.test(address ?? "")) return null;
  const back = encodeURIComponent(location.origin);
  return html` · <a href=${`${address}/d/dyrygentd-overview?var-page=${back}`} rel="noreferrer">Grafana</a>`;
}

/** Who answers, where it is not the daemon that leads: what is seen is what that one has stored. */
function Vantage({ health }) {
  if (!health || !["standby", "gateway"].includes(health.role)) return null;
  const heard = health.lag_s === undefined || health.lag_s === null ? "" : duration(health.lag_s);
  const who = health.leader
    ? `${inline(health.leader)} leads${heard && `, heard of ${heard} ago`}`
    : `nobody leads at present${heard && `, nobody was heard of for ${heard}`}`;
  return html`<section aria-label="who answers" class=${`vantage${health.leader ? "" : " is-leaderless"}`}
    >A ${health.role} answers, from what is stored: ${who}.</section>`;
}

const SCHEMES = ["auto", "light", "dark"];

function Scheme() {
  const [scheme, setScheme] = useState(() => SCHEMES.find((each) => each === localStorage.getItem("scheme")) ?? "auto");
  useEffect(() => {
    document.documentElement.dataset.scheme = scheme;
    if (scheme !== (localStorage.getItem("scheme") ?? SCHEMES[0])) localStorage.setItem("scheme", scheme);
  }, [scheme]);
  return html`<label class="scheme">colours
    <select value=${scheme} onChange=${(event) => setScheme(event.target.value)}>
      ${SCHEMES.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
    </select></label>`;
}

function App() {
  const [at, setAt] = useState(place);
  const [mode, setMode] = useState({ acts: false });
  const health = usePolled("/healthz", 5000);
  useEffect(() => {
    const moved = () => setAt(place());
    addEventListener("hashchange", moved);
    get("/page/mode.json").then(setMode, () => {});
    return () => removeEventListener("hashchange", moved);
  }, []);
  // What a view has chosen stands in the address, so that a link shares it; it is no step back.
  const go = (hash) => {
    history.replaceState(null, "", hash);
    setAt(place());
  };
  const view = at.parts.join("/");
  const shown = useRef(view);
  // Whoever does not see the page is led to what is new on it.
  useEffect(() => {
    if (shown.current === view) return;
    shown.current = view;
    document.getElementById("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [view]);
  const lost = ["unreachable", "daemon-unreachable", "not-let-in"].includes(health.error?.code);
  const here = (name) => (name === (at.parts[0] ?? "") ? "page" : undefined);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>to the contents</a>
    <header class="top">
      <a href="#/" class="brand">dyrygentd</a>
      <nav aria-label="views">
        <a href="#/" aria-current=${here("")}>Overview</a>
        <a href=${link("workflows")} aria-current=${here("workflows")}>Workflows</a>
      </nav>
      <span class="grow"></span>
      <span class="who">${mode.acts ? html`acting as <b>${mode.user ?? "you"}</b>` : "read only"}</span>
      <${Scheme} />
    </header>
    <div aria-live="polite">${lost && html`<div class="problem lost">${health.error.detail}: what you see is as it was when it last answered. ${health.error.next}</div>`}</div>
    <${Vantage} health=${health.data} />
    <main id="main" tabindex="-1"><${View} at=${at} mode=${mode} go=${go} /></main>
    <footer>times are UTC · dyrygentd ${health.data?.version ?? mode.version ?? ""}${grafanaLink(mode.grafana)}</footer>`;
}

render(html`<${App} />`, document.getElementById("page"));

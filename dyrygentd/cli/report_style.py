"""How a report looks: the colours of the page, in light and dark, and on paper always light."""

from typing import Final

_LIGHT: Final = """
  --ground: #fbfbfa; --raised: #fff; --line: #d9dbde; --ink: #1b1f24; --quiet: #5a6270; --alarm: #b3261e;
  --succeeded: #1a7f4b; --running: #1b5fc1; --amber: #f0b429; --failed: #b3261e; --blocked: #d9b8bd; --cancelled: #70757d;
  --skipped: #e3ead0; --waiting: #d3d6da;
"""
_DARK: Final = """
  --ground: #14171b; --raised: #1c2026; --line: #353b44; --ink: #e6e8eb; --quiet: #a3acb9; --alarm: #ff8f86;
  --succeeded: #2f9e63; --running: #3f7fe0; --amber: #e0a82e; --failed: #d9463d; --blocked: #7d5c62; --cancelled: #80868f;
  --skipped: #56603f; --waiting: #4a515b;
"""
#: ``{state of a workflow or a node: (its colour, that of words on it)}``.
_STATES: Final = {
    "succeeded": ("succeeded", "#fff"),
    "running": ("running", "#fff"),
    "dispatched": ("running", "#fff"),
    "dispatching": ("running", "#fff"),
    "held": ("amber", "#1b1f24"),
    "ready": ("amber", "#1b1f24"),
    "retrying": ("amber", "#1b1f24"),
    "paused": ("amber", "#1b1f24"),
    "scheduled": ("amber", "#1b1f24"),
    "failed": ("failed", "#fff"),
    "blocked": ("blocked", "var(--ink)"),
    "cancelled": ("cancelled", "#fff"),
    "skipped": ("skipped", "var(--ink)"),
    "waiting": ("waiting", "var(--ink)"),
}
_REST: Final = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); }
main { max-width: 1080px; margin: auto; padding: 24px 16px; }
h1 { font-size: 24px; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 8px; }
.verdict { font-size: 17px; margin: 0 0 16px; overflow-wrap: anywhere; }
.quiet, footer { color: var(--quiet); }
footer { margin-top: 40px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: 560px; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
.number { text-align: right; }
.state { font-size: 14px; padding: 2px 10px; border-radius: 10px; vertical-align: middle; }
.bad { color: var(--alarm); }
.mark { display: inline-block; width: 18px; min-height: 16px; text-align: center; border-radius: 3px; margin-left: 10px;
  vertical-align: middle; font-size: 12px; line-height: 18px; }
svg.fit { max-width: 100%; min-width: 700px; height: auto; }
svg text { fill: var(--ink); font-size: 13px; }
svg text.bad { fill: var(--alarm); }
svg text.small { fill: var(--quiet); font-size: 11px; }
.box { fill: var(--raised); stroke: var(--line); }
.box.bad { stroke: var(--alarm); stroke-width: 2; }
.edge { fill: none; stroke: var(--line); }
@media print { main { max-width: none; } .wide { overflow: visible; } svg { max-width: 100%; height: auto; } }
"""
STYLE: Final = (
    f":root {{ color-scheme: light dark; {_LIGHT} font: 15px/1.45 system-ui, sans-serif; }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}"
    f"{_REST}"
    + "\n".join(
        f".s-{state} {{ background: var(--{colour}); fill: var(--{colour}); color: {words}; }}"
        for state, (colour, words) in _STATES.items()
    )
)

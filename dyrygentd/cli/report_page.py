"""The report of a workflow as one HTML file that needs nothing else: no request, no script, in light and dark, on paper.

Its length is bounded whatever the workflow: each part shows so much and says what it left out, and if all of it together is still
too long, which takes texts made for that, it is made again with half of everything.
"""

import html
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dyrygentd import __version__
from dyrygentd.cli import bars, drawings, render
from dyrygentd.cli.boxes import name_of
from dyrygentd.cli.report_style import STYLE
from dyrygentd.cli.times import dated, localized

if TYPE_CHECKING:
    from dyrygentd import wire

BYTES_MAX: Final = 1_000_000
_TEXT: Final = 400
_NAMED: Final = 5
_LABELS: Final = 30
_ADDRESS_MAX: Final = 16_000


@dataclass(frozen=True, slots=True)
class Material:
    """All that a report tells, as the daemon has told it: without secrets; no estimate of what has finished."""

    workflow: "wire.WorkflowView"
    fold: "wire.FoldView"
    timeline: "wire.TimelineView"
    causes: "wire.Causes"
    journal: "Sequence[wire.JournalView]"
    explanation: "wire.Explanation"
    estimate: "wire.EstimateView | None" = None


@dataclass(frozen=True, slots=True)
class _Bounds:
    """How much of each there is, and how long a text may be."""

    boxes: int = 300
    drawn: int = 120
    rows: int = 60
    causes: int = 50
    entries: int = 200
    text: int = _TEXT

    def halved(self) -> "_Bounds":
        return _Bounds(*(max(1, each // 2) for each in (self.boxes, self.drawn, self.rows, self.causes, self.entries, self.text)))


def page(material: Material) -> str:
    """Return the file, of at most `BYTES_MAX`."""
    bounds = _Bounds()
    while len((made := "".join(_page(material, bounds))).encode()) > BYTES_MAX:
        bounds = bounds.halved()
    return made


def _page(material: Material, bounds: _Bounds) -> Iterator[str]:
    view = material.workflow
    name = drawings.text(view.name, 200)
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><main>"
    )
    yield f"<h1>{name} {_state(view.state)}</h1>"
    yield f"<p class=verdict>{_words(material.explanation.verdict, bounds)}</p>"
    yield _facts(material, bounds)
    yield from _causes(material.causes, bounds)
    yield from _standings(material.explanation, bounds)
    yield from _boxes(material, bounds)
    yield from _timeline(material.timeline, bounds)
    yield from _journal(material.journal, bounds)
    made = drawings.text(dated(time.time()), 60)
    yield f"<footer>Made {made} by dyrygentctl {__version__}. Times are its maker's.</footer></main></body></html>\n"


def _facts(material: Material, bounds: _Bounds) -> str:
    view = material.workflow
    labels = [f"{name}={value}" for name, value in view.labels.items()]
    facts = {
        "id": view.id,
        "created": dated(view.created_at),
        "starts" if view.state == "scheduled" else "started": dated(view.start_at),
        "finished": dated(view.finished_at),
        "took" if view.is_finished else "running for": "" if view.state == "scheduled" else render.took(view),
        "left": "" if material.estimate is None else material.estimate.words,
        "tasks": f"{view.tasks:,}: {', '.join(f'{word} {count:,}' for word, count in view.counts.items() if count)}",
        "waits for": ", ".join(render.waits(view.waits_for_person)),
        "owner": view.owner_name or render.user(view.owner),
        "labels": ", ".join(labels[:_LABELS]) + (f" and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""),
        "key": view.key or "",
        "error": view.error,
    }
    rows = (f"<dt>{name}</dt><dd>{drawings.text(value, bounds.text)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{''.join(rows)}</dl>"


def _causes(causes: "wire.Causes", bounds: _Bounds) -> Iterator[str]:
    if not causes.causes:
        return
    yield f"<h2>Failures by cause</h2><p>{render.number(causes.failures, 'failure')}"
    yield f", {causes.lost:,} lost</p>" if causes.lost else "</p>"
    rows = (
        (
            f"{cause.count:,}",
            f"<b>{_words(cause.cause, bounds)}</b><br>{_words(cause.example, bounds)}{_log(cause.logs)}",
            _names(cause.nodes, cause.count),
        )
        for cause in causes.causes[: bounds.causes]
    )
    yield _table(("Nodes", "Cause", "Such as"), rows, numbers=1)
    yield _left_out(len(causes.causes), bounds.causes, "cause")


def _standings(explanation: "wire.Explanation", bounds: _Bounds) -> Iterator[str]:
    # What has failed stands above, by cause.
    found = [each for each in explanation.standings if each.code != "failed"]
    if found:
        yield "<h2>What has not run, and why</h2>"
        rows = (
            (f"{each.count:,}", _words(each.text, bounds), _names(each.examples or [each.node], each.count))
            for each in found[: bounds.causes]
        )
        yield _table(("Nodes", "Why", "Such as"), rows, numbers=1)
        yield _left_out(len(found), bounds.causes, "group")


def _boxes(material: Material, bounds: _Bounds) -> Iterator[str]:
    fold = material.fold
    yield f"<h2>Shape</h2><p>{render.number(fold.nodes, 'node')} in {len(fold.boxes):,} boxes. {_legend(fold)}</p>"
    if len(fold.boxes) <= bounds.drawn:
        yield f"<div class=wide>{drawings.graph(fold)}</div>"
    else:
        yield f"<p>{len(fold.boxes):,} boxes are too many to be drawn; the table has them.</p>"
    times = {row.path: row for row in material.timeline.rows}
    order = sorted(fold.boxes, key=lambda box: (box.first_level, box.last_level))
    rows = (_box_cells(box, times.get(box.path), material.timeline.bin_s, bounds) for box in order[: bounds.boxes])
    yield _table(("Level", "Box", "Nodes", "States", "Began", "Last end", "Mean wait"), rows)
    yield _left_out(len(fold.boxes), bounds.boxes, "box", "boxes")


def _box_cells(box: "wire.BoxView", row: "wire.TimelineRow | None", bin_s: float, bounds: _Bounds) -> tuple[str, ...]:
    states = ", ".join(f"{word} {count:,}" for word, count in box.states.items())
    error = f"<br><span class=bad>{_words(box.failed, bounds)}: {_words(box.error or '', bounds)}</span>" if box.failed else ""
    level = f"{box.first_level:,}" if box.first_level == box.last_level else f"{box.first_level:,} to {box.last_level:,}"
    waited = render.duration(sum(row.waiting) * bin_s / max(1, row.nodes)) if row is not None and any(row.waiting) else ""
    times = ("", "") if row is None else (dated(row.first), dated(row.last))
    name = drawings.text(name_of(box), 120)
    return level, name, f"{box.nodes:,}", drawings.text(states, 300) + error, *(drawings.text(each, 60) for each in times), waited


def _timeline(view: "wire.TimelineView", bounds: _Bounds) -> Iterator[str]:
    rows = view.rows[: bounds.rows]
    if not rows:
        return
    yield f"<h2>Where the time went</h2><p>{drawings.text(dated(view.since), 60)} to {drawings.text(dated(view.until), 60)},"
    yield f" {render.duration(view.until - view.since)}. "
    marks = (
        ("dispatched", "in flight"),
        ("retrying", "in a later attempt"),
        ("blocked", "pauses before it is tried again"),
        ("waiting", "could run, and waits"),
        ("failed", "▲ failed"),
    )
    yield " ".join(f'<span class="mark s-{state}"></span> {words}' for state, words in marks)
    yield f"</p><div class=wide>{drawings.timeline(view, rows, lambda at: f'+{render.duration(at - view.since)}')}</div>"
    yield _left_out(len(view.rows) + view.rows_left_out, len(rows), "box", "boxes")


def _journal(entries: "Sequence[wire.JournalView]", bounds: _Bounds) -> Iterator[str]:
    yield "<h2>Journal</h2>"
    if not entries:
        yield "<p>Nobody changed anything, and the daemon decided nothing by itself.</p>"
        return
    rows = (
        tuple(_words(cell, bounds) for cell in (dated(entry.at), entry.verb, entry.by, entry.why, render.entry(entry)))
        for entry in entries[-bounds.entries :]
    )
    yield _left_out(len(entries), bounds.entries, "earlier entry", "earlier entries")
    yield _table(("At", "What", "Who", "Why", "Changed"), rows)


# --- pieces ---------------------------------------------------------------------------------------------------------


def _words(said: str, bounds: _Bounds) -> str:
    return drawings.text(localized(said), bounds.text)


def _names(names: Sequence[str], count: int) -> str:
    more = ", …" if count > min(len(names), _NAMED) else ""
    return ", ".join(drawings.text(name, 80) for name in names[:_NAMED]) + more


def _log(address: str | None) -> str:
    """Return a link to a log, if there is one that is no more than an address."""
    if not address or len(address) > _ADDRESS_MAX or not address.startswith(("https://", "http://")):
        return ""
    return f' <a href="{html.escape(address)}" rel="noopener noreferrer">log</a>'


def _state(word: str) -> str:
    return f'<span class="state s-{drawings.text(word, 20)}">{drawings.text(word, 20)}</span>'


def _legend(fold: "wire.FoldView") -> str:
    found = dict.fromkeys(word for box in fold.boxes for word in box.states if word in bars.LETTERS)
    return " ".join(f'<span class="mark s-{word}">{bars.LETTERS[word]}</span> {word}' for word in found)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table of cells that are HTML already; the first ``numbers`` columns are numbers."""
    mark = " class=number"
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(
        f"<tr>{''.join(f'<td{mark if place < numbers else str()}>{cell}</td>' for place, cell in enumerate(row))}</tr>\n"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _left_out(count: int, most: int, word: str, words: str = "") -> str:
    if count <= most:
        return ""
    left = count - most
    return f"<p class=quiet>{left:,} {word if left == 1 else words or f'{word}s'} more, which have no room here.</p>"

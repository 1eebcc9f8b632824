"""`dyrygentctl diff`: two runs of one definition side by side, by box: what was slower, and what failed.

Both are asked for their fold and their timeline, so it costs the same for ten nodes and for 100,000.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.boxes import name_of
from dyrygentd.cli.session import Session, command, echo_json, say
from dyrygentd.cli.timeline import fetched

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_ROWS: Final = 40
_NAME: Final = 30
_ERROR: Final = 100
#: What differs by less is not worth a colour, or a place further up.
_SHARE: Final = 0.1
_LEAST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Side:
    """How a box stood in one of two runs; times are in seconds.

    Attributes:
        failed: How many failed.
        blocked: How many never ran because of others.
        took_s: From the first start to the last end; None if nothing began.
        run_s: How long a node was in flight, on average over those that have ended.
        wait_s: How long one that could run waited before.
        error: Of what failed first.
    """

    nodes: int
    failed: int
    blocked: int
    took_s: float | None
    run_s: float
    wait_s: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A box in both runs, or in one of them."""

    path: str
    title: str
    before: Side | None
    after: Side | None

    @property
    def slower_s(self) -> float:
        """How much longer the box took."""
        return self._more(lambda side: side.took_s or 0.0)

    @property
    def more_failed(self) -> int:
        """How many more of its nodes failed."""
        return int(self._more(lambda side: side.failed))

    def _more(self, of: Callable[[Side], float]) -> float:
        return (of(self.after) if self.after else 0) - (of(self.before) if self.before else 0)


@click.command(short_help="Compare two runs: what was slower, what failed.")
@click.argument("before", metavar="REF")
@click.argument("after", metavar="REF")
@click.option("--section", metavar="PATH", help="Compare inside a box: a section such as drain/gra1, or ~N as the box is called.")
@click.option("--all", "is_all", is_flag=True, help="Show all boxes, also those that are alike.")
@command
def diff(session: Session, before: str, after: str, section: str | None, is_all: bool) -> None:
    """Compare two runs box by box: where more failed, and what took longer, in the order of how much.

    TOOK is from the first start of a box to its last end, RUN and WAIT are means of its nodes. Boxes are the same if they are
    called so, as they are in two runs of one definition.

    \b
    Example: dyrygentctl diff nightly-2026-11-28 nightly-2026-11-29 --section drain
    """
    path = section or ""
    first, second = (_gathered(session.handle(reference), path) for reference in (before, after))
    pairs = sorted(paired(first, second), key=lambda pair: (-pair.more_failed, -pair.slower_s))
    if session.is_json:
        echo_json({"before": _run(first[1]), "after": _run(second[1]), "path": path, "boxes": [asdict(pair) for pair in pairs]})
        return
    for mark, (_, view) in (("before", first), ("after ", second)):
        took = render.duration(view.until - view.since)
        click.echo(f"{mark}  {view.id}  {render.inline(view.name)}: {render.state(view.state)}, {took}")
    click.echo("")
    shown = pairs if is_all else [pair for pair in pairs if _differs(pair)][:_ROWS]
    for line in lines(shown):
        click.echo(line)
    if len(shown) < len(pairs):
        say(f"{render.number(len(pairs) - len(shown), 'more row')}, in which both are much alike: --all shows them")
    for line in _next(second[1].id, shown, before, after):
        say(f"next: {line}")


def paired(first: "tuple[wire.FoldView, wire.TimelineView]", second: "tuple[wire.FoldView, wire.TimelineView]") -> Iterator[Pair]:
    """Put boxes together that have one path and one name, in the order of the second run, then what only the first has."""
    sides = [_sides(*each) for each in (first, second)]
    for path, title in dict.fromkeys([*sides[1], *sides[0]]):
        yield Pair(path, title, sides[0].get((path, title)), sides[1].get((path, title)))


def _sides(fold: "wire.FoldView", timeline: "wire.TimelineView") -> dict[tuple[str, str], Side]:
    rows = {row.path: row for row in timeline.rows}
    return {(box.path, name_of(box)): _side(box, rows.get(box.path), timeline) for box in fold.boxes if box.nodes}


def _side(box: "wire.BoxView", row: "wire.TimelineRow | None", timeline: "wire.TimelineView") -> Side:
    failed, blocked = box.states.get("failed", 0), box.states.get("blocked", 0)
    if row is None or row.first is None:
        return Side(box.nodes, failed, blocked, None, 0.0, 0.0, box.error)
    ended = max(1, sum(row.ended) + sum(row.failed))
    run_s = (sum(row.running) + sum(row.again)) * timeline.bin_s / ended
    took_s = (row.last or timeline.until) - row.first
    return Side(box.nodes, failed, blocked, took_s, run_s, sum(row.waiting) * timeline.bin_s / ended, box.error)


def lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """Return a table, and below it why more failed."""
    if not pairs:
        yield "both are much alike"
        return
    yield render.table(("BOX", "NODES", "FAILED", "TOOK", "RUN", "WAIT", ""), [_cells(pair) for pair in pairs])
    for pair in pairs:
        if pair.more_failed > 0 and pair.after is not None and pair.after.error:
            error = render.within(render.inline(pair.after.error), _ERROR)
            yield f"{render.state('failed')}  {render.within(pair.title, _NAME)}: {error}"


def _cells(pair: Pair) -> tuple[str, ...]:
    def both(of: Callable[[Side], str]) -> str:
        texts = ["-" if side is None else of(side) for side in (pair.before, pair.after)]
        return texts[0] if texts[0] == texts[1] else " → ".join(texts)

    words = []
    if pair.before is None or pair.after is None:
        words.append("only after" if pair.before is None else "only before")
    elif pair.before.took_s and pair.after.took_s and _differs(pair):
        share = pair.after.took_s / pair.before.took_s
        words.append(f"{share:.1f} x" if share >= 1 else f"{100 * share:.0f}%")
    return (
        render.within(pair.title, _NAME),
        both(lambda side: f"{side.nodes:,}"),
        both(lambda side: f"{side.failed:,}"),
        both(lambda side: "" if side.took_s is None else render.duration(side.took_s)),
        both(lambda side: render.duration(side.run_s)),
        both(lambda side: render.duration(side.wait_s)),
        *(words or [""]),
    )


def _differs(pair: Pair) -> bool:
    if pair.before is None or pair.after is None or pair.more_failed or pair.before.nodes != pair.after.nodes:
        return True
    times = [(side.took_s or 0.0, side.run_s, side.wait_s) for side in (pair.before, pair.after)]
    return any(abs(one - other) > max(_LEAST_S, _SHARE * max(one, other)) for one, other in zip(*times, strict=True))


def _next(workflow_id: str, shown: Sequence[Pair], before: str, after: str) -> Iterator[str]:
    if any(pair.more_failed > 0 for pair in shown):
        yield render.command("explain", workflow_id)
    elif shown and shown[0].slower_s > 0 and shown[0].title.endswith("/"):
        yield render.shell("dyrygentctl", "diff", before, after, "--section", shown[0].path)


def _run(view: "wire.TimelineView") -> dict[str, object]:
    return {"id": view.id, "name": view.name, "state": view.state, "since": view.since, "until": view.until}


def _gathered(handle: "Handle", path: str) -> "tuple[wire.FoldView, wire.TimelineView]":
    # It brings the whole core, which no other command has to load for it.
    from dyrygentd.core.timeline import BINS_MAX

    # The timeline first: a daemon that has none is told so.
    timeline = fetched(handle, path, BINS_MAX)
    return handle.fold(path), timeline

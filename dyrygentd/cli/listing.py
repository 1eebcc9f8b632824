"""`dyrygentctl list`: which workflows there are, and which of them are broken or wait for a person."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from dyrygentd.cli import bars, render
from dyrygentd.cli.choosing import states_of
from dyrygentd.cli.session import Session, command, echo_json, pairs, say, say_health
from dyrygentd.cli.times import Moment, head, in_column, moment

if TYPE_CHECKING:
    from dyrygentd import wire

_BAR: Final = 11
_NAME_MIN, _NAME_SHORT = 12, 24
#: Characters of an id that tell it from any other one, unless there are millions of them.
_SHORT: Final = 8
_BROKEN, _WAITS = "!", "?"
_COLOURS: Final = {_BROKEN: "red", _WAITS: "yellow"}


class ListLine(NamedTuple):
    """A workflow: its cells by the head of their column, and its bar."""

    view: "wire.WorkflowView"
    mark: str
    cells: dict[str, str]


@click.command("list")
@click.option("--state", "states", multiple=True, metavar="STATE", callback=states_of, help="Only these states; may be repeated.")
@click.option("--name", help="Only workflows with this name.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="Only with this label; may be repeated.")
@click.option("--since", type=Moment(), metavar="WHEN", help="Only those created since then: 2h (ago), 14:30, 2026-11-28.")
@click.option("--until", type=Moment(), metavar="WHEN", help="Only those created until then.")
@click.option(
    "--ended-since", type=Moment(), metavar="WHEN", help="Only those that have finished since then, the last ones first."
)
@click.option("--parent-task", metavar="ID", help="Only those that the Celery task of this id has submitted.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Show so many.")
@click.option("--all", "is_all", is_flag=True, help="Show all of them.")
@command
def list_workflows(
    session: Session,
    states: tuple[str, ...],
    name: str | None,
    labels: dict[str, str],
    since: float | None,
    until: float | None,
    ended_since: float | None,
    parent_task: str | None,
    limit: int,
    is_all: bool,
) -> None:
    """List workflows, those created last first.

    TASKS has how many succeeded or were skipped, of how many, and a bar of all by their state.

    ! stands before what has failures, ? before what waits for a person.

    WHEN is an age (90s, 5m, 2h, 3d), a time of today (14:30), today, yesterday, a day (2026-11-28, its beginning), or a day and
    time ('2026-11-28 14:30', 2026-11-28T14:30Z). Without a zone it is local time.

    \b
    Example: dyrygentctl list --state running,paused --label cluster=gra1
    Example: dyrygentctl list --state failed --ended-since 2h
    """

    # One more than wanted, to tell whether there are more.
    wanted = None if is_all else limit + 1
    if since is not None and until is not None and since > until:
        raise click.UsageError("--since is later than --until: nothing can be in between")
    client = session.client()
    times = {"since": since, "until": until, "ended_since": ended_since}
    views = client.list(
        states=states,
        name=name,
        labels=labels,
        limit=wanted,
        by_end=ended_since is not None,
        parent_task=parent_task,
        **times,
    )
    shown = views if is_all else views[:limit]
    if session.is_json:
        echo_json(shown)
        return
    health = client.health()
    say_health(health)
    if words := _leader_and_lease(health):
        say(words)
    if not shown:
        say("no workflows")
        return
    screen = render.screen()
    click.echo(listing(shown, width=None if screen is None else screen.columns, by_end=ended_since is not None))
    if len(views) > len(shown):
        say(f"there are more: --limit {limit * 5}, or --all")
    if screen is not None:
        for line in _what_next(shown):
            say(line)


def _leader_and_lease(health: "wire.Health") -> str:
    """Say who leads and how the lease stands; nothing where one process alone has the database."""
    from dyrygentd import wire

    if not health.role:
        return ""
    nobody = "nobody leads" if wire.knows_nobody_leads(health) else "who leads is not known here"
    return f"{f'{health.leader} leads' if health.leader else nobody}: {wire.lease_words(health)}"


def listing(views: "Sequence[wire.WorkflowView]", *, width: int | None, by_end: bool = False) -> str:
    """Return a table of workflows.

    On a terminal, which has a ``width``, each has a mark, a bar and the beginning of its id, and no line wraps: notes go below,
    then times go, and then long names are shortened, which their ``…`` says. Elsewhere everything is whole.

    Args:
        by_end: Has when they ended in the place of when they were created.
    """
    at = head("ENDED" if by_end else "CREATED")
    lines = [_line(view, at, in_column(view.finished_at if by_end else view.created_at)) for view in views]
    heads = ["ID", "NAME", "STATE", "TASKS", at, "TOOK", "NOTE"]
    if not any(line.cells["NOTE"] for line in lines):
        heads.pop()
    if width is None:
        return render.table(heads, [[line.cells[each] for each in heads] for line in lines])
    for line in lines:
        line.cells["ID"] = line.view.id[: _short(views)]
    has_notes_below = False
    while (needed := _width(lines, heads)) > width:
        if "NOTE" in heads:
            has_notes_below = True
            heads.remove("NOTE")
        elif _shorten_names(lines, needed - width, least=_NAME_SHORT) and _width(lines, heads) <= width:
            break
        elif at in heads:
            heads.remove(at)
        else:
            _shorten_names(lines, needed - width, least=_NAME_MIN)
            break
    return "\n".join(_drawn(lines, heads, has_notes_below=has_notes_below))


def _line(view: "wire.WorkflowView", head_of_time: str, at: str) -> ListLine:
    cells = {
        "ID": view.id,
        "NAME": render.inline(view.name),
        "STATE": view.state,
        "TASKS": render.progress(view),
        head_of_time: at,
        "TOOK": f"starts {moment(view.start_at)}" if view.state == "scheduled" else render.took(view),
        "NOTE": render.note(view),
    }
    return ListLine(view, mark_of(view), cells)


def mark_of(view: "wire.WorkflowView") -> str:
    """Return ``!`` for what has failures, or keeps failing, ``?`` for what waits for a person, and nothing for the others."""
    if view.state == "failed" or view.counts.get("failed") or view.keeps_failing:
        return _BROKEN
    return _WAITS if view.state == "paused" or (view.waits_for_person and not view.is_finished) else ""


def _short(views: "Sequence[wire.WorkflowView]") -> int:
    """Return to how many characters ids can be shortened."""
    length = _SHORT
    while len({view.id[:length] for view in views}) < len({view.id for view in views}):
        length += 1
    return length


def _width(lines: Sequence[ListLine], heads: Sequence[str]) -> int:
    widths = [max(map(render.width_of, [each, *(line.cells[each] for line in lines)])) for each in heads]
    return 2 + sum(widths) + 2 * len(heads) + _BAR


def _shorten_names(lines: Sequence[ListLine], too_much: int, *, least: int) -> bool:
    """Shorten the longest names, to ``least`` columns if need be; say whether there are any so long."""
    longest = max(render.width_of(line.cells["NAME"]) for line in lines)
    for line in lines:
        line.cells["NAME"] = render.within(line.cells["NAME"], max(least, longest - too_much))
    return longest > least


def _drawn(lines: Sequence[ListLine], heads: Sequence[str], *, has_notes_below: bool) -> Iterator[str]:
    at = heads.index("TASKS") + 1
    widths = [max(map(render.width_of, [each, *(line.cells[each] for line in lines)])) for each in heads]
    shown = [click.style(each, bold=True) + " " * (width - len(each)) for each, width in zip(heads, widths, strict=True)]
    shown.insert(at, " " * _BAR)
    yield f"  {'  '.join(shown)}".rstrip()
    for line in lines:
        cells = [
            render.state(line.cells[each]) + " " * (width - render.width_of(line.cells[each]))
            for each, width in zip(heads, widths, strict=True)
        ]
        taken = sum(bars.cells_of(line.view.counts, _BAR).values())
        cells.insert(at, bars.bar(line.view.counts, _BAR) + " " * (_BAR - taken))
        mark = click.style(line.mark, fg=_COLOURS.get(line.mark), bold=True) if line.mark else " "
        yield f"{mark} {'  '.join(cells)}".rstrip()
        if has_notes_below and line.cells["NOTE"]:
            yield f"    {line.cells['NOTE']}"


def _what_next(views: "Sequence[wire.WorkflowView]") -> Iterator[str]:
    """Count what is broken and what waits, and return what is worth a look."""
    marks = [mark_of(view) for view in views]
    broken, waiting = marks.count(_BROKEN), marks.count(_WAITS)
    counted = {f"{_BROKEN} {broken:,} with failures": broken, f"{_WAITS} {waiting:,} waiting for a person": waiting}
    if any(marks):
        yield f"{', '.join(words for words, count in counted.items() if count)}, of {render.number(len(views), 'workflow')}"
    if broken + waiting > 1:
        yield "next: dyrygentctl explain"
    else:
        marked = next((view for view, mark in zip(views, marks, strict=True) if mark), None)
        verb, view = ("explain", marked) if marked is not None else ("show", views[0])
        yield f"next: {render.shell('dyrygentctl', verb, view.id)}"

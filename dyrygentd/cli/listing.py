"""`dyrygentctl list`: which workflows there are, and which of them are broken or wait for a person."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from dyrygentd.cli import bars, render
from dyrygentd.cli.choosing import states_of
from dyrygentd.cli.session import Session, command, echo_json, pairs, say, say_health
from dyrygentd.cli.times import Moment, head, in_column, moment
from dyrygentd.cli.tree import TreeLine, left_out, tree_of

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
@click.option("--parent", metavar="REF", help="Only the children of this workflow: those that are the work of its nodes.")
@click.option("--children", is_flag=True, help="Children of others, too, and not only what somebody submitted.")
@click.option("--tree", is_flag=True, help="Each with its children below it, as they began.")
@click.option("--series", metavar="NAME", help="Only the runs of this series.")
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
    parent: str | None,
    children: bool,
    tree: bool,
    series: str | None,
    limit: int,
    is_all: bool,
) -> None:
    """List workflows, those created last first.

    TASKS has how many succeeded or were skipped, of how many, and a bar of all by their state.

    Workflows that are the work of a node of another one, its children, are left out without --parent, --children or --tree.

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
    if tree and children:
        raise click.UsageError("--tree has the children below what they belong to: leave --children out")
    client = session.client()
    views = client.list(
        states=states,
        name=name,
        labels=labels,
        limit=wanted,
        by_end=ended_since is not None,
        parent_task=parent_task,
        series=series,
        parent=parent,
        with_children=children,
        since=since,
        until=until,
        ended_since=ended_since,
    )
    has_more = not is_all and len(views) > limit
    shown = tree_of(client, views if is_all else views[:limit]) if tree else [*map(TreeLine, views if is_all else views[:limit])]
    if session.is_json:
        echo_json([branch.view for branch in shown])
        return
    _show(shown, client.health(), by_end=ended_since is not None, more=f"--limit {limit * 5}, or --all" if has_more else "")


def _show(shown: Sequence[TreeLine], health: "wire.Health", *, by_end: bool, more: str) -> None:
    """Show a listing to a person, with what is worth a look next.

    Args:
        more: How to see those that were left out; empty if none were.
    """
    say_health(health)
    if words := _leader_and_lease(health):
        say(words)
    if not shown:
        say("no workflows")
        return
    screen = render.screen()
    click.echo(listing(shown, width=None if screen is None else screen.columns, by_end=by_end))
    if more:
        say(f"there are more: {more}")
    for line in left_out(shown):
        say(line)
    if screen is not None:
        for line in _what_next([branch.view for branch in shown]):
            say(line)


def _leader_and_lease(health: "wire.Health") -> str:
    """Say who leads and how the lease stands; nothing where one process alone has the database."""
    from dyrygentd import wire

    if not health.role:
        return ""
    nobody = "nobody leads" if wire.knows_nobody_leads(health) else "who leads is not known here"
    return f"{f'{health.leader} leads' if health.leader else nobody}: {wire.lease_words(health)}"


def listing(tree: Sequence[TreeLine], *, width: int | None, by_end: bool = False) -> str:
    """Return a table of workflows, children below what they belong to.

    On a terminal, which has a ``width``, each has a mark, a bar and the beginning of its id, and no line wraps: notes go below,
    then times go, and then long names are shortened, which their ``…`` says. Elsewhere everything is whole.

    Args:
        by_end: Has when they ended in the place of when they were created.
    """
    at = head("ENDED" if by_end else "CREATED")
    lines = [_line(each, at, in_column(each.view.finished_at if by_end else each.view.created_at)) for each in tree]
    heads = ["ID", "NAME", "STATE", "TASKS", at, "TOOK", "NOTE"]
    if not any(line.cells["NOTE"] for line in lines):
        heads.pop()
    if width is None:
        return render.table(heads, [[line.cells[each] for each in heads] for line in lines])
    for line in lines:
        line.cells["ID"] = line.view.id[: _short([branch.view for branch in tree])]
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


def _line(branch: TreeLine, head_of_time: str, at: str) -> ListLine:
    view = branch.view
    cells = {
        "ID": view.id,
        "NAME": branch.name,
        "STATE": view.state,
        "TASKS": render.progress(view),
        head_of_time: at,
        "TOOK": _starts(view) if view.state == "scheduled" else render.took(view),
        "NOTE": render.note(view),
    }
    return ListLine(view, mark_of(view), cells)


def _starts(view: "wire.WorkflowView") -> str:
    return f"after {view.queued_behind[:_SHORT]}" if view.queued_behind else f"starts {moment(view.start_at)}"


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

"""`dyrygentctl stats`: how the daemon stands on one screen, what is broken or short first; with ``--all`` each of its numbers.

What the daemon counts it knows; that nobody consumes a queue, or that a worker is gone, it learns by asking, which it does here
as for `explain`: while something is in flight, about the few tasks that are so for longest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.session import Session, command, echo_json, say, say_health
from dyrygentd.cli.times import localized
from dyrygentd.errors import RemoteError

if TYPE_CHECKING:
    from dyrygentd import wire

_PARTS: Final = ("engine", "store", "dispatcher", "watcher", "reports")
#: Rows of each table, and things that are stuck: with all of them it is one screen.
_ROWS_MAX: Final = 5
_STUCK_MAX: Final = 3
_NAME_MIN: Final = 12
#: Roles of daemons that do not lead.
_BESIDE: Final = frozenset({"standby", "gateway"})
_ALL: Final = "dyrygentctl stats --all"
#: ``{kind of what is short: (word, colour, command that shows the rest)}``.
_WORDS: Final = {"stuck": ("stuck", "red", "dyrygentctl explain --json"), "busy": ("full", "yellow", _ALL)}
_PEOPLE: Final = ("gate", "operator", "lost")
_UNITS: Final = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Show each number, those that are 0, too.")
@click.option("--tasks", "is_tasks", is_flag=True, help="Show how long tasks take, by their names.")
@command
def stats(session: Session, is_all: bool, is_tasks: bool) -> None:
    """Show how the daemon stands: what is stuck or full, what is under way, pools and queues. --json has each number.

    \b
    Example: dyrygentctl stats --tasks
    """
    if is_tasks:
        _show_run_times(session)
        return
    statistics = session.client().stats()
    if session.is_json:
        echo_json(statistics)
        return
    say_health(statistics)
    if is_all:
        _show_numbers(statistics)
        return
    overview = _asked(session, statistics)
    lines = [] if overview is None else [*_trouble(overview)]
    for line in [*lines, *_fields(statistics), *_pools(statistics), *_queues(statistics)]:
        click.echo(line)
    say(f"\nnext: {_next(statistics, is_short=bool(lines))}\n  or: {_ALL}")


def _asked(session: Session, statistics: "wire.Statistics") -> "wire.Overview | None":
    """Ask what is stuck or full; of nothing that is in flight or waits for a place nothing can be."""
    engine = statistics.engine
    if not (_number(engine, "in_flight") or any(pool.get("waiting") for pool in engine.get("pools", ()))):
        return None
    try:
        return session.client().explain(most=_STUCK_MAX)
    except RemoteError:
        # Of an older daemon, or of a database that cannot be read, which is a problem that was told already.
        return None


def _trouble(overview: "wire.Overview") -> Iterator[str]:
    items = [item for item in overview.items if item.kind in _WORDS]
    for kind, (word, colour, rest) in _WORDS.items():
        for item in [each for each in items if each.kind == kind]:
            yield f"{click.style(word, fg=colour)}: {_told(item.text)}"
            yield from (f"  next: {_told(step)}" for step in item.next_steps[:1])
        if overview.left_out.get(kind):
            yield f"and {overview.left_out[kind]:,} more are {word}: {rest}"
    if items:
        yield ""


def _told(text: str) -> str:
    return localized(render.inline(text))


def _beside_a_leader(statistics: "wire.Statistics") -> str:
    """Say of a daemon that does not lead who does; what is under way is counted by that one."""
    from dyrygentd import wire

    heard = "" if statistics.lag_s is None else f", heard of {render.duration(statistics.lag_s)} ago"
    nobody = "nobody at present" if wire.knows_nobody_leads(statistics) else "not known here, see the problem"
    return render.fields(
        {
            "daemon": f"{statistics.version}, a {statistics.role} for {render.duration(statistics.uptime_s)}",
            "leader": f"{statistics.leader}{heard}" if statistics.leader else nobody,
            "lease": _lease(statistics),
            "workflows": f"{_number(statistics.engine, 'workflows'):,.0f} unfinished; the leader's own `stats` has the rest",
        }
    )


def _lease(statistics: "wire.Statistics") -> str:
    """Say how the lease stands, but for who leads; nothing where one process alone has the database."""
    from dyrygentd import wire

    return wire.lease_words(statistics)


def _fields(statistics: "wire.Statistics") -> Iterator[str]:
    """Say in a few lines how it stands."""
    engine, store = statistics.engine, statistics.store
    if statistics.role in _BESIDE:
        yield _beside_a_leader(statistics)
        return
    counters, nodes, held = (engine.get(name, {}) for name in ("counters", "nodes", "held"))
    ended = _number(counters, "succeeded") + _number(counters, "failed")
    commits = _number(store, "commits")
    ready_s = f", ready ones for {render.duration(_number(engine, 'oldest_ready_s'))} at most" if nodes.get("ready") else ""
    workflows = _counted(engine.get("workflow_states", {}))
    oldest = f", the oldest for {render.duration(_number(engine, 'oldest_workflow_s'))}" if workflows else ""
    per_s = ended / statistics.uptime_s if statistics.uptime_s else 0.0
    # One that takes over was up before.
    leads = ", the leader for" if statistics.role else ", up for"
    since = {word: counters.get(word, 0) for word in ("dispatched", "succeeded", "failed", "retried", "lost", "redelivered")}
    yield render.fields(
        {
            "daemon": f"{statistics.version}{leads} {render.duration(statistics.uptime_s)}",
            "lease": _lease(statistics),
            "workflows": f"{workflows}{oldest}" if workflows else "none under way",
            "in flight": f"{_number(engine, 'in_flight'):,.0f} of {_number(engine, 'in_flight_max'):,.0f}",
            "nodes": f"{render.counts(nodes)}{ready_s}" if any(nodes.values()) else "",
            "held": _counted(held),
            "for a person": ", ".join(render.waits({word: held[word] for word in _PEOPLE if held.get(word)})),
            "since start": f"{_counted(since)}; {per_s:,.1f} ends a second on average" if any(since.values()) else "",
            "database": f"{_size(_number(store, 'database_bytes'))}, its log {_size(_number(store, 'wal_bytes'))}"
            + (f"; a commit takes {1000 * _number(store, 'commit_seconds') / commits:,.1f} ms" if commits else ""),
        }
    )


def _pools(statistics: "wire.Statistics") -> Iterator[str]:
    """Draw pools, those first that most nodes wait for."""
    pools = sorted(
        statistics.engine.get("pools", ()),
        key=lambda pool: (-_number(pool, "waiting"), -_number(pool, "used") / max(1.0, _number(pool, "size"))),
    )
    rows = [(pool.get("name", ""), *(_shown(pool, word) for word in ("used", "size", "waiting"))) for pool in pools]
    yield from _table(("POOL", "USED", "PLACES", "WAITING"), rows)


def _queues(statistics: "wire.Statistics") -> Iterator[str]:
    """Draw what became of what was sent into each queue since the daemon began, the busiest first."""
    queues = sorted(statistics.queues.items(), key=lambda each: -_number(each[1], "dispatched"))
    rows = []
    for name, sums in queues:
        ended = _number(sums, "succeeded") + _number(sums, "failed")
        mean = render.duration(_number(sums, "seconds") / ended) if ended else ""
        rows.append((name, *(_shown(sums, word) for word in ("dispatched", "succeeded", "failed", "retried", "lost")), mean))
    yield from _table(("QUEUE", "SENT", "SUCCEEDED", "FAILED", "RETRIED", "LOST", "SENT TO END"), rows)


def _table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Draw the first rows of a table; long names are shortened on a terminal, which their ``…`` says."""
    if not rows:
        return
    shown, screen = rows[:_ROWS_MAX], render.screen()
    if screen is not None:
        others = sum(max(len(head), *(len(row[at]) for row in shown)) + 2 for at, head in enumerate(heads) if at)
        shown = [(render.within(render.inline(row[0]), max(_NAME_MIN, screen.columns - others)), *row[1:]) for row in shown]
    yield ""
    yield from render.table(heads, shown).split("\n")
    if len(rows) > len(shown):
        yield f"and {len(rows) - len(shown):,} more: {_ALL}"


def _next(statistics: "wire.Statistics", *, is_short: bool) -> str:
    held = statistics.engine.get("held", {})
    is_wrong = is_short or statistics.problems or any(held.get(word) for word in _PEOPLE)
    return "dyrygentctl explain" if is_wrong else "dyrygentctl stats --tasks" if statistics.tasks else "dyrygentctl list"


def _number(of: Mapping[str, Any], name: str) -> float:
    """Return a number; 0 if this daemon has none of that name."""
    found = of.get(name, 0)
    return float(found) if isinstance(found, int | float) else 0.0


def _shown(of: Mapping[str, Any], name: str) -> str:
    return f"{_number(of, name):,.0f}" if of.get(name) else ""


def _counted(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{render.state(word)} {count:,}" for word, count in numbers.items() if count)


def _size(count: float) -> str:
    """Return a number of bytes as people say it."""
    return next((f"{count / size:,.1f} {unit}" for unit, size in _UNITS if count >= size), f"{count:,.0f} B")


# --- all of it ------------------------------------------------------------------------------------------------------


def _show_numbers(statistics: "wire.Statistics") -> None:
    """Show each number, by part and name."""
    click.echo(render.fields({"version": statistics.version, "uptime": render.duration(statistics.uptime_s)}))
    for part in (*_PARTS, "lost", "queues", "tasks", "workflows"):
        click.echo(f"\n{click.style(part, bold=True)}")
        click.echo(render.fields(_flat(getattr(statistics, part))) or "nothing yet")


def _show_run_times(session: Session) -> None:
    """Show how long tasks take: half of them, and nearly all of them, at most."""
    times = session.client().run_times()
    if session.is_json:
        echo_json(times)
        return
    rows = [
        (
            render.inline(each.task),
            f"{each.count:,}",
            render.duration(each.p50_s),
            render.duration(each.p95_s),
            f"{100 * each.failing:.0f} %" if each.failing else "",
        )
        for each in times.tasks
    ]
    if rows:
        click.echo(render.table(("TASK", "RUNS", "HALF WITHIN", "95 % WITHIN", "FAILED"), rows))
    else:
        say("no task has ended yet")
    if times.left_out:
        say(f"and {times.left_out:,} more that were measured longer ago")


def _flat(part: dict[str, Any]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in part.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
            # Each describes one thing, its name first.
            for (_, first), *rest in (list(each.items()) for each in value):
                flat[f"{name}.{render.inline(first)}"] = render.inline(", ".join(f"{key} {each}" for key, each in rest))
        else:
            flat[name] = f"{value:.3f}" if isinstance(value, float) else value
    return flat

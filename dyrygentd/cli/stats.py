"""`dyrygentctl stats`: what the daemon is doing."""

from typing import Any

import click

from dyrygentd.cli import render
from dyrygentd.cli.session import Session, command, echo_json, say, say_health


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Show what is 0, too.")
@click.option("--tasks", "is_tasks", is_flag=True, help="Show how long tasks take, by their names.")
@command
def stats(session: Session, is_all: bool, is_tasks: bool) -> None:
    """Show what the daemon is doing, without what is 0. --json has all of it.

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
    click.echo(render.fields({"version": statistics.version, "uptime": render.duration(statistics.uptime_s)}))
    hidden = 0
    for part in ("engine", "store", "dispatcher", "watcher", "reports"):
        click.echo(f"\n{click.style(part, bold=True)}")
        flat = _flat(getattr(statistics, part))
        shown = flat if is_all else {name: value for name, value in flat.items() if value not in (0, "0.000")}
        click.echo(render.fields(shown) or "nothing yet")
        hidden += len(flat) - len(shown)
    if hidden:
        say(f"{hidden} more are 0: --all shows them")


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

"""`dyrygentctl timeline`: where the time went, on one screen, or as a trace for Perfetto."""

import time
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import gantt, perfetto, render
from dyrygentd.cli.session import Session, command, echo_json, fail, say
from dyrygentd.cli.writing import write_file
from dyrygentd.errors import RemoteError

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_ROWS: Final = 40
_ROWS_MIN: Final = 8
#: Lines of a screen for what stands around the rows, with the next commands and the prompt.
_AROUND: Final = 9
_PIPED: Final = 80
_OLD: Final = (404, 405)


@click.command(short_help="Show where the time went.")
@click.argument("reference", metavar="REF")
@click.option("--section", metavar="PATH", help="Open a box: a section such as drain/gra1, or ~N as the box is called.")
@click.option("--all", "is_all", is_flag=True, help="Do not shorten what is longer than a screen.")
@click.option("--bins", type=click.IntRange(2, 400), help="With --json: spans of time [default: 60].")
@click.option("--perfetto", "trace", metavar="FILE", help="Write all attempts as a trace for ui.perfetto.dev; - is stdout.")
@click.option("--force", is_flag=True, help="With --perfetto: replace a file that is there.")
@command
def timeline(
    session: Session, reference: str, section: str | None, is_all: bool, bins: int | None, trace: str | None, force: bool
) -> None:
    """Show where the time of a workflow went: for each box when its nodes waited, ran, ran again and failed.

    A node waits from when it could run until it is sent: for its turn, a place in a pool, a person, its time. Between attempts it
    pauses until the next one is due, which is no waiting. TOOK is from the first start of a box to its last end, WAITED the share
    of their time that its nodes waited. --section opens a box.

    \b
    Example: dyrygentctl timeline @latest --section drain
    Example: dyrygentctl timeline @latest --perfetto trace.json
    """
    if trace is not None and (session.is_json or section is not None):
        raise click.UsageError("--perfetto writes the whole workflow, in a form of its own: leave --json and --section out")
    if force and trace is None:
        raise click.UsageError("--force is for --perfetto")
    if bins is not None and not session.is_json:
        raise click.UsageError("--bins is for --json; on a screen there are as many as there is room for")
    handle = session.handle(reference)
    if trace is not None:
        _write(handle, trace, force=force)
        return
    screen = render.screen()
    width = _PIPED if screen is None else screen.columns
    view = fetched(handle, section or "", bins if session.is_json else gantt.columns(width))
    if session.is_json:
        echo_json(view)
        return
    rows_max = _ROWS if screen is None else max(_ROWS_MIN, screen.lines - _AROUND)
    for line in gantt.lines(view, width=width, rows_max=None if is_all else rows_max):
        click.echo(line)
    if not is_all and len(view.rows) > rows_max:
        say(f"{len(view.rows):,} boxes have no room: --all shows each")
    if screen is not None:
        for number, line in enumerate(gantt.next_commands(view)):
            say(f"{'  or' if number else 'next'}: {line}")


def fetched(handle: "Handle", path: str, bins: int | None) -> "wire.TimelineView":
    """Return the timeline of a workflow, or of a box of it; exit if there is none."""
    try:
        return handle.timeline(path, bins=bins)
    except RemoteError as error:
        if error.code == "box-not-found":
            step = render.shell("dyrygentctl", "timeline", handle.id)
            fail(error.message, next_step=f"`{step}` shows what can be opened", error=error)
        if error.status in _OLD and error.code != "workflow-not-found":
            fail("this daemon is older and has no timelines", next_step="upgrade and restart the daemon", error=error)
        raise


def _write(handle: "Handle", target: str, *, force: bool) -> None:
    view = handle.view or handle.status()
    write_file(target, perfetto.trace(view, handle.nodes(page=1000), now=time.time()), force=force)
    if target != "-":
        say(f"next: open {render.shell(target)} at https://ui.perfetto.dev: it stays in your browser")

"""`dyrygentctl watch` and `wait`: follow workflows to their end."""

import sys
from typing import TYPE_CHECKING, NoReturn

import click

from dyrygentd.cli import FAILED, INTERRUPTED, Session, command, main, render, say
from dyrygentd.errors import WaitTimeout

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle


@main.command()
@click.argument("reference", metavar="REF")
@command
def watch(session: Session, reference: str) -> None:
    """Follow a workflow to its end; exit 1 unless it succeeded. Ctrl-C leaves it running.

    \b
    Example: dyrygentctl watch @latest
    """
    follow(session, session.handle(reference))


@main.command()
@click.argument("reference", metavar="REF")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), metavar="S", help="Give up after so many seconds.")
@command
def wait(session: Session, reference: str, timeout_s: float | None) -> None:
    """Wait for the end of a workflow; exit 1 unless it succeeded, or if the time is over (stderr says which).

    \b
    Example: dyrygentctl wait @latest --timeout 3600
    """
    wait_for_end(session, session.handle(reference), timeout_s=timeout_s)


def follow(session: Session, handle: "Handle") -> None:
    """Show the progress of a workflow until its end; exit 1 unless it succeeded."""
    view = handle.status()
    try:
        if session.is_json or not sys.stderr.isatty():
            view = _follow_by_lines(session, handle, view)
        else:
            with render.LiveProgress(view) as progress:
                for view in handle.events():
                    progress.show(view)
    except KeyboardInterrupt:
        say(f"'{render.inline(view.name)}' goes on; `dyrygentctl watch {handle.id}` comes back to it")
        sys.exit(INTERRUPTED)
    if not session.is_json:
        _tell_end(handle, view)
    _exit_by(view.state)


def wait_for_end(session: Session, handle: "Handle", *, timeout_s: float | None) -> None:
    """Wait for the end and tell it; exit 1 unless the workflow succeeded."""
    from dyrygentd import wire

    try:
        handle.wait(timeout_s)
    except KeyboardInterrupt:
        say(f"the workflow goes on; `dyrygentctl wait {handle.id}` comes back to it")
        sys.exit(INTERRUPTED)
    except WaitTimeout:
        _tell_timeout(session, handle, timeout_s or 0.0)
    view = handle.status(with_result=True)
    if session.is_json:
        click.echo(wire.encode(view))
    else:
        _tell_end(handle, view)
    _exit_by(view.state)


def _follow_by_lines(session: Session, handle: "Handle", view: "wire.WorkflowView") -> "wire.WorkflowView":
    from dyrygentd import wire

    for view in handle.events():
        if session.is_json:
            click.echo(wire.encode(view))
        else:
            say(f"{render.moment(view.finished_at or _now())} {render.summary(view)}")
    return view


def _tell_timeout(session: Session, handle: "Handle", timeout_s: float) -> NoReturn:
    """Say that it has not failed, and how it stands; with ``--json`` its state does."""
    from dyrygentd import wire

    view = handle.status()
    if session.is_json:
        click.echo(wire.encode(view))
    say(f"timeout: '{render.inline(view.name)}' has not finished within {timeout_s:g} s; it goes on: {render.summary(view)}")
    say(f"next: {render.shell('dyrygentctl', 'explain', handle.id)}")
    sys.exit(FAILED)


def _tell_end(handle: "Handle", view: "wire.WorkflowView") -> None:
    click.echo(f"{view.state} after {render.took(view)}: {render.counts(view.counts)}")
    if view.error:
        say(f"error: {render.visible(view.error)}")
    if view.state == "failed":
        for node, _ in zip(handle.nodes(states=["failed"]), range(5), strict=False):
            say(f"'{render.inline(node.name)}' failed: {render.visible(node.error or '')}")
        say(f"next: `dyrygentctl show {handle.id}` tells the causes and how to go on")


def _exit_by(state: str) -> None:
    if state != "succeeded":
        sys.exit(FAILED)


def _now() -> float:
    import time

    return time.time()

"""`dyrygentctl watch`, `wait` and `cancel`: follow workflows to their end, or bring it about."""

import sys
from typing import TYPE_CHECKING

import click

from dyrygentd.cli import FAILED, INTERRUPTED, Session, command, main, render, say

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle


@main.command()
@click.argument("reference", metavar="REF")
@command
def watch(session: Session, reference: str) -> None:
    """Follow a workflow to its end; exit 1 unless it succeeded. Ctrl-C leaves it running."""
    follow(session, session.handle(reference))


@main.command()
@click.argument("reference", metavar="REF")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), metavar="S", help="Give up after so many seconds.")
@command
def wait(session: Session, reference: str, timeout_s: float | None) -> None:
    """Wait for the end of a workflow; exit 1 unless it succeeded."""
    wait_for_end(session, session.handle(reference), timeout_s=timeout_s)


@main.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@command
def cancel(session: Session, references: tuple[str, ...]) -> None:
    """Cancel workflows; one that has finished stays as it is."""
    from dyrygentd import wire

    # All references first: a typing error in the third must not leave two of them cancelled.
    handles = [session.handle(reference) for reference in references]
    views = []
    for handle in handles:
        was_finished = handle.status().is_finished
        view = handle.cancel().workflow
        views.append(view)
        if not session.is_json:
            words = f"{view.state} already" if was_finished else view.state
            click.echo(f"{view.id}  {render.visible(view.name)}  {words}")
    if session.is_json:
        click.echo(wire.encode(views))


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
        say(f"'{render.visible(view.name)}' goes on; `dyrygentctl watch {handle.id}` comes back to it")
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


def _tell_end(handle: "Handle", view: "wire.WorkflowView") -> None:
    click.echo(f"{view.state} after {render.took(view)}: {render.counts(view.counts)}")
    if view.error:
        say(f"error: {render.visible(view.error)}")
    if view.state == "failed":
        for node, _ in zip(handle.nodes(states=["failed"]), range(5), strict=False):
            say(f"'{render.visible(node.name)}' failed: {render.visible(node.error or '')}")
        say(f"next: `dyrygentctl show {handle.id}` tells more")


def _exit_by(state: str) -> None:
    if state != "succeeded":
        sys.exit(FAILED)


def _now() -> float:
    import time

    return time.time()

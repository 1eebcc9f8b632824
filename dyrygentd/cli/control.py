"""`dyrygentctl watch` and `wait`: follow workflows to their end."""

import sys
import time
from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING, Final, NoReturn

import click

from dyrygentd.cli import render, watching
from dyrygentd.cli.session import FAILED, INTERRUPTED, Session, command, echo_json, say
from dyrygentd.cli.times import Span
from dyrygentd.errors import WaitTimeout

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_LOOK_S: Final = 20.0
"""How often somebody who waits is told what has come up: as long as one poll is held."""


@click.command()
@click.argument("reference", metavar="REF")
@command
def watch(session: Session, reference: str) -> None:
    """Follow a workflow to its end; exit 1 unless it succeeded. Ctrl-C leaves it running.

    Failures, gates and a broken broker are told as they come. --json prints the workflow after each change, one object a line.

    \b
    Example: dyrygentctl watch @latest
    """
    follow(session, session.handle(reference))


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--timeout", "timeout_s", type=Span(), metavar="S", help="Give up after so many seconds, or after 5m, 1h30m, 2d.")
@command
def wait(session: Session, reference: str, timeout_s: float | None) -> None:
    """Wait for the end of a workflow; exit 1 unless it succeeded, or if the time is over (stderr says which).

    \b
    Example: dyrygentctl wait @latest --timeout 1h
    """
    wait_for_end(session, session.handle(reference), timeout_s=timeout_s)


def follow(session: Session, handle: "Handle") -> None:
    """Show the progress of a workflow until its end; exit 1 unless it succeeded."""
    view, failures = handle.status(), None
    try:
        if session.is_json:
            for view in handle.events():
                echo_json(view)
        elif not sys.stderr.isatty():
            failures = watching.Failures(handle, view)
            lines = watching.Lines()
            for view in handle.events():
                lines.show(view)
                for words in failures.new(view):
                    say(words)
        else:
            failures = watching.Failures(handle, view)
            with watching.LiveProgress(view) as progress:
                for view in handle.events():
                    progress.show(view)
                    for words in failures.new(view):
                        progress.say(words)
    except KeyboardInterrupt:
        say(f"'{render.inline(view.name)}' goes on; `dyrygentctl watch {handle.id}` comes back to it")
        sys.exit(INTERRUPTED)
    if not session.is_json:
        _tell_end(handle, view, told=() if failures is None else failures.told)
    _exit_by(view.state)


def wait_for_end(session: Session, handle: "Handle", *, timeout_s: float | None = None) -> None:
    """Wait for the end and tell it; exit 1 unless the workflow succeeded."""

    try:
        _wait(session, handle, timeout_s)
    except KeyboardInterrupt:
        say(f"the workflow goes on; `dyrygentctl wait {handle.id}` comes back to it")
        sys.exit(INTERRUPTED)
    except WaitTimeout:
        _tell_timeout(session, handle, timeout_s or 0.0)
    view = handle.status(with_result=True)
    if session.is_json:
        echo_json(view)
    else:
        _tell_end(handle, view)
    _exit_by(view.state)


def _wait(session: Session, handle: "Handle", timeout_s: float | None) -> None:
    """Wait for the end; what keeps it from coming is told as soon as it is seen. Raises `WaitTimeout`."""
    until, told = None if timeout_s is None else time.monotonic() + timeout_s, set[str]()
    while True:
        view = handle.status()
        if not session.is_json:
            for words in watching.troubles(view):
                if words not in told:
                    told.add(words)
                    say(words)
        left_s = _LOOK_S if until is None else until - time.monotonic()
        try:
            handle.wait(max(0.0, min(left_s, _LOOK_S)))
        except WaitTimeout:
            if until is not None and time.monotonic() >= until:
                raise
        else:
            return


def _tell_timeout(session: Session, handle: "Handle", timeout_s: float) -> NoReturn:
    """Say that it has not failed, and how it stands; with ``--json`` its state does."""

    view = handle.status()
    if session.is_json:
        echo_json(view)
    say(f"timeout: '{render.inline(view.name)}' has not finished within {_given(timeout_s)}; it goes on: {render.summary(view)}")
    say(f"next: {render.shell('dyrygentctl', 'explain', handle.id)}")
    sys.exit(FAILED)


def _given(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else render.duration(seconds)


def _tell_end(handle: "Handle", view: "wire.WorkflowView", *, told: Collection[str] = ()) -> None:
    """Say how it ended, and of what.

    Args:
        told: Nodes whose failures stand on the screen already.
    """
    click.echo(f"{view.state} after {render.took(view)}: {render.counts(view.counts)}")
    failed = list(islice(handle.nodes(states=["failed"]), 5)) if view.state == "failed" else []
    if view.error and not any(view.error.startswith(f"'{node.name}' failed: ") for node in failed):
        say(f"error: {render.visible(view.error)}")
    if view.state == "failed":
        for node in failed:
            if node.name in told:
                continue
            say(f"'{render.inline(node.name)}' failed: {render.visible(node.error or '')}")
        say(f"next: `dyrygentctl show {handle.id}` tells the causes and how to go on")


def _exit_by(state: str) -> None:
    if state != "succeeded":
        sys.exit(FAILED)

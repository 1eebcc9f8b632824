"""`dyrygentctl watch` and `wait`: follow workflows to their end."""

import importlib.util
import os
import sys
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NoReturn

import click

from dyrygentd.cli import render, watching
from dyrygentd.cli.choosing import UNFINISHED
from dyrygentd.cli.session import FAILED, INTERRUPTED, Session, command, echo_json, fail, say
from dyrygentd.cli.standstill import Standstill
from dyrygentd.cli.time_left import TimeLeft
from dyrygentd.cli.times import Span
from dyrygentd.errors import WaitTimeout

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_FAILED_TOLD: Final = 5


@click.command()
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--plain", "is_plain", is_flag=True, help="A few lines of progress on a terminal, too.")
@command
def watch(session: Session, reference: str | None, is_plain: bool) -> None:
    """Follow a workflow to its end; exit 1 unless it succeeded. Ctrl-C leaves it running.

    On a terminal it fills the screen: boxes to open, failures by cause, what is in flight, and keys that explain and act (? lists
    them). It stays after a failure, until q. Without REF one is chosen there. That needs the extra `tui`. Otherwise, and with
    --plain, failures, gates and a broken broker are told as they come. --json prints the workflow after each change, one object a
    line.

    \b
    Example: dyrygentctl watch @latest
    """
    if not (is_plain or session.is_json) and _fills_screen():
        _watch_on_screen(session, reference)
        return
    if reference is None:
        raise click.UsageError("name a workflow; without a name one is chosen on a terminal, with the extra `tui`")
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
    wait_for_end(session, session.handle(reference, with_result=True), timeout_s=timeout_s)


def follow(session: Session, handle: "Handle") -> None:
    """Show the progress of a workflow until its end; exit 1 unless it succeeded."""
    view, failures = handle.view or handle.status(), None
    # Of one that has ended there is nothing to follow.
    views = iter([view]) if view.is_finished else handle.events()
    try:
        if session.is_json:
            for view in views:
                echo_json(view)
        elif not sys.stderr.isatty():
            failures = watching.Failures(handle, view)
            lines = watching.Lines()
            for view in Standstill(handle, say).over(views):
                lines.show(view)
                for words in failures.new(view):
                    say(words)
        else:
            failures = watching.Failures(handle, view)
            with watching.LiveProgress(view, TimeLeft(handle)) as progress:
                for view in Standstill(handle, progress.say).over(views):
                    progress.show(view)
                    for words in failures.new(view):
                        progress.say(words)
    except KeyboardInterrupt:
        _tell_left(view)
    if not session.is_json:
        _tell_end(handle, view, told=() if failures is None else failures.told)
    _exit_by(view.state)


def _fills_screen() -> bool:
    """Tell whether there is a terminal to fill, and what fills it; what is missing is told."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if not all(stream is not None and stream.isatty() for stream in streams) or os.environ.get("TERM", "dumb") == "dumb":
        return False
    if importlib.util.find_spec("textual") is None:
        say("a view that fills the screen comes with: pip install 'dyrygentd[tui]'")
        return False
    return True


def _watch_on_screen(session: Session, reference: str | None) -> None:
    """Show it until it ends, or until somebody leaves; then tell how it stands, as `follow` does."""
    view = None if reference is None else session.handle(reference).view
    if reference is None and not session.client().list(states=UNFINISHED, limit=1):
        say("there is no workflow that has not finished; `dyrygentctl list` shows the others")
        return
    if view is None or not view.is_finished or view.state == "failed":
        from dyrygentd.cli.tui.app import WatchApp

        # Without the mouse, so that a terminal's own selection copies the commands that are shown.
        ended = WatchApp(session.way(), view).run(mouse=False)
        if ended is None:
            sys.exit(FAILED)
        if ended.error is not None:
            raise ended.error
        view = ended.view
    if view is None:
        return
    if not view.is_finished:
        _tell_left(view)
    _tell_end(session.client().handle(view), view)
    _exit_by(view.state)


def _tell_left(view: "wire.WorkflowView") -> NoReturn:
    say(f"'{render.inline(view.name)}' goes on; `dyrygentctl watch {view.id}` comes back to it")
    sys.exit(INTERRUPTED)


def wait_for_end(session: Session, handle: "Handle", *, timeout_s: float | None = None) -> None:
    """Wait for the end and tell it; exit 1 unless the workflow succeeded."""
    look, failed = _Look(session), None
    try:
        look.take(handle.view or handle.status(with_result=True))
        if not look.view.is_finished:
            with Standstill(handle, look.say) as look.standstill:
                look.take(look.view)
                failed = handle.wait(timeout_s, tell=look.take).failed_nodes
    except KeyboardInterrupt:
        say(f"the workflow goes on; `dyrygentctl wait {handle.id}` comes back to it")
        sys.exit(INTERRUPTED)
    except WaitTimeout:
        _tell_timeout(session, handle, timeout_s or 0.0)
    if session.is_json:
        echo_json(look.view)
    else:
        _tell_end(handle, look.view, failed=failed)
    _exit_by(look.view.state)


class _Look:
    """Tells somebody who waits what keeps the end from coming, once each.

    Attributes:
        view: The last one.
    """

    view: "wire.WorkflowView"

    def __init__(self, session: Session) -> None:
        self.standstill: Standstill | None = None
        self._is_silent = session.is_json
        self._told = set[str]()

    def take(self, view: "wire.WorkflowView") -> None:
        """Take a view."""
        self.view = view
        if self.standstill is not None:
            self.standstill.note(view)
        for words in watching.troubles(view):
            self.say(words)

    def say(self, words: str) -> None:
        """Tell something, unless it was told or nobody reads it."""
        if not self._is_silent and words not in self._told:
            self._told.add(words)
            say(words)


def _tell_timeout(session: Session, handle: "Handle", timeout_s: float) -> NoReturn:
    """Say that it has not failed, and how it stands."""
    view = handle.status()
    words = f"'{render.inline(view.name)}' has not finished within {_given(timeout_s)}; it goes on: {render.summary(view)}"
    next_step = render.shell("dyrygentctl", "explain", handle.id)
    if session.is_json:
        echo_json(view)
        fail(words, next_step=next_step)
    say(f"timeout: {words}")
    say(f"next: {next_step}")
    sys.exit(FAILED)


def _given(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else render.duration(seconds)


def _tell_end(
    handle: "Handle",
    view: "wire.WorkflowView",
    *,
    failed: "Sequence[wire.NodeView] | None" = None,
    told: Collection[str] = (),
) -> None:
    """Say how it ended, and of what.

    Args:
        failed: The nodes that failed, if they are known.
        told: Nodes whose failures stand on the screen already.
    """
    click.echo(f"{view.state} after {render.took(view)}: {render.counts(view.counts)}")
    if failed is None:
        failed = list(islice(handle.nodes(states=["failed"]), _FAILED_TOLD)) if view.state == "failed" else []
    failed = failed[:_FAILED_TOLD]
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

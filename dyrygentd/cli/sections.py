"""The nodes of a section, or of a box of the fold: to be shown, or as those that a verb is for."""

import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.session import Session, confirm, fail
from dyrygentd.errors import RemoteError

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_OLD: Final = (404, 405)
"""What an older daemon answers to a path that it does not know."""
_ENDED: Final = ("failed", "cancelled", "held")
_NAMED_MAX: Final = 3
_PAGE: Final = 1000


def nodes_in(handle: "Handle", states: tuple[str, ...], section: str, *, page: int = 500) -> "Iterator[wire.NodeView]":
    """Return the nodes in a section or box, with the first of them read already; exit if there is no such box."""
    try:
        # An older daemon has none, and would list all nodes.
        handle.fold()
        nodes = handle.nodes(states=states, path=section, page=page)
        return chain([*islice(nodes, 1)], nodes)
    except RemoteError as error:
        if error.code == "box-not-found":
            step = render.shell("dyrygentctl", "graph", handle.id)
            fail(str(error), next_step=f"`{step}` shows sections and boxes", error=error)
        if error.status in _OLD and error.code != "workflow-not-found":
            fail("this daemon is older and knows no sections", next_step="use --nodes, or upgrade and restart the daemon")
        raise


def chosen_in(session: Session, verb: str, reference: str, section: str, *, is_yes: bool) -> tuple[str, tuple[str, ...]]:
    """Return the workflow's id, and of a section what failed, was lost or cancelled, once somebody has said yes to it.

    Exits if there is none, or the answer is no.
    """
    if not (is_yes or sys.stdin.isatty()):
        raise click.UsageError("nobody can be asked here: add --yes")
    handle = session.handle(reference)
    nodes = nodes_in(handle, _ENDED, section, page=_PAGE)
    names = tuple(node.name for node in nodes if node.state != "held" or node.hold == "lost")
    where = f"'{render.inline(section)}'"
    if not names:
        shown = render.shell("dyrygentctl", "show", handle.id, "--section", section)
        fail(f"nothing in {where} has failed, was lost or cancelled", next_step=f"`{shown}` shows how it stands")
    if not is_yes:
        named = ", ".join(f"'{render.inline(name)}'" for name in names[:_NAMED_MAX])
        more = f" and {len(names) - _NAMED_MAX:,} more" if len(names) > _NAMED_MAX else ""
        confirm(f"{verb} {render.number(len(names), 'node')} in {where}: {named}{more}?")
    return handle.id, names

"""Help with names of nodes that are not quite right."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render
from dyrygentd.errors import DyrygentError, RemoteError

if TYPE_CHECKING:
    from dyrygentd.client.sync import Client, Handle

_LOOKED_AT_MAX: Final = 20_000
"""Names that are compared: a second's work."""

_PAGE: Final = 1000
_NAMED_MAX: Final = 3
_MATCHES_MAX: Final = 5


def node_hint(handle: "Handle", error: RemoteError) -> str:
    """Return the next step after the daemon has found no node of a name: those of similar names, if there are any.

    What is in the workflow of a node is not looked through: where it can be listed is said.
    """
    facts = error.document.get("facts")
    wanted = str(facts.get("node", "")) if isinstance(facts, dict) else ""
    try:
        nodes = [*itertools.islice(handle.nodes(page=_PAGE), _LOOKED_AT_MAX)]
        names = [node.name for node in nodes]
        around = max((name for name in names if wanted.startswith(f"{name}[")), key=len, default=None)
        if around is not None and (child := handle.node(around).child) is not None:
            return f"`{render.shell('dyrygentctl', 'show', child.id, '--nodes')}` lists the members of '{around}'"
        has_children = any(node.child is not None for node in nodes)
    except DyrygentError:
        names, has_children = [], False  # The first error is what matters.
    close = similar(wanted, names)
    if close:
        return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    below = f", `dyrygentctl list --parent {handle.id}` the workflows below it" if has_children else ""
    return f"`dyrygentctl show {handle.id} --nodes` lists its nodes{below}"


@contextmanager
def hinting(handle: "Handle") -> Iterator[None]:
    """Have the error name similar nodes if the daemon finds none of a name."""
    try:
        yield
    except RemoteError as error:
        if error.code == "node-not-found":
            error.next_step = node_hint(handle, error)
        raise


def ambiguous(client: "Client", error: RemoteError) -> tuple[str, str]:
    """Return words and next step about a reference that fits several workflows: states and ages tell which one is meant."""
    facts = error.document.get("facts")
    matches = facts.get("matches") if isinstance(facts, dict) else None
    try:
        views = [client.get(str(each)) for each in (matches if isinstance(matches, list) else [])[:_MATCHES_MAX]]
    except DyrygentError:
        views = []  # One of them was deleted meanwhile.
    rows = [(view.id, view.name, view.state, f"{render.duration(time.time() - view.created_at)} old") for view in views]
    table = "".join(f"\n  {line}" for line in render.table(("ID", "NAME", "STATE", "AGE"), rows).splitlines()) if rows else ""
    unfinished = [view.id for view in views if not view.is_finished]
    step = f"{unfinished[0]} is the only one of them that has not finished" if len(unfinished) == 1 else error.next_step
    return f"{error.message}{table and ':'}{click.unstyle(table)}", step


def similar(wanted: str, names: list[str]) -> list[str]:
    """Return the names that are most like the wanted one."""
    import difflib

    folded = wanted.casefold()
    return (
        [name for name in names if name.casefold() == folded]
        or difflib.get_close_matches(wanted, names, n=_NAMED_MAX)
        or [name for name in names if folded and folded in name.casefold()]
    )[:_NAMED_MAX]

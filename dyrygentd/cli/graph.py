"""`dyrygentctl graph`: the shape of a workflow on one screen, of any size at one cost, as the daemon has folded it."""

from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import boxes, dot, render
from dyrygentd.cli.levels import show_levels, write_levels
from dyrygentd.cli.session import Session, command, echo_json, fail, say
from dyrygentd.errors import RemoteError

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

#: So many nodes Graphviz draws within seconds, and people can look at.
_DOT_NODES_MAX: Final = 2_000
_ROWS: Final = 40
_ROWS_MIN: Final = 8
_PAGE: Final = 1000
_OLD: Final = (404, 405)


@click.command(short_help="Show the shape of a workflow, folded to a screen.")
@click.argument("reference", metavar="REF")
@click.option("--section", metavar="PATH", help="Open a box: a section such as drain/gra1, or ~N as the box is called.")
@click.option("--dot", "is_dot", is_flag=True, help="For Graphviz: pipe it into `dot -Tsvg`.")
@click.option("--nodes", "is_nodes", is_flag=True, help="With --dot: draw all nodes, however many they are.")
@click.option("--all", "is_all", is_flag=True, help="Do not shorten what is longer than a screen.")
@command
def graph(session: Session, reference: str, section: str | None, is_dot: bool, is_nodes: bool, is_all: bool) -> None:
    """Show the shape of a workflow: its sections, tasks and levels as boxes, with how many of their nodes are in which state.

    AFTER has the numbers of the boxes that a box waits for. --section opens one of them; what is done by a workflow of its own is
    shown by that one's id, which `show REF NODE` has. --dot draws nodes, and beyond 2,000 of
    them boxes. --json holds the levels of all nodes, with --section what the daemon has folded (--section '' for the whole).

    \b
    Example: dyrygentctl graph @latest --section drain
    Example: dyrygentctl graph @latest --dot | dot -Tsvg > graph.svg
    """
    if is_nodes and (section is not None or not is_dot):
        raise click.UsageError("--nodes is for --dot, and draws the whole workflow")
    handle = session.handle(reference)
    view = handle.view or handle.status()
    if is_dot:
        _draw(handle, view, section, is_nodes=is_nodes)
        return
    if session.is_json and section is None:
        write_levels(view, list(handle.nodes(page=_PAGE)))
        return
    fold = _fold(handle, section or "")
    if fold is None:
        _show_without_fold(session, handle, view, section, is_all=is_all)
    elif session.is_json:
        echo_json(fold)
    else:
        _show(fold, is_all=is_all)


def _show(fold: "wire.FoldView", *, is_all: bool) -> None:
    screen = render.screen()
    rows_max = _ROWS if screen is None else max(_ROWS_MIN, screen.lines - boxes.around(fold))
    width = None if screen is None else screen.columns
    for line in boxes.lines(fold, width=width, rows_max=None if is_all else rows_max):
        click.echo(line)
    if not is_all and len(fold.boxes) > rows_max:
        say(f"some of {len(fold.boxes):,} boxes share a row: --all shows each")
    if fold.edges_left_out:
        say(f"{fold.edges_left_out:,} more boxes wait for others than AFTER says")
    if screen is not None:
        for number, line in enumerate(boxes.next_commands(fold)):
            say(f"{'  or' if number else 'next'}: {line}")


def _draw(handle: "Handle", view: "wire.WorkflowView", section: str | None, *, is_nodes: bool) -> None:
    """Write a drawing for Graphviz."""
    fold = None
    if section is not None or (view.tasks > _DOT_NODES_MAX and not is_nodes):
        fold = _fold(handle, section or "")
    if fold is None:
        _refuse_section(section)
        dot.write_dot(view.name, list(handle.nodes(page=_PAGE)))
        return
    if section is None:
        say(f"{render.number(view.tasks, 'node')} are drawn as {len(fold.boxes):,} boxes: --nodes draws each node")
    dot.write_boxes(fold)


def _show_without_fold(
    session: Session, handle: "Handle", view: "wire.WorkflowView", section: str | None, *, is_all: bool
) -> None:
    _refuse_section(section)
    nodes = list(handle.nodes(page=_PAGE))
    if session.is_json:
        write_levels(view, nodes)
    else:
        show_levels(view, nodes, is_all=is_all)


def _refuse_section(section: str | None) -> None:
    if section:
        fail("this daemon is older and opens no sections", next_step="leave --section out, or upgrade and restart the daemon")


def _fold(handle: "Handle", path: str) -> "wire.FoldView | None":
    """Return a workflow folded, or a box of it; None if the daemon is older and cannot."""
    try:
        return handle.fold(path)
    except RemoteError as error:
        if error.code == "box-not-found":
            fail(error.message, next_step=_instead(handle, path), error=error)
        if error.status in _OLD and error.code != "workflow-not-found":
            return None
        raise


def _instead(handle: "Handle", path: str) -> str:
    """Say what to open in place of what is no box: the workflow of a node, or of a map one of whose items is meant."""
    for name in (path, path.partition("[")[0]):
        try:
            child = handle.node(name).child if name else None
        except RemoteError:
            continue
        if child is not None:
            box = ["--section", path] if name != path else []
            return f"the work of '{name}' is a workflow of its own: `{render.shell('dyrygentctl', 'graph', child.id, *box)}`"
    step = render.shell("dyrygentctl", "graph", handle.id)
    return f"`{step}` shows what can be opened; a single node: `{_node(handle.id)}`"


def _node(workflow_id: str) -> str:
    return f"{render.shell('dyrygentctl', 'show', workflow_id, '--node')} NAME"

"""From a workflow into those that are the work of its nodes, and back up, by keys."""

from typing import Any

from dyrygentd.core.parent import Parent
from tests.cli.tui.support import Seen, watched
from tests.http.support import Daemon
from tests.support.servers import wait_until

_INNER: dict[str, Any] = {
    "name": "deep work",
    "nodes": [
        {"name": "dig", "task": "add"},
        {"name": "approve", "gate": True},
        {"name": "x", "task": "add", "after": ["approve"]},
    ],
}


def _staged(daemon: Daemon) -> tuple[str, str]:
    """Submit a workflow one of whose nodes is done by another one, which waits at a gate; return the ids of both."""
    top = daemon.submit({"name": "first", "task": "add"}, {"name": "deep", "workflow": {"definition": _INNER}}, name="surface")
    child = Parent(top, 1).child_id
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{child}").status == 200)
    return top, child


def test_a_child_is_opened_and_left(holding: Daemon) -> None:
    """The box counts what is in the child; Enter shows it on a screen of its own, u goes back up, and nothing ends by that."""
    top, child = _staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("0/3")
        await seen.until("waits for a person: 1 gate waits")
        await seen.press("n")
        await seen.until(f"done by workflow {child}")
        await seen.press("enter")
        await seen.until(f"node 'deep' of workflow {top}")
        await seen.until("approve")
        await seen.press("n", "g")
        await seen.until("release the gate 'approve'?")
        await seen.press("enter")
        await seen.gone("release the gate 'approve'?")
        await seen.press("u")
        await seen.until("surface")
        await seen.until("first")
        await seen.press("u")
        await seen.until("nothing is above it")

    watched(holding, top, scene, size=(120, 40))


def test_what_is_above_a_child(holding: Daemon) -> None:
    """Whoever begins below comes up, and down again to the same screen."""
    top, child = _staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until(f"node 'deep' of workflow {top}")
        await seen.press("u")
        await seen.until("surface")
        await seen.until("0/3")
        screens = len(seen.app.screen_stack)
        await seen.press("n", "right")
        await seen.until(f"node 'deep' of workflow {top}")
        assert len(seen.app.screen_stack) == screens - 1

    watched(holding, child, scene, size=(120, 40))

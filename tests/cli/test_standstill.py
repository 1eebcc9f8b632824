"""Whoever follows a workflow is told why nothing goes on."""

import pytest

from dyrygentd import Client
from dyrygentd.cli.standstill import Standstill
from tests.cli.support import Terminal
from tests.http.support import Daemon
from tests.support.servers import wait_until


def test_a_queue_without_worker_is_told_once(idle: Daemon) -> None:
    """`watch` and `wait` that say nothing leave one to guess; that a queue has no worker is told, with the command for more."""
    workflow, told = idle.submit(), list[str]()
    wait_until(lambda: len(idle.broker.queued) == 1)
    handle = Client(idle.path).handle(workflow)
    with Standstill(handle, told.append, after_s=0.02) as standstill:
        standstill.note(handle.status())
        wait_until(lambda: bool(told))
        standstill.note(handle.status())
        asked_at = standstill._quiet._asked_at
        wait_until(lambda: standstill._quiet._asked_at > asked_at)
    assert told == [f"nothing goes on: 1 task in flight; nobody consumes queue 'celery': dyrygentctl explain {workflow}"]


def test_who_goes_on_is_not_asked_about(holding: Daemon) -> None:
    """As long as tasks end, or none is in flight, workers are left alone."""
    workflow = holding.submit({"name": "go", "gate": True}, {"name": "a", "task": "add", "after": ["go"]})
    handle = Client(holding.path).handle(workflow)
    standstill = Standstill(handle, print, after_s=0.01)
    standstill.note(handle.status())
    assert standstill._quiet._since == float("inf")
    handle.release("go")
    wait_until(lambda: len(holding.broker.published) == 1)
    wait_until(lambda: handle.status().counts.get("dispatched") == 1)
    standstill.note(handle.status())
    begun = standstill._quiet._since
    assert begun != float("inf")
    holding.let_go()
    handle.wait(10)
    standstill.note(handle.status())
    assert standstill._quiet._since == float("inf")


@pytest.mark.long
@pytest.mark.parametrize("command", [("watch", "--plain"), ("wait",)], ids=" ".join)
def test_followers_are_told(idle: Daemon, command: tuple[str, ...]) -> None:
    """On a terminal, after twenty seconds in which nothing ended."""
    workflow = idle.submit()
    following = Terminal(idle, *command, workflow)
    following.wait_for(b"nobody consumes queue 'celery': dyrygentctl explain")
    following.send(2)
    assert following.end() == 130

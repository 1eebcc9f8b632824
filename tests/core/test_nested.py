"""Signatures inside signatures: all are found, however they are hidden, and what cannot be read is said."""

from typing import Any

import pytest

from dyrygentd.core.nested import is_carrier, nested_in

LEAF = {"task": "t"}


def _found(task: str, args: Any = (), kwargs: Any = None, options: Any = None, **more: Any) -> dict[str, str]:
    """Return ``{path: task, or what is wrong}``."""
    nested = nested_in(task, args, kwargs or {}, options or {}, **more)
    return {each.path: each.problem or each.task for each in nested}


def test_plain_call_holds_nothing() -> None:
    """What looks like a signature in a plain task's arguments is data: no worker publishes it."""
    assert _found("t", [LEAF]) == {}
    assert not is_carrier("celery.backend_cleanup")
    assert is_carrier("workflow-processor")


def test_callbacks_in_options() -> None:
    """A worker publishes what follows a task, and looks for it in four options."""
    options = {"link": [LEAF, LEAF], "link_error": LEAF, "chord": LEAF, "chain": [LEAF], "queue": "q"}
    assert _found("t", options=options) == {
        "options.link[0]": "t",
        "options.link[1]": "t",
        "options.link_error": "t",
        "options.chord": "t",
        "options.chain[0]": "t",
    }


def test_callbacks_of_callbacks() -> None:
    """However deep: whoever narrows what may run means these too."""
    inner: dict[str, Any] = {"task": "deep"}
    for _ in range(2000):
        inner = {"task": "t", "options": {"link": inner}}
    assert list(_found("t", options={"link": inner}).values())[-1] == "deep"


@pytest.mark.parametrize(
    ("args", "kwargs", "found"),
    [
        ([], {"task": LEAF, "it": [LEAF]}, {"kwargs.task": "t"}),
        ([LEAF, [1]], {}, {"args[0]": "t"}),
        (["by.name", [1]], {}, {"args[0]": "by.name"}),
        ([], {}, {"kwargs.task": "holds no signature that can be read"}),
        ([5], {}, {"args[0]": "holds no signature that can be read"}),
        (None, None, {"kwargs.task": "holds no signature that can be read"}),
    ],
)
def test_maps_run_their_first_argument(args: Any, kwargs: Any, found: dict[str, str]) -> None:
    """The items beside it are data, and stay unread."""
    assert _found("celery.map", args, kwargs) == found


def test_carriers_run_what_is_in_their_arguments() -> None:
    """A group, a chord or a chain in a worker: signatures in lists, in fields and in each other."""
    kwargs = {"tasks": [LEAF, {"task": {"task": "inner"}}, "text", {"more": [[LEAF]]}], "body": LEAF, "n": 5}
    assert _found("celery.chord", [], kwargs) == {
        "kwargs.tasks[0]": "t",
        "kwargs.tasks[1].task": "inner",
        "kwargs.tasks[3].more[0][0]": "t",
        "kwargs.body": "t",
    }


def test_what_cannot_be_read_is_said() -> None:
    """Nobody can tell what it would run, so nobody may pass it by."""
    unreadable = "holds no signature that can be read"
    assert _found("t", options={"link": [5]}) == {"options.link[0]": unreadable}
    assert _found("t", options={"link": {"task": "a", "options": 5}}) == {"options.link": unreadable}
    assert _found("celery.group", [{"task": 5}]) == {"args[0].task": unreadable}


def test_a_value_that_is_to_come() -> None:
    """A carrier that takes another task's value would run whatever that is; canvases hand it on, immutable ones get none."""
    words = "would run what another task returns, which cannot be known"
    assert _found("celery.group", takes_value=True) == {"args": words}
    link = {"task": "celery.group", "args": [LEAF]}
    assert list(nested_in("t", (), {}, {"link": link}))[1].problem == words
    for more in ({"immutable": True}, {"subtask_type": "group"}):
        assert _found("t", options={"link": link | more}) == {"options.link": "celery.group", "options.link.args[0]": "t"}
    assert _found("t", options={"link": {"task": "x", "subtask_type": "xmap", "args": [LEAF]}})["options.link.args[0]"] == "t"

"""The task ids of a definition: those that somebody has chosen, and those that are made."""

import json
from typing import Any

import pytest
from celery import chain, chord, group

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.errors import BadNode, DuplicateTaskId
from dyrygentd.wire import encode_definition
from tests.canvas.support import a, b, c, chosen_of, d, edges


def test_each_definition_has_its_own_task_ids() -> None:
    """Submitting one canvas or workflow twice never makes two tasks of one id that nobody has chosen."""
    workflow = Workflow()
    workflow.add(a.s())
    for what in (workflow, a.s()):
        assert definition_of(what).graph.task_ids[0] != definition_of(what).graph.task_ids[0]


@pytest.mark.parametrize(
    ("canvas", "chosen"),
    [
        (lambda: a.s().set(task_id="x"), {"a-1": "x"}),
        (lambda: chain(a.s(), b.s().set(task_id="x")), {"b-2": "x"}),
        (lambda: chain(a.s(), b.s(), task_id="x"), {"b-2": "x"}),
        (lambda: chain(a.s(), b.s().set(task_id="own"), task_id="x"), {"b-2": "own"}),
        (lambda: chain(a.s(), chain(b.s(), c.s(), task_id="inner"), task_id="x"), {"c-3": "x"}),
        (lambda: group(a.s(), b.s().set(task_id="x")).set(task_id="of the group"), {"b-2": "x"}),
        (lambda: chain(a.s(), group(b.s(), c.s()), task_id="of the group"), {}),
        (lambda: chord([a.s().set(task_id="h"), b.s()], c.s().set(task_id="x")), {"a-1": "h", "c-4": "x"}),
        (lambda: chord([a.s(), b.s()], c.s()).set(task_id="x"), {"c-4": "x"}),
        (lambda: chord([a.s(), b.s()], chain(c.s(), d.s())).set(task_id="x"), {"d-5": "x"}),
        (lambda: a.starmap([(1,), (2,)]).set(task_id="x"), {"starmap-1": "x"}),
        (lambda: chain(a.s(), group(b.s(), c.s()), d.s().set(task_id="x")), {"d-5": "x"}),
    ],
)
def test_ids_that_users_choose_are_kept(canvas: Any, chosen: dict[str, str]) -> None:
    """A task's own id, and a container's for what ends last in it, are those of the first attempt, as on Celery."""
    assert chosen_of(canvas()) == chosen


@pytest.mark.parametrize(
    "canvas",
    [
        lambda: a.s(),
        lambda: chain(a.s(), b.s(), c.s()),
        lambda: group(a.s(), b.s()),
        lambda: chord([a.s(), b.s()], c.s()),
        lambda: chain(a.s(), group(b.s(), c.s()), d.s()),
        lambda: group(chain(a.s(), b.s()), c.s()),
        lambda: chord([chain(a.s(), b.s()), c.s()], chain(c.s(), d.s())),
    ],
)
def test_frozen_canvases_keep_all_ids(canvas: Any) -> None:
    """Whoever freezes first holds the results that the submission will have, and the graph is the same."""
    plain = definition_of(canvas())
    frozen = canvas()
    result = frozen.freeze()
    found = definition_of(frozen)
    assert edges(found) == edges(plain)
    assert len(chosen_of(frozen)) == found.graph.task_count
    wanted = [result] if not hasattr(result, "results") else list(result.results)
    wanted += [parent for each in wanted for parent in _parents(each)] + _parents(result)
    ids = {each.id for one in wanted for each in (one.results if hasattr(one, "results") else [one])}
    assert ids <= set(found.graph.task_ids)


def _parents(result: Any) -> list[Any]:
    found = []
    while result.parent is not None:
        result = result.parent
        found.append(result)
    return found


@pytest.mark.parametrize("task_id", [7, "x" * 201, "a\nb"])
def test_ids_that_cannot_be_used(task_id: Any) -> None:
    """They stand in keys, logs and on terminals."""
    with pytest.raises(BadNode, match="`task_id` must be printable text"):
        definition_of(a.s().set(task_id=task_id))


def test_one_signature_twice_with_an_id() -> None:
    """Two tasks of one id would be taken for one another."""
    with pytest.raises(DuplicateTaskId, match="'a-1', 'a-2'"):
        definition_of(group(a.s().set(task_id="x"), a.s().set(task_id="x")))


def test_clients_leave_out_the_ids_that_nobody_has_chosen() -> None:
    """The daemon makes them, and need not look whether somebody has them."""
    body = json.loads(encode_definition(definition_of(chain(a.s(), b.s(), task_id="x")), chosen_ids_only=True))
    assert [node.get("task_id") for node in body["nodes"]] == [None, "x"]

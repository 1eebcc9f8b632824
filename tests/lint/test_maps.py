"""What is done with each item of a map is looked at as if it stood in the workflow itself."""

from typing import Any

import pytest

from dyrygentd import Workflow
from dyrygentd.errors import BadNode
from tests.lint.support import add, app, codes, only


def mapped(do: Any, **fields: Any) -> dict[str, Any]:
    """A definition with one map."""
    return {"nodes": [{"name": "m", "map": {"over": [1, 2, 3], "do": do, **fields}}]}


@pytest.mark.parametrize(
    ("do", "fields", "found"),
    [
        ({"task": "t.add", "args": [1]}, {}, set()),
        ({"task": "t.add"}, {}, {"arguments-do-not-fit"}),
        ({"task": "t.ping"}, {}, {"arguments-do-not-fit"}),
        ({"task": "t.nobody"}, {}, {"task-not-in-app"}),
        ({"task": "t.add"}, {"spread": True, "over": [[1, 2]]}, set()),
        ({"task": "t.total"}, {"batch": 2}, set()),
        ({"task": "t.ping", "immutable": True}, {}, {"map-item-untaken"}),
        ({"task": "t.total", "options": {"priority": 99}}, {}, {"priority-range"}),
        ({"map": {"do": {"task": "t.add"}}}, {}, {"arguments-do-not-fit"}),
    ],
)
def test_what_is_done(do: Any, fields: dict[str, Any], found: set[str]) -> None:
    """A call that cannot be made is told once, before there are ten thousand of it."""
    assert {*codes(mapped(do, **fields), app=app)} == found


def test_items_that_clean_up() -> None:
    """What follows a map follows the clean-ups of its items as well: its list is handed on when all of it has ended."""
    clean = {"name": "clean", "task": "t.ping", "immutable": True, "section_end": "finally"}
    each = [{"name": "work", "task": "t.add", "args": [1]}, clean]
    assert "beside-finally" not in codes(mapped({"nodes": each, "output": "work"}), app=app)


def test_names_a_member() -> None:
    """Whoever reads it sees in which map to look."""
    nodes = [{"name": "list", "task": "t.ping"}, {"name": "m", "map": {"over": "list", "do": {"task": "t.add"}}}]
    assert only({"nodes": nodes}, "arguments-do-not-fit", app=app).node == "m[0]"
    workflow = Workflow()
    workflow.map(add.s(1), over=[1], name="n")
    with pytest.raises(BadNode, match="missing 1 required positional argument: 'y'"):
        workflow.map(add.s(), over=[1])


def test_what_is_no_map() -> None:
    """A map that cannot be read is told as any node is."""
    assert codes(mapped({"task": 7})) == {"bad-node": 1}
    assert codes({"nodes": [{"name": "m", "map": {"do": {"task": "t"}}}]}) == {"bad-node": 1}

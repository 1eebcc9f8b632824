"""The original beside ours on the same input: whatever it does without a worker, ours does too."""

import ast
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery_dyrygent
import celery_dyrygent.workflows as theirs
import pytest
from celery import Celery, chain, chord, group
from celery.canvas import xmap, xstarmap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dyrygentd.compat.celery_dyrygent as ours

Canvas = Callable[[Celery], Any]


def task(app: Celery, number: int = 1) -> Any:
    """Return a new signature."""
    return app.signature("add", args=(number, number))


CANVASES: dict[str, Canvas] = {
    "task": task,
    "immutable task": lambda app: app.signature("add", args=(1, 2), immutable=True),
    "chain": lambda app: chain(task(app), task(app), task(app)),
    "group": lambda app: group(task(app), task(app)),
    "lazy group": lambda app: group(task(app, number) for number in range(3)),
    "chord": lambda app: chord([task(app), task(app)], task(app)),
    "chord without header": lambda app: chord([], task(app)),
    "group in chain": lambda app: chain(task(app), group(task(app), task(app)), task(app)),
    "group after group": lambda app: group(task(app), task(app)) | group(task(app), task(app), task(app)),
    "three groups": lambda app: chain(*(group(task(app), task(app)) for _ in range(3))),
    "empty group in chain": lambda app: chain(task(app), group([]), task(app)),
    "chord of chains": lambda app: chord([chain(task(app), task(app)), chain(task(app), task(app))], task(app)),
    "chord in chord": lambda app: chord([chord([task(app)], task(app)), task(app)], chord([task(app)], task(app))),
    "chords in chain": lambda app: chain(*(chord([task(app), task(app)], task(app)) for _ in range(3))),
    "nested groups": lambda app: group(task(app), group(task(app), group(task(app), task(app)))),
    "body is a chain": lambda app: chord([task(app)], chain(task(app), task(app))),
    "body is a group": lambda app: chord([task(app)], group(task(app), task(app))),
    "pipes": lambda app: task(app) | group(task(app), task(app)) | task(app) | task(app),
    "ids of the user": lambda app: chain(*(task(app).set(task_id=f"osd-{number}") for number in range(3))),
}


@pytest.mark.parametrize("make", CANVASES.values(), ids=CANVASES)
def test_canvas_gives_the_same_graph(app: Celery, make: Canvas) -> None:
    """Both read one canvas into the same nodes, edges and ends, so a workflow keeps its shape when it moves over."""
    canvas = make(app)
    original, mine = theirs.Workflow(), ours.Workflow()
    ends = original.add_celery_canvas(canvas)
    assert [node.id for node in mine.add_celery_canvas(canvas)] == [node.id for node in ends]
    assert mine.to_dict() == original.to_dict()


_TREES = st.recursive(
    st.just("task"),
    lambda inner: st.tuples(st.sampled_from(["chain", "group", "chord"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_TREES)
def test_any_nesting_gives_the_same_graph(app: Celery, tree: Any) -> None:
    """The same holds for canvases that nobody thought of."""
    canvas = _built(app, tree)
    original, mine = theirs.Workflow(), ours.Workflow()
    ends = original.add_celery_canvas(canvas)
    assert [node.id for node in mine.add_celery_canvas(canvas)] == [node.id for node in ends]
    assert mine.to_dict() == original.to_dict()


def _built(app: Celery, tree: Any) -> Any:
    if tree == "task":
        return task(app)
    kind, parts = tree
    members = [_built(app, part) for part in parts]
    match kind:
        case "chain":
            return chain(*members)
        case "group":
            return group(members)
        case _:
            return chord(members[:-1], members[-1])


@pytest.mark.parametrize(
    ("make", "edges"),
    [
        (lambda app: chain(task(app)), 0),
        (lambda app: chord([task(app), task(app)]), 0),
        (lambda app: chain(task(app), xmap(task=task(app), it=[1, 2], app=app)), 1),
        (lambda app: chain(task(app), xstarmap(task=task(app), it=[(1, 2)], app=app)), 1),
        (lambda app: chain(task(app), chord([task(app), task(app)], task(app)), task(app)), 5),
    ],
    ids=["chain of one", "chord without body", "map", "starmap", "chord in the middle"],
)
def test_what_the_original_cannot_read_is_read(app: Celery, make: Canvas, edges: int) -> None:
    """Canvases on which the original stumbles with a KeyError are no reason to stay there."""
    workflow = ours.Workflow()
    workflow.add_celery_canvas(make(app))
    assert sum(dependency is not None for _, dependency in workflow.iterate_dependencies()) == edges


def test_depth_costs_no_recursion(app: Celery) -> None:
    """A canvas nested deeper than Python's stack is read."""
    depth = 2 * sys.getrecursionlimit()
    canvas = task(app)
    for _ in range(depth):
        canvas = group([task(app), canvas])
    workflow = ours.Workflow()
    assert len(workflow.add_celery_canvas(canvas)) == depth + 1


@pytest.mark.parametrize("make", CANVASES.values(), ids=CANVASES)
def test_simulated_ticks_are_the_same(app: Celery, make: Canvas) -> None:
    """A dry run goes through the same steps, and back and forth between the libraries at each of them."""
    canvas = make(app)
    original, mine = theirs.Workflow(), ours.Workflow()
    original.add_celery_canvas(canvas)
    mine.add_celery_canvas(canvas)
    while original.simulate_tick():
        assert mine.simulate_tick() is True
        assert mine.to_dict() == original.to_dict()
        # A way there and back, as a message would go it.
        original = theirs.Workflow.from_dict(json.loads(json.dumps(mine.to_dict())))
        mine = ours.Workflow.from_dict(json.loads(json.dumps(original.to_dict())))
    assert not mine.simulate_tick()
    assert mine.is_success()
    assert original.is_success()
    assert [(a.id, b and b.id) for a, b in mine.iterate_dependencies()] == [
        (a.id, b and b.id) for a, b in original.iterate_dependencies()
    ]


def test_skipping_follows_the_same_rule(app: Celery) -> None:
    """A task can be skipped with all that it waits for, and not without."""
    for library in (theirs, ours):
        workflow = library.Workflow()
        nodes = [workflow.add_celery_canvas(task(app))[0]]
        nodes += workflow.add_celery_canvas(task(app), nodes)
        with pytest.raises(library.WorkflowException, match="not all parents finished"):
            workflow.skip_tasks([nodes[1].id])
        workflow.skip_tasks([nodes[1].id, nodes[0].id])
        assert workflow.is_success()


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda library, app: library.WorkflowNode(task(app)), "not frozen"),
        (lambda library, app: library.Workflow().set_retry_policy("linear", 1), "Invalid retry policy"),
        (lambda library, app: library.Workflow.connect("on_start"), "invalid signal"),
        (lambda library, app: library.Workflow().freeze(), "register_workflow_processor"),
        (lambda library, app: _add_twice(library, app), "already added to the workflow"),
        (lambda library, app: _depend_twice(library, app), "already added"),
    ],
)
def test_misuse_is_told_in_the_same_words(app: Celery, misuse: Callable[[Any, Celery], Any], words: str) -> None:
    """Tests and handlers that look for an exception and its text go on finding them."""
    for library in (theirs, ours):
        with pytest.raises(library.WorkflowException, match=words):
            misuse(library, app)


def _add_twice(library: Any, app: Celery) -> None:
    signature, workflow = task(app), library.Workflow()
    workflow.add_celery_canvas(signature)
    workflow.add_celery_canvas(signature)


def _depend_twice(library: Any, app: Celery) -> None:
    workflow = library.Workflow()
    first, second = workflow.add_celery_canvas(task(app))[0], workflow.add_celery_canvas(task(app))[0]
    second.add_dependency(first, {"any": "option"})
    assert second.dependencies == {first.id: {"any": "option"}}
    second.add_dependency(first)


def test_every_module_and_public_name_is_there() -> None:
    """Each import path of the original exists, with each public name in it and each public member of its classes."""
    root = Path(celery_dyrygent.__file__).parent
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").strip(".")
        mine = __import__(f"dyrygentd.compat.celery_dyrygent{'.' if module else ''}{module}", fromlist=["*"])
        original = __import__(f"celery_dyrygent{'.' if module else ''}{module}", fromlist=["*"])
        for name in _defined(path):
            assert hasattr(mine, name), f"{module}.{name}"
            if inspect.isclass(getattr(original, name)) and getattr(original, name).__module__.startswith("celery_dyrygent"):
                missing = _public(getattr(original, name)) - _public(getattr(mine, name))
                assert not missing, f"{module}.{name}: {missing}"


def _defined(path: Path) -> list[str]:
    names = []
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                names.append(name)
    return names


def _public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}

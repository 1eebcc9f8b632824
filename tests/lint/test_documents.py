"""Every form in which a workflow comes, and what cannot be read."""

import json
from typing import Any

import pytest
from celery import chain

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.lint import lint
from dyrygentd.wire import encode_definition
from tests.lint.support import (
    a,
    add,
    app,
    container,
)


def test_definition_document() -> None:
    """A definition file is checked as a canvas is, by the names of its nodes."""
    nodes: list[dict[str, Any]] = [
        {"name": "x", "task": "t.add", "args": [1]},
        {"task": "t.a", "after": ["x"], "options": {"queue": 5}},
    ]
    for form in ({"nodes": nodes}, json.dumps({"nodes": nodes}), json.dumps({"nodes": nodes}).encode()):
        found = {finding.code: finding for finding in lint(form, app=app)}
        assert found.keys() == {"arguments-do-not-fit", "bad-option", "task-not-in-app"}
        assert (found["arguments-do-not-fit"].place, found["arguments-do-not-fit"].node) == ("node 'x'", "x")


def test_all_of_a_refused_document_is_told() -> None:
    """The daemon names the first node that it refuses; the report names all."""
    nodes = [
        {"name": "x", "task": "t.a", "options": {"serializer": "pickle", "queue": 5}},
        {"name": "y", "task": "t.a", "options": {"task_id": "1", "countdown": "soon"}},
        {"task": "t.a", "options": {"serializer": "pickle"}},
    ]
    found = {(finding.code, finding.message): (finding.node, finding.count) for finding in lint({"nodes": nodes})}
    assert found == {
        ("serializer-refused", "serializer 'pickle' is not accepted"): ("x", 2),
        ("bad-option", "`queue` must be text, and is 5"): ("x", 1),
        ("bad-option", "`task_id` is set by the daemon"): ("y", 1),
        ("bad-option", "`countdown` must be a number of seconds, and is 'soon'"): ("y", 1),
    }


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (b"{", "bad-request", "not valid JSON"),
        ({"nodes": 5}, "bad-request", "must be an array"),
        ({"nodes": [{"name": "a"}]}, "bad-node", "`task` is missing"),
        ({"nodes": [{"name": "a", "task": "t", "after": ["b"]}]}, "unknown-dependency", "depends on 'b'"),
        ({"nodes": [{"name": "a", "task": "t", "args": [object()]}]}, "bad-request", "JSON cannot carry"),
        (42, "not-a-canvas", "the canvas is a 'int', which is no signature"),
        (container("chain", [a, add]), "not-a-canvas", "which is no signature"),
        (container("chain", []), "empty-workflow", "no nodes"),
        (container("group", [a], stamped_headers=5), "not-a-canvas", "as its `stamped_headers`"),
        ({"task": "celery.chunks", "kwargs": {"task": a, "it": True, "n": 1}}, "not-a-canvas", "chunks of a 'bool'"),
        ({"task": "t.a", "subtask_type": ["x"]}, "not-a-canvas", "as its `subtask_type`"),
        (Workflow("w"), "empty-workflow", "no nodes"),
        (app.signature("t.a", args=(object(),)), "bad-node", "argument 1 is a 'object'"),
    ],
)
def test_what_cannot_be_read_is_a_finding(what: Any, code: str, words: str) -> None:
    """A program that collects reports need not catch anything."""
    (finding,) = [found for found in lint(what) if found.severity == "error"]
    assert (finding.code, words in finding.message) == (code, True)


def test_definition_and_workflow_are_checked_as_graphs() -> None:
    """What was imported already has lost its containers, and keeps its nodes."""
    canvas = chain(add.s(1), add.s(2).set(queue="q"))
    (expected,) = lint(canvas, app=app)
    definition = definition_of(canvas, has_good_options=False)
    workflow = Workflow("w")
    workflow.add_canvas(canvas)
    for form in (definition, workflow, encode_definition(definition)):
        (finding,) = lint(form, app=app)
        assert (finding.code, finding.message, finding.node) == (expected.code, expected.message, expected.node)
        assert finding.place == "node 'add-1'"

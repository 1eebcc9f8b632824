"""What a canvas is made of can be seen in its sections: who stands side by side belongs together."""

from typing import Any

import pytest
from celery import chain, chord, group, signature

from dyrygentd import Workflow, wire
from dyrygentd.canvas import definition_of
from dyrygentd.errors import BadRequest, NotACanvas
from dyrygentd.wire.digests import digest_of


def job(task: str) -> Any:
    return signature(f"app.tasks.{task}", immutable=True)


def sections(what: object) -> dict[str, list[str]]:
    """Return ``{section: names of its nodes}``, joins left out."""
    graph = definition_of(what).graph
    found: dict[str, list[str]] = {}
    for node in range(len(graph)):
        if graph.is_task(node):
            found.setdefault(graph.sections.of(node), []).append(graph.names[node])
    return found


def test_what_stands_side_by_side_is_a_section() -> None:
    """It is numbered in order and called after its first task, whatever of a chord or group Celery makes of it."""
    canvas = chain(job("start"), group(job("resize"), job("scan")), job("mid"), chord([job("x"), job("y")], job("z")))
    assert sections(canvas) == {"": ["start-1", "mid-5", "z-9"], "1 resize": ["resize-2", "scan-3"], "2 x": ["x-6", "y-7"]}


def test_a_group_of_one_kind_is_none() -> None:
    """A section that holds everything, and ten thousand that hold a chain each, would say nothing."""
    assert sections(group(job("a"), job("b"))) == {"": ["a-1", "b-2"]}
    assert [*sections(group(chain(job("a"), job("b")) for _ in range(3)))] == [""]


def test_members_that_begin_differently_are_told_apart() -> None:
    """A few branches that do different things are sections of their own, and what fans out in them is inside."""
    branches = group(chain(job("a"), group(job("b"), job("c"))), chain(job("d"), job("e")))
    assert sections(branches) == {
        "member 1 a": ["a-1"],
        "member 1 a/1 b": ["b-2", "c-3"],
        "member 2 d": ["d-5", "e-6"],
    }


def test_members_that_are_alike_share_what_is_in_them() -> None:
    """The second step of each of many chains is one section, as one looks at it."""
    canvas = group(chain(job("a"), group(job("r"), job("r")), job("b"), group(job("q"), job("q"))) for _ in range(3))
    assert {section: len(nodes) for section, nodes in sections(canvas).items()} == {"": 6, "1 r": 6, "2 q": 6}


def test_chunks_are_called_after_their_task() -> None:
    """Celery's own word for the task that runs them tells nobody anything."""
    chunks = {"task": "celery.chunks", "subtask_type": "chunks", "kwargs": {"task": job("add"), "it": [[1], [2], [3]], "n": 2}}
    canvas = {"task": "celery.chain", "subtask_type": "chain", "kwargs": {"tasks": [dict(job("a")), chunks]}}
    assert [*sections(canvas)] == ["", "1 add"]


def test_what_is_too_deep_stays_where_it_is() -> None:
    """However deep a canvas is, its sections stay within the bound, and it is taken."""
    canvas: Any = job("t")
    for _ in range(60):
        canvas = {
            "task": "celery.chord",
            "subtask_type": "chord",
            "kwargs": {"header": [canvas, job("u")], "body": dict(job("b"))},
        }
    depths = {section.count("/") for section in sections(canvas) if section}
    assert max(depths) == 7


def test_a_canvas_without_a_task_is_called_by_its_kind() -> None:
    """An empty header is no reason to refuse what else is there."""
    empty = {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": []}}
    canvas = {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": [empty, dict(chain(job("a"), job("b")))]}}
    assert [*sections(canvas)] == ["member 2 a"]


def test_the_builder_has_sections_in_sections() -> None:
    """What is added inside belongs to them, canvases with their own sections included; outside nothing has changed."""
    workflow = Workflow("replace")
    with workflow.section("drain"):
        first = workflow.add(job("weight"))
        with workflow.section("osd-42"):
            workflow.gate("sure", after=first)
            workflow.add_canvas(chain(job("a"), group(job("r"), job("r")), job("b")), after=first)
    with workflow.section("check/all"):
        workflow.add_canvas(chain(job("c"), group(job("s"), job("s")), job("d")))
        workflow.add_canvas(chain(job("c"), group(job("s"), job("s")), job("d")))
    workflow.add(job("last"))
    graph = workflow.definition().graph
    assert graph.sections.paths == (
        "",
        "drain",
        "drain/osd-42",
        "drain/osd-42/1 r",
        "check/all",
        "check/all/1 s",
        "check/all/2 s",
    )
    assert graph.sections.of(graph.number("sure") or 0) == "drain/osd-42"
    assert graph.sections.of(len(graph) - 1) == ""
    read = wire.decode_definition(wire.encode_definition(workflow.definition()), nodes_max=100)
    assert [read.graph.sections.of(node) for node in range(len(graph))] == [graph.sections.of(node) for node in range(len(graph))]


def test_a_call_that_raises_leaves_the_section_as_it_was() -> None:
    """What comes next is neither in a section of the canvas that was refused, nor numbered after it."""
    workflow = Workflow()
    with pytest.raises(NotACanvas), workflow.section("s"):
        workflow.add_canvas(chain(job("a"), group(job("r"), 7), job("b")))
    workflow.add_canvas(chain(job("a"), group(job("r"), job("r"))))
    assert workflow.definition().graph.sections.paths == ("", "1 r")


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "section '' has a part without a name"), ("~x", "section 'a/~x' has a part"), (7, "a section cannot be called 7")],
)
def test_the_builder_refuses_a_bad_name(name: Any, words: str) -> None:
    """The message shows the path as it would have been."""
    workflow = Workflow()
    if isinstance(name, str) and name:
        with pytest.raises(BadRequest, match=words), workflow.section("a"), workflow.section(name):
            raise AssertionError
    else:
        with pytest.raises(BadRequest, match=words), workflow.section(name):
            raise AssertionError


def test_a_key_does_not_look_at_sections() -> None:
    """They run nothing, so whoever repeats a submission with other ones means the same workflow."""
    plain, sorted_out = Workflow("w"), Workflow("w")
    plain.add(job("a"))
    with sorted_out.section("s"):
        sorted_out.add(job("a"))
    assert digest_of(plain.definition()) == digest_of(sorted_out.definition())

"""Whatever is handed over: a definition, or an error of this package."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.canvas import definition_of
from dyrygentd.errors import BadNode, DyrygentError, NotACanvas
from dyrygentd.wire import decode_definition, encode_definition


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"task": "celery.chunks", "kwargs": {"task": {}, "it": 5, "n": 2}}, "chunks of a 'int'"),
        ({"task": "celery.group", "kwargs": {"tasks": []}, "options": {"stamped_headers": 5}}, "'5' as its `stamped_headers`"),
        ({"task": "t", "options": {"stamped_headers": [["x"]]}}, "as its `stamped_headers`"),
        ({"task": "t", "subtask_type": ["x"]}, "has a 'list' as its `subtask_type`"),
        ({"task": "celery.chord", "kwargs": {"header": [], "kwargs": 5}}, "are no mapping"),
        ({"task": "t", "options": {"serializer": ["json"]}}, "serializer '\\['json'\\]' is not accepted"),
        ({"task": "t", "options": {"countdown": 10**400}}, "`countdown` must be a number of seconds"),
        ({"task": "t", "options": {"eta": 10**400}}, "`eta` must be a datetime"),
    ],
)
def test_what_is_malformed_is_our_error(what: Any, words: str) -> None:
    """What others write by hand is refused with what is wrong, and not by an accident on the way."""
    with pytest.raises((NotACanvas, BadNode), match=words):
        definition_of(what)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5), st.just(object()), st.just((1,))
)


def _perhaps(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, JUNK, st.lists(JUNK, max_size=2), st.dictionaries(st.text(max_size=3), JUNK, max_size=2))


def _some_signature(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = _perhaps(st.lists(part, max_size=4))
    options_of_it = st.fixed_dictionaries(
        {},
        optional={
            "link": several,
            "link_error": several,
            "stamped_headers": _perhaps(st.just(["x"])),
            "serializer": _perhaps(st.just("json")),
            "countdown": JUNK,
            "eta": _perhaps(st.just("2030-01-01")),
            "queue": JUNK,
        },
    )
    contents = st.fixed_dictionaries(
        {},
        optional={"tasks": several, "header": st.one_of(several, part), "body": part, "task": part, "it": several, "n": JUNK}
        | {"kwargs": _perhaps(st.just({"x": 1}))},
    )
    kinds = ["chain", "group", "chord", "chunks", "xmap", "other"]
    return st.fixed_dictionaries(
        {"task": _perhaps(st.sampled_from(["t", "celery.chain", "celery.group", "celery.chord", "celery.chunks"]))},
        optional={
            "subtask_type": _perhaps(st.sampled_from(kinds)),
            "args": _perhaps(st.just([1])),
            "kwargs": _perhaps(contents),
            "options": _perhaps(options_of_it),
            "immutable": JUNK,
        },
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(JUNK | st.just({"task": "t"}), lambda part: _perhaps(_some_signature(part)), max_leaves=20))
def test_only_our_errors_come_out(what: Any) -> None:
    """Whatever is handed over becomes a definition that can be written and read, or an error of this package."""
    with contextlib.suppress(DyrygentError):
        definition = definition_of(what)
        assert len(decode_definition(encode_definition(definition), nodes_max=10_000).graph) == len(definition.graph)

"""Parameters of definitions: typed, expanded once, bounded, and explained."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd import wire
from dyrygentd.core.bounds import DEPTH_MAX
from dyrygentd.core.graph import Definition
from dyrygentd.core.parameters import EXPANSION_MAX, Filling, Parameter, declared, filling_of
from dyrygentd.errors import BadNode, BadRequest


def fill(text: Any, parameters: Any, **values: Any) -> Any:
    """Return what becomes of a payload."""
    return filling_of({"parameters": parameters, "values": values}).fill(text, ("payload",))


def decode(document: Any) -> Definition:
    """Decode a definition."""
    return wire.decode_definition(json.dumps(document).encode(), nodes_max=10)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${name}", "gra1"),
        ("osd.${number}@${name}", "osd.42@gra1"),
        ("${number}", 42),
        ("${share}", 0.5),
        ("share ${share}, ${flag}", "share 0.5, true"),
        ("${flag}", True),
        ("${hosts}", ["a", "b"]),
        ("${nothing}", None),
        ("$${name}", "${name}"),
        ("$$${name}", "$${name}"),
        ("$${name} is ${name}", "${name} is gra1"),
        ("$name $ {name} ${", "$name $ {name} ${"),
        ({"a": ["${number}", {"b": "x${name}"}]}, {"a": [42, {"b": "xgra1"}]}),
        ({"${name}": 1}, {"${name}": 1}),
        (5, 5),
    ],
)
def test_references_become_values(text: Any, filled: Any) -> None:
    """A reference alone keeps the type of its value; in a longer text it is text; names in objects stay."""
    declared = {"name": "gra1", "number": 42, "share": 0.5, "flag": True, "hosts": {"default": ["a", "b"]}, "nothing": None}
    assert fill(text, declared) == filled


@pytest.mark.parametrize(
    ("type_name", "text", "value"),
    [
        ("string", "007", "007"),
        ("integer", "-7", -7),
        ("number", "7", 7),
        ("number", "0.25", 0.25),
        ("number", 7, 7),
        ("boolean", "yes", True),
        ("boolean", "False", False),
        ("list", '["a", 1]', ["a", 1]),
        ("object", '{"a": 1}', {"a": 1}),
    ],
)
def test_command_line_texts_are_read_as_the_declared_type(type_name: str, text: Any, value: Any) -> None:
    """A command line has texts only, and the declaration says what they are."""
    found = fill("${x}", {"x": {"type": type_name}}, x=text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("string", 5),
        ("string", None),
        ("integer", "five"),
        ("integer", 1.5),
        ("integer", True),
        ("integer", "9" * 10_000),
        ("number", "nan"),
        ("number", "1e999"),
        ("number", True),
        ("boolean", "maybe"),
        ("boolean", 1),
        ("list", "a,b"),
        ("list", "{}"),
        ("list", "[" * 100_000),
        ("object", "[]"),
        ("object", []),
    ],
)
def test_value_of_another_type_is_refused(type_name: str, value: Any) -> None:
    """The message names the parameter and its type, and quotes a long value in part."""
    with pytest.raises(BadRequest, match=f"parameter 'x' must be of type {type_name}, and is ") as caught:
        fill("${x}", {"x": {"type": type_name}}, x=value)
    assert caught.value.path == "$.values.x"
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("parameters", "values", "message", "next_step"),
    [
        ({"a": {"description": "the name"}}, {}, r"parameter 'a' \(the name\) has no value", "give one: -p a=…"),
        ({"a": 1}, {"b": 2}, "the definition has no parameter 'b'", "its parameters are a"),
        ({}, {"b": 2}, "the definition has no parameter 'b'", "its parameters are none"),
        ({"osd": {"type": "integer"}}, {"ods": 2}, "the definition has no parameter 'ods'", "its parameters are osd"),
        ({"a": {"typ": "x"}}, {}, "parameter 'a' has an unknown field 'typ'", "use type, default, description, choices"),
        ({"a": {"type": "int"}}, {}, "parameter 'a' has the unknown type 'int'", "use one of string, integer"),
        ({"a": {"type": ["string"]}}, {}, "parameter 'a' has the unknown type", "use one of string, integer"),
        ({"a": {"type": None}}, {}, "parameter 'a' has the unknown type None", "use one of string, integer"),
        ({"a": {"default": 1, "type": "string"}}, {}, "parameter 'a' must be of type string, and is 1", ""),
        ({"a": {"choices": "xyz"}}, {"a": "x"}, "the choices of parameter 'a' must be a list", ""),
        ({"a": {"choices": []}}, {"a": "x"}, "the choices of parameter 'a' must be a list", ""),
        ({"a": {"choices": ["x", 1]}}, {"a": "x"}, "parameter 'a' must be of type string, and is 1", ""),
        ({"a": {"choices": ["x", "y"]}}, {"a": "z"}, "parameter 'a' cannot be 'z'", "use one of 'x', 'y'"),
        ({"a": {"choices": ["x"], "default": "z"}}, {"a": "x"}, "parameter 'a' cannot be 'z'", "use one of 'x'"),
        ({"a": {"description": 5, "default": 1}}, {}, "the description of parameter 'a' must be text", ""),
        ({"a b": 1}, {}, "'a b' is no name for a parameter", "use letters, digits"),
        ({"": 1}, {}, "'' is no name for a parameter", "use letters, digits"),
        ([1], {}, "`parameters` must be an object", "write"),
        ({"a": 1}, [1], "`values` must be an object", "write"),
        (None, {"a": 1}, "there are `values`, and no `parameters`", "declare them"),
    ],
)
def test_mistakes_are_explained(parameters: Any, values: Any, message: str, next_step: str) -> None:
    """What is wrong with a declaration or a value is said with what is allowed."""
    with pytest.raises(BadRequest, match=message) as caught:
        decode({"nodes": [{"task": "t"}], "parameters": parameters, "values": values})
    assert caught.value.next_step.startswith(next_step)
    assert caught.value.path.startswith(("$.parameters", "$.values"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${b}", r"'\${b}' names no parameter"),
        ("x${}", r"'\${}' names no parameter"),
        ("x${hosts}", "parameter 'hosts' is no text, so it must stand alone"),
        ("x${nothing}", "parameter 'nothing' is no text, so it must stand alone"),
    ],
)
def test_bad_reference_is_found_where_it_stands(text: str, message: str) -> None:
    """The path leads to the text, and the next step says how to write a plain `${`."""
    with pytest.raises(BadRequest, match=message) as caught:
        fill({"a": ["x", text]}, {"hosts": {"default": []}, "nothing": None})
    assert caught.value.path == "$.payload.a[1]"
    assert caught.value.next_step


def test_value_is_not_expanded_again() -> None:
    """Whoever chooses a value cannot reach other parameters, or the definition."""
    parameters = {"a": {"type": "string"}, "secret": "s3cret"}
    for evil in ("${secret}", "$${secret}", '"}, {"task": "evil', "${a}"):
        assert fill(["${a}", "x ${a}"], parameters, a=evil) == [evil, f"x {evil}"]
    definition = decode({"nodes": [{"task": "t", "args": ["${a}"]}], "parameters": parameters, "values": {"a": '"], "task": "u'}})
    assert json.loads(definition.graph.signatures[0].args) == ['"], "task": "u']  # type: ignore[union-attr]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="${}ab ", max_size=30), st.text(alphabet="${}ab", max_size=10))
def test_any_text_is_filled_or_refused(text: str, value: str) -> None:
    """Whatever stands in a text, the answer is a text or our error; without a reference it stays as it is."""
    try:
        found = fill(text, {"a": "x"}, a=value)
    except BadRequest:
        assert "${" in text
        return
    if "${" not in text:
        assert found == text
    if text == "${a}":
        assert found == value


def test_long_values_have_a_bound() -> None:
    """A long value that is named often cannot make the daemon hold more than it would accept."""
    long = "x" * 1_000_000
    with pytest.raises(BadRequest, match=f"more than {EXPANSION_MAX} bytes"):
        fill(["${a}"] * 100, {"a": {"type": "string"}}, a=long)
    with pytest.raises(BadRequest, match=f"more than {EXPANSION_MAX} bytes"):
        fill(["${a}"] * 100, {"a": {"type": "list"}}, a=[long])
    assert fill("${a}", {"a": {"type": "string"}}, a=long) == long


def test_deep_nesting_is_our_error() -> None:
    """No document makes the interpreter give up."""
    for depth in (DEPTH_MAX + 1, 400, 100_000):
        body = b'{"parameters": {"a": 1}, "nodes": [{"task": "t", "args": ' + b"[" * depth + b"]" * depth + b"}]}"
        with pytest.raises((BadRequest, BadNode)):
            wire.decode_definition(body, nodes_max=10)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadRequest, match="nested too deeply"):
        fill("${a}", {"a": {"type": "list"}}, a=deep)
    while deep:  # A deep list is taken apart by recursion too.
        deep = deep.pop()
    assert fill([[[1]]], {"a": 1}) == [[[1]]]


def test_numbers_and_objects_stand_in_fields_of_their_own() -> None:
    """Counts, seconds, lists of names and whole policies may come from parameters."""
    definition = decode(
        {
            "parameters": {"attempts": 3, "pause": {"type": "number"}, "after": {"default": ["a"]}, "policy": {"type": "object"}},
            "values": {"pause": "0.5", "policy": {"weight": 7}},
            "policy": "${policy}",
            "nodes": [
                {"name": "a", "task": "t", "retry": {"attempts": "${attempts}", "backoff_s": "${pause}"}},
                {"name": "b", "task": "t", "after": "${after}"},
            ],
        }
    )
    retry = definition.graph.policy(0).retry
    assert retry is not None
    assert (retry.attempts, retry.backoff_s, definition.policy.weight) == (3, 0.5, 7)
    assert list(definition.graph.dependencies(1)) == [0]
    with pytest.raises(BadRequest, match=r"node 'a': `retry.attempts` must be a whole number, and is text"):
        decode({"nodes": [{"name": "a", "task": "t", "retry": {"attempts": "x${n}"}}], "parameters": {"n": 1}})


def test_words_elsewhere_are_no_parameters() -> None:
    """Arguments may have these names, and `${` is plain text in a definition without parameters."""
    definition = decode({"nodes": [{"task": "t", "kwargs": {"parameters": 1, "values": "${x}"}}]})
    assert json.loads(definition.graph.signatures[0].kwargs) == {"parameters": 1, "values": "${x}"}  # type: ignore[union-attr]
    with pytest.raises(BadRequest, match="without escapes"):
        wire.decode_definition(rb'{"nodes": [{"task": "t"}], "p\u0061rameters": {"a": 1}}', nodes_max=10)


def test_declarations_can_be_listed() -> None:
    """A person asks what may be given before giving it."""
    assert declared({}) == []
    assert declared({"parameters": {"a": 3, "b": {"description": "d", "choices": ["x"]}, "c": None}}) == [
        Parameter("a", "integer", 3, is_required=False),
        Parameter("b", "string", None, True, "d", ("x",)),
        Parameter("c", "string", None, is_required=False),
    ]
    assert wire.parameters_of(b"[1]") == []


def test_without_parameters_nothing_is_replaced() -> None:
    """A document that declares none is left as it is, however deep, and whatever looks like a reference."""
    deep: Any = "${p}"
    for _ in range(2 * DEPTH_MAX):
        deep = [deep]
    assert Filling(None).fill(deep, ["nodes"]) is deep
    assert filling_of({"nodes": []}).fill(deep, ["nodes"]) is deep
    with pytest.raises(BadRequest, match="nested"):
        Filling({"p": 1}).fill(deep, ["nodes"])

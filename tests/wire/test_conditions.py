"""Conditions in definitions: read, refused with the place, written again, and compared."""

import json
from typing import Any

import pytest

from dyrygentd.core.graph import Definition
from dyrygentd.errors import BadNode, BadRequest, DyrygentError, UnknownDependency
from dyrygentd.wire.definitions import decode_definition, encode_definition
from dyrygentd.wire.digests import difference, digest_of
from tests.wire.test_expanding import expanded

WHEN = {"value": "check", "path": "status", "is": "full"}


def decoded(*nodes: dict[str, Any], **fields: Any) -> Definition:
    """Read a definition with a check and these nodes."""
    document = {"nodes": [{"name": "check", "task": "t"}, *nodes], **fields}
    return decode_definition(json.dumps(document).encode(), nodes_max=100, new_id=iter("abcdefgh").__next__)


def words(definition: Definition) -> dict[str, list[str]]:
    """Return ``{node: its conditions in words}``."""
    graph = definition.graph
    return {graph.names[node]: [str(proviso.when) for proviso in provisos] for node, provisos in graph.choices.provisos.items()}


DEFINITION = decoded(
    {"name": "drain", "task": "t", "when": WHEN, "section": "s/t"},
    {"name": "gate", "gate": True, "when": {"all": [WHEN, {"not": {"given": 1, "over": 2}}]}},
    {"name": "j", "join": True, "after": ["drain", "gate"], "rule": "none_failed", "hands_on": "one"},
    sections={"s": {"when": {"value": "check", "path": ["status"], "exists": True}}},
)


def test_reading_and_writing() -> None:
    """What is written of a definition is what it was read from: names, conditions, and what `after` says."""
    assert words(DEFINITION) == {
        "drain": ["there is check.status", "check.status is 'full'"],
        "gate": ["check.status is 'full' and (not (1 is over 2))"],
    }
    text = encode_definition(DEFINITION)
    again = decode_definition(text, nodes_max=100)
    assert encode_definition(again) == text
    document = json.loads(text)
    assert document["sections"] == {"s": {"when": {"value": "check", "path": ["status"], "exists": True}}}
    assert document["nodes"][1]["when"] == WHEN
    assert "after" not in document["nodes"][1]
    assert document["nodes"][3]["hands_on"] == "one"
    assert words(again) == words(DEFINITION)
    assert digest_of(again) == digest_of(DEFINITION)


def test_parameters_choose() -> None:
    """A parameter is asked as a value that is given."""
    definition = decoded(
        {"name": "a", "task": "t", "when": {"given": "${mode}", "in": ["dry"]}},
        {"name": "b", "task": "t", "when": {"value": "check", "at_least": "${least}"}},
        parameters={"mode": "dry", "least": 3},
    )
    assert words(definition) == {"a": ["'dry' is one of 'dry'"], "b": ["check is at least 3"]}


@pytest.mark.parametrize("more", [{}, {"parameters": {"mode": "dry"}}])
def test_a_parameter_that_is_not_there(more: dict[str, Any]) -> None:
    """A text with its name would be compared, and the node left out without a word."""
    with pytest.raises(DyrygentError, match=r"mod[^e]") as refused:
        decoded({"name": "a", "task": "t", "when": {"not": {"given": "${mod}", "is": "dry"}}}, **more)
    assert refused.value.next_step


def test_another_condition_is_another_definition() -> None:
    """A key stands for one definition; what is chosen is part of it."""
    one, other = (decoded({"name": "a", "task": "t", "when": {"value": "check", "is": value}}) for value in (1, 2))
    assert digest_of(one) != digest_of(other)
    assert difference(one, other) == "the policies of node 'a' differ"
    sections = [
        decoded({"name": "a", "task": "t", "section": "s"}, sections={"s": {"when": {"value": "check", "is": value}}})
        for value in (1, 2)
    ]
    assert difference(*sections) == "the conditions of sections differ"


@pytest.mark.parametrize(
    ("node", "kind", "said"),
    [
        ({"when": {"value": "check"}}, BadNode, "node 'a': `when`: it compares with nothing (next: add one of is, is_not,"),
        ({"when": {"valeu": "check", "is": 1}}, BadRequest, "valeu"),
        ({"when": {"value": "chekc", "is": 1}}, UnknownDependency, "did you mean 'check'?"),
        ({"when": {"value": "check", "in": 3}}, BadRequest, "$.nodes[1].when.in"),
        ({"when": 3}, BadRequest, "$.nodes[1].when"),
        ({"when": {"all": [{"value": "check", "exists": 1}]}}, BadRequest, "$.nodes[1].when.all[0].exists"),
        ({"hands_on": "one"}, BadNode, "`hands_on: one` is for joins"),
        ({"hands_on": "two"}, BadRequest, "all, succeeded, one"),
    ],
)
def test_bad_conditions_of_nodes(node: dict[str, Any], kind: type[Exception], said: str) -> None:
    """Which node, which field, what is allowed."""
    with pytest.raises(kind) as caught:
        decoded({"name": "a", "task": "t", **node})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"s": {"when": {"value": "check"}}}, "section 's', `when`: it compares with nothing"),
        ({"t": {"when": WHEN}}, "`sections` names 't', in which no node is"),
        ({"/": {"when": WHEN}}, "section '/' has a part without a name"),
        ({"s": {"wen": WHEN}}, "wen"),
        ({"s": {"when": {"value": "a", "is": 1}}}, "`when` of section 's' asks for the value of 'a', which is in that section"),
        ([], "$.sections"),
    ],
)
def test_bad_conditions_of_sections(sections: Any, said: str) -> None:
    """A section that nobody is in is a slip of the pen."""
    with pytest.raises((BadRequest, BadNode)) as caught:
        decoded({"name": "a", "task": "t", "section": "s"}, sections=sections)
    assert said in str(caught.value)


def test_what_is_adopted_without_a_value_cannot_be_asked() -> None:
    """Nobody has its value here."""
    document = {
        "nodes": [
            {"name": "check", "task": "t", "adopted": "succeeded"},
            {"name": "a", "task": "t", "immutable": True, "when": {"value": "check", "is": 1}},
        ]
    }
    with pytest.raises(BadNode, match="it is adopted as succeeded, and has no value for 'a'"):
        decode_definition(json.dumps(document).encode(), nodes_max=10)


def test_each_item_of_a_map_asks_its_own_nodes() -> None:
    """A condition in what is done with each item names the nodes of that item."""
    do = {
        "nodes": [
            {"name": "look", "task": "t"},
            {
                "name": "mend",
                "task": "t",
                "when": {"not": {"all": [{"value": "look", "is": 1}, {"any": [{"given": 1, "is": 1}]}]}},
            },
            {"name": "end", "join": True, "after": ["mend"], "rule": "none_failed", "hands_on": "one"},
        ]
    }
    definition = expanded(["a", "b"], do)
    assert words(definition) == {
        "m[0].mend": ["not (m[0].look is 1 and (1 is 1))"],
        "m[1].mend": ["not (m[1].look is 1 and (1 is 1))"],
    }
    graph = definition.graph
    assert [graph.names[each] for each in graph.dependencies(4)] == ["m[1].look"]


def test_what_an_item_asks_is_looked_at_when_it_is_submitted() -> None:
    """Not when the list is known, hours later."""
    with pytest.raises(BadNode, match="'mend' waits for 'lok', which is no node of it"):
        decoded(
            {
                "name": "m",
                "map": {"over": [1], "do": {"nodes": [{"name": "mend", "task": "t", "when": {"value": "lok", "is": 1}}]}},
            }
        )

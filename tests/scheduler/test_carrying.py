"""The page on which a batch is carried out: nothing of it is forgotten, and its words and its lines have one order."""

import ast
import inspect
import textwrap
from dataclasses import fields
from typing import Any

import pytest

from dyrygentd.core.effects import Batch
from dyrygentd.scheduler.carrying import Carrying
from dyrygentd.scheduler.saving import Saving

#: What each step of the docstring calls, in its order.
_CALLS = {
    "Save": ["save"],
    "Accept": ["saved"],
    "Watch": ["watch"],
    "Publish": ["divert", "hand_in"],
    "Unwatch": ["unwatch"],
    "Revoke": ["revoke", "forget"],
    "Answer": ["answered"],
    "Tell": ["notify", "kept"],
}


@pytest.mark.parametrize("name", [field.name for field in fields(Batch)])
def test_each_field_is_carried_out(name: str) -> None:
    """A kind of effect that the engine can ask for is on the page, or in the transaction that is its first step."""
    named = {
        node.attr
        for function in (Carrying.carry_out, Saving._write)
        for node in ast.walk(_tree(function))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "batch"
    }
    assert name in named


def test_steps_are_told_in_the_order_in_which_they_are_done() -> None:
    """Whoever moves a line sees that it is a promise, and has to change its words as well."""
    told = inspect.getdoc(Carrying.carry_out)
    assert told is not None
    assert [f"{number}. *{word}*" in told for number, word in enumerate(_CALLS, 1)] == [True] * len(_CALLS)
    calls = [call for calls in _CALLS.values() for call in calls]
    lines = {
        node.func.attr: node.lineno
        for node in ast.walk(_tree(Carrying.carry_out))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert sorted(calls, key=lambda call: lines[call]) == calls


def test_nothing_waits_between_saving_and_the_note_of_the_reports() -> None:
    """A cancel could come where something waits, and leave a batch half carried out."""
    awaited = [
        node.value.func.attr
        for node in ast.walk(_tree(Carrying.carry_out))
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    ]
    assert awaited == ["save", "remember"]


def _tree(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))

"""Conditions as a program writes them: ``value_of(check, "status").is_("full")``, and the branches of `Workflow.switch`.

What is written is the same closed form as in a definition file (`dyrygentd.core.conditions`); nodes are named by reference, since
a name that was made up may still change.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from dyrygentd.canvas.values import encode_value
from dyrygentd.core.conditions import BadWhen, When, kind_of, when_of
from dyrygentd.core.options import shown
from dyrygentd.core.sections import RESERVED, SEPARATOR
from dyrygentd.errors import BadNode, BadRequest

_WRITE: Final = 'give value_of(node).is_(…), or {"value": "NODE", "is": …}'
#: Characters of a case in the name of its section.
_CASE_LENGTH_MAX: Final = 40


class Node(Protocol):
    """Whose value is asked for: a reference to a node."""

    @property
    def name(self) -> str:
        """The node's name."""


class Test:
    """A condition under construction. Combine them with ``&``, ``|`` and ``~``."""

    __slots__ = ("given",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given

    def __repr__(self) -> str:
        return f"<Test {self.given}>"

    def __bool__(self) -> bool:
        raise TypeError("a condition is decided when the workflow runs: combine conditions with &, | and ~, not and, or and not")

    def __and__(self, other: "Test") -> "Test":
        return Test({"all": [self.given, other.given]})

    def __or__(self, other: "Test") -> "Test":
        return Test({"any": [self.given, other.given]})

    def __invert__(self) -> "Test":
        return Test({"not": self.given})


class Asked:
    """The value of a node, to be compared when the workflow runs."""

    __slots__ = ("_about",)

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about

    def __repr__(self) -> str:
        return f"<Asked {self._about}>"

    def is_(self, value: object) -> Test:
        """It is this. Texts, numbers and so on are never equal to each other; null may be compared with all."""
        return self._test("is", value)

    def is_not(self, value: object) -> Test:
        """It is not this."""
        return self._test("is_not", value)

    def is_in(self, values: Iterable[object]) -> Test:
        """It is one of these."""
        return self._test("in", list(values))

    def not_in(self, values: Iterable[object]) -> Test:
        """It is none of these."""
        return self._test("not_in", list(values))

    def has(self, value: object) -> Test:
        """It is a list with this in it, or an object with this name."""
        return self._test("has", value)

    def over(self, bound: float | str) -> Test:
        """It is greater."""
        return self._test("over", bound)

    def under(self, bound: float | str) -> Test:
        """It is less."""
        return self._test("under", bound)

    def at_least(self, bound: float | str) -> Test:
        """It is equal or greater."""
        return self._test("at_least", bound)

    def at_most(self, bound: float | str) -> Test:
        """It is equal or less."""
        return self._test("at_most", bound)

    def exists(self, is_there: bool = True) -> Test:
        """There is something at the path, or, with False, nothing."""
        return self._test("exists", is_there)

    def truthy(self, is_true: bool = True) -> Test:
        """It is true for Python: neither null, false, 0, nor empty; or, with False, the opposite."""
        return self._test("truthy", is_true)

    def _test(self, operator: str, operand: object) -> Test:
        return Test({**self._about, operator: json.loads(encode_value(operand))})


def value_of(node: Node, path: str | Sequence[str | int] = "") -> Asked:
    """Ask about what a node returned, for ``when``.

    Args:
        path: What leads into it: names and numbers with dots between them, ``status.0.state``, or as a list.
    """
    return Asked({"value": node, "path": path if isinstance(path, str) else list(path)} if path else {"value": node})


def when_given(given: object, name_of: Callable[[object], str]) -> When:
    """Return the condition that a program gave.

    Args:
        name_of: Returns the name of a node by its reference, or raises.

    Raises:
        BadWhen
    """
    if isinstance(given, Asked):
        raise BadWhen("it says whose value it asks for, and not what it has to be", _WRITE)
    written = given.given if isinstance(given, Test) else given
    if not isinstance(written, Mapping):
        raise BadWhen(f"`when` is {shown(given)}", _WRITE)
    return when_of(_named(written, name_of))


def _named(given: Any, name_of: Callable[[object], str]) -> Any:
    """Return a condition with names instead of references."""
    if not isinstance(given, Mapping):
        return given
    named = dict(given)
    if "value" in named and not isinstance(named["value"], str):
        named["value"] = name_of(named["value"])
    for word in ("all", "any"):
        if isinstance(named.get(word), list):
            named[word] = [_named(part, name_of) for part in named[word]]
    if "not" in named:
        named["not"] = _named(named["not"], name_of)
    return named


# --- switch ---------------------------------------------------------------------------------------------------------


class Branches:
    """The branches of a switch: for each the section it stands in, the condition of that, and what is in it.

    Raises:
        BadNode: A case cannot be compared, or there is none.
    """

    def __init__(self, on: Node, cases: Any, default: object, path: str | Sequence[str | int]) -> None:
        if not isinstance(cases, Mapping) or not cases:
            next_step = 'give {"a": …, "b": …}, a branch for each'
            raise BadNode(on.name, f"the cases of a switch are {shown(cases)}", next_step=next_step)
        kinds = {kind_of(case) for case in cases} - {"null"}
        if kinds - {"text", "number", "boolean"} or len(kinds) > 1:
            raise BadNode(
                on.name,
                f"the cases of a switch are {', '.join(map(shown, cases))}",
                next_step="let all of them be texts, or numbers, or True and False; None may be among them",
            )
        asked = value_of(on, path)
        self._used: set[str] = set()
        self.all = [(self._section(case), asked.is_(case), branch) for case, branch in cases.items() if branch is not None]
        if default is not None:
            self.all.append((self._section("default"), asked.not_in(cases), default))
        if not self.all:
            next_step = "give a task for a case or the default"
            raise BadNode(on.name, "no branch of the switch has anything to run", next_step=next_step)

    def _section(self, case: object) -> str:
        """Return the name of the section of a case, as a part of a path."""
        word = "".join([each if each.isprintable() and each != SEPARATOR else "-" for each in str(case)[:_CASE_LENGTH_MAX]])
        word = word.lstrip(RESERVED).strip() or "case"
        name, number = word, 1
        while name in self._used:
            number += 1
            name = f"{word} {number}"
        self._used.add(name)
        return name


def is_recipe(branch: object) -> bool:
    """Tell whether a branch is a function that adds its nodes, and no signature or task, which can be called as well."""
    return inspect.isfunction(branch) or inspect.ismethod(branch)


def bad_section(path: str, error: BadWhen) -> BadRequest:
    """Return what is told of the condition of a section that cannot be read."""
    return BadRequest(f"section '{path}', `when`: {error.reason}", path=f"$.sections.{path}", next_step=error.next_step)

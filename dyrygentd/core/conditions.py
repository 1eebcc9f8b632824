"""Conditions over values: what may be asked of what a node returned, so that one branch runs and another one does not.

A closed form and no code: one comparison of one value, or ``all``, ``any`` and ``not`` of such. Nothing is guessed: a text is
never equal to a number, what is not there is not null, and a comparison that cannot be made raises `Undecided` with what was
found, which fails the node by name.

    {"value": "check", "path": "status", "is": "full"}
    {"all": [{"value": "count", "over": 0}, {"not": {"given": "${mode}", "in": ["dry", "test"]}}]}

``value`` names a node, ``given`` is a value that stands in the definition, most often a parameter. A ``path`` leads into it:
names and numbers with dots between them, or as a list where a name has a dot itself.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from dyrygentd.core.bounds import NAME_LENGTH_MAX, WHEN_BYTES_MAX, WHEN_DEPTH_MAX, WHEN_PARTS_MAX

#: ``{operator: words between what is asked and what it is compared with}``, and of what is told if it does not hold.
_WORDS: Final = {
    "is": ("is", "not"),
    "is_not": ("is not", ""),
    "in": ("is one of", "not one of"),
    "not_in": ("is none of", ""),
    "has": ("has", ""),
    "over": ("is over", "not over"),
    "under": ("is under", "not under"),
    "at_least": ("is at least", "not at least"),
    "at_most": ("is at most", "not at most"),
    "exists": ("", ""),
    "truthy": ("", ""),
}
OPERATORS: Final = tuple(_WORDS)
_COMBINING: Final = ("all", "any", "not")
_ORDERING: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "over": lambda found, bound: bool(found > bound),
    "under": lambda found, bound: bool(found < bound),
    "at_least": lambda found, bound: bool(found >= bound),
    "at_most": lambda found, bound: bool(found <= bound),
}
_EXAMPLE: Final = 'write {"value": "NODE", "is": …}, or `all`, `any` or `not` of such'
#: Longer texts are not repeated in what is told: they may be anything.
_SHOWN_MAX: Final = 40
_PATH_MAX: Final = 20
_LET_A_TASK: Final = "let a task compare, and ask for what it returns"
#: Parts of an `any` that are told of, where none holds.
_TOLD_MAX: Final = 3


class BadWhen(ValueError):
    """A condition that cannot be read: what is wrong with it, and what to do about it."""

    def __init__(self, reason: str, next_step: str = _EXAMPLE) -> None:
        super().__init__(reason)
        self.reason = reason
        self.next_step = next_step


class Undecided(Exception):
    """A comparison that cannot be made; the text says what was found."""


class NoValue(Exception):
    """A node that has no value, and why, as ``failed`` or ``was not needed``."""


@dataclass(frozen=True, slots=True)
class When:
    """A condition as it is written, in JSON. Equal texts are one condition, and are read once."""

    text: str

    @property
    def condition(self) -> "Condition":
        """What it asks."""
        return _read(self.text)

    def __str__(self) -> str:
        return self.condition.words


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question about one value.

    Attributes:
        node: Whose value it is; None for a value that is given.
        path: What leads into it.
        given: JSON text of the value if no node is named.
        operator: One of `OPERATORS`.
        operand: JSON text of what it is compared with.
    """

    node: str | None
    path: tuple[str | int, ...]
    given: str
    operator: str
    operand: str

    @property
    def operands(self) -> tuple[str, ...]:
        """JSON texts of the values in a list with which it is compared."""
        return tuple([json.dumps(each, separators=(",", ":")) for each in _loaded(self.operand)])

    @property
    def subject(self) -> str:
        """Whose value is asked for, in words."""
        first = self.node if self.node is not None else shown_value(_loaded(self.given))
        return ".".join([first, *map(str, self.path)])

    @property
    def words(self) -> str:
        """The question, in words."""
        operand, subject = _loaded(self.operand), self.subject
        match self.operator:
            case "exists":
                return f"there is {subject}" if operand else f"there is no {subject}"
            case "truthy":
                return f"{subject} is true" if operand else f"{subject} is false"
            case "in" | "not_in":
                return f"{subject} {_WORDS[self.operator][0]} {_listed(operand)}"
        return f"{subject} {_WORDS[self.operator][0]} {shown_value(operand)}"


@dataclass(frozen=True, slots=True)
class Combined:
    """Several questions, or the opposite of one: ``kind`` is ``all``, ``any`` or ``not``."""

    kind: str
    parts: "tuple[Condition, ...]"

    @property
    def words(self) -> str:
        """The question, in words."""
        if self.kind == "not":
            return f"not ({self.parts[0].words})"
        between = " and " if self.kind == "all" else " or "
        return between.join([f"({part.words})" if isinstance(part, Combined) else part.words for part in self.parts])


Condition = Comparison | Combined


# --- reading --------------------------------------------------------------------------------------------------------


def when_of(given: Any) -> When:
    """Return a condition that was given as JSON's types. Raises `BadWhen`."""
    _condition(given, WHEN_DEPTH_MAX, [WHEN_PARTS_MAX])
    text = json.dumps(_in_order(given), separators=(",", ":"))
    if len(text) > WHEN_BYTES_MAX:
        raise BadWhen(f"it has {len(text)} bytes, the limit is {WHEN_BYTES_MAX}", _LET_A_TASK)
    return When(text)


def _in_order(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a condition with its fields in one order, so that equal ones have equal texts."""
    ordered = {word: given[word] for word in ("value", "given", "path", *OPERATORS) if word in given}
    for word in _COMBINING:
        if word in given:
            ordered[word] = _in_order(given[word]) if word == "not" else [_in_order(part) for part in given[word]]
    return ordered


def renamed(when: When, name_of: Callable[[str], str]) -> When:
    """Return the same condition about nodes of other names, as each item of a map has its own."""

    def rename(given: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {word: name_of(value) if word == "value" else value for word, value in given.items()}
        for word in ("all", "any"):
            if word in changed:
                changed[word] = [rename(part) for part in changed[word]]
        if "not" in changed:
            changed["not"] = rename(changed["not"])
        return changed

    return When(json.dumps(rename(json.loads(when.text)), separators=(",", ":")))


@lru_cache(maxsize=1024)
def _read(text: str) -> Condition:
    return _condition(json.loads(text), WHEN_DEPTH_MAX, [WHEN_PARTS_MAX])


def _condition(given: Any, depth_left: int, left: list[int]) -> Condition:
    if not isinstance(given, Mapping):
        raise BadWhen(f"a condition is an object, and this is {shown_value(given)}")
    left[0] -= 1
    if left[0] < 0 or not depth_left:
        most = f"{WHEN_PARTS_MAX} comparisons" if depth_left else f"{WHEN_DEPTH_MAX} levels"
        raise BadWhen(f"it has more than {most}", _LET_A_TASK)
    combining = [word for word in _COMBINING if word in given]
    if not combining:
        return _comparison(given)
    word = combining[0]
    others = sorted(given.keys() - {word})
    if others:
        raise BadWhen(f"`{word}` stands beside `{others[0]}`", "leave one of them out, or put both into a list under `all`")
    parts = [given[word]] if word == "not" else given[word]
    if not isinstance(parts, list) or not parts:
        raise BadWhen(f"`{word}` is {shown_value(parts)}", f'give a list of conditions: {{"{word}": [{{…}}, {{…}}]}}')
    return Combined(word, tuple([_condition(part, depth_left - 1, left) for part in parts]))


def _comparison(given: Mapping[str, Any]) -> Comparison:
    unknown = sorted(given.keys() - {"value", "given", "path", *OPERATORS})
    if unknown:
        raise BadWhen(
            f"it has an unknown field `{unknown[0]}`", f"use `value` or `given`, `path`, and one of {', '.join(OPERATORS)}"
        )
    subjects = [word for word in ("value", "given") if word in given]
    if len(subjects) != 1:
        reason = "it has both `value` and `given`" if subjects else "it does not say whose value it asks for"
        raise BadWhen(reason, 'name a node as `value`, or give a parameter: `"given": "${name}"`')
    operators = [word for word in OPERATORS if word in given]
    if len(operators) != 1:
        reason = f"it has both `{operators[0]}` and `{operators[1]}`" if operators else "it compares with nothing"
        step = "put two comparisons into a list under `all`" if operators else f"add one of {', '.join(OPERATORS)}"
        raise BadWhen(reason, step)
    node = given.get("value")
    if "value" in given and not (isinstance(node, str) and 0 < len(node) <= NAME_LENGTH_MAX):
        raise BadWhen(f"`value` is {shown_value(node)}", "give the name of a node")
    operator = operators[0]
    _check_operand(operator, given[operator])
    return Comparison(node, _path(given.get("path", "")), _text(given.get("given")), operator, _text(given[operator]))


def _path(given: Any) -> tuple[str | int, ...]:
    parts = (given.split(".") if given else []) if isinstance(given, str) else given
    is_good = isinstance(parts, list | tuple) and all(
        (isinstance(part, str) and 0 < len(part) <= NAME_LENGTH_MAX)
        or (isinstance(part, int) and not isinstance(part, bool) and part >= 0)
        for part in parts
    )
    if not is_good or len(parts) > _PATH_MAX:
        step = f'write names and numbers with dots between them, {_PATH_MAX} at most: "status.0.state", or a list of them'
        raise BadWhen(f"`path` is {shown_value(given)}", step)
    return tuple(parts)


def _check_operand(operator: str, operand: Any) -> None:
    """Raise `BadWhen` if nothing could be compared with it in this way."""
    if operator in ("exists", "truthy") and not isinstance(operand, bool):
        raise BadWhen(f"`{operator}` is {shown_value(operand)}", "write true or false")
    if operator in ("in", "not_in") and not isinstance(operand, list):
        raise BadWhen(f"`{operator}` is {shown_value(operand)}", f'give a list: "{operator}": [1, 2]')
    if operator in _ORDERING and kind_of(operand) not in ("number", "text"):
        raise BadWhen(f"`{operator}` is {shown_value(operand)}", "compare with a number or a text")


def _text(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadWhen(f"a value in it is no JSON: {error}", "use texts, numbers, true, false, null, lists and objects") from None


@lru_cache(maxsize=1024)
def _loaded(text: str) -> Any:
    """Return what a text of a condition says. Nobody changes it."""
    return json.loads(text)


def nodes_of(condition: Condition) -> Iterator[str]:
    """Iterate over the names of the nodes whose values are asked for; some may come more than once."""
    for comparison in comparisons_of(condition):
        if comparison.node is not None:
            yield comparison.node


def comparisons_of(condition: Condition) -> Iterator[Comparison]:
    """Iterate over the comparisons of a condition."""
    if isinstance(condition, Comparison):
        yield condition
        return
    for part in condition.parts:
        yield from comparisons_of(part)


# --- deciding -------------------------------------------------------------------------------------------------------

ValueOf = Callable[[str], Any]
"""Returns the value of a node, as JSON's types. Raises `NoValue` or `Undecided`."""


def why_not(condition: Condition, value_of: ValueOf) -> str:
    """Return why a condition does not hold, empty if it does. Raises `Undecided`."""
    try:
        return _why_not(condition, value_of)
    except RecursionError:
        raise Undecided("the value is nested too deeply to be compared") from None


def _why_not(condition: Condition, value_of: ValueOf) -> str:
    if isinstance(condition, Comparison):
        return _compared(condition, value_of)
    if condition.kind == "not":
        return "" if _why_not(condition.parts[0], value_of) else condition.parts[0].words
    found: list[str] = []
    for part in condition.parts:
        said = _why_not(part, value_of)
        if said and condition.kind == "all":
            return said
        if not said and condition.kind == "any":
            return ""
        found.append(said)
    if condition.kind == "all":
        return ""
    more = f", and {len(found) - _TOLD_MAX} more do not hold" if len(found) > _TOLD_MAX else ""
    return "; ".join(found[:_TOLD_MAX]) + more


class _Missing(Exception):
    """There is nothing at the path: how far it leads, and what is there instead."""


def _compared(comparison: Comparison, value_of: ValueOf) -> str:
    operator, operand, subject = comparison.operator, _loaded(comparison.operand), comparison.subject
    try:
        found = _found(comparison, value_of)
    except _Missing as missing:
        if operator == "exists":
            return f"there is no {subject}" if operand else ""
        raise Undecided(str(missing)) from None
    except NoValue as error:
        if operator == "exists":
            return f"'{comparison.node}' {error} and has no value" if operand else ""
        raise Undecided(f"'{comparison.node}' {error} and has no value") from None
    if operator == "exists":
        return "" if operand else f"there is {subject}"
    if operator == "truthy":
        said = f"{subject} is {shown_value(found)}, which is {'not true' if operand else 'not false'}"
        return "" if bool(found) is operand else said
    if _holds(operator, found, operand, subject):
        return ""
    if operator == "has":
        return f"{subject} does not have {shown_value(operand)}"
    wanted = _listed(operand) if operator == "in" else shown_value(operand)
    instead = f", {_WORDS[operator][1]} {wanted}" if _WORDS[operator][1] else ""
    return f"{subject} is {shown_value(found)}{instead}"


def _found(comparison: Comparison, value_of: ValueOf) -> Any:
    """Follow the path. Raises `_Missing` with how far it leads."""
    value = _loaded(comparison.given) if comparison.node is None else value_of(comparison.node)
    way = comparison.node if comparison.node is not None else "what is given"
    for part in comparison.path:
        if isinstance(value, dict):
            if str(part) not in value:
                known = ", ".join([shown_value(key) for key in sorted(value)[:5]])
                raise _Missing(f"{way} has no '{part}'; it has {known or 'nothing'}{', …' if len(value) > 5 else ''}")
            value = value[str(part)]
        elif isinstance(value, list) and str(part).isdecimal():
            if int(part) >= len(value):
                raise _Missing(f"{way} has no element {part}: it is {_counted(value)}")
            value = value[int(part)]
        else:
            raise _Missing(f"{way} is {_described(value)}, in which there is no '{part}'")
        way = f"{way}.{part}"
    return value


def _holds(operator: str, found: Any, operand: Any, subject: str) -> bool:
    """Compare. Raises `Undecided` if the two cannot be compared in this way."""
    match operator:
        case "is" | "is_not":
            return _is_among(found, [operand], subject) is (operator == "is")
        case "in" | "not_in":
            return _is_among(found, operand, subject) is (operator == "in")
        case "has":
            if isinstance(found, list):
                # What is the same is equal, which is found far faster.
                return operand in found and any(_same(each, operand) for each in found)
            if isinstance(found, dict) and isinstance(operand, str):
                return operand in found
            raise Undecided(f"{subject} is {_described(found)}, which cannot have {_described(operand)} in it")
    if kind_of(found) != kind_of(operand):
        raise Undecided(f"{subject} is {_described(found)}, and is compared with {_described(operand)}")
    return _ORDERING[operator](found, operand)


def _is_among(found: Any, others: list[Any], subject: str) -> bool:
    """Tell whether a value is one of these; null is comparable with anything, all else with its kind."""
    kind = kind_of(found)
    comparable = [other for other in others if kind_of(other) == kind]
    if others and not comparable and kind != "null" and not any(other is None for other in others):
        raise Undecided(f"{subject} is {_described(found)}, and is compared with {_described(others[0])}")
    return any(_same(found, other) for other in comparable)


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1, and 1 is 1.0."""
    if kind_of(one) != kind_of(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other)


# --- words ----------------------------------------------------------------------------------------------------------


def kind_of(value: Any) -> str:
    """Return what JSON calls a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"


def _described(value: Any) -> str:
    """Name a value and its kind."""
    kind = kind_of(value)
    if kind in ("null", "boolean", "list", "object"):
        return shown_value(value)
    return f"the {kind} {shown_value(value)}" if kind == "number" or _is_short(value) else shown_value(value)


def shown_value(value: Any) -> str:
    """Write a value so that it fits into a line: short texts and numbers as they are, of others what they are."""
    if isinstance(value, str):
        return f"'{value}'" if _is_short(value) else f"a text of {len(value)} characters"
    if isinstance(value, list):
        return _counted(value)
    if isinstance(value, Mapping):
        return "an object" if value else "an empty object"
    text = json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN_MAX else f"a number of {len(text)} digits"


def _is_short(text: str) -> bool:
    return len(text) <= _SHOWN_MAX and text.isprintable()


def _counted(value: list[Any]) -> str:
    return f"a list of {len(value)}" if value else "an empty list"


def _listed(operand: list[Any]) -> str:
    more = f" and {len(operand) - 5} more" if len(operand) > 5 else ""
    return ", ".join([shown_value(each) for each in operand[:5]]) + more if operand else "nothing"

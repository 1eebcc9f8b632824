"""Random canvases from a seed, and a model of what each of them is worth.

A canvas is drawn as a tree (plain data) first. From the tree come the Celery canvas, the expected value and calls, and the known
differences that it shows; none of this uses our importer. ``draw(seed, index)`` gives the same tree whatever else is drawn.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

from celery import chain, chord, group
from celery.canvas import _chain

from tests.conformance.runs import Tasks

_TASKS_MAX: Final = 25
_DEPTH_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One task."""

    label: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    is_immutable: bool = False
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps one after the other; ``style`` says how it is written."""

    steps: "tuple[Tree, ...]"
    style: str = "chain"


@dataclass(frozen=True, slots=True)
class Group:
    """Members side by side. Always a list: groups of generators inside others lose values (`lazy-group`)."""

    members: "tuple[Tree, ...]"


@dataclass(frozen=True, slots=True)
class Chord:
    """Members side by side, then a body."""

    header: "tuple[Tree, ...]"
    body: "Tree"


Tree = Task | Chain | Group | Chord


def draw(seed: int, index: int) -> Tree:
    """Draw the tree of this number."""
    return _Draw(random.Random(f"{seed}/{index}")).tree()


class _Draw:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._left = chance.randint(1, _TASKS_MAX)
        self._made = 0
        # Most canvases have no task that fails, so that the value is compared; the others have a few.
        self._failing = chance.choice([0, 0, 0, 0, 0.1, 0.3])

    def tree(self) -> Tree:
        return self._part(0) if self._left > 1 else self._task()

    def _part(self, depth: int) -> Tree:
        if depth >= _DEPTH_MAX or self._left <= 1:
            return self._task()
        kinds: list[Callable[[int], Tree]] = [self._chain, self._group, self._chord]
        if depth:
            kinds += [lambda _: self._task()] * 4
        return self._chance.choice(kinds)(depth + 1)

    def _parts(self, depth: int, least: int) -> tuple[Tree, ...]:
        count = self._chance.choice([least, 2, 2, 3, 3, 4])
        return tuple(self._part(depth) for _ in range(count))

    def _task(self) -> Tree:
        chance = self._chance
        self._left -= 1
        self._made += 1
        args = tuple(chance.choice([1, "x", None, 2.5]) for _ in range(chance.choice([0, 0, 0, 1, 2])))
        kwargs = (("k", chance.randint(0, 9)),) if chance.random() < 0.15 else ()
        return Task(f"t{self._made}", args, kwargs, is_immutable=chance.random() < 0.15, fails=chance.random() < self._failing)

    def _chain(self, depth: int) -> Tree:
        return Chain(self._parts(depth, 2), self._chance.choice(["chain", "raw", "pipe"]))

    def _group(self, depth: int) -> Tree:
        members = self._parts(depth, 1)
        while len(members) == 1 and isinstance(members[0], Group):
            # How many of these Celery unrolls depends on where they stand.
            members = members[0].members
        return Group(members)

    def _chord(self, depth: int) -> Tree:
        return Chord(self._parts(depth, 1), self._part(depth))


def build(tree: Tree, t: Tasks) -> Any:
    """Write the tree as a Celery canvas."""
    match tree:
        case Task():
            made = t.make("fail" if tree.fails else "call", tree.label, *tree.args, **dict(tree.kwargs))
            return made.set(immutable=True) if tree.is_immutable else made
        case Chain():
            steps = [build(step, t) for step in tree.steps]
            match tree.style:
                case "pipe":
                    return reduce(lambda left, right: left | right, steps)
                case "raw":
                    return _chain(*steps, app=t.app)
            return chain(*steps)
        case Group():
            return group([build(member, t) for member in tree.members], app=t.app)
        case Chord():
            return chord([build(member, t) for member in tree.header], build(tree.body, t), app=t.app)


def shown(tree: Tree) -> str:
    """Write a tree in one line: `!` fails, `.` takes no value."""
    match tree:
        case Task():
            return tree.label + "!" * tree.fails + "." * tree.is_immutable
        case Chain():
            return f"{tree.style}({', '.join(map(shown, tree.steps))})"
        case Group():
            return f"[{', '.join(map(shown, tree.members))}]"
        case Chord():
            return f"chord([{', '.join(map(shown, tree.header))}] -> {shown(tree.body)})"


class Failed:
    """The value of what did not succeed."""


_NOTHING: Final = object()


@dataclass(slots=True)
class Expected:
    """What a tree does, by the rules that we promise."""

    value: Any = None
    calls: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)

    @property
    def outcome(self) -> str:
        """Say it as `Seen.outcome` does."""
        return f"failed {' '.join(sorted(self.failed))}" if self.failed else f"value {_text(self.value)}"

    @property
    def story(self) -> str:
        """Outcome and calls in one line."""
        return f"{self.outcome} | {'; '.join(sorted(self.calls))}"


def expected_of(canvas: Any) -> Expected:
    """Execute a canvas here, by the tree that Celery has built: what `|` makes of an expression differs between its versions."""
    expected = Expected()
    value = _value(canvas, _NOTHING, expected)
    only_member = _kind(canvas) == "group" and isinstance(value, list) and len(value) == 1 and isinstance(value[0], list)
    expected.value = value[0] if only_member else value
    return expected


def _value(canvas: Any, given: Any, expected: Expected) -> Any:
    inner = canvas["kwargs"]
    match _kind(canvas):
        case "chain":
            steps = list(map(_unrolled, inner["tasks"]))
            for number, step in enumerate(steps, start=1):
                given = _value(step, given, expected)
                if given is Failed:
                    return Failed
                # Celery lets what follows a body take each of its values.
                if number < len(steps) and isinstance(given, list) and len(given) == 1 and _is_body(step):
                    given = given[0]
            return given
        case "group":
            return _list(inner["tasks"], given, expected)
        case "chord":
            header = inner["header"]
            values = _list(header["kwargs"]["tasks"] if isinstance(header, Mapping) else header, given, expected)
            return Failed if values is Failed else _value(inner["body"], values, expected)
    args = canvas["args"] if canvas["immutable"] or given is _NOTHING else (given, *canvas["args"])
    kwargs = {name: value for name, value in inner.items() if name != "at"}
    label = inner["at"].rpartition("/")[2]
    text = f"{label}({','.join([*map(_text, args), *(f'{name}={_text(value)}' for name, value in kwargs.items())])})"
    expected.calls[text] += 1
    if canvas["task"].endswith(".fail"):
        expected.failed.add(label)
        return Failed
    return text


def _list(members: Sequence[Any], given: Any, expected: Expected) -> Any:
    values: list[Any] = []
    for member in members:
        value = _value(member, given, expected)
        values.extend(value if _kind(member) == "group" and value is not Failed else [value])
    return Failed if Failed in values else values


def _kind(canvas: Any) -> str:
    return canvas.get("subtask_type") or ""


def _unrolled(step: Any) -> Any:
    is_unrolled = _kind(step) == "group" and len(step["kwargs"]["tasks"]) == 1
    return step["kwargs"]["tasks"][0] if is_unrolled else step


def _is_body(step: Any) -> bool:
    while _kind(step) == "chain":
        step = step["kwargs"]["tasks"][-1]
    return _kind(step) == "chord"


def _steps(tree: Chain) -> Iterator[Tree]:
    """List a chain's steps; a group of one counts as its member."""
    for number, step in enumerate(tree.steps):
        # But for what stands first before `|`, and a group after that: they make a chord. `chain()` joins its steps with `|`.
        is_second = number == 1 and isinstance(tree.steps[0], Group) and (tree.style == "pipe" or len(tree.steps[0].members) > 1)
        stays = (tree.style == "pipe" and number == 0) or (tree.style != "raw" and is_second)
        yield step.members[0] if isinstance(step, Group) and len(step.members) == 1 and not stays else step


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return value if isinstance(value, str) else repr(value)


# --- known differences ----------------------------------------------------------------------------------------------


def differences_of(tree: Tree, version: str) -> set[str]:
    """Return the keys of the known differences that a tree may show on this version of Celery."""
    found = set()
    if any(isinstance(part, Task) and part.fails for part in _parts(tree)):
        found.add("failure-hangs")
    if any(_reorders(part) for part in _parts(tree)):
        found.add("nested-group-order")
    if any(_repeats(_flat_steps(part)) for part in _parts(tree)):
        found.add("chain-of-groups")
    if any(_starts_with_raw_group(inner) for part in _parts(tree) for inner in _places(part)):
        found.add("group-first-in-member")
    if any(_starts_with_raw_group(step.steps[0]) for part in _parts(tree) for step in _inner_chains(part)):
        found.add("group-first-in-member")
    if any(_ends_in_containers(member) for part in _parts(tree) for member in _places(part)):
        found.add("group-body-of-containers")
    if version == "5.7" and any(_has_raw_fan(part.body) for part in _parts(tree) if isinstance(part, Chord)):
        found.add("chord-in-raw-body")
    if version == "5.6":
        if any(re.search("H.*[Ll]H", _flat_steps(part)) for part in _parts(tree)):
            found.add("chain-of-groups")
        if any(_flat_steps(member).endswith("Hl") for part in _parts(tree) for member in _places(part)):
            found.add("broken-in-5.6")
        if any(re.search("H.+H", _flat_steps(member)) for part in _parts(tree) for member in _places(part)):
            found.add("broken-in-5.6")
        if "failure-hangs" in found and any("HL" in _flat_steps(part).upper() for part in _parts(tree)):
            found.add("group-body-revoked")
    return found


def _parts(tree: Tree) -> Iterator[Tree]:
    yield tree
    for part in tree.steps if isinstance(tree, Chain) else _places(tree):
        yield from _parts(part)


def _places(tree: Tree) -> tuple[Tree, ...]:
    """List what stands in a group or chord."""
    match tree:
        case Group():
            return tree.members
        case Chord():
            return (*tree.header, tree.body)
    return ()


def _inner_chains(tree: Tree) -> list[Chain]:
    """List the chains that `|` puts behind something else: what stands first in them is a chain in a chain then."""
    return [step for step in tree.steps[1:] if isinstance(step, Chain)] if isinstance(tree, Chain) else []


def _starts_with_raw_group(tree: Tree) -> bool:
    """Tell whether it is a chain that Celery makes a chord of only when it runs."""
    is_raw = False
    while isinstance(tree, Chain):
        is_raw |= tree.style == "raw"
        tree = tree.steps[0]
    return is_raw and isinstance(tree, Group)


def _has_raw_fan(tree: Tree) -> bool:
    """Tell whether a raw chain in it has a group with a chord in it before another step."""
    return any(
        isinstance(step, Group) and any(isinstance(inner, Chord) for inner in _parts(step))
        for part in _parts(tree)
        if isinstance(part, Chain) and part.style == "raw"
        for step in part.steps[:-1]
    )


def _reorders(tree: Tree) -> bool:
    """Tell whether a list has a group directly in it, which Celery then turns round."""
    members = tree.members if isinstance(tree, Group) else tree.header if isinstance(tree, Chord) else ()
    return any(isinstance(member, Group) and len(member.members) > 1 for member in members)


def _ends_in_containers(tree: Tree) -> bool:
    """Tell whether it is a chain or chord that ends in a group of more than tasks."""
    if not isinstance(tree, Chain | Chord):
        return False
    while isinstance(tree, Chain | Chord):
        tree = tree.body if isinstance(tree, Chord) else [*_steps(tree)][-1]
    return isinstance(tree, Group) and not all(isinstance(member, Task) for member in tree.members)


def _flat_steps(tree: Tree) -> str:
    """Write what follows what in one chain: L for a group, l for a group of one, H for a chord's header, T for a task."""
    match tree:
        case Task():
            return "T"
        case Group():
            return "L" if len(tree.members) > 1 else "l"
        case Chord():
            return "H" + _flat_steps(tree.body)
        case Chain():
            return "".join(map(_flat_steps, _steps(tree)))


def _repeats(steps: str) -> bool:
    """Tell whether Celery runs a list once per member of the list before it."""
    return steps.endswith(("LLL", "HLL")) or "HL" in steps.rstrip("L")

"""What the conditions of a node decide once its rule would let it go, by the values that are kept for them.

*What it costs.* A condition may look at a quarter of a megabyte a hundred times, and one of a section holds for all nodes in it:
so what it says of the same values is found once, and not for each of them.
"""

import json
import re
from functools import lru_cache
from typing import Any, Final

from dyrygentd.core.bounds import SECTION_DEPTH_MAX, WHEN_VALUE_BYTES_MAX
from dyrygentd.core.conditions import NoValue, Undecided, When, nodes_of, why_not
from dyrygentd.core.references import size_of
from dyrygentd.core.rules import Verdict
from dyrygentd.core.states import BAD, FINISHED, NodeState
from dyrygentd.core.values import as_one, is_referring
from dyrygentd.core.verdicts import Deciding
from dyrygentd.core.words import without_particulars

#: Begins the fingerprint of a failure whose condition could not be decided; why follows, without names and numbers.
UNDECIDED: Final = "undecided"

#: Of all values together that a condition asks for. What the last few have said is kept with these.
_BYTES_MAX: Final = 8 * WHEN_VALUE_BYTES_MAX
#: Nested sections with a condition each, and one of the node's own.
_KEPT_MAX: Final = SECTION_DEPTH_MAX + 1

#: A node that is asked: its name, its value, and if there is none, why (`NoValue`), or why it is not looked into (`Undecided`).
_Fact = tuple[str, bytes | None, str, str]


class _Lost(Exception):
    """A value that is asked for is not there; the name of its node."""


def cause_of_undecided(workflow: Deciding, node: int, said: str) -> str:
    """Return the cause of a node whose condition cannot be decided: one for each reason, and not for each node that is asked."""
    for decider in workflow.graph.choices.deciders.get(node, ()):
        said = re.sub(rf"(?<!\w){re.escape(workflow.graph.names[decider])}(?!\w)", "…", said)
    return f"{UNDECIDED}: {without_particulars(said)}"


def choice_of(workflow: Deciding, node: int) -> tuple[Verdict, str]:
    """Return what becomes of a node that its rule lets go, and why it does not go."""
    choices = workflow.graph.choices
    provisos = choices.provisos.get(node)
    if provisos is None:
        return Verdict.GO, ""
    if any(workflow.states[decider] not in FINISHED for decider in choices.deciders[node]):
        return Verdict.WAIT, ""

    numbers = {workflow.graph.names[decider]: decider for decider in choices.deciders[node]}
    for proviso in provisos:
        names = dict.fromkeys(nodes_of(proviso.when.condition))
        facts = tuple([_fact_of(workflow, name, numbers[name]) for name in names])
        try:
            said = _said(proviso.when, facts)
        except _Lost as error:
            raise workflow.nodes.broken(node, f"has lost the value of '{error}', which decides about it") from None
        except Undecided as error:
            return Verdict.FAIL, f"{proviso.words} cannot be decided: {error}"
        if said:
            return Verdict.SKIP, f"{proviso.words}: {said}"
    return Verdict.GO, ""


def _fact_of(workflow: Deciding, name: str, decider: int) -> _Fact:
    state = workflow.state_of(decider)
    if state in BAD:
        return name, None, "failed" if state is NodeState.FAILED else f"was {state.word}", ""
    if decider in workflow.unneeded:
        return name, None, "was not needed", ""
    value = workflow.values.by_node.get(decider)
    if value is None:
        return name, None, "", ""
    size = size_of(as_one(value.text)) if is_referring(value.text) else len(value.text)
    if size > WHEN_VALUE_BYTES_MAX or is_referring(value.text):
        words = (
            f"the value of '{name}' has {size} bytes of JSON, and a condition looks into"
            f" {WHEN_VALUE_BYTES_MAX} at most, that are kept in memory: let a task return what decides by itself"
        )
        return name, None, "", words
    return name, value.content, "", ""


def _said(when: When, facts: tuple[_Fact, ...]) -> str:
    """Return why a condition does not hold, empty if it does. Raises `Undecided` or `_Lost`."""
    size = sum([len(fact[1] or b"") for fact in facts])
    if size > _BYTES_MAX:
        raise Undecided(f"the values that it asks for have {size} bytes of JSON, and it looks into {_BYTES_MAX} at most")
    said, problem, lost = _decided(when, facts)
    if lost:
        raise _Lost(lost)
    if problem:
        raise Undecided(problem)
    return said


@lru_cache(maxsize=_KEPT_MAX)
def _decided(when: When, facts: tuple[_Fact, ...]) -> tuple[str, str, str]:
    """Return why a condition does not hold, or why that cannot be told, or the name of the node whose value is lost."""
    known = {name: rest for name, *rest in facts}

    def value_of(name: str) -> Any:
        text, why_none, why_undecided = known[name]
        if text is not None:
            return _decoded(text)
        if why_none:
            raise NoValue(why_none)
        raise Undecided(why_undecided) if why_undecided else _Lost(name)

    try:
        return why_not(when.condition, value_of), "", ""
    except Undecided as error:
        return "", str(error), ""
    except _Lost as error:
        return "", "", str(error)


@lru_cache(maxsize=_KEPT_MAX)
def _decoded(text: bytes) -> Any:
    """Read a value: many nodes in a row are decided by a few. Nobody changes what is returned."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Undecided(f"the value cannot be read: {error}") from None

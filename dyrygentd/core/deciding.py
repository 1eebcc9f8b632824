"""What the conditions of a node decide once its rule would let it go, by the values that are kept for them."""

import json
from functools import lru_cache
from typing import Any, Final

from dyrygentd.core.bounds import WHEN_VALUE_BYTES_MAX
from dyrygentd.core.conditions import NoValue, Undecided, why_not
from dyrygentd.core.references import size_of
from dyrygentd.core.rules import Verdict
from dyrygentd.core.states import BAD, FINISHED, NodeState
from dyrygentd.core.values import as_one, is_referring
from dyrygentd.core.verdicts import Deciding

#: Fingerprint of a failure whose condition could not be decided.
UNDECIDED: Final = "undecided"


def choice_of(workflow: Deciding, node: int) -> tuple[Verdict, str]:
    """Return what becomes of a node that its rule lets go, and why it does not go."""
    choices = workflow.graph.choices
    provisos = choices.provisos.get(node)
    if provisos is None:
        return Verdict.GO, ""
    if any(workflow.states[decider] not in FINISHED for decider in choices.deciders[node]):
        return Verdict.WAIT, ""

    numbers = {workflow.graph.names[decider]: decider for decider in choices.deciders[node]}

    def value_of(name: str) -> Any:
        return _value_of(workflow, node, numbers[name])

    for proviso in provisos:
        try:
            said = why_not(proviso.when.condition, value_of)
        except Undecided as error:
            return Verdict.FAIL, f"{proviso.words} cannot be decided: {error}"
        if said:
            return Verdict.SKIP, f"{proviso.words}: {said}"
    return Verdict.GO, ""


def _value_of(workflow: Deciding, node: int, decider: int) -> Any:
    """Return a value that is asked for. Raises `NoValue` or `Undecided`."""
    state = workflow.state_of(decider)
    if state in BAD:
        raise NoValue("failed" if state is NodeState.FAILED else f"was {state.word}")
    if decider in workflow.unneeded:
        raise NoValue("was not needed")
    value = workflow.values.by_node.get(decider)
    if value is None:
        raise workflow.nodes.broken(node, f"has lost the value of '{workflow.graph.names[decider]}', which decides about it")
    size = size_of(as_one(value.text)) if is_referring(value.text) else len(value.text)
    if size > WHEN_VALUE_BYTES_MAX or is_referring(value.text):
        raise Undecided(
            f"the value of '{workflow.graph.names[decider]}' has {size} bytes of JSON, and a condition looks into"
            f" {WHEN_VALUE_BYTES_MAX} at most, that are kept in memory: let a task return what decides by itself"
        )
    return _decoded(value.content)


@lru_cache(maxsize=2)
def _decoded(text: bytes) -> Any:
    """Read a value: many nodes in a row are decided by one. Nobody changes what is returned."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Undecided(f"the value cannot be read: {error}") from None

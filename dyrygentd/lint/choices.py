"""Conditions that may not be meant: branches that can never run, or that run together, and waits that nobody wrote down.

What must hold for a node to run is its own condition, those of its sections, and, with the usual rule, what must hold for all
that it waits for. Of this only equalities are looked into.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dyrygentd.core.conditions import Combined, Comparison, Condition, NoValue, Undecided, comparisons_of, why_not
from dyrygentd.core.graph import Graph
from dyrygentd.core.policy import HandsOn, Rule

#: More of a node are not compared: each is looked at for everything behind it.
_FACTS_MAX: Final = 50


class ChoiceRemark(NamedTuple):
    """What is said of one node."""

    code: str
    node: str
    said: str


class _Fact(NamedTuple):
    """What must hold: a value is among these, or among none of these; ``of`` is all of a condition of another kind."""

    of: str
    operator: str = ""
    values: tuple[str, ...] = ()


def remarks_on_choices(graph: Graph) -> Iterator[ChoiceRemark]:
    """Yield what may not be meant."""
    provisos = graph.choices.provisos
    if not provisos:
        return
    facts: dict[int, frozenset[_Fact]] = {}
    told: set[int] = set()
    for node in graph.topological_order():
        name = graph.names[node]
        own = [proviso.when.condition for proviso in provisos.get(node, ())]
        found = {fact for condition in own for fact in _facts_of(condition)}
        if graph.policy(node).rule is Rule.ALL_SUCCEEDED and graph.policy(node).hook is None:
            before = graph.dependencies(node)
            found = found.union(*[facts.get(other, frozenset()) for other in before])
            if any(other in told for other in before):
                # What can never run is told once, and not of all that is behind it.
                told.add(node)
        facts[node] = frozenset(sorted(found)[:_FACTS_MAX])
        constant = next((said for condition in own if (said := _never(condition))), "")
        if node not in told and (constant or (said := _contradiction(facts[node]))):
            told.add(node)
            yield ChoiceRemark("never-runs", name, f"it can never run: {constant or said}")
        if graph.policy(node).hands_on is HandsOn.ONE:
            yield from _alike(graph, node, facts)
        yield from _waits(graph, node)


def _facts_of(condition: Condition) -> Iterator[_Fact]:
    if isinstance(condition, Combined):
        if condition.kind == "all":
            for part in condition.parts:
                yield from _facts_of(part)
        else:
            yield _Fact(condition.words)
    elif condition.operator in ("is", "in", "is_not", "not_in") and condition.node is not None:
        values = condition.operands if condition.operator in ("in", "not_in") else (condition.operand,)
        yield _Fact(condition.subject, "in" if condition.operator in ("is", "in") else "not_in", values)
    elif condition.operator != "exists":
        yield _Fact(condition.words)


def _never(condition: Condition) -> str:
    """Return why a condition can never hold, whatever the nodes return; empty if it may."""
    empty = [each for each in _needed(condition) if each.operator == "in" and not each.operands]
    if empty:
        return f"{empty[0].subject} is one of nothing"
    if any(comparison.node is not None for comparison in comparisons_of(condition)):
        return ""
    try:
        return why_not(condition, _nobody)
    except Undecided as error:
        return str(error)


def _nobody(name: str) -> object:  # pragma: no cover - nobody is asked
    raise NoValue(name)


def _needed(condition: Condition) -> Iterator[Comparison]:
    """Yield the comparisons that must hold for all of it to hold."""
    if isinstance(condition, Comparison):
        yield condition
    elif condition.kind == "all":
        for part in condition.parts:
            yield from _needed(part)


def _contradiction(facts: Iterable[_Fact]) -> str:
    """Return what cannot hold together, empty if all of it may."""
    allowed: dict[str, set[str]] = {}
    refused: dict[str, set[str]] = {}
    for fact in facts:
        if fact.operator == "in":
            known = allowed.setdefault(fact.of, set(fact.values))
            known.intersection_update(fact.values)
        elif fact.operator:
            refused.setdefault(fact.of, set()).update(fact.values)
    for subject, values in allowed.items():
        if not values - refused.get(subject, set()):
            return f"what is asked of {subject} here, and before it, cannot hold together"
    return ""


def _alike(graph: Graph, join: int, facts: dict[int, frozenset[_Fact]]) -> Iterator[ChoiceRemark]:
    first: dict[frozenset[_Fact], int] = {}
    for branch in graph.inputs(join):
        known = first.setdefault(facts[branch], branch)
        if known != branch:
            name, names = graph.names[join], (graph.names[known], graph.names[branch])
            said = f"'{names[0]}' and '{names[1]}' run under the same conditions, and '{name}' hands on the value of one"
            yield ChoiceRemark("branches-alike", name, said)
            return


def _waits(graph: Graph, node: int) -> Iterator[ChoiceRemark]:
    only_deciding = {graph.names[other] for other in graph.choices.only_deciding.get(node, ())}
    for proviso in graph.choices.provisos.get(node, ()):
        if proviso.section or not only_deciding:
            continue
        for comparison in comparisons_of(proviso.when.condition):
            if comparison.node in only_deciding and comparison.operator != "exists":
                said = f"its `when` asks for the value of '{comparison.node}', which is not in its `after`: it waits for it, too"
                yield ChoiceRemark("when-waits", graph.names[node], said)
                return

"""Conditions of nodes and sections as they are written in a definition; what they mean is told in `dyrygentd.core.conditions`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dyrygentd.core.conditions import BadWhen, When, comparisons_of, when_of
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec
from dyrygentd.core.sections import SEPARATOR, flaw_of_section
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.forms import ConditionDocument, SectionDocument
from dyrygentd.wire.mistakes import suggestion

#: A parameter that stands alone and was not filled in, as JSON text.
_REFERENCE: Final = re.compile(r'"\$\{([^}]*)\}"')


def when_of_node(name: str, document: ConditionDocument) -> When:
    """Read the condition of a node. Raises `BadNode`."""
    try:
        return _when(document)
    except BadWhen as error:
        raise BadNode(name, f"`when`: {error.reason}", next_step=error.next_step) from None


def whens_of(sections: Mapping[str, SectionDocument] | None, nodes: Sequence[NodeSpec]) -> dict[str, When]:
    """Read the conditions of sections. Raises `BadRequest`, also for a section in which no node is."""
    whens: dict[str, When] = {}
    for path, section in (sections or {}).items():
        place = f"$.sections.{path[:200]}"
        flaw = flaw_of_section(path)
        if flaw is not None:
            raise BadRequest(f"section '{path[:200]}' {flaw[0]}", path=place, next_step=flaw[1])
        if section.when is None:
            continue
        try:
            whens[path] = _when(section.when)
        except BadWhen as error:
            raise BadRequest(f"section '{path}', `when`: {error.reason}", path=place, next_step=error.next_step) from None
    used = _paths_in_use(nodes) if whens else set()
    for path in whens:
        if path not in used:
            next_step = suggestion(path, sorted(used))
            raise BadRequest(f"`sections` names '{path}', in which no node is", path=f"$.sections.{path}", next_step=next_step)
    return whens


def _paths_in_use(nodes: Sequence[NodeSpec]) -> set[str]:
    used: set[str] = set()
    for path in {node.section for node in nodes}:
        while path and path not in used:
            used.add(path)
            path = path.rpartition(SEPARATOR)[0]
    return used


def _when(document: ConditionDocument) -> When:
    when = when_of(msgspec.to_builtins(document))
    for comparison in comparisons_of(when.condition):
        if comparison.node is None and (reference := _REFERENCE.fullmatch(comparison.given)):
            # A text with that name would be compared, so the condition would never hold, or always.
            step = "declare it in `parameters`, or ask for the `value` of a node"
            raise BadWhen(f"`given` is ${{{reference[1]}}}, and there is no such parameter", step)
    return when


def condition_document(when: When) -> ConditionDocument:
    """Write a condition."""
    return msgspec.json.decode(when.text, type=ConditionDocument)


def section_documents(graph: Graph) -> dict[str, Any] | None:
    """Write what holds for sections, None if nothing does."""
    whens = graph.choices.of_sections
    return {path: SectionDocument(when=condition_document(when)) for path, when in whens.items()} if whens else None

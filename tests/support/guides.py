"""The guides, and the tables in them that are made from the code: ``python -m tests.support.guides`` writes these anew.

A table stands between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``; `TABLES` says what makes it. They are
committed, so that a guide can be read as it is; `tests/test_guides.py` says if one is not what this makes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dyrygentd.lint import differences
from dyrygentd.wire.forms import MapDocument, NodeDocument, PolicyDocument, PollDocument, RetryDocument, WorkflowDocument
from dyrygentd.wire.schema import ParameterDocument
from tests.support import guide_tables as tables

ROOT: Final = Path(__file__).parents[2]

_MARKED: Final = re.compile(r"(?ms)^<!-- generated: ([\w-]+) -->\n(.*?)^<!-- /generated -->$")

#: ``{name of a table: makes it}``; where it stands is found in the guides.
TABLES: Final[dict[str, Callable[[], str]]] = {
    "states": tables.states,
    "state-diagram": tables.state_diagram,
    "transitions": tables.transitions,
    "reactions": tables.reactions,
    "workflow-states": tables.workflow_states,
    "verbs": tables.verbs,
    "definition-fields": lambda: tables.fields(WorkflowDocument),
    "node-fields": lambda: tables.fields(NodeDocument),
    "policy-fields": lambda: tables.fields(PolicyDocument),
    "retry-fields": lambda: tables.fields(RetryDocument),
    "poll-fields": lambda: tables.fields(PollDocument),
    "map-fields": lambda: tables.fields(MapDocument),
    "parameter-fields": lambda: tables.fields(ParameterDocument),
    "differences": differences.table,
    "routes": tables.routes,
    "errors": tables.errors,
    "settings": tables.settings,
    "metrics": tables.metrics,
    "alerts": tables.alerts,
}


def guides() -> list[Path]:
    """Return every guide: the README of each room, and what stands beside the file that it is about."""
    rooms = (ROOT / room for room in ("dyrygentd", "systemd", "grafana", "tests"))
    return [ROOT / "README.md", *(path for room in rooms for path in sorted(room.rglob("*.md")))]


def marked(text: str) -> list[tuple[str, str]]:
    """Return ``(name, body)`` of the generated tables of a guide."""
    return _MARKED.findall(text)


def renewed(text: str) -> str:
    """Return a guide with its tables made anew."""
    return _MARKED.sub(lambda found: f"<!-- generated: {found[1]} -->\n{TABLES[found[1]]()}\n<!-- /generated -->", text)


def blocks(path: Path, mark: str) -> dict[str, str]:
    """Return ``{name: body}`` of the fenced blocks that are marked ``<!-- mark: name -->``, without a list's indentation."""
    found = re.findall(rf"(?ms)^( *)<!-- {mark}: (\S+) -->\n *```\w+\n(.*?)^ *```", path.read_text())
    return {name: re.sub(rf"(?m)^{indent}", "", body) for indent, name, body in found}


def anchors(text: str) -> set[str]:
    """Return the anchors of a guide's headings, as GitHub makes them."""
    made: list[str] = []
    for title in re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^ *```.*?^ *```", "", text)):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        made.append(f"{anchor}-{made.count(anchor)}" if anchor in made else anchor)
    return set(made)


def links(text: str) -> Sequence[str]:
    """Return where a guide's relative links go."""
    return re.findall(r"\[[^]]*\]\(((?!https?:)[^)\s]+)\)", re.sub(r"(?ms)^ *```.*?^ *```", "", text))


def main() -> None:
    """Write what has changed."""
    for path in guides():
        text = path.read_text()
        if (new := renewed(text)) != text:
            path.write_text(new)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

"""One word for one thing: classes have names of their own, and words that mean nothing here are not used."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.support.daemon import ROOT

_TWICE: Final = {"Handle": "the same thing at a client and in a program that embeds a scheduler"}
"""Names that several classes may have, with the reason."""
_EMPTY: Final = frozenset({"handler", "info", "manager", "misc", "processor", "util", "utils"})
_OTHER: Final = frozenset(
    # For node states at the end, waiting, dispatching, cancelling, watching, turns, workflows and dependencies.
    {"settle", "settled", "unsettled", "pending", "enqueue", "abort", "kill", "monitor", "tick", "job", "jobs", "pipeline"}
    | {"upstream", "downstream", "dag"}
)
_FOREIGN: Final = {
    "kill": "signals, of processes",
    "remove_pending_result": "Celery's interface",
}
"""Names that others have given."""


def test_classes_have_names_of_their_own() -> None:
    """A name that stands for two things sends whoever looks for one of them to the other."""
    places: dict[str, set[str]] = defaultdict(set)
    for path, node in _named():
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            places[node.name].add(path)
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1 and name not in _TWICE} == {}


def test_words_are_those_of_the_house() -> None:
    """What the house calls finished, cancelled or dispatched has no second word, and no name is an empty one."""
    found = {
        f"{path}: {node.name}" for path, node in _named() if node.name not in _FOREIGN and _words(node.name) & (_EMPTY | _OTHER)
    }
    assert found == set()


def _named() -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Iterate over what is named, but for the room that has the names of another library."""
    for path in sorted((ROOT / "dyrygentd").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and "/compat/" not in name:
                yield name, node


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}

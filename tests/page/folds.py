"""Folds as a real daemon makes them, for what draws them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dyrygentd import Workflow, wire
from dyrygentd.canvas import NodeRef, definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.core.states import NodeState
from tests.benchmarks import shapes as measured
from tests.http.support import Daemon
from tests.support import shapes, tasks

#: What users may call something: markup, what turns a line round, what no font has.
HOSTILE: Final = (
    "<img src=x onerror=alert(1)>&amp;</text>\u202egnp.exe\u202c 😀👩\u200d👩\u200d👧 שלום عربي \uff37\uff29\uff24\uff25"
)


def definitions() -> dict[str, Definition]:
    """Return workflows of all shapes, by name."""
    found = {f"{name}, {n}": shapes.make(name, n).definition for name in shapes.NAMES for n in (57, 1000)}
    found["chain, 10,000"] = measured.chain_of(10_000).definition
    found["group, 10,000"] = measured.group_of(10_000).definition
    found["layered, 10,000"] = measured.layered(10_000).definition
    found["sections in loops"] = definition_of(_in_loops())
    found["a web of sections"] = definition_of(_web())
    return found


def _in_loops() -> Workflow:
    """The first and the last step are in one section, so it is cut in two."""
    workflow = Workflow(HOSTILE)
    ends = []
    for number in range(60):
        with workflow.section(f"drain/{HOSTILE[:40]} {number}"):
            drained = workflow.add(tasks.noop.si(), name=f"{HOSTILE} {number}")
        with workflow.section("check"):
            checked = workflow.add(tasks.noop.si(), name=f"check {number}", after=[drained])
        with workflow.section("remove"):
            ends.append(workflow.add(tasks.noop.si(), name=f"remove {number}", after=[checked]))
    with workflow.section("check"):
        workflow.add(tasks.noop.si(), name=f"last {'x' * 190}", after=ends)
    return workflow


def _web() -> Workflow:
    """As many boxes and edges as there can be of sections and single nodes."""
    workflow, chance = Workflow("web"), random.Random(5)
    before: list[NodeRef] = []
    for number in range(100):
        with workflow.section(f"s{number}"):
            some = [
                workflow.add(tasks.noop.si(), name=f"{number} {each}", after=chance.sample(before[-60:], min(2, len(before))))
                for each in range(6)
            ]
        before += some
    return workflow


@contextmanager
def showing(path: Path, *chosen: Definition) -> Iterator[tuple[Daemon, list[str]]]:
    """Start a daemon without workers that has these workflows; yield it and their ids."""
    daemon = Daemon(path)
    daemon.broker.has_worker = False
    with daemon:
        yield daemon, [_submitted(daemon, each) for each in chosen]


def fold_of(daemon: Daemon, workflow_id: str, path: str = "") -> dict[str, Any]:
    """Ask for a fold."""
    answer = daemon.ask("GET", f"/v1/workflows/{workflow_id}/fold?path={path}")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def hairball(boxes: int = 300, edges: int = 600) -> dict[str, Any]:
    """Make a fold as large as there can be, with edges everywhere and boxes in every state."""
    chance = random.Random(4)
    words = [state.word for state in NodeState]
    pairs: set[tuple[int, int]] = set()
    while len(pairs) < edges:
        before = chance.randrange(boxes - 1)
        pairs.add((before, min(boxes - 1, before + chance.randint(1, 40))))
    return {
        "id": "hairball",
        "name": "hairball",
        "state": "running",
        "path": "",
        "nodes": boxes * 100,
        "boxes": [
            {
                "path": f"~{number + 1}",
                "kind": "group",
                "title": f"{HOSTILE} {number}",
                "nodes": 100,
                "states": {word: chance.randint(1, 50) for word in words},
                "failed": f"failed {number}",
                "error": HOSTILE,
            }
            for number in range(boxes)
        ],
        "edges": [{"before": before, "after": after, "weight": chance.choice([1, 20, 300])} for before, after in sorted(pairs)],
        "edges_left_out": 3,
    }


def _submitted(daemon: Daemon, definition: Definition) -> str:
    answer = daemon.ask("POST", "/v1/workflows", wire.encode_definition(definition))
    assert answer.status == 201, answer
    return str(answer.json["id"])

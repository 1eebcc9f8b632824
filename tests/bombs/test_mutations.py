"""Thousands of definitions that are a little wrong: refused in words, or stored and read back equal; the daemon lives."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from dyrygentd import wire
from tests.bombs.mutations import mutated
from tests.http.support import Daemon
from tests.support.size import of_size

#: In four parts; 2,400 take some twenty seconds.
SEEDS = of_size(480, 2400)


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon whose tasks do not end."""
    with ExitStack() as exits:
        yield exits.enter_context(Daemon(short_tmp / "d.sock", holds=True))


def _try(daemon: Daemon, seed: int) -> int:
    body = mutated(seed)
    answer = daemon.ask("POST", "/v1/workflows", body)
    assert answer.status in (200, 201, 400, 413, 422), (seed, answer, body)
    assert len(answer.body) < 20_000, seed
    if answer.status >= 400:
        assert answer.json["detail"], (seed, answer)
        return answer.status
    target = f"/v1/workflows/{answer.json['id']}"
    stored = daemon.ask("GET", f"{target}/definition")
    assert stored.status == 200, (seed, stored)
    definition = wire.decode_definition(stored.body, nodes_max=1000)
    again = wire.decode_definition(wire.encode_definition(definition), nodes_max=1000)
    for part in ("names", "signatures", "task_ids", "policies"):
        assert getattr(again.graph, part) == getattr(definition.graph, part), (seed, part)
    assert (again.name, again.labels, again.policy) == (definition.name, definition.labels, definition.policy), seed
    views = [
        target,
        f"{target}?result=true",
        f"{target}/nodes",
        f"{target}/explain",
        f"{target}/export",
        f"{target}/causes",
        f"{target}/fold",
        f"{target}/timeline",
    ]
    for name in definition.graph.names[:2]:
        views += [f"{target}/nodes/{quote(name, safe='')}", f"{target}/nodes/{quote(name, safe='')}/explain"]
    for view in views:
        shown = daemon.ask("GET", view)
        assert shown.status == 200, (seed, view, shown, body)
        json.loads(shown.body)
    assert daemon.ask("POST", f"{target}/cancel", {}).status == 200, seed
    return answer.status


@pytest.mark.parametrize("part", range(4))
def test_definitions_that_are_a_little_wrong(part: int, daemon: Daemon) -> None:
    """Each is answered with a 4xx and words, or is stored, shown, explained, exported and cancelled; nothing is a 5xx."""
    answers = Counter(_try(daemon, seed) for seed in range(part, SEEDS, 4))
    # Neither is the change so wild that nothing gets through, nor so tame that all does.
    assert answers[201] > SEEDS / 40
    assert answers[400] + answers[422] > SEEDS / 40
    assert daemon.ask("GET", "/healthz").json["status"] == "ok"

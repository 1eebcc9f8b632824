"""Definitions of chance: good ones, with something in them changed, by seed."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any, Final

_SEED_DOCUMENTS: Final[tuple[dict[str, Any], ...]] = (
    {"nodes": [{"name": "a", "task": "add", "args": [1, 2]}, {"name": "b", "task": "add", "after": ["a"]}], "output": "b"},
    {
        "name": "all there is",
        "key": "k",
        "labels": {"cluster": "gra1"},
        "payload": {"ticket": [1, 2.5, None]},
        "policy": {
            "on_failure": "stop",
            "retry": {"attempts": 2, "on": ["any"]},
            "deadline_s": 60,
            "priority": 1,
            "in_flight_max": 3,
            "redeliveries_max": 2,
        },
        "nodes": [
            {"name": "start", "task": "add", "kwargs": {"x": {"__type__": "datetime", "__value__": "2030-01-01T00:00:00"}}},
            {"name": "gate", "gate": True, "after": ["start"]},
            {"name": "pause", "sleep_s": 0.5, "after": ["start"]},
            {"name": "join", "join": True, "section": "drain/osd-42", "after": ["gate", "pause"], "rule": "all_finished"},
            {"name": "poll", "task": "add", "poll": {"every_s": 1, "timeout_s": 5}, "after": ["join"], "payload": [1]},
            {"name": "hook", "task": "add", "hook": "failure", "immutable": True},
            {
                "name": "maybe",
                "task": "add",
                "when": {"all": [{"value": "start", "path": "a.0", "is": 1}, {"given": 1, "over": 0}]},
            },
            {"name": "one", "join": True, "after": ["poll", "maybe"], "rule": "none_failed", "hands_on": "one"},
            {"name": "end", "task": "add", "section": "drain", "section_end": "finally", "after": ["start"]},
            {
                "name": "child",
                "after": ["start"],
                "workflow": {
                    "definition": {
                        "parameters": {"x": {"type": "integer"}, "y": 1},
                        "nodes": [{"task": "add", "args": ["${x}"]}],
                    },
                    "values": {"y": 2},
                    "input": "x",
                    "on_close": "abandon",
                },
            },
        ],
    },
    {
        "nodes": [
            {
                "name": "options",
                "task": "celery.group",
                "kwargs": {"tasks": [{"task": "add", "args": [1], "options": {"link": [{"task": "add"}]}}]},
                "options": {
                    "queue": "q",
                    "priority": 3,
                    "countdown": 1,
                    "expires": 60,
                    "headers": {"a": 1},
                    "link": [{"task": "add", "options": {"link_error": {"task": "fail"}}}],
                    "time_limit": 9,
                },
                "idempotent": True,
                "on_lost": "retry",
                "timeout_s": 5,
                "redeliveries_max": 3,
                "expands": True,
            }
        ]
    },
    {
        "parameters": {"n": 3, "who": {"type": "string", "choices": ["x", "y"]}, "list": {"type": "list", "default": [1]}},
        "values": {"who": "x"},
        "nodes": [{"name": "p-${who}", "task": "add", "args": ["${n}", "${list}", "$${n} ${who}"], "after": []}],
    },
)

_DEEP: Any = None
for _ in range(250):
    _DEEP = [_DEEP]

# fmt: off
_VALUES: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308,
    "", " ", "a", "add", "${n}", "${", "$", "\x00", "\u202e", "\u0085", "żółw", "😀", "\ud800", "x" * 300, "9" * 5000,
    [], {}, [[]], [None], ["a", "a"], {"": None}, {"a": {"b": []}}, _DEEP,
    {"task": "add"}, {"task": 7}, [{"task": "add", "options": []}], "celery.map", "unacked", "any", "failed",
    "2030-01-31T08:00:00Z", "2030-13-31", "1e5", "NaN", "../..", "@latest", "%s%n", "{0.__class__}",
    {"__type__": "decimal", "__value__": "x"}, {"__type__": [], "__value__": {}},
)
# fmt: on


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return all places in a document: what holds them, and their key there."""
    found: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        part = todo.pop()
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        found += [(part, key) for key in keys]
        todo += [part[key] for key in keys if isinstance(part[key], dict | list) and part[key] is not _DEEP]
    return found


def _replace(chance: Random, document: Any) -> None:
    holder, key = chance.choice(_places(document))
    value = chance.choice(_VALUES)
    # The next change may be inside it.
    holder[key] = value if value is _DEEP else deepcopy(value)


def _swap(chance: Random, document: Any) -> None:
    (first, one), (second, two) = chance.choice(_places(document)), chance.choice(_places(document))
    first[one] = json.loads(json.dumps(second[two]))


def _remove(chance: Random, document: Any) -> None:
    holder, key = chance.choice(_places(document))
    del holder[key]


def _rename(chance: Random, document: Any) -> None:
    holder, key = chance.choice([(holder, key) for holder, key in _places(document) if isinstance(holder, dict)])
    words = [str(value) for value in _VALUES if isinstance(value, str)] + ["task", "after", "link", "chord", "headers", "nodes"]
    holder[chance.choice(words)] = holder.pop(key)


def _repeat(chance: Random, document: Any) -> None:
    lists = [holder[key] for holder, key in _places(document) if isinstance(holder[key], list) and holder[key]]
    if lists:
        chosen = chance.choice(lists)
        chosen += json.loads(json.dumps(chosen)) * chance.randint(1, 3)


_CHANGES: Final[tuple[Callable[[Random, Any], None], ...]] = (_replace, _replace, _swap, _remove, _rename, _repeat)
_BYTES: Final = (
    b"\x00",
    b"\xff",
    b"\xc3",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"9" * 20,
    b"\\ud800",
    b"NaN",
    b"-",
    b"e9",
)


def change(chance: Random, document: Any) -> None:
    """Change something in a document, or some things."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        if _places(document):
            chance.choice(_CHANGES)(chance, document)


def mutated(seed: int) -> bytes:
    """Return the body of this seed."""
    chance = Random(seed)
    document: Any = json.loads(json.dumps(chance.choice(_SEED_DOCUMENTS)))
    if "key" in document:
        document["key"] = f"key of {seed}"
    change(chance, document)
    body = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
    if chance.random() < 0.25:
        at = chance.randrange(len(body))
        body = body[:at] + chance.choice(_BYTES) + body[at + chance.randint(0, 3) :]
    return body

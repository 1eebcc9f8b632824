"""What an object says of itself in a traceback or a debugger: one line of its state, and no secret."""

import ast
from collections.abc import Iterator
from typing import Any, Final

import pytest
from celery import Celery

from dyrygentd.testing import FakeBroker, FakeReports, MemoryStore
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.polling import PollingResultWatcher
from tests.scheduler.support import definition, scheduler, until
from tests.support.daemon import ROOT

_METHODS_MAX: Final = 5
"""Smaller classes show what they are by their attributes."""
_LINE_MAX: Final = 1000
_WITHOUT: Final = {
    # Hold collaborators, which have reprs, and nothing that changes.
    *("Access", "CeleryOutcomeKeeper", "DocumentReader", "Door", "Explanations", "Queries", "RedisQueues", "Report"),
    *("StoredResults", "TaskEvents"),
    # Live for one call or one command, and nobody holds them but it.
    *(
        "Asking",
        "LiveProgress",
        "MarkedPush",
        "RoffFormatter",
        "Surroundings",
        "Wait",
        "Channel",
        "_Performance",
        "_Show",
        "_Tree",
    ),
    # Have the repr of the class of another package, or its interface, that they extend.
    *("ChooseScreen", "GuardedConnection", "Question", "ResultState", "Masthead", "WatchApp", "WatchScreen"),
    # Hold secrets, or what leads to them.
    *("Notifier", "Redaction"),
}
_NO_STATE: Final = ("Enum", "Error", "NamedTuple", "Protocol", "Struct", "View")
"""Bases that bring a repr, or have nothing to show."""


def test_classes_with_state_show_it() -> None:
    """Whoever meets an object in a traceback learns how it stands; a class that says nothing has a reason here."""
    silent = set(_silent_classes())
    assert silent - _WITHOUT == set()
    assert _WITHOUT - silent == set()


@pytest.mark.anyio
async def test_a_scheduler_at_work_is_shown_line_by_line() -> None:
    """Every part of a running scheduler says in one short line how it stands, whatever it holds at the moment."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store, reports=FakeReports()) as running:
        await running.submit(definition("a; b < a; c", name="nightly"))
        await until(lambda: len(broker.published) == 2)
        shown = {type(part).__name__: repr(part) for part in _parts_of([running, broker, store])}
    assert {
        "Scheduler",
        "Turns",
        "Courier",
        "Archive",
        "Engine",
        "Flights",
        "Pools",
        "Rings",
        "Timers",
        "MemoryStore",
    } <= shown.keys()
    assert {name: line for name, line in shown.items() if "\n" in line or not 0 < len(line) <= _LINE_MAX} == {}
    assert shown["Timers"].startswith("<Timers ")


def test_no_password_is_shown() -> None:
    """What is shown of adapters ends up in logs, where the broker's password has no business."""
    app = Celery("a", broker="redis://:hunter2@nowhere/0", backend="redis://:hunter2@nowhere/1", set_as_current=False)
    lines = [repr(CeleryDispatcher(app)), repr(PollingResultWatcher(app.backend))]
    assert not [line for line in lines if "hunter2" in line]
    assert "nowhere" in lines[0]


def _silent_classes() -> Iterator[str]:
    for path in sorted((ROOT / "dyrygentd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not _is_plain(node):
                methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
                if "__init__" in methods and "__repr__" not in methods and len(methods) > _METHODS_MAX:
                    yield node.name


def _is_plain(node: ast.ClassDef) -> bool:
    bases = " ".join(map(ast.unparse, node.bases))
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list) or any(base in bases for base in _NO_STATE)


def _parts_of(first: list[object]) -> Iterator[object]:
    """Iterate over the objects of this package that are reached through attributes."""
    left, seen = list(first), set[int]()
    while left:
        part: Any = left.pop()
        if id(part) in seen or not type(part).__module__.startswith("dyrygentd"):
            continue
        seen.add(id(part))
        yield part
        slots = [getattr(kind, "__slots__", ()) for kind in type(part).__mro__]
        names = [name for own in slots for name in ([own] if isinstance(own, str) else own)]
        left += [getattr(part, name) for name in [*getattr(part, "__dict__", ()), *names] if hasattr(part, name)]

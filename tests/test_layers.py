"""Who may import whom: the rules of the layout, kept true by reading the source (nothing is imported).

A room is a module or package directly below ``dyrygentd``. Imports inside functions and under ``TYPE_CHECKING`` count too.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dyrygentd"

_BASE = {"errors", "core"}
_EDGE = _BASE | {"ports", "wire", "canvas", "tasks"}
_SHELL = {"versions", "store", "transport", "metrics", "scheduler", "client"}

ROOMS: dict[str, set[str]] = {
    # room: the rooms it may import
    "errors": set(),
    # Loaded by Celery workers, which need nothing else of us.
    "errbacks": set(),
    "worker": {"errbacks", "errors"},
    # Reads what pip has written down, before anything is imported that may be too old.
    "versions": {"errors"},
    # Words that people paste into a shell.
    "commands": set(),
    # What to do about a Redis server's answers: said by whoever got one, and by whoever tells people of it.
    "advice": set(),
    # Files for browsers, and the headers they go out with; who serves them asks for both.
    "page": set(),
    # Threads for what would hold the loop.
    "beside": set(),
    # Draws on a terminal, for whoever has long work.
    "progress": set(),
    "core": {"errors"},
    "ports": _BASE,
    "wire": _BASE,
    # Reads what an `Inspection` says, for the scheduler's answers and for whoever else asks.
    "witnesses": _BASE | {"ports"},
    "misspelt": _BASE | {"ports", "witnesses"},
    # Apps are handed to it, in the signatures of a canvas.
    "tasks": _BASE,
    "canvas": _BASE | {"tasks"},
    "store": _EDGE | {"beside"},
    "transport": _EDGE | {"versions", "advice"},
    # A daemon in the process of a test is all of it but what is outside; imported inside functions, as few tests need it.
    "testing": _EDGE | {"client", "http", "scheduler"},
    "metrics": _EDGE,
    # It makes the usual adapters itself, inside functions: `Scheduler(app, database=...)` is all that a program needs.
    "scheduler": _EDGE | {"store", "transport", "metrics", "results", "witnesses", "misspelt", "commands", "advice", "beside"},
    # Beside a leader: the scheduler's own parts over what that has stored.
    "deputy": _EDGE | {"metrics", "scheduler", "witnesses", "beside"},
    # The client and the command line know the daemon through its wire form alone.
    "client": _BASE | {"wire", "canvas", "tasks", "results"},
    # A task of Celery's that is a client; the app is handed to it.
    "remote": _BASE | {"wire", "canvas", "tasks", "client"},
    # Celery's results of what a client has submitted; imported when somebody asks for them.
    "results": _BASE | {"wire"},
    # It reads what a client would submit; an app is handed to it.
    "lint": _BASE | {"wire", "canvas", "tasks"},
    # What is shown by `dyrygentd demo`; the command names the types of its outcome.
    "demo": _BASE | {"canvas", "wire", "client", "transport", "daemon"},
    "cli": _BASE | {"commands", "page", "versions", "wire", "canvas", "tasks", "client", "demo", "lint", "progress"},
    "http": _EDGE | _SHELL | {"page", "beside"},
    "daemon": _EDGE | _SHELL | {"http", "progress", "deputy"},
    "compat": _BASE | {"wire", "canvas", "client", "tasks"},
    # Between a browser and the daemon's socket, which it knows as a client does.
    "loopback": _BASE | {"wire", "client", "page"},
    "__main__": {"cli"},
}
PUBLIC_NAMES = "__init__"
"""The map of the package: it may import every room, and no room may import it."""

INSIDE_FUNCTIONS: dict[str, set[str]] = {
    # Files that may import further rooms, but only inside a function.
    "cli/serve.py": {"daemon"},
    "cli/check.py": {"daemon"},
    # It works on the file, since there may be no daemon to ask.
    "cli/care.py": {"store"},
    "cli/units.py": {"daemon"},
    # Only with --app, which imports Celery: what the workers are asked for comes by way of it.
    "cli/apps.py": {"transport"},
    "cli/adopt.py": {"compat"},
    # Only for nodes that begin workflows of their own, whose form is that of a definition document.
    "canvas/subworkflows.py": {"wire"},
    # A map is kept in the form of a document; most workflows have none.
    "canvas/maps.py": {"wire"},
    # A server, for one command.
    "cli/ui.py": {"loopback"},
    # Only when a task adds work: it is made into a definition where it is added.
    "worker/additions.py": {"canvas", "client", "core", "wire"},
}

NARROWER: dict[str, set[str]] = {
    # Files that may import less than the rest of their room.
    # Celery workers load it: tasks and workflows.
    "demo/__init__.py": _BASE | {"canvas"},
}

_LOOP = {
    "scheduler",
    "deputy",
    "transport",
    "store",
    "http",
    "client/aio.py",
    "client/channel.py",
    "daemon",
    "demo",
    "cli/serve.py",
    "loopback",
}

FOREIGN_HOMES: dict[str, set[str]] = {
    # package: the rooms and files it is at home in. Two modules of the standard library have a home too.
    # The demo is a Celery app, whose tasks keep records in Redis.
    "celery": {"results", "transport", "compat", "demo", "worker", "errbacks"},
    # Values that clients decode are in its dialect.
    "kombu": {"canvas/values.py", "tasks", "transport", "compat", "worker", "wire/values.py"},
    "redis": {
        "transport/redis_asking.py",
        "transport/redis_connections.py",
        "transport/redis_push.py",
        "transport/redis_reading.py",
        "transport/redis_results.py",
        "transport/reports.py",
        "transport/stored.py",
        "demo",
        "worker",
    },
    "hiredis": {"transport/redis_asking.py", "transport/redis_connections.py"},
    "aiosqlite": {"store"},
    "sqlite3": {"store"},
    # Comes with an extra, and is imported where a database is on PostgreSQL.
    "psycopg": {"store"},
    "prometheus_client": {"metrics"},
    # Comes with an extra, and is imported where large values are kept at an address.
    "fsspec": {"store/remote_values.py"},
    "aiohttp": {"http", "client/channel.py", "loopback"},
    "click": {"cli"},
    "rich": {"cli"},
    # Comes with an extra, and is loaded by `watch` alone.
    "textual": {f"cli/tui/{name}.py" for name in ("app", "choosing", "dialogs", "masthead", "rows", "view")},
    # Workers' results are JSON too, which passes by without being unpacked.
    "msgspec": {"wire", "transport/meta.py"},
    # Where an app's own results are in a database.
    "sqlalchemy": {"transport/results.py"},
    "django": {"transport/results.py"},
    # Of the standard library of Python 3.14.
    "annotationlib": {"tasks/signatures.py"},
    # The shipped fakes wait as the real ports do.
    "anyio": _LOOP | {"testing", "beside"},
    "asyncio": _LOOP | {"testing", "cli/tui/choosing.py", "cli/tui/feed.py"},
    "uvloop": _LOOP,
}

CORE_STANDARD_LIBRARY = {
    "__future__",
    "array",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    # To write a time; the clock is not read.
    "datetime",
    "enum",
    "functools",
    "fnmatch",
    # What marks an id as made here.
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    # The type of a generator that is handed in, with a seed.
    "random",
    "re",
    "typing",
    # How some databases compare ids.
    "unicodedata",
    # `uuid5` only: the same text gives the same id.
    "uuid",
}


class Import(NamedTuple):
    """One imported module, and where the import stands."""

    file: str
    line: int
    module: str
    is_in_function: bool

    @property
    def room(self) -> str:
        """The room that imports."""
        return _room(self.file)

    @property
    def imported_room(self) -> str | None:
        """The room that is imported, or None for a foreign module."""
        parts = self.module.split(".")
        if parts[0] != "dyrygentd":
            return None
        return parts[1] if len(parts) > 1 else PUBLIC_NAMES

    @property
    def is_exempt(self) -> bool:
        """Whether it is one of the named exceptions."""
        return self.is_in_function and self.imported_room in INSIDE_FUNCTIONS.get(self.file, set())


def test_package_keeps_the_rules() -> None:
    """Every import of the package follows the layout, so that each room can be read and replaced alone."""
    assert not violations(_sources())


def test_rooms_form_no_cycle() -> None:
    """No two rooms need each other, not even by way of a third or inside functions."""
    assert find_cycle(_sources()) is None


def test_table_has_no_cycle() -> None:
    """The table itself permits no cycle, so a cycle cannot be introduced by following it."""
    assert list(graphlib.TopologicalSorter(ROOMS).static_order())
    assert set().union(*ROOMS.values()) <= ROOMS.keys()


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("core/engine.py", "import asyncio", "core/engine.py:1: 'asyncio' is at home in"),
        ("core/engine.py", "import time", "'time' is not among the modules of the standard library that core may use"),
        ("core/engine.py", "from os import path", "'os' is not among the modules"),
        ("core/engine.py", "import collections.deque", "'collections.deque' is not among"),
        ("core/engine.py", "from dyrygentd.store import sqlite", "room 'core' may import errors, not 'store'"),
        ("core/engine.py", "from ..store.sqlite import X", "not 'store'"),
        ("core/engine.py", "from .. import store", "not 'store'"),
        ("store/__init__.py", "from ..transport import X", "not 'transport'"),
        ("errors.py", "from .core import X", "room 'errors' may import nothing, not 'core'"),
        ("client/sync.py", "def f():\n    import dyrygentd.daemon.run", "client/sync.py:2: room 'client'"),
        ("client/sync.py", "import aiohttp", "'aiohttp' is at home in client/channel.py, http, loopback"),
        ("store/sqlite.py", "if TYPE_CHECKING:\n    from dyrygentd import scheduler", "not 'scheduler'"),
        ("cli/serve.py", "from dyrygentd.daemon import run", "not 'daemon'"),
        ("cli/show.py", "def f():\n    from dyrygentd.daemon import run", "not 'daemon'"),
        (
            "demo/__init__.py",
            "from dyrygentd.client.aio import AsyncClient",
            "'demo/__init__.py' may import canvas, core, errors, not",
        ),
        ("demo/__init__.py", "from dyrygentd.demo import stage", "not 'demo'"),
        (
            "transport/dispatcher.py",
            "import redis.asyncio",
            "'redis' is at home in demo, transport/redis_asking.py",
        ),
        ("wire.py", "from dyrygentd import Workflow", "'Workflow' is no room"),
        ("wire.py", "import dyrygentd", "import the room itself, not the package"),
        ("wire.py", "from dyrygentd import *", "'*' is no room"),
        ("http/api.py", "import numpy", "'numpy' has no home: add it to FOREIGN_HOMES"),
        ("cellar.py", "import os", "room 'cellar' is unknown: add it to ROOMS in tests/test_layers.py"),
        ("__init__.py", "import celery", "'celery' is at home in"),
    ],
)
def test_violation_is_found(file: str, source: str, complaint: str) -> None:
    """A broken rule is found in every form an import can have, else a green test would prove nothing."""
    found = violations({file: source})
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/engine.py", "from . import states\nfrom .states import X\nfrom collections.abc import Iterable"),
        ("core/engine.py", "import collections.abc\nfrom collections import abc, deque\nfrom ..errors import X"),
        ("cli/serve.py", "def f():\n    from dyrygentd.daemon import run"),
        ("transport/redis_push.py", "import redis.asyncio\nfrom redis.exceptions import RedisError"),
        ("client/channel.py", "import aiohttp, asyncio\nfrom dyrygentd import wire, errors"),
        ("__init__.py", "from dyrygentd.scheduler import Scheduler\nfrom .client import Client"),
    ],
)
def test_permitted_import_is_left_alone(file: str, source: str) -> None:
    """What the rules permit is not complained about."""
    assert violations({file: source}) == []


def test_cycle_is_found() -> None:
    """A cycle of rooms is found and shown."""
    cycle = find_cycle({"store/a.py": "from dyrygentd import wire", "wire.py": "def f():\n    from .store import a"})
    assert cycle is not None
    assert {"store", "wire"} == set(cycle)


def violations(sources: Mapping[str, str]) -> list[str]:
    """Return what breaks the rules in ``{path below the package: source}``, one line each."""
    found = []
    for file, source in sorted(sources.items()):
        if _room(file) not in {*ROOMS, PUBLIC_NAMES}:
            found.append(f"{file}: room '{_room(file)}' is unknown: add it to ROOMS in tests/test_layers.py")
            continue
        for imported in _imports(file, source):
            complaint = _complaint(imported)
            if complaint is not None:
                found.append(f"{imported.file}:{imported.line}: {complaint}")
    return found


def find_cycle(sources: Mapping[str, str]) -> list[str] | None:
    """Return a cycle of rooms that import each other, or None."""
    graph: dict[str, set[str]] = {}
    for file, source in sources.items():
        for imported in _imports(file, source):
            target = imported.imported_room
            if target not in (None, imported.room, PUBLIC_NAMES) and imported.room != PUBLIC_NAMES:
                graph.setdefault(imported.room, set()).add(str(target))
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return None


def _complaint(imported: Import) -> str | None:
    room, target, module = imported.room, imported.imported_room, imported.module
    if target is None:
        return _foreign_complaint(imported)
    if target == PUBLIC_NAMES:
        return "import the room itself, not the package's public names"
    if target == "__version__":
        return None  # The one name of the package itself that rooms may use.
    if target not in ROOMS:
        return f"'{target}' is no room: import from where '{module}' is defined (or add it to ROOMS)"
    if room == PUBLIC_NAMES or imported.is_exempt:
        return None
    if imported.file in NARROWER:
        permitted, who = NARROWER[imported.file], f"'{imported.file}'"
    else:
        permitted, who = ROOMS[room] | {room}, f"room '{room}'"
    if target in permitted:
        return None
    return f"{who} may import {', '.join(sorted(permitted - {room})) or 'nothing'}, not '{target}'"


def _foreign_complaint(imported: Import) -> str | None:
    top = imported.module.partition(".")[0]
    if top in FOREIGN_HOMES:
        homes = FOREIGN_HOMES[top]
        if imported.room in homes or imported.file in homes:
            return None
        return f"'{top}' is at home in {', '.join(sorted(homes))}"
    if top not in sys.stdlib_module_names:
        return f"'{top}' has no home: add it to FOREIGN_HOMES in tests/test_layers.py, and to the documentation"
    if imported.room == "core" and imported.module not in CORE_STANDARD_LIBRARY:
        return f"'{imported.module}' is not among the modules of the standard library that core may use"
    return None


def _imports(file: str, source: str) -> Iterator[Import]:
    # The stack carries whether a node is inside a function.
    stack: list[tuple[ast.AST, bool]] = [(ast.parse(source, filename=file), False)]
    while stack:
        node, is_in_function = stack.pop()
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(file, node.lineno, name.name, is_in_function)
            case ast.ImportFrom(names=names):
                module = _absolute(file, node)
                # `from dyrygentd import wire` imports a room, not a name of the package.
                modules = [f"dyrygentd.{name.name}" for name in names] if module == "dyrygentd" else [module]
                for each in modules:
                    yield Import(file, node.lineno, each, is_in_function)
        is_in_function = is_in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        stack.extend((child, is_in_function) for child in ast.iter_child_nodes(node))


def _absolute(file: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = ["dyrygentd", *Path(file).parent.parts]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _room(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def _sources() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}

"""What the commands stand on: they are put together at the top, and know nothing of it; help costs nothing but click."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd.cli import _SECTIONS
from tests.cli.support import environment_of
from tests.http.support import Daemon
from tests.support.daemon import ROOT

_CLI = ROOT / "dyrygentd" / "cli"
_MODULES = {path.stem: path for path in sorted(_CLI.glob("*.py"))}
_HEAVY = {"aiohttp", "anyio", "asyncio", "celery", "kombu", "msgspec", "redis", "rich", "textual"}

#: What a command may load when it is run, and not before.
_ROOMS = (
    "dyrygentd.wire",
    "dyrygentd.client",
    "dyrygentd.canvas",
    "dyrygentd.store",
    "dyrygentd.core.workflow",
    "dyrygentd.daemon",
)
#: What only the daemon needs, and who submits.
_NOT_FOR_LOOKING = (
    "dyrygentd.canvas",
    "dyrygentd.core.graph",
    "dyrygentd.core.policy",
    "dyrygentd.core.workflow",
    "dyrygentd.daemon",
    "dyrygentd.scheduler",
    "dyrygentd.store",
    "dyrygentd.wire.bounds",
    "dyrygentd.wire.definitions",
    "dyrygentd.wire.exports",
    "dyrygentd.wire.showing",
)
#: A few more than there are; what makes them many more costs everybody who only wants to see a list.
_MODULES_MAX = 210
_MODULES_OF_COMMANDS_MAX = 240
_HOMES = {name: f"dyrygentd.cli.{home.partition(':')[0]}" for homes in _SECTIONS.values() for name, home in homes.items()}


def test_modules_form_no_circle() -> None:
    """Each command can be read alone, so what it stands on does not stand on it, not even inside functions."""
    list(graphlib.TopologicalSorter({name: set(_imported(path)) for name, path in _MODULES.items()}).static_order())


def test_only_the_other_program_knows_the_group() -> None:
    """`dyrygentd` makes man pages of both; a command that imported the group would have to be imported after it was made."""
    assert [name for name, path in _MODULES.items() if "__init__" in _imported(path)] == ["serve"]


@pytest.mark.parametrize("module", ["dyrygentd.cli", "dyrygentd.cli.serve"])
def test_help_imports_nothing_heavy(module: str) -> None:
    """Help and completion answer at once."""
    script = (
        f"import sys, {module} as program; sys.argv = ['program', '--help']\n"
        "try: program.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert "Usage: " in done.stdout
    modules = set(done.stderr.split())
    assert _HEAVY & modules == set()
    assert {name for name in modules if name.startswith(_ROOMS)} == set()
    assert len(modules) <= _MODULES_MAX


@pytest.mark.parametrize(
    "command", ["list", "show @latest", "graph @latest", "stats", "explain @latest", "explain", "pause @latest"]
)
def test_plain_command_imports_nothing_that_it_does_not_need(holding: Daemon, command: str) -> None:
    """People and scripts run these all day; a reader of definitions or the core that decides would be most of their time."""
    holding.submit(name="seen")
    script = (
        "import sys, dyrygentd.cli as program\ntry: program.main()\nfinally: print('modules:', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()], capture_output=True, text=True, timeout=30, env=environment_of(holding)
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    modules = set(done.stderr.partition("modules:")[2].split())
    assert "dyrygentd.client.sync" in modules
    assert (_HEAVY - {"msgspec"}) & modules == set()
    assert {name for name in modules if name.startswith(_NOT_FOR_LOOKING)} == set()
    assert len(modules) <= _MODULES_OF_COMMANDS_MAX
    own = _HOMES[command.split(" ")[0]]
    assert own in modules
    # `show` tells causes as `explain` does.
    assert modules & set(_HOMES.values()) <= {own, "dyrygentd.cli.explain"}


def _imported(path: Path) -> Iterator[str]:
    """Iterate over the modules of the room that a module imports; ``__init__`` is the group."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module == "dyrygentd.cli":
            yield from (name.name if name.name in _MODULES else "__init__" for name in node.names)
        elif node.module.startswith("dyrygentd.cli."):
            yield node.module.split(".")[2]

"""The public names of the room: all there, imported when they are first used, and by a daemon before it serves anybody."""

import pkgutil
import subprocess
import sys

import pytest

from dyrygentd import wire


def test_all_public_names_exist() -> None:
    """The list by which names are found, and the one that type checkers read, are the same."""
    for name in wire.__all__:
        assert getattr(wire, name) is not None
        assert name in dir(wire)
    homes = wire._HOMES
    assert set(wire.__all__) == {*homes, "API_VERSION", "VERSION_HEADER"}


def test_unknown_name_is_an_attribute_error() -> None:
    """The lazy names behave as ordinary ones do, also when they are misspelt."""
    with pytest.raises(AttributeError, match="no attribute 'WorkflowVeiw'"):
        _ = wire.WorkflowVeiw  # type: ignore[attr-defined]


def test_import_of_the_room_imports_nothing_else() -> None:
    """Whoever needs one name pays for that one."""
    assert _modules_after("import dyrygentd.wire") == {"dyrygentd.wire"}


def test_daemon_has_all_of_it_when_it_starts() -> None:
    """A daemon that runs while it is upgraded on disk must not import half of it from the new version, nor while it serves."""
    there = {f"dyrygentd.wire.{module.name}" for module in pkgutil.iter_modules(wire.__path__)}
    assert there - _modules_after("import dyrygentd.daemon.run") == set()


def _modules_after(statement: str) -> set[str]:
    """Return the modules of the room that a statement has imported, in a process of its own."""
    script = f"{statement}\nimport sys\nprint(*[name for name in sys.modules if name.startswith('dyrygentd.wire')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.split())

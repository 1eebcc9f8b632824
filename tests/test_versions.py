"""What is installed: too old for the daemon, or of versions that do not go together, is told before anything is started."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu.transport.redis import Transport

from dyrygentd import versions
from dyrygentd.errors import ConfigurationError
from dyrygentd.transport import watcher_of
from dyrygentd.transport.app import load_app
from dyrygentd.transport.internals import USED, refuse_unusable
from dyrygentd.transport.redis_connections import ASYNCIO_CLASSES
from tests.support import lowest
from tests.support.servers import REPOSITORY

_PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def _installed_too(directory: Path, name: str, version: str, *requires: str) -> dict[str, str]:
    """Return an environment in which what pip has written down says that this version is installed."""
    written = directory / f"{name}-{version}.dist-info"
    written.mkdir()
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    (written / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(REPOSITORY)])}


def _dyrygentd(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dyrygentd", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [("check-config", "--online"), ("serve",), ("demo",)], ids=lambda command: command[0])
def test_too_old_a_kombu_is_refused_before_anything_is_imported(command: tuple[str, ...], tmp_path: Path) -> None:
    """One sentence with the command that mends it, instead of nodes that are never dispatched or a traceback."""
    done = _dyrygentd(_installed_too(tmp_path, "kombu", "5.5.4"), *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: kombu 5.5.4 is too old: dyrygentd needs kombu<6,>=5.6\n"
        "next: `pip install 'kombu<6,>=5.6'` in the daemon's environment, then `pip check`, which tells of all at once\n"
    )


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    """A dependency that nobody has installed, after an upgrade with `--no-deps`, is named."""
    done = _dyrygentd(
        _installed_too(tmp_path, "dyrygentd", "9", "no-such-package>=1.5", 'left-out>=1; extra == "test"'), "check-config"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no-such-package is not installed: dyrygentd needs no-such-package>=1.5\n")


def test_online_check_tells_the_versions(tmp_path: Path) -> None:
    """Whoever asks for help has the versions at hand."""
    done = _dyrygentd({**os.environ}, "check-config", "--online", "--json", "--database", str(tmp_path / "d" / "state.db"))
    packages = json.loads(done.stdout)["online"][0]
    assert (packages["what"], packages["is_well"]) == ("packages", True)
    assert packages["words"].startswith("celery 5.")
    assert ", kombu 5." in packages["words"]


def test_redis_py_that_kombu_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu imports with any redis-py and refuses it at the first message, which the daemon would repeat for ever."""
    monkeypatch.setattr(redis, "VERSION", (3, 1, 0))
    with pytest.raises(ConfigurationError, match=r"do not go together: Redis transport requires redis-py") as raised:
        load_app(None, broker="redis://localhost", result_backend=None)
    assert "pip install" in raised.value.next_step
    # On another broker that is no matter of kombu's.
    load_app(None, broker="memory://", result_backend="cache+memory://")


def test_kombu_without_what_is_built_on_is_refused() -> None:
    """A later kombu may have become another one: that is told at the start, by what is missing."""

    class Channel:
        _put = None

    refuse_unusable(Transport.Channel)
    with pytest.raises(ConfigurationError, match=r"kombu [\d.]+, redis [\d.]+: this kombu cannot be used.* no `_get_client`"):
        refuse_unusable(Channel)


def test_redis_py_without_what_is_built_on_is_refused(app_on_redis: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the library that results are received with: it is told when the watcher is made, before anything is sent."""
    watcher_of(app_on_redis, value_bytes_max=1)
    monkeypatch.setitem(ASYNCIO_CLASSES, redis.Connection, _WithoutStream)
    with pytest.raises(ConfigurationError, match=r"redis [\d.]+: this redis-py cannot be used, .* no `_reader`") as raised:
        watcher_of(app_on_redis, value_bytes_max=1)
    assert "pip install 'redis<" in raised.value.next_step


class _WithoutStream:
    """A connection of another redis-py."""

    def __init__(self, **_: object) -> None:
        pass


@pytest.fixture
def app_on_redis() -> Iterator[Celery]:
    """An app with results in Redis, which nobody connects to."""
    with Celery(broker="redis://localhost", backend="redis://localhost") as app:
        yield app


def test_internals_that_are_looked_at_are_those_that_are_used() -> None:
    """The list names what the capturing channel calls, and no more."""
    source = (REPOSITORY / "dyrygentd" / "transport" / "redis_push.py").read_text()
    assert [name for name in USED if name != "_get_client" and f".{name}" not in source and f"def {name}" not in source] == []


def test_versions_are_compared_by_number() -> None:
    """5.10 is newer than 5.9; what follows the numbers counts for nothing."""
    assert versions.numbers_of("5.10.1rc1") == (5, 10, 1)
    assert versions.numbers_of("1769699998!10.1.0") == (10, 1, 0)
    assert versions.numbers_of("unknown") == ()
    assert not versions._is_older("5.10", ">=5.9,<6")
    assert versions._is_older("5.5.4", "<6,>=5.6")
    assert not versions._is_older("5.6", ">=5.6.0")
    assert not versions._is_older("1", "<2")


def test_every_dependency_has_a_lower_bound() -> None:
    """CI installs the lowest of everything; what has no bound would be the newest there."""
    held = {each.partition("==")[0] for each in lowest.constraints()}
    named = {each.split(">=")[0].split("[")[0] for each in _PROJECT["dependencies"]}
    assert named <= held
    assert {"celery", "kombu", "redis", "hiredis"} <= named
    assert [*lowest.constraints(["kombu"])] == ["kombu==5.6"]

"""SIGHUP under the real daemon, and what `check-config --online` finds."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.daemon.config import Configuration, settings
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.kinds import LogAddresses, Names, Patterns, Sizes
from dyrygentd.daemon.reload import LiveParts, Reload
from dyrygentd.errors import RemoteError
from dyrygentd.http.around import Around
from dyrygentd.http.guard import Guard
from dyrygentd.store.postgres.url import PostgresUrl
from tests.support.daemon import Daemon
from tests.support.forking import run_to_end
from tests.support.servers import wait_until

_LIVE = {setting.name for setting in settings() if setting.metadata["is_live"]}


def _settings_of(part: str) -> set[str]:
    """Return the names of the settings that this part of the configuration is made of."""
    looked_at: set[str] = set()

    class Watched(Configuration):
        def __getattribute__(self, name: str) -> object:
            looked_at.add(name)
            return super().__getattribute__(name)

    watched = Watched()
    looked_at.clear()  # What makes it looks at everything.
    getattr(watched, part)
    return looked_at & {setting.name for setting in settings()}


def _name(setting: "Field[Any]") -> str:
    return setting.name


def _another(value: Any) -> Any:
    """Return another value that the setting may have."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case Sizes():
            return Sizes(value | {"another": 1})
        case Patterns():
            return Patterns([*value, "another"])
        case LogAddresses():
            return LogAddresses({"": "https://logs.example/{task_id}"})
    raise AssertionError(f"tell here of another value than {value!r}")


ONE = {"nodes": [{"name": "one", "task": "nobody.runs.this"}]}


@pytest.fixture
def toml(short_tmp: Path) -> Path:
    """The configuration file of `daemon`."""
    return short_tmp / "dyrygentd.toml"


@pytest.fixture
def daemon(short_tmp: Path, redis_server: EmbeddedServer, toml: Path) -> Iterator[Daemon]:
    """A daemon that reads a file."""
    toml.write_text("in_flight_max = 1\n")
    with Daemon(["--broker", redis_server.url, "--drain-timeout-s", "0.1", "--config", str(toml)], directory=short_tmp) as daemon:
        yield daemon


def _reload(daemon: Daemon, words: str) -> None:
    """Send SIGHUP and wait until the log says so."""
    before = daemon.log().count(words)
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: daemon.log().count(words) > before, message=daemon.log)


def test_what_can_be_applied_is(daemon: Daemon, toml: Path) -> None:
    """More places let waiting nodes go at once, forbidden tasks are refused from now on, and what needs a restart is named."""
    with daemon.client() as client:
        handle = client.submit({"nodes": [{"name": f"n{number}", "task": "nobody.runs.this"} for number in range(3)]})
        wait_until(lambda: handle.status().counts == {"dispatched": 1, "ready": 2})
        toml.write_text('in_flight_max = 2\ntasks_denied = ["nobody.*"]\nlog_level = "debug"\nhistory_max = 7\nlost_after_s = 9')
        _reload(daemon, "loaded the configuration again; changed: in_flight_max, log_level, tasks_denied")
        wait_until(lambda: handle.status().counts == {"dispatched": 2, "ready": 1})
        assert "to be taken up by a restart only: lost_after_s, history_max" in daemon.log()
        with pytest.raises(RemoteError) as caught:
            client.submit(ONE)
        assert caught.value.code == "task-forbidden"
        toml.write_text("in_flight_max = 2\n")
        _reload(daemon, "loaded the configuration again")
        assert client.submit(ONE).status().state == "running"


def test_wrong_configuration_is_refused_as_a_whole(daemon: Daemon, toml: Path) -> None:
    """The daemon goes on with what it has, says so in log and status, and takes the next one that is right."""
    with daemon.client() as client:
        toml.write_text('tasks_denied = ["*"]\nin_flight_maxx = 5\n')
        _reload(daemon, "the configuration was not loaded again: key 'in_flight_maxx'")
        assert "did you mean 'in_flight_max'?" in daemon.log()
        wait_until(lambda: "not loaded again" in daemon.status_line())
        health = client.health()
        assert (health.status, len(health.notices)) == ("ok", 1)
        assert "not loaded again" in health.notices[0]
        assert daemon.metric("dyrygentd_config_last_reload_successful") == 0
        assert client.submit(ONE).status().state == "running"
        toml.write_text('tasks_denied = ["*"]\n')
        _reload(daemon, "loaded the configuration again")
        wait_until(lambda: "not loaded again" not in daemon.status_line())
        assert client.health().notices == []
        assert daemon.metric("dyrygentd_config_last_reload_successful") == 1
        with pytest.raises(RemoteError):
            client.submit(ONE)


@pytest.mark.long
def test_file_that_cannot_be_read_holds_nobody_up(daemon: Daemon, toml: Path) -> None:
    """A file that gives nothing, as one on a disk that hangs: clients are served, it is said, and the daemon can end."""
    with daemon.client() as client:
        toml.unlink()
        os.mkfifo(toml)
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: "received SIGHUP" in daemon.log())
        assert client.submit(ONE).status().state == "running"
        wait_until(lambda: "it could not be read in 5 s" in daemon.log(), message=daemon.log)
        _reload(daemon, "it is still being read")
        assert client.health().notices
    assert daemon.stop() == 0


def test_history_and_redaction_change_at_once(daemon: Daemon, toml: Path, redis_server: EmbeddedServer) -> None:
    """A shorter history is cut without a restart, and what must not be shown is hidden from now on."""
    with daemon.client() as client:
        shown = client.submit({"nodes": [{"name": "one", "task": "nobody.runs.this", "args": ["x-4711"]}]})
        assert "x-4711" in str(shown.node("one").arguments)
        ended = client.submit(ONE)
        ended.cancel()
        wait_until(lambda: ended.status().state == "cancelled")
        toml.write_text('in_flight_max = 1\nhistory_failed_days = 0.0000001\nredact = ["x-[0-9]+"]\n')
        _reload(daemon, "changed: history_failed_days, redact")
        # If its end was not on disk yet, the next look is a minute later.
        wait_until(lambda: ended.id not in [row.id for row in client.list()], timeout_s=90)
        assert "x-4711" not in str(shown.node("one").arguments)


def test_unknown_users_are_named(daemon: Daemon, toml: Path, short_tmp: Path) -> None:
    """A name that nobody has is said in the log and by `check-config --online`; root, a number and * are known."""
    toml.write_text('in_flight_max = 1\nadmins = ["root", "@root", "4711", "@nobodys-group"]\nreaders = ["*", "nobodys-name"]\n')
    _reload(daemon, "this system knows no '@nobodys-group' in `admins`, 'nobodys-name' in `readers`; a group has @")
    _, tried = _check("--config", str(toml), directory=short_tmp)
    assert not tried["users and groups"]["is_well"]


@pytest.mark.parametrize("part", ["logging", "access", "connection_limits", "http_limits"])
def test_parts_that_are_replaced_are_of_applied_settings(part: str) -> None:
    """On SIGHUP these are replaced as a whole, so a setting that goes into one and is not applied would be promised in vain."""
    # What this host is called stays, as the next test shows.
    assert _settings_of(part) - {"database", "host_name"} <= _LIVE


@pytest.mark.anyio
async def test_own_host_stays() -> None:
    """Users of a host that was given another name would not have their workflows any more: it is told as to be restarted for."""
    before = Configuration(database=PostgresUrl.read("postgresql://there/runs"), host_name="app1", readers=Names(("anna",)))
    after = replace(before, host_name="app2", readers=Names(("berta",)))
    around = Around(limits=before.http_limits, access=before.access, read_only=False)
    reload = Reload(before, lambda: after)
    await reload.reload(LiveParts(None, Guard(), [around]))
    assert (around.access.host, reload.configuration.access.host, *reload.configuration.readers) == ("app1", "app1", "berta")


@pytest.mark.parametrize(
    "setting", [setting for setting in settings() if setting.name in _settings_of("scheduler_limits")], ids=_name
)
def test_scheduler_takes_up_what_is_promised(setting: "Field[Any]") -> None:
    """The daemon's mark and the scheduler's own are one: what is told as changed is in force, and the rest is as it was."""
    before = Configuration()
    after = replace(before, **{setting.name: _another(getattr(before, setting.name))})
    followed = before.scheduler_limits.following(after.scheduler_limits)
    assert followed == (after if setting.metadata["is_live"] else before).scheduler_limits
    assert after.scheduler_limits != before.scheduler_limits


def test_settings_that_are_applied_go_somewhere() -> None:
    """A setting that nothing takes up on SIGHUP must not be told as changed."""
    parts = ("logging", "access", "connection_limits", "http_limits", "scheduler_limits")
    # The last is looked up when the daemon ends.
    assert {"drain_timeout_s", *(name for part in parts for name in _settings_of(part))} >= _LIVE
    assert {setting.name for setting in settings() if setting.name.startswith("log_")} == _settings_of("logging")


def _check(*arguments: str, directory: Path) -> tuple[int, dict[str, dict[str, object]]]:
    command = [sys.executable, "-m", "dyrygentd", "check-config", "--online", "--json", *arguments]
    paths = ["--database", str(directory / "state.db"), "--socket", str(directory / "dyrygentd.sock")]
    done = run_to_end([*command, *paths], working_directory=directory)
    assert "Traceback" not in done.stderr
    return done.returncode, {tried["what"]: tried for tried in json.loads(done.stdout)["online"]}


def test_online_check_of_what_works(daemon: Daemon, short_tmp: Path, redis_server: EmbeddedServer) -> None:
    """Everything answers: exit status 0, and it is said who does."""
    status, tried = _check("--broker", redis_server.url, directory=short_tmp)
    assert status == 0
    assert [*tried] == [
        "packages",
        "app",
        "broker",
        "result backend",
        "workers",
        "database",
        "large values",
        "socket",
        "users and groups",
    ]
    assert "a daemon answers" in str(tried["socket"]["words"])
    assert "no workflows" in str(tried["database"]["words"])


@pytest.mark.parametrize(
    ("arguments", "what", "words"),
    [
        (["--broker", "redis://127.0.0.1:1/0"], "broker", "Connection refused"),
        (["--broker", "redis://127.0.0.1:1/0"], "result backend", "Connection refused"),
        (["--broker", "amqp://127.0.0.1:1", "--result-backend", "rpc://"], "result backend", "die with the process"),
        (["--app", "no_such_module:app"], "app", "No module named 'no_such_module'"),
    ],
)
def test_online_check_of_what_does_not(arguments: list[str], what: str, words: str, short_tmp: Path) -> None:
    """What cannot be used is named with the reason, and the rest is tried all the same."""
    status, tried = _check(*arguments, directory=short_tmp)
    assert status == 1
    assert not tried[what]["is_well"]
    assert words in str(tried[what]["words"])
    assert tried["database"]["is_well"]


def test_online_check_of_a_damaged_database(short_tmp: Path, redis_server: EmbeddedServer) -> None:
    """A file that is no database is found before the daemon is started on it, and left as it is."""
    (short_tmp / "state.db").write_bytes(b"no database at all" * 1000)
    status, tried = _check("--broker", redis_server.url, directory=short_tmp)
    assert (status, tried["database"]["is_well"]) == (1, False)
    assert "is no SQLite database" in str(tried["database"]["words"])
    assert (short_tmp / "state.db").read_bytes() == b"no database at all" * 1000
